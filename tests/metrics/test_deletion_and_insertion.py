"""Deletion, insertion and their kin: closed forms, slow oracles in NumPy, peers, and what must not matter."""

import contextlib
import itertools
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.signal import convolve2d
from torch import nn

from attribkit import Attribution, ClassLogit, Contrast, Explainer, Imputer, Probability
from attribkit._contracts.metric import Metric
from attribkit._core.errors import AttribkitError, InvalidInput
from attribkit._core.substrates import FoldedBlur, GaussianBlur, substrate_images
from attribkit.methods._gradcam import GradCAM
from attribkit.metrics._curve_engine import PixelOrder, Stops, area_weights, rank_units
from attribkit.registry import make

FOUR = ("deletion", "insertion", "insertion_minus_deletion", "aopc")
EXACT = {"score": "logit", "area": "uniform"}
TIES = ("random", "first", "last")


class Scoring(nn.Module):
    """Any function of images as the first of two classes."""

    def __init__(self, function):
        super().__init__()
        self.function, self.bias = function, nn.Parameter(torch.zeros(()).double())

    def forward(self, x):
        score = self.function(x) + self.bias
        return torch.stack([score, torch.zeros_like(score)], 1)


def small_cnn(classes=5):
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, classes)).double().eval()


def of(heatmaps, x, target=None):
    """An attribution by its maps, (b, *space)."""
    return Attribution(heatmaps[:, None], x, ClassLogit(0) if target is None else target, GradCAM())


def registered(name, **options):
    """A metric with its options, or a preset."""
    return make(name, Metric, **options)


def additive(space=(6, 7), images=4, seed=0):
    """Images, a substrate, the scoring model b + sum(w x), and each pixel's share in f(x) - f(r)."""
    torch.manual_seed(seed)
    x, given = torch.randn(images, 3, *space).double(), torch.randn(3, *space).double()
    weight = torch.randn(3, *space).double()
    model = Scoring(lambda images: 0.3 + (images * weight).flatten(1).sum(1))
    return x, given, model, (weight * (x - given)).sum(1)


def rank_of(heatmaps):
    """The rank of each pixel by decreasing score, of maps without ties."""
    ranks = torch.tensor(np.argsort(np.argsort(-heatmaps.flatten(1).numpy(), 1), 1)).view(heatmaps.shape)
    return ranks.double()


# Closed forms -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_step", [1, 4, 5, 42, 50])
def test_of_an_additive_model(per_step):
    x, given, model, shares = additive()
    heatmaps = torch.randn(4, 6, 7).double()
    options = {**EXACT, "substrate": given, "per_step": per_step}
    steps = math.ceil(42 / per_step)
    weight = (steps - rank_of(heatmaps) // per_step - 0.5) / steps
    removed = (shares * weight).flatten(1).sum(1)
    explainer, attribution = Explainer(model), of(heatmaps, x)
    images, substrates = model(x)[:, 0], model(given[None])[:, 0]
    deletion = explainer.evaluate(attribution, "deletion", **options)
    insertion = explainer.evaluate(attribution, "insertion", **options)
    torch.testing.assert_close(deletion, images - removed, rtol=0, atol=1e-9)
    torch.testing.assert_close(insertion, substrates + removed, rtol=0, atol=1e-9)


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("area", ["uniform", "trapezoid"])
def test_deletion_and_insertion_of_an_additive_model_sum_to_its_ends(ties, area):
    x, given, model, _ = additive()
    maps = [torch.randn(4, 6, 7), torch.randint(0, 3, (4, 6, 7)).float(), torch.zeros(4, 6, 7), -torch.ones(4, 6, 7)]
    ends = model(x)[:, 0] + model(given[None])[:, 0]
    for each, sizes in itertools.product(maps, ({"per_step": 5}, {"steps": 4}, {"fractions": (0.0, 0.1, 0.5, 1.0)})):
        options = {"substrate": given, "score": "logit", "area": area, "ties": ties, **sizes}
        both = [Explainer(model).evaluate(of(each, x), name, **options) for name in ("deletion", "insertion")]
        torch.testing.assert_close(both[0] + both[1], ends, rtol=0, atol=1e-9)


def test_no_order_is_better_than_that_of_the_shares():
    x, given, model, shares = additive((1, 5), images=1)
    orders = torch.tensor(list(itertools.permutations(range(5)))).double().view(120, 1, 5)
    heatmaps = torch.cat([orders, shares, -shares])
    attribution = of(heatmaps, x.expand(122, -1, -1, -1))
    for name, best, worst in (("deletion", min, max), ("insertion", max, min)):
        values = Explainer(model).evaluate(attribution, name, substrate=given, per_step=1, **EXACT).tolist()
        assert values[120] == pytest.approx(best(values[:120]), abs=1e-9)
        assert values[121] == pytest.approx(worst(values[:120]), abs=1e-9)


def test_random_orders_have_their_mean_and_variance():
    many = 3000
    x, given, model, shares = additive((4, 4), images=1)
    heatmaps = torch.rand(many, 4, 4, generator=torch.Generator().manual_seed(5))
    attribution = of(heatmaps, x.expand(many, -1, -1, -1))
    values = Explainer(model).evaluate(attribution, "deletion", substrate=given, per_step=1, **EXACT)
    mean = (model(x)[0, 0] + model(given[None])[0, 0]) / 2
    variance = 17 / (12 * 16) * ((shares - shares.mean()) ** 2).sum()
    assert abs(values.mean() - mean) < 4 * (variance / many).sqrt()
    assert abs(values.var() / variance - 1) < 0.2


def test_the_difference_is_least_first_minus_most_first_where_steps_divide_the_pixels():
    torch.manual_seed(0)
    x, heatmaps = torch.randn(3, 3, 8, 8).double(), torch.randn(3, 8, 8).double()
    explainer = Explainer(small_cnn())

    def both(per_step):
        options = {"per_step": per_step, "area": "uniform"}
        gain = explainer.evaluate(of(heatmaps, x), "insertion_minus_deletion", **options)
        least, most = (explainer.evaluate(of(each, x), "deletion", **options) for each in (-heatmaps, heatmaps))
        return gain, least - most

    torch.testing.assert_close(*both(8), rtol=0, atol=1e-12)
    gain, shifted = both(7)
    assert (gain - shifted).abs().min() > 1e-6  # the grid of the reversed order is another


def test_aopc_of_an_additive_model():
    x, given, model, shares = additive()
    heatmaps = torch.randn(4, 6, 7).double()
    options = {"substrate": given, "patch": 1, "until": None, "score": "logit"}
    values = Explainer(model).evaluate(of(heatmaps, x), "aopc", **options)
    expected = (shares * (42 - rank_of(heatmaps))).flatten(1).sum(1) / 43
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-9)


def test_aopc_stops_after_its_regions():
    x, given, model, shares = additive((9, 10), images=2)
    heatmaps = torch.randn(2, 9, 10).double()
    values = Explainer(model).evaluate(of(heatmaps, x), "aopc", substrate=given, patch=(3, 4), until=5, score="logit")
    for image in range(2):  # regions of 3 x 4, the last column of them 3 x 2
        places = [(slice(i, i + 3), slice(j, j + 4)) for i in (0, 3, 6) for j in (0, 4, 8)]
        places.sort(key=lambda place, image=image: -heatmaps[image][place].mean())
        falls = np.cumsum([0] + [shares[image][place].sum().item() for place in places[:5]])
        assert values[image].item() == pytest.approx(falls.mean(), abs=1e-9)


@pytest.mark.parametrize("per_step", [1, 3, 7])
def test_a_detector_of_one_pixel_tells_its_rank(per_step):
    """Images that differ in the rank of the pixel alone, which goes through all of them."""
    units, place = 20, 13
    steps = math.ceil(units / per_step)
    heatmaps = torch.stack([(torch.arange(units) - place + rank) % units for rank in range(units)])
    heatmaps = -heatmaps.view(units, 4, 5).double()
    model = Scoring(lambda x: x.flatten(2)[:, 0, place])
    attribution = of(heatmaps, torch.ones(units, 3, 4, 5).double())
    expected = (torch.arange(units).double() // per_step + 0.5) / steps
    options = {**EXACT, "per_step": per_step, "substrate": "zero"}
    deletion = Explainer(model).evaluate(attribution, "deletion", **options)
    insertion = Explainer(model).evaluate(attribution, "insertion", **options)
    torch.testing.assert_close(deletion, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(insertion, 1 - expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("per_step", [1, 3])
def test_and_or(per_step):
    units, places = 20, [2, 9, 17]
    steps = math.ceil(units / per_step)
    heatmaps = torch.randn(6, 4, 5).double()
    ranks = rank_of(heatmaps).flatten(1)[:, places]
    first, last = ((each // per_step + 0.5) / steps for each in (ranks.amin(1), ranks.amax(1)))
    options = {**EXACT, "per_step": per_step, "substrate": "zero"}
    attribution = of(heatmaps, torch.ones(6, 3, 4, 5).double())
    for function, deletion, insertion in ((torch.amin, first, 1 - last), (torch.amax, last, 1 - first)):
        model = Scoring(lambda x, function=function: function(x.flatten(2)[:, 0, places], 1))
        found = [Explainer(model).evaluate(attribution, name, **options) for name in ("deletion", "insertion")]
        torch.testing.assert_close(found[0], deletion.double(), rtol=0, atol=1e-9)
        torch.testing.assert_close(found[1], insertion.double(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("area", ["uniform", "trapezoid", "mean"])
@pytest.mark.parametrize("sizes", [{"per_step": 5}, {"steps": 7, "last_step": "equal"}, {"ends": "none"}, {"until": 9}])
def test_a_constant_model_has_its_constant_for_area(area, sizes):
    model, x = Scoring(lambda x: x.flatten(1).sum(1) * 0 + 0.7), torch.randn(2, 3, 6, 6).double()
    attribution = of(torch.randn(2, 6, 6), x)
    for name in ("deletion", "insertion"):
        values = Explainer(model).evaluate(attribution, name, score="logit", area=area, **sizes)
        torch.testing.assert_close(values, torch.full((2,), 0.7, dtype=torch.float64), rtol=0, atol=1e-12)


def test_any_order_of_exchangeable_pixels_is_a_half():
    heatmaps = torch.stack([torch.randn(6, 6), torch.zeros(6, 6), torch.arange(36.0).view(6, 6)])
    attribution, model = of(heatmaps, torch.ones(3, 2, 6, 6).double()), Scoring(lambda x: x.flatten(1).mean(1))
    for name, ties in itertools.product(("deletion", "insertion"), TIES):
        values = Explainer(model).evaluate(attribution, name, substrate="zero", per_step=4, ties=ties, **EXACT)
        torch.testing.assert_close(values, torch.full((3,), 0.5).double(), rtol=0, atol=1e-12)


# Oracles, which know nothing of attribkit ---------------------------------------------------------------------------


def walked(ask, start, finish, order, counts):
    """The score after the first pixels of the order, (h * w,) indices, came from `finish`."""
    scores = []
    for count in counts:
        image = start.copy().reshape(len(start), -1)
        for pixel in order[:count]:
            image[:, pixel] = finish.reshape(len(start), -1)[:, pixel]
        scores.append(ask(image.reshape(start.shape)))
    return np.array(scores)


def softmax(logits):
    return np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()


def rise_blur(image):
    one = np.zeros((11, 11))
    one[5, 5] = 1
    kernel = gaussian_filter(one, 5)
    return np.stack([convolve2d(channel, kernel, mode="same") for channel in image])


def latec_blur(image):
    from torchvision.transforms import GaussianBlur as Peer

    return Peer(15, 5.0)(torch.tensor(image)).numpy()


def rise(logits, image, heatmap, label, insert, step):
    other = rise_blur(image) if insert else np.zeros_like(image)
    start, finish = (other, image) if insert else (image, other)
    order = np.flip(np.argsort(heatmap.ravel(), kind="stable"))
    steps = -(-heatmap.size // step)
    scores = walked(
        lambda x: softmax(logits(x))[label],
        start,
        finish,
        order,
        [min(i * step, heatmap.size) for i in range(steps + 1)],
    )
    return (scores.sum() - scores[0] / 2 - scores[-1] / 2) / steps


def torchcam(logits, image, heatmap, label, insert):
    other = np.zeros_like(image)
    start, finish = (other, image) if insert else (image, other)
    order = np.argsort(-heatmap.ravel(), kind="stable")
    counts = [*range(0, heatmap.size, math.ceil(heatmap.size / 20)), heatmap.size]
    scores = walked(lambda x: logits(x)[label], start, finish, order, counts)
    return np.trapezoid(scores, np.array(counts) / heatmap.size)


def xplique(logits, image, heatmap, label, insert):
    other = np.zeros_like(image)
    start, finish = (other, image) if insert else (image, other)
    order = np.argsort(heatmap.ravel(), kind="stable")[::-1]
    counts = np.linspace(0, heatmap.size, 11, dtype=np.int32)
    scores = walked(lambda x: logits(x)[label], start, finish, order, counts)
    return np.mean(scores[:-1] + scores[1:]) * 0.5


def latec(logits, image, heatmap, label, insert):
    other = latec_blur(image) if insert else np.zeros_like(image)
    start, finish = (other, image) if insert else (image, other)
    order = np.argsort(-heatmap.ravel(), kind="stable")
    counts = list(range(50, heatmap.size, 50))
    scores = walked(lambda x: softmax(logits(x))[label], start, finish, order, counts)
    return np.trapezoid(scores, dx=1 / len(scores))


def quantus(logits, image, heatmap, label, _insert=False):
    features = np.broadcast_to(heatmap, image.shape).ravel()
    perturbed, scores = image.copy().ravel(), []
    for feature in np.argsort(-features, kind="stable"):
        perturbed[feature] = perturbed.min()
        scores.append(softmax(logits(perturbed.reshape(image.shape)))[label])
    return np.trapezoid(scores, dx=1)


class Waves(nn.Module):
    """A classifier whose weights are sines, so that no generator decides what they are."""

    def __init__(self, side, cell, classes, scale=6):
        super().__init__()
        self.cell, self.scale = cell, scale
        width = 3 * (side // cell) ** 2
        self.weight = nn.Parameter((torch.arange(classes * width).double() ** 1.5 * 0.7).sin().view(classes, width))

    def forward(self, x):
        cells = nn.functional.avg_pool2d(x, self.cell).flatten(1)
        return self.scale * (cells.tanh() + cells.square()) @ self.weight.mT.to(x) / self.weight.shape[1] ** 0.5


def waves(images, side):
    """Images (b, 3, side, side) and maps without ties (b, side, side), made of sines."""
    x = (torch.arange(images * 3 * side * side).double() * 0.37).sin() + (
        torch.arange(3.0)[:, None].double() * 0.2
    ).repeat(images, side * side).flatten()
    heatmaps = (torch.arange(images * side * side).double() ** 1.1 * 0.61 + 0.2).sin()
    return x.view(images, 3, side, side), heatmaps.view(images, side, side)


PRESETS = {"rise": rise, "torchcam": torchcam, "xplique": xplique, "quantus": quantus, "latec": latec}


def oracle(preset, direction, model, x, heatmaps, labels):
    def logits(image):
        with torch.no_grad():
            return model(torch.tensor(image)[None])[0].numpy()

    arguments = (7,) if preset == "rise" else ()
    return [
        PRESETS[preset](logits, image, heatmap, label, direction == "insertion", *arguments)
        for image, heatmap, label in zip(x.numpy(), heatmaps.numpy(), labels, strict=True)
    ]


GOLDEN = {  # of the oracles
    ("rise", "deletion"): [0.59148341, 0.42732048],
    ("rise", "insertion"): [0.36525469, 0.60118582],
    ("torchcam", "deletion"): [3.3488417, 1.5568559],
    ("torchcam", "insertion"): [2.46563539, 1.47919067],
    ("xplique", "deletion"): [3.35316982, 1.67474892],
    ("xplique", "insertion"): [2.43253234, 1.36864107],
    ("quantus", "deletion"): [271.49298711, 312.11692938],
    ("latec", "deletion"): [0.44602666, 0.28549972],
    ("latec", "insertion"): [0.34320498, 0.59059099],
}


@pytest.mark.parametrize(("preset", "direction"), list(GOLDEN))
def test_presets_are_their_oracles(preset, direction):
    model = Waves(16, 4, 6)
    x, heatmaps = waves(2, 16)
    heatmaps = (heatmaps * 20).round() / 20  # many ties
    labels = model(x).argmax(1).tolist()
    options = {"per_step": 7} if preset == "rise" else {}
    found = Explainer(model).evaluate(of(heatmaps, x, ClassLogit(tuple(labels))), direction, preset=preset, **options)
    expected = oracle(preset, direction, model, x, heatmaps, labels)
    torch.testing.assert_close(found.tolist(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(expected, GOLDEN[preset, direction], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("direction", "per_step", "expected"),
    [
        ("deletion", 1792, 0.2713129101092428),
        ("insertion", 1792, 0.8875473822866168),
        ("deletion", 224, 0.2712272896182445),
        ("insertion", 224, 0.8876017989324672),
    ],
)
def test_numbers_of_the_code_of_rise(direction, per_step, expected):
    """What eclique/RISE at d91ea00 gives for a map without ties, whose order it defines."""
    x, heatmaps = waves(1, 224)
    attribution = of(heatmaps, x.float(), ClassLogit(966))
    explainer = Explainer(Waves(224, 16, 1000, scale=5).float())
    found = explainer.evaluate(attribution, direction, preset="rise", per_step=per_step)
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_presets_of_the_difference():
    x, heatmaps = waves(2, 16)
    attribution, explainer = of(heatmaps, x), Explainer(Waves(16, 4, 6))
    for preset in ("rise", "torchcam", "xplique", "latec"):
        deletion, insertion, gain = (
            explainer.evaluate(attribution, name, preset=preset, **({"per_step": 7} if preset == "rise" else {}))
            for name in FOUR[:3]
        )
        torch.testing.assert_close(gain, insertion - deletion, rtol=0, atol=1e-12)


# Peers --------------------------------------------------------------------------------------------------------------


def test_torchcam_has_the_same_numbers():
    metrics = pytest.importorskip("torchcam.metrics")
    if not hasattr(metrics, "DeletionInsertionMetric"):
        pytest.skip("this torchcam has no deletion and insertion")
    model = small_cnn()
    x, heatmaps = torch.randn(3, 3, 13, 11).double(), torch.randint(0, 9, (3, 13, 11)).double()

    class Extractor:
        def __init__(self):
            self.model = model

        def __call__(self, class_idx=None, scores=None, normalized=True):
            return [heatmaps]

        def fuse_cams(self, cams):
            return cams[0]

        def _hooks_off(self):
            return contextlib.nullcontext()

    label = ClassLogit(tuple(model(x).argmax(1).tolist()))
    for score, applied in (("logit", None), ("probability", lambda logits: logits.softmax(-1))):
        peer = metrics.DeletionInsertionMetric(Extractor(), applied)
        peer.update(x)
        for name in ("deletion", "insertion"):
            found = Explainer(model).evaluate(of(heatmaps, x, label), name, preset="torchcam", score=score)
            assert found.mean().item() == pytest.approx(peer.summary()[f"{name}_auc"], abs=1e-6)


@pytest.mark.slow
def test_quantus_has_the_same_curve():
    quantus = pytest.importorskip("quantus")
    model = small_cnn().float()
    x, heatmaps = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)  # no ties, a map for each channel
    peer = quantus.PixelFlipping(features_in_step=8, normalise=False, abs=False, disable_warnings=True)
    curves = peer(model, x.numpy(), np.array([1, 3]), heatmaps.numpy(), device="cpu")
    attribution = Attribution(heatmaps, x, ClassLogit((1, 3)), GradCAM())
    ours = Explainer(model).measure([attribution], [registered("deletion", preset="quantus", per_step=8)])[0]
    np.testing.assert_allclose(ours.details["curve"][0], curves, atol=1e-6)


# What must not matter -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FOUR)
@pytest.mark.parametrize(
    "options",
    [{"per_step": 30}, {"substrate": "mean", "ties": "last", "per_step": 40, "channels": "apart"}],
)
def test_an_image_has_its_number_whatever_is_beside_it(name, options):
    torch.manual_seed(2)
    x, heatmaps = torch.randn(16, 3, 12, 10).double(), torch.randint(0, 30, (16, 12, 10)).double()
    labels = tuple(i % 5 for i in range(16))
    whole = of(heatmaps, x, ClassLogit(labels))
    model = small_cnn()
    expected = Explainer(model).evaluate(whole, name, **options)
    assert expected.isfinite().all()
    for size in (1, 3):
        found = Explainer(model, batch_size=size).evaluate(whole, name, **options)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    for images in (slice(0, 1), slice(4, 7)):
        found = Explainer(model).evaluate(whole[images], name, **options)
        torch.testing.assert_close(found, expected[images], rtol=0, atol=1e-12)
    reversed_ = of(heatmaps.flip(0), x.flip(0), ClassLogit(labels[::-1]))
    found = Explainer(model).evaluate(reversed_, name, **options)
    torch.testing.assert_close(found.flip(0), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", FOUR)
def test_a_map_has_its_number_to_the_last_bit_whatever_is_measured_with_it(name):
    x = torch.randn(3, 3, 12, 10)
    maps = [of(torch.randn(3, 12, 10), x) for _ in range(3)]
    model = small_cnn().float()
    together = Explainer(model).measure(maps, [name, "deletion"])[0].values
    alone = torch.stack([Explainer(model).evaluate(each, name) for each in maps])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("name", FOUR)
def test_only_the_order_of_scores_matters(name):
    x, heatmaps = torch.randn(2, 3, 8, 8).double(), torch.randint(-9, 9, (2, 8, 8)).double()
    explainer, options = Explainer(small_cnn()), {"patch": 1} if name == "aopc" else {}
    expected = explainer.evaluate(of(heatmaps, x), name, **options)
    for change in (torch.exp, lambda a: a**3, lambda a: 5 * a - 100):
        assert torch.equal(explainer.evaluate(of(change(heatmaps), x), name, **options), expected)


@pytest.mark.parametrize("name", FOUR)
def test_a_mirrored_image_has_the_number_of_the_image(name):
    x, heatmaps = torch.randn(2, 3, 8, 9).double(), torch.randn(2, 8, 9).double()
    model = Scoring(lambda images: images.square().mean((1, 2, 3)).tanh())
    options = {"substrate": "folded_blur", "score": "logit", **({"patch": 1} if name == "aopc" else {})}
    found = [
        Explainer(model).evaluate(each, name, **options) for each in (of(heatmaps, x), of(heatmaps.flip(2), x.flip(3)))
    ]
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)


def test_zero_has_no_sign():
    zeros = torch.zeros(2, 40)
    signed = zeros * torch.where(torch.rand(2, 40) < 0.5, -1.0, 1.0)
    for ties in TIES:
        assert torch.equal(rank_units(signed, ties)[0], rank_units(zeros, ties)[0])


@pytest.mark.parametrize("name", FOUR)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_maps_of_one_value_have_one_number_whatever_the_value(name, dtype):
    """Patches at the border, which are smaller, are tied with the others."""
    x = torch.randn(2, 3, 22, 13)
    maps = [of(torch.full((2, 22, 13), value, dtype=dtype), x) for value in (0.0, 1.0, -3.0, 0.1)]
    found = Explainer(small_cnn().float()).measure(maps, [name])[0]
    assert found.values.isfinite().all()
    assert (found.values == found.values[0]).all()
    assert (found.details["tie_fraction"] == 1).all()


@pytest.mark.parametrize(("space", "sides"), [((7,), (3,)), ((7, 8), (3, 4)), ((5, 6, 7), (2, 9, 3))])
def test_patches_are_ranked_by_the_mean_over_the_pixels_that_they_have(space, sides):
    heatmap = torch.randn(space).double()
    corners = itertools.product(*(range(0, length, side) for length, side in zip(space, sides, strict=True)))
    patches = [tuple(map(slice, corner, map(sum, zip(corner, sides, strict=True)))) for corner in corners]
    means = np.array([heatmap[patch].numpy().mean() for patch in patches])
    expected = torch.empty(space, dtype=torch.int32)
    for rank, number in enumerate(np.argsort(-means)):
        expected[patches[number]] = rank
    found = PixelOrder("sum", "together", sides, "first", 0)(of(heatmap[None], torch.zeros(1, 3, *space)))
    assert found.units == len(patches)
    assert torch.equal(found.ranks[0, 0], expected)


# Ties, stops, sharing -----------------------------------------------------------------------------------------------


def test_ties():
    scores = torch.tensor([[1.0, 3, 1, 3, 0]])
    assert rank_units(scores, "first")[0].tolist() == [[2, 0, 3, 1, 4]]
    assert rank_units(scores, "last")[0].tolist() == [[3, 1, 2, 0, 4]]
    flipped = np.flip(np.argsort(scores[0].numpy(), kind="stable"))
    assert rank_units(scores, "last")[0][0, torch.tensor(flipped.copy())].tolist() == [0, 1, 2, 3, 4]
    assert rank_units(scores, "first")[1].tolist() == pytest.approx([0.8])
    assert rank_units(torch.rand(2, 1), "random")[1].tolist() == [0, 0]


def test_random_ties_are_the_same_for_all_images_and_fair():
    ranks = torch.cat([rank_units(torch.zeros(2, 16), "random", seed)[0] for seed in range(400)])
    assert torch.equal(ranks[::2], ranks[1::2])
    assert (ranks.sort(1).values == torch.arange(16)).all()
    assert (ranks.double().mean(0) - 7.5).abs().max() < 4 * ((16**2 - 1) / 12 / 400) ** 0.5


def test_stops():
    def counts(units, ends="both", last_step="shorter", **given):
        sizes = {"steps": None, "per_step": None, "until": None, "fractions": None, **given}
        return Stops(**sizes, last_step=last_step, ends=ends).counts(units)

    assert counts(10, steps=4) == (0, 3, 6, 9, 10)
    assert counts(10, steps=4, last_step="equal") == (0, 2, 5, 7, 10)
    assert counts(3, steps=5, last_step="equal") == (0, 1, 2, 3)
    assert counts(10, per_step=4, ends="none") == (4, 8)
    assert counts(10, per_step=4, ends="start") == (0, 4, 8)
    assert counts(10, per_step=4, ends="end") == (4, 8, 10)
    assert counts(10, per_step=2, until=6) == (0, 2, 4, 6)
    assert counts(10, fractions=(0.1, 0.3, 1.0)) == (1, 3, 10)
    assert counts(2, per_step=9, ends="none") == ()
    assert counts(50176) == tuple(range(0, 50177, 1792))
    assert area_weights("trapezoid", (0, 1, 4)) == pytest.approx([1 / 8, 4 / 8, 3 / 8])
    assert area_weights("uniform", (0, 1, 4)) == pytest.approx([1 / 4, 1 / 2, 1 / 4])
    assert area_weights("sum", (1, 2, 3)) == pytest.approx([0.5, 1, 0.5])
    assert area_weights("per_stop", (1, 2, 3)) == pytest.approx([1 / 6, 1 / 3, 1 / 6])
    assert area_weights("mean", (1, 2)) == pytest.approx([0.5, 0.5])


def test_curves_with_too_few_stops_have_no_area():
    attribution = of(torch.randn(2, 6, 6), torch.randn(2, 3, 6, 6))
    for options in ({"preset": "latec"}, {"steps": 2, "ends": "none"}):
        values = Explainer(small_cnn().float()).evaluate(attribution, "deletion", **options)
        assert values.isnan().all()


def test_ends_are_asked_once_and_equal_walks_are_walked_once():
    images, points = 3, 6
    x = torch.randn(images, 3, 8, 8)
    maps = [of(torch.randn(images, 8, 8), x) for _ in range(4)]
    explainer = Explainer(small_cnn().float())
    on_zero = {"per_step": 10, "substrate": "zero"}
    metrics = [registered("deletion", **on_zero), registered("insertion", **on_zero)]

    def seen(metrics):
        before = explainer.model.image_count
        explainer.measure(maps, metrics)
        return explainer.model.image_count - before

    assert seen(metrics[:1]) == images * (len(maps) * points + 2)
    assert seen(metrics) == images * (len(maps) * 2 * points + 2)
    assert seen([*metrics, registered("insertion_minus_deletion", **on_zero)]) == seen(metrics)
    other_area = registered("deletion", **on_zero, area="mean")
    assert seen([*metrics, other_area]) == seen(metrics)
    blurred = registered("insertion", per_step=10)
    assert seen([metrics[0], blurred]) == images * (len(maps) * 2 * points + 3)


def test_the_order_of_ties_is_drawn_once(monkeypatch):
    drawn, draw = [], torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda *a, **k: drawn.append(a) or draw(*a, **k))
    with torch.inference_mode():
        made_here, _ = rank_units(torch.zeros(2, 61), "random", seed=7)
    for _ in range(3):
        found, _ = rank_units(torch.zeros(2, 61), "random", seed=7)
        assert torch.equal(found, made_here)
        assert not found.is_inference()
    assert drawn == [(61,)]


def test_a_map_is_sorted_once_for_all_walks_in_its_order(monkeypatch):
    sorts, call = [], PixelOrder.__call__

    def counted(self, attribution):
        sorts.append(self)
        return call(self, attribution)

    monkeypatch.setattr(PixelOrder, "__call__", counted)
    x = torch.randn(2, 3, 8, 8)
    maps = [of(torch.randn(2, 8, 8), x) for _ in range(3)]
    metrics = ["deletion", "insertion", registered("insertion_minus_deletion", steps=3, score="logit")]
    Explainer(small_cnn().float()).measure(maps, metrics)
    assert len(sorts) == len(maps)
    Explainer(small_cnn().float()).measure(maps, [*metrics, registered("deletion", ties="first")])
    assert len(sorts) == (1 + 2) * len(maps)


def test_details():
    x = torch.randn(2, 3, 8, 8)
    found = Explainer(small_cnn().float()).measure(
        [of(torch.randint(0, 9, (2, 8, 8)).float(), x)] * 3, ["deletion", "insertion_minus_deletion"]
    )
    deletion, difference = (each.details for each in found)
    assert list(deletion) == ["curve", "fractions", "tie_fraction"]
    assert list(difference) == ["deletion_curve", "insertion_curve", "fractions", "tie_fraction"]
    assert torch.equal(deletion["curve"], difference["deletion_curve"])
    assert deletion["curve"].shape == deletion["fractions"].shape == (3, 2, 23)
    area = torch.trapezoid(deletion["curve"], deletion["fractions"])
    torch.testing.assert_close(area, found[0].values)
    assert (deletion["tie_fraction"] == 1).all()


# Targets, substrates, spaces, precisions ----------------------------------------------------------------------------


def test_the_score_is_the_probability_or_the_logit_of_the_class_of_each_image():
    x, heatmaps = torch.randn(2, 3, 8, 8).double(), torch.randn(2, 8, 8).double()
    explainer, model = Explainer(small_cnn()), small_cnn()
    ends = {"fractions": (0.0, 1.0), "area": "mean", "substrate": "zero"}
    outputs, nothing = model(x), model(torch.zeros_like(x))

    def expected(scored):
        return (scored(outputs, range(2)) + scored(nothing, range(2))) / 2

    def probability(logits, rows):
        return logits.softmax(1)[list(rows), [1, 4]]

    def logit(logits, rows):
        return logits[list(rows), [1, 4]]

    for target in (ClassLogit((1, 4)), Probability((1, 4))):
        for score, scored in (("probability", probability), ("logit", logit)):
            found = explainer.evaluate(of(heatmaps, x, target), "deletion", score=score, **ends)
            torch.testing.assert_close(found, expected(scored))
    several = explainer.attribute(x, "saliency", target=[ClassLogit(1), Contrast(4, 0)])
    found = explainer.evaluate(several, "deletion", **ends)
    torch.testing.assert_close(found[0], expected(probability)[0])
    contrast = (outputs[1, 4] - outputs[1, 0] + nothing[1, 4] - nothing[1, 0]) / 2
    torch.testing.assert_close(found[1], contrast)


def test_the_folded_blur_is_that_of_rise():
    weights = [0.087958145777, 0.088896119777, 0.090474196549, 0.092191117819, 0.093489388443, 0.093982063268]
    kernel = FoldedBlur().kernel()
    torch.testing.assert_close(
        kernel, torch.tensor([*weights, *weights[-2::-1]], dtype=torch.float64), rtol=0, atol=1e-12
    )
    image = torch.randn(2, 3, 20, 17).double()
    expected = np.stack([rise_blur(each) for each in image.numpy()])
    torch.testing.assert_close(substrate_images(image, "folded_blur"), torch.tensor(expected), rtol=0, atol=1e-12)
    one = np.zeros((7, 7))
    one[3, 3] = 1
    np.testing.assert_allclose(
        torch.outer(*[FoldedBlur(7, 2.5).kernel()] * 2), gaussian_filter(one, 2.5), rtol=0, atol=1e-12
    )


def test_the_gaussian_blur_is_that_of_torchvision():
    from torchvision.transforms import GaussianBlur as Peer

    image = torch.randn(2, 3, 20, 17)
    torch.testing.assert_close(substrate_images(image, GaussianBlur(15, 5.0)), Peer(15, 5.0)(image))
    with pytest.raises(InvalidInput, match="Use a smaller kernel"):
        substrate_images(image[..., :7], GaussianBlur(15, 5.0))


def test_other_substrates():
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(substrate_images(x, "minimum")[:, 0, 0, 0], x.flatten(1).amin(1))
    noise = substrate_images(x, "uniform", 3)
    assert torch.equal(noise[0], noise[1])
    assert noise.abs().amax() < 1
    assert noise.std() > 0.4


@dataclass(frozen=True)
class MeanOfTheRest(Imputer):
    """What is left, averaged; zero where nothing is."""

    name: ClassVar[str] = "mean_of_the_rest"
    source: ClassVar[str] = "this test"

    def __call__(self, x, removed):
        left = (~removed).expand(len(x), 1, *x.shape[2:])
        mean = (x * left).sum((2, 3)) / left.sum((2, 3)).clamp(min=1)
        return mean[..., None, None].expand_as(x)


def test_imputers_see_what_is_removed():
    x, heatmaps, model = torch.randn(1, 3, 4, 4).double(), torch.randn(1, 4, 4).double(), small_cnn()
    order = heatmaps.flatten().argsort(descending=True)
    for name, deletes in (("deletion", True), ("insertion", False)):
        expected = []
        for count in range(17):
            removed = torch.zeros(16, dtype=torch.bool)
            removed[order[:count] if deletes else order[count:]] = True
            image = x.clone().view(3, 16)
            image[:, removed] = 0.0 if removed.all() else image[:, ~removed].mean(1, keepdim=True)
            expected.append(model(image.view(1, 3, 4, 4))[0, 0].item())
        metric = registered(name, substrate=MeanOfTheRest(), per_step=1, score="logit")
        found = Explainer(model).measure([of(heatmaps, x)], [metric])[0]
        np.testing.assert_allclose(found.details["curve"][0, 0].detach(), expected, atol=1e-9)
    for option in ("substrate", "insertion_substrate"):
        with pytest.raises(InvalidInput, match="fills all channels of a pixel and cannot be combined with channels="):
            registered("insertion_minus_deletion", channels="apart", **{option: MeanOfTheRest()})


def test_an_image_that_is_all_hole_is_not_inpainted_by_itself():
    x = torch.rand(1, 3, 8, 8).double()
    model = Scoring(lambda images: images.flatten(2).std(2).sum(1))
    metric = registered("deletion", substrate="inpaint", steps=4, score="logit")
    curve = Explainer(model).measure([of(torch.randn(1, 8, 8), x)], [metric])[0].details["curve"][0, 0]
    assert curve[-1] < 1e-6 < curve[0]


def test_given_images_and_volumes():
    x, heatmaps = torch.randn(2, 1, 4, 5, 6).double(), torch.randn(2, 4, 5, 6).double()
    given, weight = torch.randn(1, 4, 5, 6).double(), torch.randn(1, 4, 5, 6).double()
    model = Scoring(lambda images: (images * weight).flatten(1).sum(1))
    shares = (weight * (x - given)).sum(1)
    expected = model(x)[:, 0] - (shares * (20 - rank_of(heatmaps) // 6 - 0.5) / 20).flatten(1).sum(1)
    found = Explainer(model).evaluate(of(heatmaps, x), "deletion", substrate=given, per_step=6, **EXACT)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    for options in ({"patch": (2, 2, 3)}, {"substrate": "folded_blur"}):
        assert Explainer(model).evaluate(of(heatmaps, x), "insertion", **options).isfinite().all()


@pytest.mark.parametrize("name", FOUR)
def test_half_precision(name):
    x = torch.randn(2, 3, 8, 8).bfloat16()
    heatmaps = torch.randn(2, 8, 8)
    model = small_cnn().float()
    found = Explainer(small_cnn().bfloat16()).evaluate(of(heatmaps, x), name)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, Explainer(model).evaluate(of(heatmaps, x.float()), name), rtol=0, atol=0.01)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", FOUR)
def test_a_gpu_has_the_numbers_of_the_cpu(name):
    x, heatmaps = torch.randn(2, 3, 12, 12).double(), torch.randint(-2, 3, (2, 12, 12)).double()
    expected = Explainer(small_cnn()).evaluate(of(heatmaps, x), name)
    found = Explainer(small_cnn().cuda()).evaluate(of(heatmaps, x).to("cuda"), name)
    assert found.device.type == "cuda"
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-9)


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"steps": 0}, "steps must be an integer >= 1 or None, got 0"),
        ({"steps": 5, "per_step": 3}, "steps=5 and per_step=3 cannot be combined"),
        ({"preset": "rise", "steps": 5}, "set one of them to None"),
        ({"fractions": (0.5, 0.2)}, "must be strictly increasing"),
        ({"fractions": (0, 1), "steps": 3}, "cannot be combined with steps, per_step or until"),
        ({"ties": "middle"}, "ties must be one of 'random', 'first', 'last', got 'middle'"),
        ({"score": "energy"}, "score must be one of 'probability', 'logit', got 'energy'"),
        ({"last_step": "equal", "per_step": 4}, "set per_step to None"),
        ({"substrate": "black"}, "No substrate is named 'black'. Known: zero, mean"),
        ({"patch": (3, 3, 3)}, "one for each of the 2 axes"),
    ],
)
def test_what_cannot_be_is_refused(options, told):
    attribution = of(torch.randn(1, 8, 8), torch.randn(1, 3, 8, 8))
    with pytest.raises(AttribkitError, match=told):
        Explainer(small_cnn().float()).evaluate(attribution, "deletion", **options)


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("patch", [0, -1, (2, 0), (), 1.5])
@pytest.mark.parametrize("name", FOUR)
def test_a_patch_of_no_image_is_refused_before_there_is_one(name, patch):
    with pytest.raises(InvalidInput, match=r"patch must be an integer >= 1 or a non-empty tuple of these, got .*"):
        make(name, Metric, patch=patch)
