"""Where elements come from: an image whose values are its own places stays equal to them, however it is rearranged."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attribkit._coordinates.tracking import track_coordinates


def image(side=8, images=2):
    """Two channels, the row and the column of each pixel's centre."""
    centres = (torch.arange(side) + 0.5) / side
    return torch.stack(torch.meshgrid(centres, centres, indexing="ij")).expand(images, 2, side, side).clone()


def windows(x):
    """Rolled by three, cut into windows of four, as Swin does it, tokens last but one."""
    b, c, h, w = x.shape
    x = torch.roll(x.permute(0, 2, 3, 1), (-3, -3), (1, 2))
    return x.view(b, h // 4, 4, w // 4, 4, c).transpose(2, 3).reshape(-1, 16, c)


REARRANGEMENTS = {
    "tokens": lambda x: x.flatten(2).transpose(1, 2),
    "windows": windows,
    "grid": lambda x: x.reshape(len(x), 2, 2, 4, 2, 4).permute(0, 3, 5, 2, 4, 1).contiguous(),
    "mirrored": lambda x: x.flip(3).mT,
    "parts": lambda x: torch.cat([each + 0.0 for each in x.chunk(4, 2)][::-1], 2),
    "rows apart": lambda x: torch.stack([x[:, :, 0::2], x[:, :, 1::2]], 1),
    "taken": lambda x: x.flatten(2)[:, :, torch.arange(63, -1, -3)],
    "written": lambda x: written(x),
    "in place": lambda x: x.clone().relu_().mul_(1),
}


def written(x):
    y = x.clone()
    y[:, :, 0] = x[:, :, 5]
    return y


@pytest.mark.parametrize("name", REARRANGEMENTS)
def test_values_that_are_places_stay_so(name):
    x = image()
    with track_coordinates(x) as places:
        y = REARRANGEMENTS[name](x)
    number, row, column = places.of(y).positions
    in_rows = ((y - row).abs() < 1e-6).float()
    in_columns = ((y - column).abs() < 1e-6).float()
    assert ((in_rows + in_columns) >= 1).all()  # each value is one of its two coordinates
    assert in_rows.mean() >= 0.5
    assert in_columns.mean() >= 0.5
    assert number.shape == y.shape
    assert number.unique().tolist() == [0, 1]


def test_class_tokens_padding_and_what_mixes_everything_come_from_no_place():
    x = image()
    token = nn.Parameter(torch.zeros(2, 1, 2))
    with track_coordinates(x) as places:
        tokens = torch.cat([token, x.flatten(2).transpose(1, 2)], 1)
        padded = F.pad(x, (0, 3))
        mean = x.mean((2, 3))
        mixed = F.linear(tokens[:, 1:].transpose(1, 2), torch.randn(64, 64)).transpose(1, 2)
        residual = tokens[:, 1:] + mixed
        unknown = torch.cumsum(x, 2)
    assert places.of(tokens).positions[1][0, :, 0].isnan().tolist() == [True] + 64 * [False]
    assert places.of(padded).positions[2][0, 0, 0].isnan().tolist() == 8 * [False] + 3 * [True]
    assert places.of(mean).positions[1].isnan().all()
    assert places.of(mixed).positions[1].isnan().all()
    assert torch.equal(places.of(residual).positions[2], places.of(tokens).positions[2][:, 1:])
    assert places.of(unknown) is None


def test_two_places_that_disagree_are_no_place():
    x = image()
    with track_coordinates(x) as places:
        y = x + x.roll(4, 3)
        z = x + 2 * x
    assert places.of(y).positions[2].isnan().all()
    assert torch.equal(places.of(z).positions[2], places.of(x).positions[2])


@pytest.mark.parametrize(
    "shrink",
    [nn.Conv2d(2, 5, 2, 2), nn.Conv2d(2, 5, 3, 2, 1), nn.AvgPool2d(2), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(4)],
    ids=str,
)
def test_what_is_strided_lies_at_its_cells_centres(shrink):
    x = image()
    with track_coordinates(x) as places:
        y = shrink(x)
    centres = (torch.arange(4) + 0.5) / 4
    _, row, column = places.of(y).positions
    assert torch.allclose(row, centres[:, None].expand(y.shape))
    assert torch.allclose(column, centres.expand(y.shape))


@pytest.mark.parametrize(
    "grow", [nn.Upsample(scale_factor=2), nn.Upsample(20, mode="bilinear"), nn.ConvTranspose2d(2, 5, 2, 2)]
)
def test_what_is_enlarged_lies_at_its_cells_centres(grow):
    x = image()
    with track_coordinates(x) as places:
        y = grow(x)
    side = y.shape[-1]
    assert torch.allclose(places.of(y).positions[2], ((torch.arange(side) + 0.5) / side).expand(y.shape), atol=1e-6)


def test_a_product_of_queries_and_keys_has_the_places_of_both():
    x = image()
    with track_coordinates(x) as places:
        tokens = F.linear(x.flatten(2).transpose(1, 2), torch.randn(6, 2)).unflatten(2, (2, 3)).transpose(1, 2)
        weights = ((tokens * 0.5) @ tokens.flip(2).transpose(-2, -1) + torch.randn(2, 64, 64)).softmax(-1)
        gathered = weights @ tokens
    place = places.of(x).positions[2][0, 0].flatten()
    found = places.of(weights)
    assert torch.equal(found.positions[2][1, 0, :, 5], place)
    assert torch.equal(found.key_positions[2][1, 0, 7], place.flip(0))
    assert torch.equal(places.of(gathered).positions[2][0, 1, :, 2], place)
    assert places.of(gathered).key_positions is None


@pytest.mark.parametrize("bias", [torch.randn(64, 64), torch.randn(3, 64, 64)], ids=["alike", "of each head"])
def test_what_is_done_to_products_leaves_their_places(bias):
    """Heads mixed by a convolution, and a relative position written into all but the first query's logits."""
    x = image()
    with track_coordinates(x) as places:
        tokens = F.linear(x.flatten(2).transpose(1, 2), torch.randn(6, 2)).unflatten(2, (2, 3)).transpose(1, 2)
        logits = nn.Conv2d(2, 3, 1)(tokens @ tokens.mT)
        logits[:, :, 1:] = logits[:, :, 1:] + bias[..., 1:, :]
        weights = logits.softmax(-1)
    place = places.of(x).positions[2][0, 0].flatten()
    assert torch.equal(places.of(weights).positions[2][1, 0, :, 5], place)
    assert torch.equal(places.of(weights).key_positions[2][1, 2, 7], place)


def test_a_product_that_is_told_by_labels():
    x = image()
    with track_coordinates(x) as places:
        tokens = F.linear(x.flatten(2).transpose(1, 2), torch.randn(6, 2)).unflatten(2, (2, 3))  # (b, n, h, d)
        weights = torch.einsum("bqhd, bkhd -> bhqk", tokens, tokens.flip(1)).softmax(-1)
        gathered = torch.einsum("bhqk,bkhd->bqhd", weights, tokens)
        channels = torch.einsum("bnhd,bnhe->bhde", tokens, tokens)
    place = places.of(x).positions[2][0, 0].flatten()
    assert torch.equal(places.of(weights).positions[2][1, 0, :, 5], place)
    assert torch.equal(places.of(weights).key_positions[2][1, 0, 7], place.flip(0))
    assert torch.equal(places.of(gathered).positions[2][0, :, 1, 2], place)
    assert places.of(channels) is None


def test_a_class_tokens_product_with_patches_has_their_places_in_its_columns():
    x, parameter = image(), torch.randn(2, 1, 2)
    with track_coordinates(x) as places:
        tokens = x.flatten(2).transpose(1, 2)
        both = torch.cat([parameter, tokens], 1)
        weights = (both[:, :1] @ tokens.mT).softmax(-1)
        mixed = parameter @ tokens.mT
    place = places.of(x).positions[2][0, 0].flatten()
    assert torch.equal(places.of(weights).positions[2][1, 0], place)
    assert torch.equal(places.of(weights).key_positions[2][1, 0], place)
    assert places.of(mixed).key_positions is None


def test_a_product_at_each_place_has_no_columns():
    """As lambda layers multiply a query by a matrix of its own place."""
    x = image()
    with track_coordinates(x) as places:
        tokens = x.flatten(2).transpose(1, 2)
        found = tokens.unsqueeze(2) @ tokens.unsqueeze(2).expand(-1, -1, 2, -1)
    assert places.of(found).key_positions is None
    assert torch.equal(places.of(found).positions[1][:, :, 0], places.of(tokens).positions[1])


def test_sums_over_a_narrow_axis_have_the_outputs_shape():
    x = image()
    with track_coordinates(x) as places:
        tokens = F.linear(x.flatten(2).transpose(1, 2), torch.randn(6, 2)).unflatten(2, (2, 3)).transpose(1, 2)
        weights = (tokens @ tokens.mT).softmax(-1)
        sums = weights.sum(dim=-1).unsqueeze(-1)
    assert places.of(sums).positions[1].shape == sums.shape == (2, 2, 64, 1)


@pytest.mark.parametrize("side", [8, 16, 10])
def test_padding_of_windows_that_overlap_moves_nothing(side):
    """The two ways of a residual block, by a padded convolution and by pooling, stay at the same places."""
    x = image(side)
    with track_coordinates(x) as places:
        convolved = nn.Conv2d(2, 2, 3, 2)(F.pad(x, (0, 1, 0, 1)))
        pooled = F.avg_pool2d(x, 2, 2)
        largest = F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 3, 2)
        total = convolved + pooled + largest
    assert torch.equal(places.of(total).positions[1], places.of(pooled).positions[1])
    assert not places.of(total).positions[1].isnan().any()


def test_fused_attention_gives_each_query_its_place():
    x = image()
    with track_coordinates(x) as places:
        tokens = x.flatten(2).transpose(1, 2)
        gathered = F.scaled_dot_product_attention(tokens.roll(3, 1)[:, None], tokens[:, None], tokens[:, None])
        module = nn.MultiheadAttention(2, 1, batch_first=True)
        attended, _ = module(tokens, tokens, tokens)
    assert torch.equal(places.of(gathered).positions[1][:, 0], places.of(tokens).positions[1].roll(3, 1))
    assert torch.equal(places.of(attended).positions[1], places.of(tokens).positions[1])


def test_volumes_have_three_axes():
    x = torch.randn(1, 1, 4, 6, 6)
    with track_coordinates(x) as places:
        y = nn.Conv3d(1, 3, 2, 2)(x).flatten(2)
    assert [round(each, 3) for each in places.of(y).positions[1].unique().tolist()] == [0.25, 0.75]
    assert len(places.of(y).positions) == 4


def test_the_outputs_are_the_models_own():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Flatten(), nn.LazyLinear(3))
    x = torch.randn(2, 3, 8, 8)
    model.eval()
    plain = model(x)
    with track_coordinates(x):
        assert torch.equal(model(x), plain)
