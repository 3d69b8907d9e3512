"""Metrics on perturbation banks against closed forms, slow loops, captum and Quantus."""

import copy
import itertools
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from captum.metrics import infidelity
from scipy import stats
from torch import nn

from attribkit import Attribution, ClassLogit, Explainer, Probability, registry
from attribkit._contracts.metric import Metric
from attribkit._core.errors import InvalidInput
from attribkit._core.substrates import GivenImages
from attribkit._targets.target import FunctionTarget
from attribkit.methods._gradcam import GradCAM
from attribkit.metrics._correlation import average_ranks
from attribkit.metrics._infidelity import Infidelity, InfidelityUnderNoise
from attribkit.metrics._subset_bank import GivenCells, Independent, OfSize, Partition, Single, SubsetMetric, cell_labels
from attribkit.metrics._subset_metrics import FaithfulnessCorrelation, MuFidelity, SensitivityN, SingleDeletion
from attribkit.testing import changes, model_state, tiny_cnn
from tests.maps import sensitive_cnn

EXACT = {"rtol": 0, "atol": 1e-9}
SMALL = [  # every metric, for small images
    SensitivityN(cells=4, sizes=(1, 3, 9), subsets=12),
    FaithfulnessCorrelation(cells=4, size=5, subsets=12),
    MuFidelity(cells=4, samples=16),
    SingleDeletion(),
    Infidelity(cells=4, samples=16),
    InfidelityUnderNoise(samples=16),
    InfidelityUnderNoise(samples=16, factor=None, score="probability"),
]


def of(scores, x, target=0):
    return Attribution(scores, x, ClassLogit(target), GradCAM())


def linear(channels, *space, classes=2):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * math.prod(space), classes)).double()


def contributions(model, x, target=0):
    return (model[1].weight[target].reshape(x.shape[1:]) * x).sum(1, keepdim=True).detach()


def doubles(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def correlation(one, other):
    return torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]


# Closed forms


@pytest.mark.parametrize("n", range(1, 9))
def test_sensitivity_n_over_all_subsets_of_a_linear_model(n):
    model, x, map_ = linear(3, 2, 4), doubles(1, 3, 2, 4), doubles(1, 1, 2, 4)
    metric = SensitivityN(cells=None, sizes=(n,), subsets=100)
    told = contributions(model, x)
    maps = [of(each, x) for each in (map_, 3 * told + 2, 1 - 2 * told)]
    (found,) = Explainer(model).measure(maps, [metric])
    expected = [correlation(map_, told), 1.0, -1.0] if n < 8 else [math.nan] * 3
    torch.testing.assert_close(found.values[:, 0], torch.tensor(expected, dtype=torch.float64), equal_nan=True, **EXACT)
    (same,) = Explainer(model).measure(maps, [FaithfulnessCorrelation(cells=None, size=n)])
    torch.testing.assert_close(same.values, found.values, equal_nan=True, **EXACT)


def test_sensitivity_n_is_the_mean_over_the_sizes_where_it_is_defined():
    model, x = linear(1, 2, 3), doubles(2, 1, 2, 3)
    attribution = of(doubles(2, 1, 2, 3), x)
    metric = SensitivityN(cells=None, sizes=(2, 3, 6))
    (found,) = Explainer(model).measure([attribution], [metric])
    each = found.details["correlation"]
    assert each.shape == (1, 2, 3)
    assert each[..., 2].isnan().all()
    torch.testing.assert_close(found.values, each[..., :2].mean(-1), **EXACT)


@pytest.mark.parametrize(("cells", "sizes"), [(196, 10), (16, 10), (5, 3), (1, 4), (50176, 12)])
def test_sizes_are_spread_in_their_logarithm(cells, sizes):
    chosen = SensitivityN(sizes=sizes).chosen_sizes(cells)
    assert chosen[0] == 1
    assert chosen[-1] == max(1, int(0.8 * cells))
    assert list(chosen) == sorted(set(chosen))
    if cells > 10_000:
        steps = np.diff(np.log(chosen))
        assert steps.max() - steps.min() < 0.3


def test_single_deletion_ranks_cells():
    model, x = linear(3, 7, 9), doubles(2, 3, 7, 9)
    told, map_ = contributions(model, x), doubles(2, 1, 7, 9)
    (found,) = Explainer(model).measure([of(each, x) for each in (told, -told, map_)], [SingleDeletion()])
    torch.testing.assert_close(found.values[0], torch.ones(2).double(), **EXACT)
    torch.testing.assert_close(found.values[1], -torch.ones(2).double(), **EXACT)
    for i in range(2):
        rows, columns = (np.arange(side) * 4 // side for side in (7, 9))
        sums = {(r, c): [0.0, 0.0] for r in range(4) for c in range(4)}
        for r, c in itertools.product(range(7), range(9)):
            sums[rows[r], columns[c]][0] += float(map_[i, 0, r, c])
            sums[rows[r], columns[c]][1] += float(told[i, 0, r, c])
        expected = stats.spearmanr(*np.array(list(sums.values())).T).statistic
        assert found.values[2, i].item() == pytest.approx(expected, abs=1e-9)


def test_infidelity_of_a_linear_model_under_noise():
    model, x, map_ = linear(3, 2, 4), doubles(2, 3, 2, 4), doubles(2, 3, 2, 4)
    weights = model[1].weight[0].detach().reshape(1, 3, 2, 4)
    metric = InfidelityUnderNoise(sigma=0.3, samples=400, factor=None)
    maps = [of(each, x) for each in (weights.expand_as(x), map_, 2 * weights.expand_as(x))]
    (raw,) = Explainer(model).measure(maps, [metric])
    torch.testing.assert_close(raw.values[0], torch.zeros(2).double(), **EXACT)
    noise = torch.cat(list(metric.noises(x)))
    for i in range(2):
        squares = (noise * (map_[i] - weights[0])).flatten(1).sum(1).square()
        assert raw.values[1, i].item() == pytest.approx(squares.mean().item(), abs=1e-9)
        expected = 0.3**2 * (map_[i] - weights[0]).square().sum()
        assert abs(raw.values[1, i] - expected) < 4 * squares.std() / 400**0.5
    (scaled,) = Explainer(model).measure(maps, [InfidelityUnderNoise(sigma=0.3, samples=400, factor="any")])
    torch.testing.assert_close(scaled.values[[0, 2]], torch.zeros(2, 2).double(), **EXACT)
    cosine = torch.cosine_similarity(map_.flatten(1), weights.flatten(1))
    expected = 0.3**2 * weights.square().sum() * (1 - cosine.square())
    torch.testing.assert_close(scaled.values[1], expected, rtol=0.2, atol=0)


def test_infidelity_of_a_quadratic_model_under_noise():
    matrix = doubles(4, 4)
    matrix = matrix + matrix.mT

    class Quadratic(nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix = nn.Parameter(matrix)

        def forward(self, x):
            x = x.flatten(1)
            return torch.stack([((x @ self.matrix) * x).sum(1) / 2, x.sum(1)], 1)

    x = doubles(1, 1, 2, 2)
    gradient = (x.flatten() @ matrix).reshape(x.shape)
    metric = InfidelityUnderNoise(sigma=0.5, samples=1500, factor=None)
    (found,) = Explainer(Quadratic()).measure([of(gradient, x)], [metric])
    noise = torch.cat(list(metric.noises(x))).flatten(1)
    squares = (((noise @ matrix) * noise).sum(1) / 2).square()
    assert found.values.item() == pytest.approx(squares.mean().item(), abs=1e-9)
    expected = 0.5**4 * (2 * (matrix @ matrix).trace() + matrix.trace() ** 2) / 4
    assert abs(squares.mean() - expected) < 4 * squares.std() / 1500**0.5


def test_infidelity_of_a_linear_model_under_removal():
    model, x, map_ = linear(3, 2, 4), doubles(1, 3, 2, 4), doubles(1, 1, 2, 4)
    told = contributions(model, x)
    metric = Infidelity(cells=None, removal_probability=0.3, samples=600, factor=None)
    (found,) = Explainer(model).measure([of(told, x), of(map_, x)], [metric])
    assert found.values[0].item() == pytest.approx(0, abs=1e-9)
    wrong = (map_ - told).flatten()
    squares = (Independent(0.3, 600)(8, 0).double() @ wrong).square()
    assert found.values[1].item() == pytest.approx(squares.mean().item(), abs=1e-9)
    expected = 0.3 * 0.7 * wrong.square().sum() + 0.09 * wrong.sum() ** 2
    assert abs(squares.mean() - expected) < 4 * squares.std() / 600**0.5


def test_scaled_infidelity_does_not_depend_on_the_scale_of_the_map():
    model, x = tiny_cnn().double(), doubles(2, 3, 16, 16)
    map_ = doubles(2, 1, 16, 16)
    maps = [of(each, x) for each in (map_, 1e6 * map_, -map_, torch.zeros_like(map_))]
    for cls, options in ((Infidelity, {"cells": 4, "samples": 40}), (InfidelityUnderNoise, {"samples": 40})):
        either, positive = Explainer(model).measure(maps, [cls(factor="any", **options), cls(**options)])
        for other in either.values[1:3]:
            torch.testing.assert_close(other, either.values[0], rtol=1e-9, atol=0)
        nothing = either.values[3]  # the mean square of the falls
        assert (either.values[0] < nothing).all()
        torch.testing.assert_close(positive.values[0], positive.values[1], rtol=1e-9, atol=0)
        # A map or its negation points the right way, and the other one is worth nothing.
        torch.testing.assert_close(positive.values[[0, 2]].amin(0), either.values[0], rtol=1e-9, atol=0)
        torch.testing.assert_close(positive.values[[0, 2]].amax(0), nothing, rtol=1e-12, atol=0)


def test_a_map_that_points_the_wrong_way_has_the_infidelity_of_zeros():
    model, x = linear(3, 2, 4), doubles(2, 3, 2, 4)
    told, weights = contributions(model, x), model[1].weight[0].detach().reshape(1, 3, 2, 4).expand(2, -1, -1, -1)
    noise = torch.cat(list(InfidelityUnderNoise(samples=40).noises(x)))
    slopes_falls = (noise * weights[0]).flatten(1).sum(1).expand(2, -1)
    falls = told.flatten(1) @ Independent(0.3, 40)(8, 0).double().mT
    for metric, right, fallen in (
        (Infidelity(cells=None, removal_probability=0.3, samples=40), told, falls),
        (InfidelityUnderNoise(samples=40), weights, slopes_falls),
    ):
        maps = [of(each, x) for each in (right, 5 * right, -right, -0.1 * right, 0 * right)]
        (found,) = Explainer(model).measure(maps, [metric])
        nothing = fallen.square().mean(1)
        expected = torch.stack([0 * nothing, 0 * nothing, nothing, nothing, nothing])
        torch.testing.assert_close(found.values, expected, **EXACT)
        for factor, wrong in (("any", 0), (None, 4)):  # of -a itself: (-a - a) ** 2
            (found,) = Explainer(model).measure(maps[2:3], [replaced(metric, factor=factor)])
            torch.testing.assert_close(found.values[0], wrong * nothing, **EXACT)


# Slow loops


def perturbed_scores(model, x, masks, instead):
    """One image and mask at a time; masks: (k, *space), True where removed."""
    with torch.no_grad():
        return torch.stack([model.eval()(torch.where(mask, instead, image)[None])[0] for image in x for mask in masks])


@pytest.mark.parametrize("score", ["logit", "probability"])
def test_correlations_against_a_loop(score):
    model, x, map_ = tiny_cnn().double(), doubles(2, 3, 16, 16), doubles(2, 1, 4, 4)
    attribution = of(map_, x, target=(3, 1))
    instead = doubles(3, 16, 16)
    options = {"cells": (5, 4), "substrate": instead, "score": score}
    metrics = [
        FaithfulnessCorrelation(size=6, subsets=25, **options),
        MuFidelity(removal_probability=0.4, samples=25, **options),
        SingleDeletion(**options),
    ]
    drawn = [OfSize(6, 25), Independent(0.4, 25), Single()]
    told = [stats.pearsonr, stats.spearmanr, stats.spearmanr]
    labels = torch.arange(16)[:, None] * 5 // 16 * 4 + torch.arange(16) * 4 // 16
    heatmap = torch.nn.functional.interpolate(map_, (16, 16), mode="bilinear")[:, 0]
    for metric, subsets, correlate in zip(metrics, drawn, told, strict=True):
        masks = subsets(20, 0)[:, labels]
        outputs = perturbed_scores(model, x, masks, instead)
        outputs = (outputs.softmax(1) if score == "probability" else outputs).reshape(2, -1, 5)
        values = Explainer(model).evaluate(attribution, metric)
        for i, target in enumerate((3, 1)):
            sums = [(heatmap[i] * mask).sum().item() for mask in masks]
            expected = correlate(sums, (-outputs[i, :, target]).numpy()).statistic
            assert values[i].item() == pytest.approx(expected, abs=1e-9)


def test_a_probability_that_was_explained_can_be_scored_as_a_logit():
    model, x = tiny_cnn().double(), doubles(2, 3, 16, 16)
    map_ = doubles(2, 1, 4, 4)
    for score in ("logit", "probability"):
        one, other = (
            Explainer(model).evaluate(Attribution(map_, x, target(2), GradCAM()), SingleDeletion(score=score))
            for target in (ClassLogit, Probability)
        )
        assert torch.equal(one, other)


def test_ranks():
    values = torch.randint(0, 6, (4, 3, 20)).float()
    assert np.array_equal(average_ranks(values).numpy(), stats.rankdata(values.numpy(), axis=-1))


# Peers


@pytest.mark.parametrize("factor", [None, "any"])
def test_infidelity_is_that_of_captum(factor):
    model, x = tiny_cnn().double().eval(), doubles(3, 3, 16, 16)
    scores = doubles(3, 3, 16, 16)
    attribution = of(scores, x, target=(1, 4, 2))

    noisy = InfidelityUnderNoise(sigma=0.2, samples=25, factor=factor)
    noise = torch.cat(list(noisy.noises(x)))

    def add_noise(repeated):  # captum repeats each image next to itself
        each = noise.repeat(len(x), 1, 1, 1)
        return each, repeated - each

    removal = Infidelity(cells=4, samples=25, factor=factor)
    masks = Independent(0.2, 25)(16, 0)[:, cell_labels((4, 4), (16, 16))[0]][:, None].double()

    def remove(repeated):
        each = masks.repeat(len(x), 3, 1, 1)
        return each, repeated * (1 - each)

    for metric, perturb in ((noisy, add_noise), (removal, remove)):
        expected = infidelity(
            model,
            perturb,
            x,
            scores,
            target=torch.tensor((1, 4, 2)),
            n_perturb_samples=25,
            normalize=factor == "any",
        )
        torch.testing.assert_close(Explainer(model).evaluate(attribution, metric), expected, rtol=1e-9, atol=0)


def test_under_noise_a_map_without_channels_tells_of_every_channel():
    model, x, map_ = tiny_cnn().double(), doubles(2, 3, 16, 16), doubles(2, 1, 16, 16)
    metric = InfidelityUnderNoise(samples=20)
    one, other = (Explainer(model).evaluate(of(each, x), metric) for each in (map_, map_.expand_as(x)))
    torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_faithfulness_correlation_agrees_with_quantus_within_its_sampling():
    quantus = pytest.importorskip("quantus")
    model, x = (
        linear(1, 4, 4).float().eval(),
        torch.rand(2, 1, 4, 4) + 1,
    )  # in Quantus a feature is a pixel of a channel
    map_ = contributions(model, x) + 0.1 * torch.randn(2, 1, 4, 4)
    peer = quantus.FaithfulnessCorrelation(
        nr_runs=600,
        subset_size=4,
        perturb_baseline=0.0,
        abs=False,
        normalise=False,
        disable_warnings=True,
        return_aggregate=False,
    )
    np.random.seed(0)  # noqa: NPY002  # which is what it draws from
    theirs = peer(model, x.numpy(), np.array([0, 0]), map_.numpy(), softmax=False, channel_first=True)
    ours = Explainer(model).evaluate(of(map_, x), FaithfulnessCorrelation(cells=None, size=4, subsets=2000))
    assert ours.tolist() == pytest.approx(theirs, abs=0.04)


# What every one of them must keep


@pytest.fixture(scope="module")
def sixteen():
    with torch.random.fork_rng([]):
        torch.manual_seed(5)
        model, x = tiny_cnn().double(), torch.randn(16, 3, 16, 16, dtype=torch.float64)
        maps = torch.randn(16, 1, 4, 4, dtype=torch.float64)
    classes = tuple(i % 5 for i in range(16))
    return model, of(maps, x, classes)


@pytest.mark.parametrize("metric", SMALL, ids=lambda metric: f"{metric.name}")
def test_an_image_does_not_depend_on_its_neighbours(metric, sixteen):
    model, whole = sixteen
    values = Explainer(model).evaluate(whole, metric)
    assert values.isfinite().all()
    assert values.unique().numel() > 10
    for images in (slice(4, 5), slice(3, 6)):
        torch.testing.assert_close(Explainer(model).evaluate(whole[images], metric), values[images], **EXACT)
    for batch_size in (1, 3):
        chunked = Explainer(model, batch_size=batch_size).evaluate(whole[:6], metric)
        torch.testing.assert_close(chunked, values[:6], **EXACT)
    back = Attribution(whole.scores.flip(0), whole.x.flip(0), ClassLogit(whole.target.index[::-1]), whole.method)
    torch.testing.assert_close(Explainer(model).evaluate(back, metric).flip(0), values, **EXACT)


@pytest.mark.parametrize("metric", SMALL, ids=lambda metric: f"{metric.name}")
def test_a_map_does_not_depend_on_the_others_nor_cost_more(metric, sixteen):
    model, whole = sixteen
    maps = [of(torch.roll(whole.scores[:3], i, 3), whole.x[:3], whole.target.index[:3]) for i in range(5)]
    explainer = Explainer(model)
    alone = [explainer.evaluate(each, metric) for each in maps]
    cost = explainer.model.image_count // 5
    together = explainer.measure(maps, [metric])[0].values
    assert explainer.model.image_count == 6 * cost
    torch.testing.assert_close(together, torch.stack(alone), **EXACT)


def test_metrics_share_a_bank():
    explainer, x = Explainer(tiny_cnn()), torch.randn(2, 3, 16, 16)
    maps = [of(torch.randn(2, 1, 4, 4), x) for _ in range(3)]
    explainer.measure(maps, [MuFidelity(samples=16), Infidelity(samples=16), Infidelity(samples=16, factor=None)])
    assert explainer.model.image_count == 2 * (16 + 1)
    explainer.measure(maps, [SingleDeletion(), MuFidelity(samples=16)])
    assert explainer.model.image_count == 2 * (16 + 1 + 16 + 16)


@pytest.mark.parametrize("option", ["substrate", "cells", "grid"])
def test_metrics_with_equal_options_share_a_bank(option):
    x, given = torch.randn(2, 3, 16, 16), torch.randn(3, 16, 16)
    own = torch.arange(256).reshape(16, 16) // 32
    equal = {
        "substrate": ({"substrate": given}, {"substrate": given.clone()}),
        "cells": ({"cells": own}, {"cells": own.clone()}, {"cells": own.int()}),
        "grid": ({"cells": 4}, {"cells": (4, 4)}),
    }[option]
    other = {"substrate": {"substrate": 2 * given}, "cells": {"cells": own.mT}, "grid": {"cells": (4, 5)}}[option]
    single = {"substrate": 16, "cells": 8, "grid": 16}[option]
    explainer, maps = Explainer(tiny_cnn()), [of(torch.randn(2, 1, 4, 4), x)]
    explainer.measure(maps, [SingleDeletion(**each) for each in equal])
    assert explainer.model.image_count == 2 * single
    explainer.measure(maps, [SingleDeletion(**each) for each in (equal[0], other)])
    assert explainer.model.image_count == 2 * (2 * single + {"substrate": 16, "cells": 8, "grid": 20}[option])


def test_given_tensors_are_compared_by_their_values():
    one = torch.randn(3, 4, 4, dtype=torch.float64)
    assert SingleDeletion(substrate=one) == SingleDeletion(substrate=one.clone())
    assert len({SingleDeletion(substrate=one), SingleDeletion(substrate=one.clone())}) == 1
    assert SingleDeletion(substrate=one) != SingleDeletion(substrate=one + 1e-12)  # which single precision cannot tell
    assert SingleDeletion(substrate=one) != SingleDeletion(substrate=one.mT)
    cells = torch.arange(16).reshape(4, 4)
    assert SingleDeletion(cells=cells) == SingleDeletion(cells=cells.clone())
    assert SingleDeletion(cells=cells) != SingleDeletion(cells=cells.mT)
    assert GivenImages(cells) != GivenCells(cells)


def test_curves_share_a_substrate_that_was_given_twice():
    explainer, x = Explainer(tiny_cnn()), torch.randn(2, 3, 16, 16)
    given = torch.randn(3, 16, 16)
    maps = [of(torch.randn(2, 1, 4, 4), x)]
    explainer.measure(maps, [registry.make("deletion", Metric, substrate=given.clone()) for _ in range(2)])
    seen = explainer.model.image_count
    explainer.measure(maps, [registry.make("deletion", Metric, substrate=given)])
    assert explainer.model.image_count == 2 * seen


def test_a_map_is_resized_and_summed_once_for_all_that_have_its_cells(monkeypatch):
    calls = Counter()

    def counted(cls, name):
        original = getattr(cls, name)

        def wrapper(self, *arguments, **options):
            calls[name] += 1
            return original(self, *arguments, **options)

        monkeypatch.setattr(cls, name, wrapper)

    counted(Attribution, "heatmap")
    counted(Partition, "sums")
    counted(SubsetMetric, "correlations")
    explainer, x = Explainer(tiny_cnn()), torch.randn(2, 3, 16, 16)
    maps = [of(torch.randn(2, 1, 4, 4), x) for _ in range(3)]
    found = explainer.measure(maps, [SensitivityN(sizes=5), FaithfulnessCorrelation(), MuFidelity(cells=(14, 14))])
    assert found[0].details["correlation"].shape == (3, 2, 5)
    assert calls == {"heatmap": 3, "sums": 3, "correlations": 3}
    calls.clear()
    other = MuFidelity(cells=4), MuFidelity(cells=4, samples=9), MuFidelity(cells=4, reduce="largest_magnitude")
    explainer.measure(maps, other)
    assert calls == {"heatmap": 6, "sums": 6, "correlations": 3}


def test_sensitivity_n_remembers_what_its_details_are(monkeypatch, sixteen):
    model, whole = sixteen
    metric, maps = SensitivityN(cells=4, sizes=3), [whole[:2], replace(whole[:2], scores=whole.scores[2:4])]
    (found,) = Explainer(model).measure(maps, [metric])
    torch.testing.assert_close(found.values, found.details["correlation"].nanmean(-1), **EXACT)
    asked = Explainer(model).model.bind(maps[0].x)
    first = metric.details(asked, maps)["correlation"]
    assert metric.details(asked, maps)["correlation"] is first
    torch.testing.assert_close(metric.details(asked, maps[1:])["correlation"], first[1:], **EXACT)


def test_cells_are_counted_where_no_device_is_waited_for():
    for cells in ((4, 5), GivenCells(torch.arange(256).reshape(16, 16) // 13)):
        labels, count = cell_labels(cells, (16, 16))
        assert labels.device.type == "cpu"
        assert count == 20 == len(labels.unique())


@pytest.mark.parametrize("metric", SMALL, ids=lambda metric: f"{metric.name}")
def test_the_model_is_left_as_it_was(metric):
    model, x = tiny_cnn(), torch.randn(2, 3, 16, 16)
    attribution, images = of(torch.randn(2, 1, 4, 4), x), x.clone()
    before = model_state(model)
    Explainer(model).evaluate(attribution, metric)
    assert not changes(before, model_state(model))
    assert torch.equal(x, images)


@pytest.mark.parametrize("metric", SMALL[:4], ids=lambda metric: f"{metric.name}")
def test_where_nothing_differs_nothing_is_correlated(metric):
    x = torch.randn(2, 3, 15, 15)
    constant = linear(3, 15, 15).float()
    nn.init.zeros_(constant[1].weight)
    assert Explainer(constant).evaluate(of(torch.randn(2, 1, 15, 15), x), metric).isnan().all()
    if not isinstance(metric, MuFidelity):  # the sizes of its subsets differ, and so do the sums of a constant map
        flat = of(torch.full((2, 1, 7, 7), 0.1), x)
        found = Explainer(tiny_cnn()).evaluate(flat, replaced(metric, cells=5))
        assert found.isnan().all()


def replaced(metric, **options):
    return type(metric)(**{**vars(metric), **options})


@pytest.mark.parametrize("metric", SMALL, ids=lambda metric: f"{metric.name}")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05)], ids=str)
def test_other_precisions_have_the_numbers_of_double(metric, dtype, tolerance):
    model = sensitive_cnn().bfloat16()
    x, map_ = torch.randn(4, 3, 16, 16).bfloat16(), torch.randn(4, 1, 4, 4)  # which every precision has
    expected = Explainer(copy.deepcopy(model).double()).evaluate(of(map_.double(), x.double()), metric)
    found = Explainer(model.to(dtype)).evaluate(of(map_, x.to(dtype)), metric)
    assert (expected.dtype, found.dtype) == (torch.float64, torch.float32)
    absolute = 0 if metric.name.startswith("infidelity") else tolerance
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=absolute)


def test_volumes():
    model, x = linear(2, 4, 5, 6), doubles(2, 2, 4, 5, 6)
    told = contributions(model, x)
    for metric in (SingleDeletion(cells=(2, 3, 2)), FaithfulnessCorrelation(cells=2, size=3), SensitivityN()):
        found = Explainer(model).evaluate(of(told, x), metric)
        torch.testing.assert_close(found, torch.ones(2).double(), **EXACT)


def test_cells_of_ones_own():
    model, x = linear(1, 3, 4), doubles(2, 1, 3, 4)
    cells = torch.tensor([[0, 0, 1, 1], [2, 2, 2, 1], [3, 4, 3, 4]])
    map_ = doubles(2, 1, 3, 4)
    found = Explainer(model).evaluate(of(map_, x), "faithfulness_correlation", cells=cells, size=2)
    told = contributions(model, x)
    for i in range(2):
        sums = torch.stack([torch.stack([each[i, 0][cells == k].sum() for k in range(5)]) for each in (map_, told)])
        assert found[i].item() == pytest.approx(correlation(*sums).item(), abs=1e-9)
    assert "crc32" in repr(FaithfulnessCorrelation(cells=cells))


def test_one_subset_is_random_and_the_next_another():
    first, second = OfSize(30, 50)(200, 0), OfSize(30, 50)(200, 1)
    assert (first.sum(1) == 30).all()
    assert not torch.equal(first, second)
    assert len(first.unique(dim=0)) == 50
    smaller = OfSize(29, 50)(200, 0)
    assert (first & smaller).sum(1).max() < 29


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SensitivityN(sizes=0), "sizes must be .*, got 0"),
        (lambda: SensitivityN(sizes=()), "an integer >= 1 or a non-empty tuple of these"),
        (lambda: SensitivityN(sizes=2.5), "sizes must be .*, got 2.5"),
        (lambda: SensitivityN(sizes=(3, 0)), r"sizes must be .*, got \(3, 0\)"),
        (lambda: SensitivityN(subsets=1), "an integer >= 2"),
        (lambda: FaithfulnessCorrelation(size=0), "size must be an integer >= 1, got 0"),
        (lambda: FaithfulnessCorrelation(size=2.5), "size must be an integer >= 1, got 2.5"),
        (lambda: MuFidelity(removal_probability=1.0), "removal_probability must be .*, got 1.0"),
        (lambda: MuFidelity(removal_probability=1.5), "removal_probability must be .*, got 1.5"),
        (lambda: MuFidelity(removal_probability=math.nan), "removal_probability must be .*, got nan"),
        (lambda: MuFidelity(samples=1), "an integer >= 2"),
        (lambda: MuFidelity(cells=0), "cells must be .*, got 0"),
        (lambda: MuFidelity(cells=(4, 0)), r"cells must be .*, got \(4, 0\)"),
        (lambda: MuFidelity(cells=()), "cells must be "),
        (lambda: MuFidelity(cells=2.5), "cells must be an integer >= 1, a non-empty tuple of these, .*, got 2.5"),
        (lambda: SingleDeletion(score="loss"), "'loss'"),
        (lambda: SingleDeletion(cells=torch.full((16, 16), 2)), "numbered from 0"),
        (lambda: SingleDeletion(cells=torch.zeros(16, 16)), "must be a tensor of integers"),
        (lambda: Infidelity(samples=0), "an integer >= 2"),
        (lambda: Infidelity(removal_probability=0), "removal_probability must be .*, got 0"),
        (lambda: Infidelity(factor="negative"), "factor must be one of 'positive', 'any', or None, got 'negative'"),
        (lambda: InfidelityUnderNoise(factor=True), "factor must be .*, got True"),
        (lambda: InfidelityUnderNoise(samples=1), "an integer >= 2"),
        (lambda: InfidelityUnderNoise(sigma=0.0), "sigma must be a finite number > 0, got 0.0"),
        (lambda: InfidelityUnderNoise(sigma=-1.0), "sigma must be .*, got -1.0"),
        (lambda: InfidelityUnderNoise(sigma=math.nan), "sigma must be .*, got nan"),
        (lambda: InfidelityUnderNoise(score="loss"), "'loss'"),
    ],
)
def test_options_that_suit_no_image_are_refused_before_there_is_one(make, words, as_users_run):
    with pytest.raises(InvalidInput, match=words):
        make()


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (FaithfulnessCorrelation(cells=3, size=10), "Subset size 10 is larger than the 9 cells"),
        (SensitivityN(cells=3, sizes=(3, 10)), "Subset size 10 is larger than the 9 cells"),
        (MuFidelity(cells=(2, 2, 2)), "2 axes"),
        (SingleDeletion(cells=torch.zeros(3, 3).long()), "one label for each of the 16x16 pixels, got 3x3"),
    ],
)
def test_what_does_not_fit_the_images_is_refused(metric, words, as_users_run):
    attribution = of(torch.randn(1, 1, 4, 4), torch.randn(1, 3, 16, 16))
    with pytest.raises(InvalidInput, match=words):
        Explainer(tiny_cnn()).evaluate(attribution, metric)


@pytest.mark.parametrize("metric", [SingleDeletion(), MuFidelity(samples=16)], ids=lambda metric: metric.name)
def test_a_score_that_is_not_finite_leaves_no_correlation(metric):
    model, x = linear(1, 8, 8), doubles(1, 1, 8, 8)
    whole = model(x)[0, 0].item()
    broken = FunctionTarget(lambda outputs: (outputs[:, 0] - whole).sqrt())  # not a number where the score falls
    assert Explainer(model).evaluate(Attribution(doubles(1, 1, 8, 8), x, broken, GradCAM()), metric).isnan()


def test_infidelity_in_half_precision_knows_what_rounding_left_of_the_noise():
    model, x = linear(1, 6, 6), 3 + doubles(2, 1, 6, 6)
    half = nn.Sequential(nn.Flatten(), Rounding(model[1])).to(torch.bfloat16)
    slopes = half[1].inner.weight[0].detach().float().reshape(1, 1, 6, 6).expand(2, -1, -1, -1)
    metric = InfidelityUnderNoise(samples=64, sigma=0.01, factor=None)
    (found,) = Explainer(half).measure([of(each, x.bfloat16()) for each in (slopes, 0 * slopes)], [metric])
    assert (found.values[0] < 1e-6 * found.values[1]).all()


class Rounding(nn.Module):
    """Its weights and images have half precision, and it computes in double."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x.double() @ self.inner.weight.double().mT


def test_options_from_a_file_are_those_of_a_user(as_users_run):
    assert SensitivityN(sizes=[1, 3], cells=[2, 4]) == SensitivityN(sizes=(1, 3), cells=(2, 4))
    assert hash(SensitivityN(sizes=[1, 3]))
