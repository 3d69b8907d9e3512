"""The plugin attribkit-road against a sparse solver, closed forms and pytorch-grad-cam."""

import importlib
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import lil_matrix
from scipy.sparse.linalg import spsolve
from torch import nn

import attribkit
from attribkit import AttribkitError, Attribution, ClassLogit, Explainer, Probability, rank_pixels
from attribkit.methods._gradcam import GradCAM
from attribkit.metrics._subset_metrics import SingleDeletion
from attribkit.testing import changes, model_state, tiny_cnn

sys.path.append(str(Path(attribkit.__file__).parents[1] / "plugins" / "attribkit-road"))
plugin = importlib.import_module("attribkit_road")
NoisyLinear, Road = plugin.NoisyLinear, plugin.Road

EXACTLY = NoisyLinear(noise=0, tolerance=1e-13)
EXACT = {"rtol": 0, "atol": 1e-9}


def of(scores, x, target=0):
    return Attribution(scores, x, ClassLogit(target), GradCAM())


def doubles(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def some(share, *shape):
    return torch.rand(*shape) < share


def by_sparse_solver(image, holes):
    """One channel, pixel by pixel; image, holes: (*space)."""
    places = list(itertools.product(*map(range, image.shape)))
    removed = [place for place in places if holes[place]]
    number = {place: i for i, place in enumerate(removed)}
    matrix, right = lil_matrix((len(removed), len(removed))), np.zeros(len(removed))
    for place, i in number.items():
        for step in itertools.product((-1, 0, 1), repeat=image.ndim):
            other = tuple(a + b for a, b in zip(place, step, strict=True))
            if not any(step) or other not in set(places):
                continue
            weight = 2.0 ** step.count(0)
            matrix[i, i] += weight
            if other in number:
                matrix[i, number[other]] -= weight
            else:
                right[i] += weight * image[other]
    filled = np.array(image)
    for place, value in zip(removed, np.atleast_1d(spsolve(matrix.tocsc(), right)), strict=True):
        filled[place] = value
    return filled


# The imputer


def block(height, width, rows, columns):
    holes = torch.zeros(1, 1, height, width, dtype=torch.bool)
    holes[..., slice(*rows), slice(*columns)] = True
    return holes


@pytest.mark.parametrize(
    "holes",
    [some(0.5, 2, 1, 9, 12), some(0.95, 2, 1, 9, 12), block(9, 12, (2, 8), (3, 12)), some(0.7, 2, 1, 4, 5, 3)],
    ids=["scattered", "nearly all", "at the border", "volume"],
)
def test_it_solves_the_system(holes):
    x = doubles(2, 3, *holes.shape[2:])
    filled = EXACTLY(x, holes)
    for i, channel in itertools.product(range(2), range(3)):
        expected = by_sparse_solver(x[i, channel].numpy(), holes.expand(2, *holes.shape[1:])[i, 0].numpy())
        np.testing.assert_allclose(filled[i, channel].numpy(), expected, rtol=0, atol=1e-9)
    usual = NoisyLinear(noise=0)(x.float(), holes)
    torch.testing.assert_close(usual.double(), filled, rtol=0, atol=5e-3)  # half of the noise


@pytest.mark.filterwarnings("ignore")
def test_it_fills_as_pytorch_grad_cam_does():
    peer = pytest.importorskip("pytorch_grad_cam.metrics.road")
    x, holes = torch.randn(3, 10, 12), some(0.6, 10, 12)
    theirs = peer.NoisyLinearImputer(noise=0)(x, (~holes).float())
    ours = EXACTLY(x[None].double(), holes[None, None])
    torch.testing.assert_close(ours[0].float(), theirs, rtol=0, atol=1e-6)


def test_a_constant_image_stays_constant():
    x = torch.full((2, 3, 9, 9), 0.3).double()
    torch.testing.assert_close(EXACTLY(x, some(0.8, 2, 1, 9, 9)), x, **EXACT)


def test_a_ramp_goes_on_through_a_hole_but_not_at_the_border():
    rows, columns = torch.meshgrid(torch.arange(10.0), torch.arange(12.0), indexing="ij")
    ramp = (2 * rows - 3 * columns + 1).double()[None, None]
    torch.testing.assert_close(EXACTLY(ramp, block(10, 12, (2, 9), (1, 10))), ramp, **EXACT)
    beside = EXACTLY(ramp, block(10, 12, (0, 4), (1, 10)))
    assert (beside - ramp).abs().max() > 0.1


def test_a_pixel_alone_is_the_weighted_mean_of_its_neighbours():
    x = doubles(1, 1, 5, 5)
    near = x[0, 0, 1:4, 1:4]
    direct, diagonal = near[[0, 1, 1, 2], [1, 0, 2, 1]].sum(), near[[0, 0, 2, 2], [0, 2, 0, 2]].sum()
    filled = EXACTLY(x, block(5, 5, (2, 3), (2, 3)))[0, 0, 2, 2]
    torch.testing.assert_close(filled, direct / 6 + diagonal / 12, **EXACT)


def test_nothing_exceeds_what_is_known():
    x, holes = doubles(4, 3, 12, 12), some(0.7, 4, 1, 12, 12)
    filled = EXACTLY(x, holes)
    known = x.masked_fill(holes, torch.nan)
    for i, channel in itertools.product(range(4), range(3)):
        kept = known[i, channel][~known[i, channel].isnan()]
        assert kept.min() - 1e-9 <= filled[i, channel].min() <= filled[i, channel].max() <= kept.max() + 1e-9


def test_without_holes_nothing_changes_and_without_pixels_the_mean_is_left():
    x = doubles(2, 3, 8, 8)
    nothing, everything = torch.zeros(1, 1, 8, 8).bool(), torch.ones(1, 1, 8, 8).bool()
    assert torch.equal(NoisyLinear()(x, nothing), x)
    torch.testing.assert_close(EXACTLY(x, everything), x.mean((2, 3), keepdim=True).expand_as(x), **EXACT)
    assert EXACTLY(x[..., :1, :1], everything[..., :1, :1]).equal(x[..., :1, :1])


def test_an_image_is_filled_as_if_it_were_alone():
    x, holes = doubles(16, 3, 12, 12), some(0.6, 16, 1, 12, 12)
    holes[2], holes[3] = True, False  # which are done before they begin
    holes[5] = block(12, 12, (1, 11), (1, 11))[0]  # which takes longest
    impute = NoisyLinear(tolerance=1e-2)
    together = impute(x, holes)
    for images in (slice(0, 1), slice(2, 3), slice(4, 5), slice(5, 8)):
        torch.testing.assert_close(impute(x[images], holes[images]), together[images], rtol=0, atol=1e-12)
    torch.testing.assert_close(impute(x.flip(0), holes.flip(0)).flip(0), together, rtol=0, atol=1e-12)


def test_the_noise_is_seeded_and_the_same_for_every_image():
    x, holes = torch.zeros(3, 3, 64, 64), some(0.5, 1, 1, 64, 64)
    first, again, other = (NoisyLinear(noise=0.01, seed=seed)(x, holes) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(first[0], first[2])
    assert torch.equal(first.masked_fill(holes, 0), x)
    assert first[0][:, holes[0, 0]].std().item() == pytest.approx(0.01, rel=0.05)


def test_a_tolerance_that_is_not_reached_is_told(monkeypatch):
    monkeypatch.setattr(importlib.import_module("attribkit_road.conjugate_gradients"), "_MAX_STEPS_PER_PIXEL", 1)
    with pytest.raises(AttribkitError, match=r"tolerance=1e-12 was not reached in 32 steps in torch.float32"):
        NoisyLinear(tolerance=1e-12)(torch.randn(1, 1, 16, 16), some(0.7, 1, 1, 16, 16))


def test_other_metrics_and_methods_take_it():
    model, x = tiny_cnn(), torch.randn(2, 3, 16, 16)
    explainer = Explainer(model)
    attribution = explainer.attribute(x, "occlusion", target=1, patch=4, stride=4, baseline=EXACTLY)
    found = explainer.evaluate(attribution, SingleDeletion(substrate=EXACTLY))
    torch.testing.assert_close(found, torch.ones(2), rtol=0, atol=1e-5)  # the same cells, filled the same


# The metric


def relu_map(*shape):
    """As of a CAM: more than half are zeros."""
    return (torch.randn(*shape).double() - 0.3).relu()


@pytest.mark.parametrize("make", [doubles, relu_map, torch.zeros, torch.ones], ids=lambda make: make.__name__)
def test_each_pixel_has_a_place_of_its_own(make):
    heatmaps = make(3, 9, 11)
    places = rank_pixels(heatmaps)
    for heatmap, place in zip(heatmaps, places, strict=True):
        assert sorted(place.flatten().tolist()) == list(range(99))
        ordered = heatmap.flatten()[place.flatten().argsort()]
        assert (ordered.diff() <= 0).all()
    assert torch.equal(places, rank_pixels(heatmaps, seed=0))


def test_ties_are_in_a_random_order_the_same_for_every_image():
    first, second = rank_pixels(torch.zeros(2, 20, 20), seed=0)
    assert torch.equal(first, second)
    assert not torch.equal(first, rank_pixels(torch.zeros(1, 20, 20), seed=1)[0])
    top = (first < 200).float()
    assert abs(top[:10].mean() - 0.5) < 0.15  # neither the upper nor the lower half of the image


def loop(model, x, heatmap, target, fractions, score):
    """Of one image; the mean over the fractions, by the sparse solver."""
    order = heatmap.flatten().argsort(descending=True)
    values = []
    for fraction in fractions:
        count = int(len(order) * fraction)
        asked = []
        for removed in (order[:count], order[len(order) - count :]):
            holes = np.zeros(len(order), dtype=bool)
            holes[removed.numpy()] = True
            holes = holes.reshape(heatmap.shape)
            image = torch.from_numpy(np.stack([by_sparse_solver(channel.numpy(), holes) for channel in x]))
            with torch.no_grad():
                outputs = model.eval()(image[None])[0]
            asked.append((outputs.softmax(0) if score == "probability" else outputs)[target].item())
        values.append((asked[1] - asked[0]) / 2)
    return np.mean(values)


@pytest.mark.parametrize("score", ["probability", "logit"])
def test_road_against_a_loop(score):
    model, x, heatmaps = tiny_cnn().double(), doubles(2, 3, 8, 8), doubles(2, 1, 8, 8)
    metric = Road(fractions=(0.25, 0.5, 0.8), noise=0, tolerance=1e-13, score=score)
    values = Explainer(model).evaluate(of(heatmaps, x, (3, 1)), metric)
    for i, target in enumerate((3, 1)):
        expected = loop(model, x[i], heatmaps[i, 0], target, metric.fractions, score)
        assert values[i].item() == pytest.approx(expected, abs=1e-9)
    given = Attribution(heatmaps, x, Probability((3, 1)), GradCAM())
    assert torch.equal(Explainer(model).evaluate(given, metric), values)


@pytest.mark.filterwarnings("ignore")
def test_road_is_that_of_pytorch_grad_cam_where_nothing_is_tied(monkeypatch):
    peer = pytest.importorskip("pytorch_grad_cam.metrics.road")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    model, x, maps = tiny_cnn().eval(), torch.randn(2, 3, 10, 10), torch.rand(2, 1, 10, 10)
    asked = [targets.ClassifierOutputTarget(each) for each in (3, 1)]
    with monkeypatch.context() as quiet:
        quiet.setattr(torch, "randn_like", torch.zeros_like)
        theirs = peer.ROADCombined()(x, maps[:, 0].numpy(), asked, model)
    metric = Road(**{**Road.presets["pytorch_grad_cam"], "noise": 0, "tolerance": 1e-6})
    ours = Explainer(model).evaluate(of(maps, x, (3, 1)), metric)
    assert ours.tolist() == pytest.approx(theirs.tolist(), abs=1e-5)


def test_a_turned_map_has_the_negative_value():
    model, x, heatmaps = tiny_cnn().double(), doubles(2, 3, 12, 12), doubles(2, 1, 12, 12)
    metric = Road(noise=0)
    one, other = (Explainer(model).evaluate(of(each, x), metric) for each in (heatmaps, -heatmaps))
    torch.testing.assert_close(one, -other, **EXACT)
    grown = Explainer(model).evaluate(of(heatmaps.exp() * 7, x), metric)
    torch.testing.assert_close(grown, one, **EXACT)  # only the order matters


@pytest.mark.parametrize(("pixels", "fraction", "expected"), [(100, 0.29, 29), (63, 0.5, 31), (10, 0.7, 7)])
def test_the_floor_of_the_fraction_is_removed(pixels, fraction, expected):
    seen = []

    class Counting(nn.Module):
        """The number of pixels that are not one."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x):
            changed = (x != 1).flatten(1).sum(1)[:, None] * self.weight
            seen.append(changed.flatten().tolist())
            return torch.cat([changed, -changed], 1)

    x = torch.ones(1, 1, 1, pixels)
    for scores in (torch.zeros(1, 1, 1, pixels), relu_map(1, 1, 1, pixels)):
        explainer = Explainer(Counting())
        explainer.evaluate(of(scores, x), Road(fractions=(fraction,)))  # the first call runs the images as they are too
        seen.clear()
        explainer.evaluate(of(scores, x), Road(fractions=(fraction,)))
        assert [number for numbers in seen for number in numbers] == [expected, expected]


def test_a_constant_map_is_neither_good_nor_bad():
    """On average over orders; here over images that the same order meets."""
    model, x = tiny_cnn(), torch.randn(64, 3, 12, 12)
    nn.init.normal_(model[-1].weight)
    values = Explainer(model).evaluate(of(torch.ones(64, 1, 12, 12), x), Road(fractions=(0.5,)))
    assert abs(values.mean()) < 4 * values.std() / 8


@pytest.fixture(scope="module")
def sixteen():
    with torch.random.fork_rng([]):
        torch.manual_seed(5)
        model, x = tiny_cnn().double(), torch.randn(16, 3, 16, 16, dtype=torch.float64)
        maps = torch.randn(16, 1, 4, 4, dtype=torch.float64).relu()
    return model, of(maps, x, tuple(i % 5 for i in range(16)))


def test_an_image_does_not_depend_on_its_neighbours(sixteen):
    model, whole = sixteen
    metric = Road(fractions=(0.1, 0.5, 0.9))
    values = Explainer(model).evaluate(whole, metric)
    assert values.isfinite().all()
    assert values.unique().numel() == 16
    for images in (slice(4, 5), slice(3, 6)):
        torch.testing.assert_close(Explainer(model).evaluate(whole[images], metric), values[images], **EXACT)
    for batch_size in (1, 3):
        chunked = Explainer(model, batch_size=batch_size).evaluate(whole, metric)
        torch.testing.assert_close(chunked, values, **EXACT)
    back = Attribution(whole.scores.flip(0), whole.x.flip(0), ClassLogit(whole.target.index[::-1]), whole.method)
    torch.testing.assert_close(Explainer(model).evaluate(back, metric).flip(0), values, **EXACT)


def test_curves_cost_nothing_more(sixteen):
    model, whole = sixteen
    explainer = Explainer(model)
    maps = [whole[:3], of(-whole[:3].scores, whole.x[:3], whole.target.index[:3])]
    maps[0] = of(whole.scores[:3], maps[1].x, maps[1].target.index)
    (found,) = explainer.measure(maps, [Road()])
    assert explainer.model.image_count == 3 * 2 * 2 * 7
    assert found.details["morf"].shape == found.details["lerf"].shape == (2, 3, 7)
    assert found.details["fractions"][1, 2].tolist() == pytest.approx(Road().fractions)
    gain = (found.details["lerf"] - found.details["morf"]).mean(-1) / 2
    torch.testing.assert_close(found.values, gain, **EXACT)


def test_the_model_is_left_as_it_was():
    model, x = tiny_cnn(), torch.randn(2, 3, 16, 16)
    attribution, images, before = of(torch.randn(2, 1, 4, 4), x), x.clone(), model_state(model)
    Explainer(model).evaluate(attribution, Road(fractions=(0.5,)))
    assert not changes(before, model_state(model))
    assert torch.equal(x, images)


def test_bfloat16_and_volumes():
    x = torch.randn(2, 3, 16, 16).bfloat16()
    values = Explainer(tiny_cnn().bfloat16()).evaluate(of(torch.randn(2, 1, 4, 4), x), Road(fractions=(0.5,)))
    assert values.dtype == torch.float32
    assert values.isfinite().all()
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(120, 2)).double(), doubles(2, 2, 3, 4, 5)
    told = (model[1].weight[0].reshape(2, 3, 4, 5) * x).sum(1, keepdim=True).detach()
    assert Explainer(model).evaluate(of(told, x), Road(fractions=(0.5,))).isfinite().all()


@pytest.mark.parametrize("options", [{"fractions": (0.0,)}, {"fractions": ()}, {"score": "loss"}])
def test_refusals(options):
    with pytest.raises(AttribkitError, match=next(iter(options))):
        Road(**options)
