"""Receptive fields: the literature's numbers, a slow search for the pixels that matter, and what is left untold."""

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from attribkit import Explainer
from attribkit._core.errors import InvalidInput, UnknownName, UnsupportedModel
from attribkit.testing import changes, model_state

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def field(layers, layer=None, size=64, channels=3, images=8):
    """The receptive field of a stack's last layer, at its middle unit."""
    torch.manual_seed(0)
    model = layers if isinstance(layers, nn.Module) else nn.Sequential(*layers)
    size = (size, size) if isinstance(size, int) else size
    x = torch.randn(images, channels, *size, generator=torch.Generator().manual_seed(1))
    return Explainer(model.eval()).receptive_field(layer or str(len(model) - 1), x)


def changed_box(model, layer, unit, size, channels=3):
    """The box of the pixels whose change changes a unit, found one pixel at a time."""
    kept = []
    hook = model.get_submodule(layer).register_forward_hook(lambda _m, _a, output: kept.append(output))
    x = torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    model = model.double().eval()
    matters = torch.zeros(size, dtype=torch.bool)
    with torch.no_grad():
        model(x)
        before = kept[-1][(0, slice(None), *unit)]
        for i in range(matters.numel()):
            for change in (300.0, -300.0):
                other = x.clone()
                other.view(channels, -1)[:, i] += change
                model(other)
                matters.view(-1)[i] |= bool((kept[-1][(0, slice(None), *unit)] != before).any())
    hook.remove()
    places = matters.nonzero()
    return tuple(zip(places.amin(0).tolist(), (places.amax(0) + 1).tolist(), strict=True))


@pytest.mark.slow
def test_alexnet_and_vgg():
    """195 and 212: Araujo, Norris and Sim, Distill 2019, table of known architectures."""
    alexnet = field(torchvision.models.alexnet(), "features", 224, images=1)
    assert (alexnet.size, alexnet.stride, alexnet.start) == ((195, 195), (32, 32), (-66, -66))
    vgg = field(torchvision.models.vgg16(), "features", 64, images=1)
    assert (vgg.size, vgg.stride, vgg.start) == ((212, 212), (32, 32), (-90, -90))


def bottlenecks(units, first_stride):
    """The spatial part of a ResNet-50: 3x3 convolutions, the stride of a stage in its first or in its last unit."""
    layers = [nn.Conv2d(3, 2, 7, 2, 3), nn.MaxPool2d(3, 2, 1)]
    for stage, count in enumerate(units):
        strided = 0 if first_stride else count - 1
        strides = stage > 0 if first_stride else stage < len(units) - 1
        layers += [nn.Conv2d(2, 2, 3, 1 + (strides and i == strided), 1) for i in range(count)]
    return layers


def test_resnet50_by_where_its_strides_are():
    """483 with the stride in a stage's last unit, as TF-Slim has it (Araujo et al., 2019); 427 with it in the first."""
    slim, torchvisions = (field(bottlenecks((3, 4, 6, 3), first), size=64, images=1) for first in (False, True))
    assert slim.size == (483, 483)
    assert torchvisions.size == (427, 427)
    resnet = field(torchvision.models.resnet50(), "layer4", 64, images=1)
    assert (resnet.size, resnet.stride) == ((427, 427), (32, 32))


@pytest.mark.slow
def test_inception_and_mobilenet():
    """1311 for Inception v3 (Araujo et al., 2019); MobileNet v2 by its 3x3 convolutions."""
    inception = field(torchvision.models.inception_v3(init_weights=False), "Mixed_7c", 128, images=1)
    assert inception.size == (1311, 1311)
    size, jump = 1, 1
    for stride in [2, 1, 2, 1, 2, 1, 1, 2, *[1] * 6, 2, 1, 1, 1]:
        size, jump = size + 2 * jump, jump * stride
    mobilenet = field(torchvision.models.mobilenet_v2(), "features", 64, images=1)
    assert (mobilenet.size, mobilenet.stride) == ((size, size), (jump, jump))


STACKS = {
    "one kernel": [nn.Conv2d(3, 4, 5)],
    "strides": [nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 5, 2, 2), nn.ReLU(), nn.Conv2d(4, 4, 3, 1, 1)],
    "dilation": [nn.Conv2d(3, 4, 3, dilation=2, padding=2), nn.GELU(), nn.Conv2d(4, 4, 3, dilation=3)],
    "max pooling": [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(4, 4, 3), nn.MaxPool2d(2)],
    "mean pooling": [nn.Conv2d(3, 4, 4, 2), nn.Tanh(), nn.AvgPool2d(3, 2, 1), nn.Conv2d(4, 4, (1, 3), padding=(0, 1))],
    "unequal axes": [nn.Conv2d(3, 4, (3, 5), (1, 2), (1, 2)), nn.Conv2d(4, 4, (2, 1), (2, 1), dilation=(3, 1))],
    "normalised": [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.ZeroPad2d((2, 1, 0, 3)), nn.Conv2d(4, 4, 3, 2)],
    "adaptive": [nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(16), nn.Conv2d(4, 4, 3)],
    "reflected": [nn.ReflectionPad2d(2), nn.Conv2d(3, 4, 5), nn.PixelUnshuffle(2), nn.Conv2d(16, 4, 3)],
}


@pytest.mark.parametrize("name", STACKS)
def test_the_gradient_reaches_all_of_the_analytic_field_and_no_more(name):
    found = field(STACKS[name])
    assert found.unknown_because == found.whole_image_because == ""
    assert found.support == found.box
    assert tuple(b - a for a, b in found.box) == found.size  # of an inner unit


class Branches(nn.Module):
    """All that is not a module: a residual with a wider branch, a reused kernel, slices, channels last, padding."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Conv2d(3, 3, 3, padding=1)
        self.wide = nn.Conv2d(3, 4, 5, padding=4, dilation=2)
        self.norm = nn.LayerNorm(3)
        self.mixing = nn.Linear(3, 6)
        self.joining = nn.Conv2d(12, 12, 1)
        self.end = nn.Identity()

    def forward(self, x):
        x = F.relu(self.shared(self.shared(x))) + self.wide(x)[:, 1:] * 0.5
        x = self.mixing(self.norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        x = self.joining(torch.cat([x[..., ::2, ::2], x[..., 1::2, 1::2]], 1))
        one, other = F.pad(x, (1, 1)).chunk(2, 1)
        x = torch.stack([one, F.max_pool2d(other, (3, 1), 1, (1, 0))]).sum(0)[..., 1:-1]
        return self.end(torch.where(x > 0, x, 0.1 * x).flatten(2).unflatten(2, x.shape[2:]))


@pytest.mark.parametrize("unit", [(0, 0), (3, 4), (7, 6)])
def test_against_a_search_over_single_pixels(unit):
    torch.manual_seed(0)
    model = Branches()
    found = field(model, "end", size=(16, 16), images=1)
    assert found.unknown_because == ""
    starts = [first + step * i for first, step, i in zip(found.start, found.stride, unit, strict=True)]
    expected = tuple((max(0, a), min(16, a + size)) for a, size in zip(starts, found.size, strict=True))
    assert changed_box(model, "end", unit, (16, 16)) == expected


class Shuffle(nn.Module):
    """Channels of different fields, of which some are taken."""

    def __init__(self, mixing):
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(3, 2, 7, padding=3)
        self.mixing = mixing
        self.end = nn.Identity()

    def forward(self, x):
        return self.end(self.mixing(torch.cat([self.one(x), self.other(x)], 1))[:, :2])


def test_channels_that_see_differently_leave_a_note():
    found = field(Shuffle(nn.ReLU()), "end", 16)
    assert found.size == (7, 7)
    assert tuple(b - a for a, b in found.support) == (3, 3)
    assert found.notes == (
        "the analytic field is an upper bound: Slice selects some channels, and the channels have "
        "different receptive fields",
    )
    mixed = field(Shuffle(nn.Conv2d(4, 4, 1)), "end", 16)
    assert mixed.notes == ()
    assert mixed.support == mixed.box


def test_volumes():
    stack = [
        nn.Conv3d(1, 2, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool3d((1, 2, 2)),
        nn.Conv3d(2, 2, 3, dilation=(1, 2, 1), padding=(0, 2, 1)),
    ]
    found = field(stack, size=(9, 20, 16), channels=1)
    assert (found.size, found.stride, found.start) == ((5, 12, 8), (1, 2, 2), (-1, -5, -3))
    assert found.support == found.box


def test_volumes_against_a_search():
    stack = nn.Sequential(nn.Conv3d(1, 2, 3, 2, 1), nn.ReLU(), nn.Conv3d(2, 2, (1, 3, 2)))
    found = field(stack, size=(6, 10, 8), channels=1)
    assert changed_box(stack, "2", found.unit, (6, 10, 8), 1) == found.box


class Gated(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.before = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.function = function
        self.after = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return self.after(self.function(self.before(x)))


def attention(a):
    tokens = a.flatten(2).transpose(1, 2)
    return F.scaled_dot_product_attention(tokens, tokens, tokens).transpose(1, 2).unflatten(2, a.shape[2:])


def attention_by_hand(a):
    tokens = a.flatten(2).transpose(1, 2)
    return ((tokens @ tokens.mT).softmax(-1) @ tokens).transpose(1, 2).unflatten(2, a.shape[2:])


def along_rows(a):
    rows = a.permute(0, 2, 3, 1)
    return F.scaled_dot_product_attention(rows, rows, rows).permute(0, 3, 1, 2)


def mixed(a):
    return F.linear(a.flatten(2), torch.ones(a[0, 0].numel(), a[0, 0].numel())).unflatten(2, a.shape[2:])


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (lambda a: a * a.mean((2, 3), keepdim=True).sigmoid(), "Mean"),
        (lambda a: a + F.adaptive_max_pool2d(a, 1), "AdaptiveMaxPool2D"),
        (lambda a: a - a.amax((1, 2, 3), keepdim=True), "Amax"),
        (lambda a: F.instance_norm(a), "NativeBatchNorm"),
        (lambda a: F.group_norm(a, 2), "NativeGroupNorm"),
        (lambda a: a.flatten(2).softmax(2).unflatten(2, a.shape[2:]), "Softmax"),
        (attention, "attention Bmm"),  # which kernel runs depends on the device and the memory layout
        (attention_by_hand, "Bmm"),
        (along_rows, "attention Bmm"),
    ],
)
def test_the_whole_image_and_through_what(function, operation):
    model = Gated(function)
    found = field(model, "after", 32, images=2)
    assert found.whole_image_because in operation.split()
    assert found.size is found.stride is found.start is None
    assert field(model, "before", 32, images=1).size == (3, 3)


def test_a_dense_mixture_of_all_cells_has_no_grid():
    """Its units lie nowhere on the image; they had a field, the whole image, when the shape alone made them a grid."""
    with pytest.raises(UnsupportedModel, match="grid of layer 'after' is not in the spatial order"):
        field(Gated(mixed), "after", 32, images=1)


def test_the_module_in_which_it_becomes_the_whole_image():
    found = field(timm.create_model("seresnet18"), "layer4", 64, images=1)
    assert found.whole_image_because == "Mean in 'layer1.0.se'"
    assert field(timm.create_model("seresnet18"), "maxpool", 64, images=1).size == (11, 11)


@pytest.mark.parametrize(
    "function",
    [
        lambda a: F.interpolate(a, scale_factor=2),
        lambda a: F.interpolate(a, scale_factor=0.5, mode="bilinear"),
        lambda a: F.conv_transpose2d(a, torch.ones(4, 4, 2, 2), stride=2),
        lambda a: F.pixel_shuffle(a, 2).repeat(1, 4, 1, 1),
        lambda a: a.unflatten(2, (4, 4)).transpose(2, 3).flatten(2, 3),
        lambda a: a.roll(3, 2),
        lambda a: a.flip(3),
        lambda a: a[:, :, [*range(1, 16), 0]],
        lambda a: F.pad(a, (1, 1, 1, 1), "circular"),
        lambda a: a + F.avg_pool2d(a, 2).repeat(1, 1, 2, 2),
        lambda a: torch.cat([a[:, :, 8:], a[:, :, :8]], 2),
        lambda a: a + a[:, :, :1],
        lambda a: F.conv2d(a, a[:1, :, :3, :3].expand(4, -1, -1, -1), padding=1),
        lambda a: torch.fft.ifft2(torch.fft.fft2(a)).real,
    ],
)
def test_what_cannot_be_followed_is_never_a_number(function):
    found = field(Gated(function), "after", 32, images=1)
    assert found.unknown_because
    assert found.size is found.stride is found.start is found.box is None
    assert found.whole_image_because == ""


def test_what_is_copied_to_all_units_is_no_grid():
    model = Gated(lambda a: F.avg_pool2d(a, 8)[..., :1, :1].expand(-1, -1, 16, 16))
    for after in (model.after, nn.Identity()):
        model.after = after
        with pytest.raises(InvalidInput, match="does not have a grid"):
            field(model, "after", 32, images=1)


def test_shuffles_of_channels_are_followed():
    found = field(Gated(lambda a: F.channel_shuffle(a.flip(1).roll(1, 1), 2).repeat(1, 2, 1, 1)[:, ::2]), "after", 32)
    assert found.size == (7, 7)


def test_tokens(vit):
    """The stem's four 3x3 convolutions of stride 2: 1 + 2 (1 + 2 + 4 + 8) = 31."""
    x = torch.randn(2, 3, 128, 128)
    stem = Explainer(vit).receptive_field("blocks.0.norm1", x)
    assert (stem.size, stem.stride, stem.start) == ((31, 31), (16, 16), (-15, -15))
    assert stem.support == stem.box
    after = Explainer(vit).receptive_field("blocks.0", x)
    assert after.whole_image_because == "attention in 'blocks.0.attn'"
    assert after.support == after.box == ((0, 128), (0, 128))


def test_a_plain_patch_embedding_and_the_default_layer():
    arguments = {"img_size": 32, "patch_size": 4, "embed_dim": 12, "depth": 1, "num_heads": 3, "num_classes": 5}
    explainer = Explainer(timm.create_model("vit_tiny_patch16_224", **arguments))
    found = explainer.receptive_field("blocks.0.norm1")
    assert (found.size, found.stride, found.start) == ((4, 4), (4, 4), (0, 0))
    assert found.support == found.box == ((16, 20), (16, 20))
    default = explainer.receptive_field()
    assert default.notes[0].startswith(f"layer={default.layer!r}: ")


def test_the_effective_field_by_its_closed_form():
    """A stack of uniform kernels: the gradient is their convolution, and 95 % of it fits into fewer pixels."""
    stack = nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=1, bias=False) for _ in range(4))).double()
    for layer in stack:
        nn.init.constant_(layer.weight, 1 / 9)
    found = Explainer(stack).receptive_field("3", torch.randn(2, 1, 15, 15, dtype=torch.float64))
    line = torch.tensor([1, 4, 10, 16, 19, 16, 10, 4, 1], dtype=torch.float64) / 81  # (1 1 1) convolved four times
    expected = torch.zeros(15, 15, dtype=torch.float64)
    expected[3:12, 3:12] = line[:, None] * line
    torch.testing.assert_close(found.effective, expected)
    assert found.size == (9, 9)
    sums = expected.flatten().sort(descending=True).values.cumsum(0)
    assert found.pixels(0.95) == 1 + int((sums < 0.95).sum()) < 81
    assert found.pixels(1.0 - 1e-12) == 81
    with pytest.raises(InvalidInput, match="fraction must be above 0 and at most 1, got 0"):
        found.pixels(0.0)


def test_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3)).train()
    x = torch.randn(2, 3, 12, 12)
    before = model_state(model)
    images = x.clone()
    found = Explainer(model).receptive_field("1", x)
    assert found.size == (3, 3)
    with pytest.raises(UnknownName, match="No layer is named '7'"):
        Explainer(model).receptive_field("7", x)
    assert not changes(before, model_state(model))
    assert torch.equal(images, x)
    assert not x.requires_grad


def test_a_layer_that_does_not_see_the_images():
    model = Gated(lambda a: a.detach())
    with pytest.raises(UnsupportedModel, match="does not depend on the images"):
        field(model, "after", 32)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_precisions(dtype):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3)).to(dtype)
    found = Explainer(model).receptive_field("3", torch.randn(8, 3, 24, 24).to(dtype))
    assert found.size == (8, 8)
    assert found.support == found.box
