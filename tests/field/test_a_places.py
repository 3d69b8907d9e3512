"""Where the cells of a layer lie on the image, however the model moved them there.

The maps of a model that moves the image first are those of the model without the move, moved back.
"""

import warnings

import pytest
import torch
import torch.nn.functional as F
import torchvision.ops
import torchvision.transforms.functional as TF
from torch import nn

from attribkit import AttribkitError, Explainer, ModelSpec, Unit

SIDE = 32
BACK = torch.arange(SIDE - 1, -1, -1)
REVERSED = torch.eye(SIDE).flip(0)


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cnn(channels=3, classes=5):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes),
    ).eval()  # fmt: skip


class Moved(nn.Module):
    """A plain network that sees the image moved."""

    def __init__(self, move, net=None):
        super().__init__()
        self.move, self.net = move, net or cnn()

    def forward(self, x):
        return self.net(self.move(x))


class Tokens(nn.Module):
    """Features made tokens by a function, a norm and a linear head on their mean."""

    def __init__(self, features, tokens, width=8, classes=5):
        super().__init__()
        torch.manual_seed(0)
        self.features, self.tokens = features, tokens
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x):
        return self.head(self.norm(self.tokens(self.features(x))).mean(1))


def layer_scores(model, x, layer, **options):
    return Explainer(model).attribute(x, "gradcam", target=0, layer=layer, relu=False, **options)


# --- provenance first -------------------------------------------------------------------------------------------------


ALIKE = {  # a first layer whose output could as well be channels last, and the image
    "conv3d": (nn.Conv3d(1, 16, 3, (1, 2, 2), 1), (1, 1, 32, 64, 64)),
    "stride (2, 1)": (nn.Conv2d(3, 14, 3, (2, 1), 1), (1, 3, 28, 28)),
    "6 channels": (nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, 2, 1)), (1, 3, 32, 100)),
    "4 channels": (nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, (2, 1), 1)), (1, 3, 64, 512)),
    "7 channels": (nn.Conv2d(3, 7, 8, 8), (1, 3, 56, 56)),
}


class Headed(nn.Module):
    def __init__(self, stem, channels):
        super().__init__()
        self.stem, self.head = stem, nn.Linear(channels, 3)

    def forward(self, x):
        return self.head(self.stem(x).flatten(2).mean(2))


@pytest.mark.parametrize("name", ALIKE)
def test_the_trace_decides_and_not_the_shape(name):
    """A layer that is named has the grid that its convolution gives it, in every function that reads it."""
    stem, shape = ALIKE[name]
    x = noise(*shape)
    output = stem(x).detach()
    model = Headed(stem, output.shape[1]).eval()
    explainer = Explainer(model)
    assert torch.equal(explainer.feature_maps(x, "stem").values, output)
    assert explainer.receptive_field("stem", x).grid == output.shape[2:]
    scores = layer_scores(model, x, "stem")
    weights = model.head.weight[0] / output[0, 0].numel()  # d score / d activation, at each cell
    assert torch.allclose(scores.scores[0, 0], torch.einsum("d,d...->...", weights, output[0]), atol=1e-6)
    assert not any("shape" in note for note in scores.notes)
    cell = tuple(side - 1 for side in output.shape[2:])
    found = explainer.attribute(x, "saliency", target=Unit("stem", 2, cell)).scores
    where = [int(each) for each in torch.unravel_index(found[0].sum(0).argmax(), shape[2:])]
    assert all(at >= 0.7 * side for at, side in zip(where, shape[2:], strict=True))
    exact = explainer.attribute(x, "cam", target=0).scores
    assert exact.shape[2:] == output.shape[2:]


# --- places that rearrangements and products move ---------------------------------------------------------------------


def written(x):
    out = torch.zeros_like(x)
    for j in range(SIDE):
        out[..., j] = x[..., SIDE - 1 - j]
    return out


def copied(x):
    out = torch.empty_like(x)
    out[..., : SIDE // 2].copy_(x[..., SIDE // 2 :].flip(3))
    out[..., SIDE // 2 :].copy_(x[..., : SIDE // 2].flip(3))
    return out


def sampled(theta):
    def move(x):
        grid = F.affine_grid(torch.tensor([theta]).expand(len(x), -1, -1), x.shape, align_corners=False)
        return F.grid_sample(x, grid, align_corners=False)

    return move


class Mirror(torch.autograd.Function):
    @staticmethod
    def forward(_context, x):
        return torch.from_numpy(x.numpy()[..., ::-1].copy())

    @staticmethod
    def backward(_context, gradient):
        return gradient.flip(-1)


MIRRORED = {  # left and right exchanged
    "@": lambda x: x @ REVERSED,
    "matmul from the left": lambda x: (REVERSED @ x.mT).mT,
    "einsum": lambda x: torch.einsum("bchw,wv->bchv", x, REVERSED),
    "einsum with an ellipsis": lambda x: torch.einsum("...w,wv", x, REVERSED),
    "linear": lambda x: F.linear(x, REVERSED),
    "tensordot": lambda x: torch.tensordot(x, REVERSED, dims=([3], [0])),
    "assignments": written,
    "copies into views": copied,
    "scatter": lambda x: torch.zeros_like(x).scatter(3, BACK.expand(x.shape), x),
    "scatter_": lambda x: torch.zeros_like(x).scatter_(3, BACK.expand(x.shape), x),
    "scatter_add": lambda x: torch.zeros_like(x).scatter_add(3, BACK.expand(x.shape), x),
    "index_copy": lambda x: torch.zeros_like(x).index_copy(3, BACK, x),
    "index_add": lambda x: torch.zeros_like(x).index_add(3, BACK, x),
    "index_put": lambda x: torch.zeros_like(x).mT.index_put((torch.arange(len(x))[:, None], torch.arange(3)[None]), x.mT).mT.flip(3),  # noqa: E501
    "index_select": lambda x: x.index_select(3, BACK),
    "gather": lambda x: x.gather(3, BACK.expand(x.shape)),
    "grid_sample": sampled([[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
    "of the Fourier transform": lambda x: torch.fft.ifft(torch.fft.fft(x).conj()).real.roll(-1, 3),
    "a function of its own": Mirror.apply,
    "vmap": torch.func.vmap(lambda each: each.flip(-1)),
    "as_strided": lambda x: x.mT.contiguous().as_strided(x.shape, (3 * SIDE * SIDE, SIDE * SIDE, 1, SIDE)).flip(3),
    "sums of products": lambda x: (x[..., None, :] * REVERSED).sum(-1),
}  # fmt: skip


@pytest.mark.parametrize("name", MIRRORED)
@pytest.mark.parametrize("layer", ["net.1", "net.3"])
def test_a_mirrored_image_gives_the_mirrored_map(name, layer):
    """Named and by default, the map is that of the plain network for the mirrored image, mirrored back."""
    x = noise(2, 3, SIDE, SIDE)
    model = Moved(MIRRORED[name])
    expected = layer_scores(model.net, x.flip(3), layer.removeprefix("net.")).scores.flip(3)
    assert torch.allclose(model(x), model.net(x.flip(3)), atol=1e-5)
    try:
        found = layer_scores(model, x, layer)
    except AttribkitError:
        assert name == "sums of products"
        return
    assert torch.allclose(found.scores, expected, atol=1e-4)
    if layer == "net.3":
        assert torch.allclose(layer_scores(model, x, None).scores, expected, atol=1e-4)


OTHER_MOVES = {  # a move, and what undoes it on a map
    "exchanged axes": (lambda x: torch.einsum("bchw->bcwh", x), lambda m: m.mT),
    "rotated": (lambda x: torch.rot90(x, 1, (2, 3)), lambda m: torch.rot90(m, -1, (2, 3))),
    "torchvision's rotate": (lambda x: TF.rotate(x, 90), lambda m: torch.rot90(m, -1, (2, 3))),
    "rolled": (lambda x: x.roll(8, 3), lambda m: m.roll(-m.shape[3] // 4, 3)),
    "halves exchanged by a matrix": (lambda x: x @ torch.eye(SIDE).roll(16, 0), lambda m: m.roll(m.shape[3] // 2, 3)),
}


@pytest.mark.parametrize("name", OTHER_MOVES)
def test_other_moves_are_undone(name):
    move, undo = OTHER_MOVES[name]
    x = noise(1, 3, SIDE, SIDE)
    model = Moved(move)
    expected = undo(layer_scores(model.net, move(x), "3").scores)
    assert torch.allclose(layer_scores(model, x, "net.3").scores, expected, atol=1e-4)


def test_a_random_permutation_is_undone_where_each_cell_is_a_pixel_and_refused_where_it_is_not():
    order = torch.randperm(SIDE, generator=torch.Generator().manual_seed(3))
    matrix = torch.eye(SIDE)[order]
    x = noise(1, 3, SIDE, SIDE)
    model = Moved(lambda x: x @ matrix)
    expected = layer_scores(model.net, x @ matrix, "1").scores @ matrix.T
    assert torch.allclose(layer_scores(model, x, "net.1").scores, expected, atol=1e-4)
    for layer in ("net.3", None):  # cells of two columns that lie far apart
        with pytest.raises(AttribkitError, match="is not in the spatial order that its shape suggests"):
            layer_scores(model, x, layer)


def test_what_cannot_be_followed_and_has_no_order_is_refused():
    matrix = torch.eye(SIDE)[torch.randperm(SIDE, generator=torch.Generator().manual_seed(3))]

    def move(x):
        return torch.func.vmap(lambda each: each @ matrix)(x)

    with pytest.raises(AttribkitError, match="is not in the spatial order that its shape suggests"):
        layer_scores(Moved(move), noise(1, 3, SIDE, SIDE), "net.3")


def test_where_no_derivative_shows_the_cells_a_note_says_so():
    x = noise(1, 3, SIDE, SIDE)
    found = layer_scores(Moved(lambda x: torch.fft.ifft(torch.fft.fft(x.detach())).real), x, "net.3")
    assert any("'net.3': grid inferred from the shape alone" in note for note in found.notes)


def test_a_dense_matrix_leaves_no_place():
    matrix = noise(SIDE, SIDE, seed=2)
    with pytest.raises(AttribkitError):
        layer_scores(Moved(lambda x: x @ matrix), noise(1, 3, SIDE, SIDE), "net.3")


@pytest.mark.parametrize("shape", [(32, 32), (24, 48)])
def test_tokens_of_transposed_maps(shape):
    """einsum('bchw->bwhc'): tokens column by column; the map is that of the model with tokens row by row."""
    x = noise(1, 3, *shape)
    torch.manual_seed(0)
    features = nn.Conv2d(3, 8, 4, 4)
    by_columns = Tokens(features, lambda f: torch.einsum("bchw->bwhc", f).flatten(1, 2))
    by_rows = Tokens(features, lambda f: f.flatten(2).transpose(1, 2))
    found, expected = (layer_scores(model.eval(), x, "norm").scores for model in (by_columns, by_rows))
    assert torch.allclose(found, expected, atol=1e-5)


# --- part of the image ------------------------------------------------------------------------------------------------


def peak(heatmap):
    return [int(each) for each in torch.unravel_index(heatmap.abs().argmax(), heatmap.shape)]


def test_tokens_of_a_corner_are_drawn_there():
    torch.manual_seed(0)
    model = Tokens(nn.Conv2d(3, 8, 4, 4), lambda f: f[:, :, :4, 4:].flatten(2).transpose(1, 2)).eval()
    found = layer_scores(model, noise(1, 3, SIDE, SIDE), "norm")
    assert found.extent == ((0.0, 0.5), (0.5, 1.0))
    heatmap = found.heatmap()[0]
    assert not heatmap[16:].any()
    assert not heatmap[:, :16].any()
    whole = F.interpolate(found.scores, (16, 16), mode="bilinear", align_corners=False)[0, 0]
    assert torch.allclose(heatmap[:16, 16:], whole, atol=1e-5)


SHIFTED = {
    "valid": (nn.Sequential(*[nn.Conv2d(1, 1, 5, bias=False) for _ in range(3)]), 6),
    "causal": (nn.Sequential(*[nn.Sequential(nn.ZeroPad2d((4, 0, 4, 0)), nn.Conv2d(1, 1, 5, bias=False)) for _ in range(3)]), 0),  # noqa: E501
}  # fmt: skip


@pytest.mark.parametrize("name", SHIFTED)
def test_cells_of_shifted_windows_are_drawn_where_they_lie(name):
    """A bright pixel under averaging windows: the map's mass has its centre there."""
    body, border = SHIFTED[name]
    for parameter in body.parameters():
        nn.init.constant_(parameter, 1 / 25)
    model = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2)).eval()
    x = torch.zeros(1, 1, SIDE, SIDE)
    x[0, 0, 14, 17] = 1.0
    found = layer_scores(model, x, "0")
    heatmap = found.heatmap()[0].abs()
    axes = torch.arange(float(SIDE))
    centre = [(heatmap.sum(1 - axis) * axes).sum() / heatmap.sum() for axis in (0, 1)]
    assert centre == pytest.approx([14, 17], abs=0.6)
    assert border == 0 or not heatmap[:border].any()
    assert any("the heatmap is zero elsewhere" in note for note in found.notes)


def test_an_extent_is_kept(tmp_path):
    torch.manual_seed(0)
    model = Tokens(nn.Conv2d(3, 8, 4, 4), lambda f: f[:, :, :4, 4:].flatten(2).transpose(1, 2)).eval()
    found = layer_scores(model, noise(2, 3, SIDE, SIDE), "norm")
    found.save(tmp_path / "map.safetensors")
    loaded = type(found).load(tmp_path / "map.safetensors")
    assert loaded.extent == found.extent == found[1].extent == found.to("cpu").extent
    assert torch.equal(loaded.heatmap(), found.heatmap())


class Coarse(nn.Module):
    """A branch on a grid of half the cells, whose windows lie half a fine cell before those of their cells."""

    def __init__(self, mix):
        super().__init__()
        self.down, self.mix = nn.Conv2d(8, 24, 3, 2, 1), mix

    def forward(self, x):
        query, key, value = self.down(x).flatten(2).mT.chunk(3, 2)
        mixed = self.mix(query, key, value).mT.unflatten(2, (x.shape[2] // 2, -1))
        return x + F.interpolate(mixed, scale_factor=2)


ATTENTIONS = {
    "fused": F.scaled_dot_product_attention,
    "products": lambda query, key, value: (query @ key.mT).softmax(-1) @ value,
    "products from the right": lambda query, key, value: (value.mT @ (key @ query.mT).softmax(-2)).mT,
    "einsum": lambda query, key, value: torch.einsum("bqk,bkd->bqd", (query @ key.mT).softmax(-1), value),
}


def coarse_branches(mix):
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 4, 4), *(Coarse(mix) for _ in range(3))]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()


@pytest.mark.parametrize("name", ATTENTIONS)
def test_what_attention_gathers_does_not_move_the_cells_that_it_is_added_to(name):
    """It comes from all over the image; the cells lie where the rest of the sum has them."""
    assert layer_scores(coarse_branches(ATTENTIONS[name]), noise(1, 3, SIDE, SIDE), "3").extent is None


def test_a_local_branch_moves_the_cells_that_it_is_added_to():
    """Each of the three sums moves them by a quarter of a cell, the mean of none and a half."""
    found = layer_scores(coarse_branches(lambda query, _key, value: query + value), noise(1, 3, SIDE, SIDE), "3")
    assert found.extent[0] == pytest.approx((-0.75 / 8, 1 - 0.75 / 8), abs=1e-4)


def test_plain_networks_have_no_extent():
    assert layer_scores(cnn(), noise(1, 3, 33, 47), "3").extent is None


# --- one cell along an axis -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["name", "default", "spec"])
@pytest.mark.parametrize("shape", [(32, 128), (128, 32)])
def test_a_row_of_cells_is_a_grid(shape, by):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 8, 8), nn.ReLU(), nn.Conv2d(8, 8, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)  # noqa: E501
    ).eval()  # fmt: skip
    x = noise(1, 3, *shape)
    explainer = Explainer(model, spec=ModelSpec(layer="3") if by == "spec" else None)
    found = explainer.attribute(x, "gradcam", target=0, layer="3" if by == "name" else None, relu=False)
    output = model[:4](x).detach()
    assert torch.allclose(found.scores[0, 0], torch.einsum("d,dhw->hw", model[6].weight[0] / 4, output[0]), atol=1e-6)
    assert found.extent is None


def test_a_single_cell_is_none():
    model = nn.Sequential(nn.Conv2d(3, 8, 32), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).eval()
    with pytest.raises(AttribkitError):
        layer_scores(model, noise(1, 3, 32, 32), "0")


class Frames(nn.Module):
    """Frames that go through a network of images one beside the other."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net, self.head = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.ReLU()), nn.Linear(4, 3)

    def forward(self, x):
        features = self.net(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(x), -1))
        return self.head(features.mean((1, 3, 4)))


def test_frames_along_the_first_axis_are_unfolded():
    x = noise(2, 3, 6, 16, 16)
    model = Frames().eval()
    found = layer_scores(model, x, "net")
    for image, scores in zip(x, found.scores, strict=True):
        features = model.net(image.transpose(0, 1)).detach()
        expected = torch.einsum("d,tdhw->thw", model.head.weight[0] / (6 * 16), features)
        assert torch.allclose(scores[0], expected, atol=1e-6)


class Looped(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = cnn()

    def forward(self, x):
        return torch.stack([self.net(x[i : i + 1])[0] for i in range(len(x))])


def test_a_forward_that_loops_over_its_images():
    x = noise(3, 3, SIDE, SIDE)
    model = Looped()
    for layer in ("net.3", None):
        expected = layer_scores(model.net, x, "3").scores
        assert torch.allclose(layer_scores(model, x, layer).scores, expected, atol=1e-5)


class Crops(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = cnn()

    def forward(self, x):
        corners = torch.cat([x[..., :16, :16], x[..., 16:, 16:], x[..., 8:24, 8:24]])
        return self.net(corners).unflatten(0, (3, len(x))).mean(0)


def test_crops_along_the_first_axis_are_refused():
    with pytest.raises(AttribkitError, match="crops"):
        layer_scores(Crops(), noise(1, 3, SIDE, SIDE), "net.3")


# --- what moves a bright patch before the layer, by operations of many kinds ------------------------------------------

PATCH = 8  # pixels; two grid cells of the detector


def bright_patch_detector():
    """Return a small network whose second class responds to bright regions; (b, 3, 24, 40) to 2 classes."""
    detectors, head = nn.Conv2d(3, 2, 4, stride=4), nn.Linear(2, 2)
    with torch.no_grad():
        detectors.weight.fill_(1 / detectors.weight[0].numel())  # the mean over the pixels of a grid cell
        detectors.bias = nn.Parameter(torch.tensor([-0.5, -0.25]))
        head.weight.copy_(torch.tensor([[0.0, 0.0], [200.0, 100.0]]))
        head.bias.copy_(torch.tensor([4.0, 0.0]))  # first class for a dark image
    return nn.Sequential(detectors, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval()


def bright_patch(position):
    """Return a dark image, (1, 3, 24, 40), with a bright patch of 8 by 8 pixels from (row, column) on."""
    image = torch.zeros(1, 3, 24, 40)
    row, column = position
    image[..., row : row + PATCH, column : column + PATCH] = 1.0
    return image


def centre_of(heatmap):
    """Return the row and column of the centre of mass of the values in the upper third of a map's range."""
    weights = heatmap - heatmap.min()
    weights = weights.where(weights >= weights.max() * 2 / 3, 0)
    coordinates = torch.meshgrid(*(torch.arange(float(side)) for side in heatmap.shape), indexing="ij")
    return torch.stack([(weights * each.to(weights)).sum() for each in coordinates]) / weights.sum()


BLOCKS = torch.tensor([0, 2, 1, 4, 3])  # of eight columns each
COLUMNS = (8 * BLOCKS[:, None] + torch.arange(8)).flatten()
COLUMN_MATRIX = torch.eye(40)[COLUMNS]


def one_tap(axes):
    """A kernel of 17 entries along the last axis, of which only the first counts."""
    return torch.zeros(3, 1, *(1,) * (axes - 1), 17).index_fill_(axes + 1, torch.tensor(0), 1.0)


def deformed(x, rows, columns):
    offset = torch.tensor([rows, columns]).view(1, 2, 1, 1).expand(len(x), 2, *x.shape[2:])
    return torchvision.ops.deform_conv2d(x, offset.contiguous(), torch.eye(3)[:, :, None, None])


def traced(function):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch advises against it; people have such models
        return torch.jit.trace(function, torch.zeros(1, 3, 24, 40))


FOUND = {  # the map is where the patch is
    "take": lambda x: torch.take(x, torch.arange(x.numel()).view(x.shape)[..., COLUMNS]),
    "addmm": lambda x: torch.addmm(torch.zeros(1), x.reshape(-1, 40), COLUMN_MATRIX).view_as(x),
    "masked_scatter": lambda x: torch.zeros_like(x).masked_scatter(torch.ones_like(x, dtype=torch.bool), x.flip(3)),
    "slice_scatter": lambda x: torch.slice_scatter(torch.zeros_like(x), x[..., 8:], 3, 0, 32),
    "constant attention": lambda x: torch.einsum("wv,bchv->bchw", (1e3 * COLUMN_MATRIX).softmax(1), x),
    "deformable, right": lambda x: deformed(x, 0.0, 8.0),
    "deformable, up": lambda x: deformed(x, -8.0, 0.0),
    "one tap": lambda x: F.conv2d(x, one_tap(2), padding=(0, 8), groups=3),
    "one tap of three axes": lambda x: F.conv3d(x[:, :, None], one_tap(3), padding=(0, 0, 8), groups=3)[:, :, 0],
    "one tap, transposed": lambda x: F.conv_transpose2d(x, one_tap(2), padding=(0, 8), groups=3),
    "vmap, mirrored": lambda x: torch.vmap(lambda y: y.flip(2))(x),
    "vmap, cut": lambda x: torch.vmap(lambda y: y[..., 8:, 16:])(x),
    "vmap, moved": lambda x: torch.vmap(lambda y: F.pad(y, (4, 0))[..., :40])(x),
    "compiled, mirrored": traced(lambda x: x.flip(3)),
    "compiled, cut": traced(lambda x: x[..., 8:, 16:]),
    "compiled, padded": traced(lambda x: F.pad(x, (16, 0, 8, 0))),
    "one box": lambda x: torchvision.ops.roi_align(x, [torch.tensor([[16.0, 8.0, 40.0, 24.0]])] * len(x), (16, 24)),
}
REFUSED = {  # no even grid, or an order that derivatives alone do not tell
    "scatter_reduce": lambda x: torch.zeros_like(x).scatter_reduce(3, COLUMNS.expand_as(x), x, "sum"),
    "fftshift": lambda x: torch.fft.fftshift(x, (2, 3)),
    "phase": lambda x: torch.fft.ifft(torch.fft.fft(x) * torch.exp(-2j * torch.pi * 16 * torch.fft.fftfreq(40))).real,
    "vmap, rolled": lambda x: torch.vmap(lambda y: y.roll(16, 2))(x),
    "embedding": lambda x: F.embedding(COLUMNS, x.movedim(3, 0).flatten(1)).view(40, *x.shape[:3]).movedim(0, 3),
    "sparse": lambda x: (
        torch.sparse.mm(COLUMN_MATRIX.to_sparse(), x.movedim(3, 0).flatten(1)).view(40, *x.shape[:3]).movedim(0, 3)
    ),
    "lens": lambda x: F.grid_sample(
        x,
        torch.stack(
            torch.meshgrid(torch.linspace(-1, 1, 24), torch.linspace(-1, 1, 40) ** 3, indexing="ij")[::-1], -1
        ).expand(len(x), -1, -1, -1),
        align_corners=True,
    ),
}


class Before(nn.Module):
    """The detector of a bright patch, behind an operation."""

    def __init__(self, operation):
        super().__init__()
        self.operation, self.detector = operation, bright_patch_detector()

    def forward(self, x):
        return self.detector(self.operation(x))


PATCHES = [(0, 0), (0, 32), (16, 0), (8, 24), (16, 32)]


@pytest.mark.parametrize("name", FOUND)
def test_a_patch_is_found_behind(name):
    model, seen = Before(FOUND[name]).eval(), 0
    for place in PATCHES:
        image = bright_patch(place).requires_grad_()
        (gradient,) = torch.autograd.grad(model(image)[0, 1], image)
        contribution = (image * gradient).sum(1)[0].detach()  # of each pixel: what the operation keeps of the patch
        if contribution.max() > 0:
            seen += 1
            heatmap = Explainer(model).attribute(image.detach(), "gradcam", target=1).heatmap()[0]
            assert (centre_of(heatmap) - centre_of(contribution)).abs().max() < 4
    assert seen >= 2


@pytest.mark.parametrize("name", REFUSED)
def test_cells_in_an_order_that_cannot_be_told_are_refused_behind(name):
    with pytest.raises(
        AttribkitError,
        match=r"is not in the spatial order that its shape suggests|none of its layers returns a spatial map",
    ):
        Explainer(Before(REFUSED[name]).eval()).attribute(bright_patch((8, 24)), "gradcam", target=1)


def test_signals_behind_what_cannot_be_followed():
    """A signal that is mirrored by a traced function: the map is that of the plain network, mirrored."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv1d(2, 4, 5, stride=2, padding=2), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        mirrored = torch.jit.trace(lambda x: x.flip(2), torch.zeros(1, 2, 40))
    x = noise(2, 2, 40)
    found = layer_scores(Moved(mirrored, net).eval(), x, "net.0")
    expected = layer_scores(net.eval(), x.flip(2), "0")
    torch.testing.assert_close(found.scores, expected.scores.flip(2), rtol=1e-4, atol=1e-6)
