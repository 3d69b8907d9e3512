"""Where an answer could be plausible and wrong, it is right, refused in a sentence, or told in a note."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from attribkit import AttribkitError, ClassLogit, Explainer, Probability, registry
from attribkit.testing import changes, model_state, tiny_cnn

pytestmark = pytest.mark.usefixtures("as_users_run")

ALL = list(registry.methods())
CONTROLS = {"random", "centre", "edges", "input_norm", "constant"}  # they know nothing of the model, by design
GUIDED = ["guided_backprop", "deconvnet", "guided_gradcam"]
TOKENS = ["attention", "attention_rollout", "gradient_rollout"]
CNN_METHODS = [name for name in ALL if name not in CONTROLS.union(TOKENS, ["attention_gates"])]
BY_CLASS = [name for name in CNN_METHODS if registry.methods()[name].uses_target]
LAYERED = [name for name in CNN_METHODS if "layer" in registry.options_of(registry.methods()[name])]
BY_GRADIENTS = [
    "gradcam",
    "gradcam++",
    "hirescam",
    "xgradcam",
    "layercam",
    "saliency",
    "input_x_gradient",
    "smoothgrad",
]
BY_PERTURBATIONS = ["scorecam", "ablationcam", "occlusion", "rise"]
QUICK = {"rise": {"masks": 64, "cells": 4}, "occlusion": {"patch": 4, "stride": 4}}


def images(side=16, count=2):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def explained(model, method, x=None, target=None, **options):
    options = QUICK.get(method, {}) | options
    return Explainer(model).attribute(images() if x is None else x, method, target=target, **options)


def told(attribution, words):
    return any(words in note for note in attribution.notes)


def pooled(*body, width=4):
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5)).eval()


def vit(name="vit_tiny_patch16_224", **arguments):
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
    model = timm.create_model(name, **(size | arguments)).eval()
    for parameter in model.parameters():  # far from uniform attention, and a head that is not zero
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.2)
    return model


class Through(nn.Module):
    """A small network through a function of its images or scores."""

    def __init__(self, before=lambda x: x, after=lambda scores: scores):
        super().__init__()
        self.body, self.before, self.after = tiny_cnn(), before, after

    def forward(self, x):
        return self.after(self.body(self.before(x)))


# Activations that the rules of guided backpropagation do not know

OTHER_ACTIVATIONS = {
    "GELU": F.gelu, "SiLU": F.silu, "ReLU6": F.relu6, "Hardswish": F.hardswish, "ELU": F.elu, "CELU": F.celu,
    "RReLU": F.rrelu, "Mish": F.mish, "Softplus": F.softplus, "Softshrink": F.softshrink, "Hardshrink": F.hardshrink,
    "LogSigmoid": F.logsigmoid,
    "LeakyReLU": lambda x: F.leaky_relu_(x + 0, 0.1),
    "sigmoid": lambda x: x * x.sigmoid(),
    "clamp": lambda x: x.clamp(min=0),
    "maximum": lambda x: x.maximum(0 * x),
    "threshold": lambda x: F.threshold(x, 0, 0),
    "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "erf": lambda x: x * (1 + torch.erf(x)),
    "Own": lambda x: Own.apply(x),
}  # fmt: skip


class Own(torch.autograd.Function):
    """A ReLU that somebody wrote."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * (ctx.saved_tensors[0] > 0)


class Activated(nn.Module):
    def __init__(self, activation, *more):
        super().__init__()
        self.convolutions = nn.ModuleList([nn.Conv2d(3, 4, 3), *(nn.Conv2d(4, 4, 3) for _ in more)])
        self.activations, self.head = [activation, *more], nn.Linear(4, 5)

    def forward(self, x):
        for convolution, activation in zip(self.convolutions, self.activations, strict=True):
            x = activation(convolution(x))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("name", OTHER_ACTIVATIONS)
@pytest.mark.parametrize("method", GUIDED)
def test_guided_rules_alone_among_other_activations_are_refused(method, name):
    with pytest.raises(AttribkitError, match=f"no ReLU between the score and the images.*1 {name}.*Use saliency"):
        explained(Activated(OTHER_ACTIVATIONS[name]), method)


@pytest.mark.parametrize("method", GUIDED)
def test_guided_rules_of_a_linear_model_are_refused(method):
    with pytest.raises(AttribkitError, match=r"no ReLU between the score and the images \(no known activation\)"):
        explained(Activated(lambda x: x), method)


@pytest.mark.parametrize("name", OTHER_ACTIVATIONS)
@pytest.mark.parametrize("method", GUIDED)
def test_guided_rules_beside_other_activations_name_them(method, name):
    attribution = explained(Activated(F.relu, OTHER_ACTIVATIONS[name]), method)
    assert told(attribution, f"the backward rule was applied at 1 ReLUs, and the plain gradient used at 1 {name}")


@pytest.mark.parametrize("way", ["reused", "in place", "functional", "tensor", "tensor in place"])
@pytest.mark.parametrize("method", CNN_METHODS)
def test_however_a_relu_is_called_the_answer_is_that_of_modules(method, way):
    """A reused module, a function and an in-place operation are where hooks on modules go wrong."""
    shared, inplace = nn.ReLU(), nn.ReLU(inplace=True)
    relu = {
        "reused": lambda x: shared(x),
        "in place": lambda x: inplace(x),
        "functional": F.relu,
        "tensor": lambda x: x.relu(),
        "tensor in place": lambda x: x.relu_(),
    }[way]
    options = {"layer": "convolutions.1"} if method in LAYERED else {}
    scores = []
    for each in (nn.ReLU(), relu):
        torch.manual_seed(0)
        scores.append(explained(Activated(each, each), method, target=1, **options).scores)
    assert torch.equal(*scores)


@pytest.mark.parametrize("method", LAYERED)
def test_a_layer_is_read_before_an_in_place_relu_behind_it(method):
    """Read behind it, the activation would have no negative values, and the map would be another."""
    model, x = pooled(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True)), images()
    negative = nn.Sequential(nn.Conv2d(3, 4, 3)).requires_grad_(False)
    negative[0].load_state_dict(model[0].state_dict())
    with torch.no_grad():
        kept = negative(x)
    assert (kept < 0).any()
    torch.testing.assert_close(Explainer(model).feature_maps(x, "0").values, kept)
    inplace = explained(model, method, target=1, layer="0").scores
    model[1].inplace = False
    assert torch.equal(inplace, explained(model, method, target=1, layer="0").scores)


@pytest.mark.parametrize("method", [name for name in LAYERED if name != "cam"])  # refused: a layer stands behind
def test_a_layer_that_runs_twice_is_read_the_last_time_and_said(method):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 5)

        def forward(self, x):
            return self.head(self.conv(self.conv(self.stem(x)).relu()).relu().mean((2, 3)))

    class Unrolled(Twice):
        def __init__(self):
            super().__init__()
            self.again = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x):
            return self.head(self.again(self.conv(self.stem(x)).relu()).relu().mean((2, 3)))

    twice, unrolled = Twice().eval(), Unrolled().eval()
    unrolled.load_state_dict(twice.state_dict(), strict=False)
    unrolled.again.load_state_dict(twice.conv.state_dict())
    attribution = explained(twice, method, target=1, layer="conv")
    assert told(attribution, "layer='conv' returns several spatial maps (conv@0, conv@1): 'conv@1' was used")
    torch.testing.assert_close(attribution.scores, explained(unrolled, method, target=1, layer="again").scores)


# Transformers


@pytest.mark.parametrize("method", [name for name in LAYERED if name not in {"cam", "guided_gradcam", "eigencam"}])
def test_a_block_whose_patches_the_class_token_does_not_read(method):
    attribution = explained(vit(), method, images(32), layer="blocks.1")
    if method in ("scorecam", "ablationcam"):  # they ask for no gradient: the activations are those of the layer
        assert attribution.scores.any()
    else:
        assert told(attribution, "exactly zero at 100% of the grid of layer 'blocks.1'")


@pytest.mark.parametrize("method", TOKENS)
def test_fused_attention_is_seen(method):
    model, x = vit(), images(32)
    assert model.blocks[0].attn.fused_attn
    fused = explained(model, method, x, target=1).scores
    for block in model.blocks:
        block.attn.fused_attn = False
    torch.testing.assert_close(fused, explained(model, method, x, target=1).scores)
    assert fused.std() > 0


@pytest.mark.parametrize("method", ["attention_rollout", "gradient_rollout"])
def test_a_rollout_through_windows_is_refused(method):
    model = timm.create_model("swin_tiny_patch4_window7_224", img_size=64, window_size=4, depths=(1, 1, 1, 1))
    with pytest.raises(AttribkitError, match=r"between all tokens.*attend inside windows.*gradcam"):
        explained(model, method, images(64, 1))


@pytest.mark.parametrize("method", ["attention_rollout", "gradient_rollout"])
def test_a_rollout_past_a_pooling_token_is_refused(method):
    with pytest.raises(AttribkitError, match=r"needs the same tokens in every layer.*Use attention"):
        explained(vit(global_pool="map", class_token=False), method, images(32))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"head": 3}, "has 3 heads, 0 to 2"),
        ({"head": -1}, "head must be an integer >= 0 or None, got -1"),
        ({"block": 2}, "2 attention layers, 0 to 1"),
        ({"block": -3}, "2 attention layers, 0 to 1"),
    ],
)
def test_attention_out_of_range_is_refused(options, words):
    with pytest.raises(AttribkitError, match=words):
        explained(vit(), "attention", images(32), **options)


@pytest.mark.parametrize("method", [name for name in ALL if name not in {*GUIDED, "cam", "attention_gates", *CONTROLS}])
def test_a_distilled_model_in_training_mode_is_its_evaluation_mean(method):
    """In training mode it returns two heads' scores; the map of one of them would be another."""
    model, x = vit("deit_tiny_distilled_patch16_224"), images(32)
    options = {"patch": 16, "stride": 16} if method == "occlusion" else {}
    expected = explained(model, method, x, target=1, **options).scores
    model.set_distilled_training(True)
    model.train()
    assert isinstance(model(x), tuple)
    assert torch.equal(explained(model, method, x, target=1, **options).scores, expected)
    assert model.training


@pytest.mark.parametrize("widths", [(5, 5), (5, 7)])
@pytest.mark.parametrize("method", BY_CLASS)
def test_several_heads_are_not_chosen_from(method, widths):
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.heads = nn.Conv2d(3, 4, 3), nn.ModuleList([nn.Linear(4, width) for width in widths])

        def forward(self, x):
            x = self.body(x).relu().mean((2, 3))
            return tuple(head(x) for head in self.heads)

    with pytest.raises(AttribkitError, match=rf"several tensors.*\[5, {widths[1]}\] columns.*target=lambda outputs"):
        explained(Heads(), method)
    torch.manual_seed(0)
    second = explained(Heads(), method, target=lambda outputs: outputs[1][:, 3]).scores
    torch.manual_seed(0)
    model = Heads()
    model.heads = nn.ModuleList(reversed(model.heads))
    torch.testing.assert_close(second, explained(model, method, target=lambda outputs: outputs[0][:, 3]).scores)


@pytest.mark.parametrize("method", ["eigencam", "xgradcam", "gradcam++"])
def test_maps_of_a_normalised_layer(method):
    """Its channels' mean is zero but for rounding, which would choose Eigen-CAM's sign; the others divide by it."""
    model, x = vit(), images(32)
    attribution = explained(model, method, x, target=1)
    words = {
        "eigencam": "does not determine the component's sign: the values of largest magnitude are shown",
        "xgradcam": "divides by the sum of each channel, which can be near zero",
        "gradcam++": "assumes non-negative activations",
    }
    assert told(attribution, words[method])
    double = explained(model.double(), method, x.double(), target=1).scores
    torch.testing.assert_close(attribution.scores.double(), double, rtol=0, atol=1e-3 * float(double.max()))
    assert method != "eigencam" or attribution.scores.max() > 0
    assert not any("activations" in note for note in explained(tiny_cnn(), method, target=1).notes)


# Chance


@pytest.mark.parametrize("method", CNN_METHODS)
def test_dropout_in_training_mode_is_off_and_on_again(method):
    model = tiny_cnn().train()
    before = model_state(model)
    first, second = (explained(model, method, target=1).scores for _ in range(2))
    assert not changes(before, model_state(model))
    assert torch.equal(first, second)
    assert torch.equal(first, explained(tiny_cnn().eval(), method, target=1).scores)


@pytest.mark.parametrize("method", CNN_METHODS)
def test_dropout_that_is_always_on_is_told(method):
    model = Through(before=lambda x: F.dropout(x, 0.3))
    assert told(explained(model, method), "draws random numbers in evaluation mode")
    assert not told(explained(tiny_cnn(), method), "random")


def test_dropout_that_is_always_on_is_told_in_comparisons_and_found_by_check():
    explainer = Explainer(Through(before=lambda x: F.dropout(x, 0.3)))
    for attribution in explainer.compare(images(), ["gradcam", "saliency", "edges"], targets=[1]):
        assert told(attribution, "draws random numbers")
    assert any(
        "two forward passes of the same images gave scores that differ" in str(finding)
        for finding in explainer.check(images())
    )


# Models in other clothes


@pytest.mark.filterwarnings("default")  # the compiler's own
@pytest.mark.parametrize("method", CNN_METHODS)
def test_a_compiled_model_is_the_model_itself(method):
    model = tiny_cnn().eval()
    expected = explained(model, method, target=1).scores
    compiled = torch.compile(model, backend="eager")
    compiled(images())
    assert torch.equal(explained(compiled, method, target=1).scores, expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", ["traced", "exported"])
def test_a_model_whose_hooks_never_fire_is_refused(kind):
    model = tiny_cnn().eval()
    made = torch.jit.trace(model, images()) if kind == "traced" else torch.export.export(model, (images(),)).module()
    with pytest.raises(AttribkitError, match=f"{kind}.*hooks do not run.*Pass the original, unconverted module"):
        Explainer(made)


# Scores that do not move, or are no numbers


def saturated(gap):
    def shift(scores):
        return scores + gap * F.one_hot(torch.tensor(0), 5)

    return Through(after=shift)


@pytest.mark.parametrize("method", [*BY_GRADIENTS, *BY_PERTURBATIONS, *GUIDED, "integrated_gradients"])
@pytest.mark.parametrize("target", [0, 1])
def test_a_probability_that_is_certain(method, target):
    """At a difference of 100, float32 holds neither the probability nor its gradient."""
    attribution = explained(saturated(100.0), method, target=Probability(target))
    words = ["all scores are zero", "all scores are below", "scores of images [0, 1] do not change", "exactly zero at"]
    assert any(told(attribution, each) for each in words), attribution.notes


@pytest.mark.parametrize("gap", [0.0, 10.0, 20.0, 40.0, 80.0])
@pytest.mark.parametrize("method", BY_GRADIENTS)
def test_a_probability_keeps_its_whole_derivative(method, gap):
    """A softmax in float32 that rounds to one loses the own logit's part of it, from a difference of 17."""
    x = images()
    expected = explained(saturated(gap).double(), method, x.double(), target=Probability(0)).scores
    ours = explained(saturated(gap), method, x, target=Probability(0)).scores
    torch.testing.assert_close(ours.double(), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_the_softmax_of_others_loses_it():
    """What the test above is for."""
    logits = torch.tensor([[20.0, 0.0, 0.3]], requires_grad=True)
    exact = logits.detach().double().requires_grad_()
    (plain,) = torch.autograd.grad(logits.softmax(1)[0, 0], logits)
    (ours,) = torch.autograd.grad(Probability(0)(logits).sum(), logits)
    (true,) = torch.autograd.grad(exact.softmax(1)[0, 0], exact)
    assert plain[0, 0] == 0 != plain[0, 1]
    torch.testing.assert_close(ours.double(), true, rtol=1e-5, atol=0)


def test_a_probability_of_one_logit_or_of_impossible_ones():
    """One logit is of two classes, as in models trained with a sigmoid; a softmax over it alone would always be one."""
    assert Probability(0)(torch.tensor([[0.0], [200.0]])).tolist() == [0.5, 1.0]
    assert Probability(0)(torch.tensor([[-torch.inf, 1.0]])).tolist() == [0.0]
    logits = torch.tensor([[0.0, -torch.inf, 1.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(Probability(2)(logits).sum(), logits)
    torch.testing.assert_close(gradient[0, [0, 2]], torch.tensor([-0.196612, 0.196612]))


@pytest.mark.parametrize("method", CNN_METHODS)
def test_a_model_that_ignores_its_images(method):
    """In its graph, by a product with zero: no gradient is missing, and every score is the same."""
    model = Through(before=lambda x: 0 * x)
    attribution = explained(model, method, target=1)
    words = ["all scores are zero", "all scores are equal", "scores of images [0, 1] do not change"]
    if method in LAYERED and not any(told(attribution, each) for each in words):
        # a layer behind the zeros has activations and weights of its own, the same for every image to rounding: a
        # product of matrices may add up its first and its last row in another order
        first, second = attribution.scores
        torch.testing.assert_close(first, second, rtol=0, atol=1e-6 * float(first.abs().max()))
        assert any("exactly zero for images [0, 1]" in str(finding) for finding in Explainer(model).check(images()))
    elif method not in LAYERED:
        assert any(told(attribution, each) for each in words), attribution.notes


@pytest.mark.parametrize("method", [name for name in CNN_METHODS if name not in ("occlusion", "rise")])
def test_a_model_whose_score_leads_nowhere_is_refused(method):
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.scores = nn.Conv2d(3, 4, 3), nn.Parameter(torch.randn(5))

        def forward(self, x):
            self.conv(x)
            return self.scores.expand(len(x), 5)

    with pytest.raises(
        AttribkitError,
        match=r"has no gradient with respect to the images|gradient of the score does not reach any spatial map",
    ):
        explained(Constant(), method)
    for asked in ("occlusion", "rise"):
        assert told(explained(Constant(), asked), "scores of images [0, 1] do not change")


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "xgradcam", "layercam", "gradcam++", "cam", "ablationcam"])
def test_a_map_of_zeros_is_told(method):
    model = pooled(nn.Conv2d(3, 4, 3), nn.ReLU())
    nn.init.constant_(model[0].bias, -100.0)
    assert told(explained(model, method, target=1, layer="1"), "all scores are zero for images [0, 1]")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", ALL)
def test_images_that_are_no_numbers_are_refused(method, value):
    x = images()
    x[1, 0, 3, 3] = value
    with pytest.raises(AttribkitError, match=r"Images \[1\] have NaN or infinite"):
        explained(tiny_cnn(), method, x)


@pytest.mark.parametrize("method", BY_CLASS)
def test_half_precision_that_overflows_is_refused(method):
    """The gradients are finite; the score is not."""
    with pytest.raises(AttribkitError, match=r"not finite.*overflows.*float32"):
        explained(Through(after=lambda scores: 1e4 * (40 * scores)).half(), method, images().half(), target=1)


# Images that hold little, and sizes at the edge


@pytest.mark.parametrize("value", [0.0, 0.7])
@pytest.mark.parametrize("method", ["scorecam", "occlusion", "rise", "smoothgrad", "integrated_gradients"])
def test_an_image_of_one_value(method, value):
    attribution = explained(tiny_cnn(), method, torch.full((2, 3, 16, 16), value), target=1)
    if method == "smoothgrad":
        assert told(attribution, "images [0, 1] are constant")
    elif value == 0:
        assert told(attribution, "do not change, up to rounding, when parts of them are hidden") or told(
            attribution, "f(x) - f(baseline) is zero"
        )
    else:  # there is something to take away
        assert attribution.scores.std() > 0


def test_superpixels_of_an_image_of_one_value_are_still_regions():
    attribution = explained(tiny_cnn(), "occlusion", torch.full((1, 3, 16, 16), 0.7), target=1, superpixels=4)
    assert 2 <= len(attribution.scores.unique()) <= 8


@pytest.mark.parametrize("method", LAYERED)
def test_a_layer_of_one_channel(method):
    attribution = explained(pooled(nn.Conv2d(3, 1, 3), nn.ReLU(), width=1), method, layer="1")
    assert attribution.scores.isfinite().all()
    assert told(attribution, "only one channel, so its weight is 1") == (method == "scorecam")


@pytest.mark.parametrize("method", LAYERED)
def test_a_layer_of_one_cell_is_no_map(method):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    with pytest.raises(AttribkitError, match=r"'2' does not have a grid.*\(2, 4, 1, 1\)"):
        explained(model, method, layer="2")


@pytest.mark.parametrize("method", ["scorecam", "ablationcam"])
def test_a_dead_channel_changes_nothing(method):
    """Divided by its range of zero, the mask of a constant channel would be of NaN."""
    model = pooled(nn.Conv2d(3, 4, 3), nn.ReLU())
    alive = explained(model, method, target=1, layer="1").heatmap()
    wider = pooled(nn.Conv2d(3, 5, 3), nn.ReLU(), width=5)
    with torch.no_grad():
        for mine, theirs in zip(wider.parameters(), model.parameters(), strict=True):
            mine.zero_()
            mine[tuple(slice(side) for side in theirs.shape)] = theirs
    dead = explained(wider, method, target=1, layer="1").heatmap()
    torch.testing.assert_close(dead / dead.amax((1, 2), keepdim=True), alive / alive.amax((1, 2), keepdim=True))


def test_rise_of_images_smaller_than_its_cells():
    attribution = explained(tiny_cnn(), "rise", images(6), cells=8)
    assert told(attribution, "images of 6x6 pixels are too small for 8 cells")
    assert not told(explained(tiny_cnn(), "rise", images(8), cells=8), "cells")


@pytest.mark.parametrize("patch", [16, 32])
def test_a_patch_that_covers_the_image(patch):
    attribution = explained(tiny_cnn(), "occlusion", patch=patch, stride=patch)
    assert told(attribution, "one region covers the whole 16x16 image")
    assert told(attribution, "all scores are equal")


@pytest.mark.parametrize("steps", [4, "auto"])
def test_a_baseline_that_is_the_image(steps):
    attribution = explained(tiny_cnn(), "integrated_gradients", target=1, baseline=images(), steps=steps)
    assert not attribution.scores.any()
    assert told(attribution, "f(x) - f(baseline) is zero up to rounding for images [0")
    assert told(attribution, "all scores are zero for images [0, 1]")
    assert not told(attribution, "nan")


def test_a_difference_of_rounding_is_no_share():
    """The mean of a constant image is the image but for rounding: a gap of 200,000% would be said of nothing."""
    x = torch.full((1, 3, 16, 16), 0.7)
    attribution = explained(tiny_cnn(), "integrated_gradients", x, target=1, baseline="mean")
    (note,) = [note for note in attribution.notes if note.startswith("completeness")]
    assert float(note.rsplit(" ", 1)[1].rstrip("%")) <= 100


def test_an_occlusion_of_nothing_is_zero():
    attribution = explained(tiny_cnn(), "occlusion", target=1, baseline=images())
    torch.testing.assert_close(attribution.scores, torch.zeros(2, 1, 16, 16), rtol=0, atol=1e-6)
    assert told(attribution, "scores of images [0, 1] do not change, up to rounding, when parts of them are hidden")


def test_scores_below_what_the_precision_holds_are_told():
    attribution = explained(Through(after=lambda scores: scores * 1e-40), "saliency", target=1)
    assert told(attribution, "all scores are below 1e-38 for images [0, 1]")
    assert attribution.target == ClassLogit(1)
