"""How an output's shape is read as a map of the image."""

import pytest
import torch

from attribkit._core.layouts import Layout, find_layout

SQUARE, WIDE = (224, 224), (160, 320)


@pytest.mark.parametrize(
    ("shape", "space", "facts", "expected"),
    [
        ((2, 2048, 7, 7), SQUARE, {}, Layout("channels first", (7, 7))),
        ((2, 8, 7, 7), SQUARE, {}, Layout("channels first", (7, 7))),
        ((2, 7, 7, 768), SQUARE, {}, Layout("channels last", (7, 7))),
        ((2, 7, 7, 8), SQUARE, {}, Layout("channels last", (7, 7))),
        ((2, 7, 7, 7), SQUARE, {}, Layout("channels first", (7, 7), ambiguous=True)),
        ((2, 512, 4, 16), (100, 500), {}, Layout("channels first", (4, 16))),
        ((2, 512, 3, 32), (65, 1000), {}, Layout("channels first", (3, 32))),
        ((2, 512, 2, 9), (33, 260), {}, Layout("channels first", (2, 9))),
        ((2, 3, 300, 300), SQUARE, {}, None),
        ((2, 7, 7, 7), SQUARE, {"channels_last": True}, Layout("channels last", (7, 7), ambiguous=True)),
        ((2, 512, 5, 10), WIDE, {}, Layout("channels first", (5, 10))),
        ((2, 5, 10, 512), WIDE, {}, Layout("channels last", (5, 10))),
        ((2, 512, 10, 5), WIDE, {}, None),
        ((2, 512, 1, 1), SQUARE, {}, None),
        ((2, 512), SQUARE, {}, None),
        ((2, 197, 192), SQUARE, {}, Layout("tokens", (14, 14), 1)),
        ((2, 196, 192), SQUARE, {}, Layout("tokens", (14, 14), 0)),
        ((2, 198, 192), SQUARE, {}, Layout("tokens", (14, 14), 2)),
        ((2, 201, 192), SQUARE, {}, Layout("tokens", (14, 14), 5)),
        ((2, 202, 192), SQUARE, {}, None),
        ((2, 197, 192), SQUARE, {"prefix_tokens": 0}, None),
        ((2, 201, 192), WIDE, {}, Layout("tokens", (10, 20), 1)),
        ((2, 785, 192), (224, 224), {"patch": (16, 4), "prefix_tokens": 1}, Layout("tokens", (14, 56), 1)),
        ((2, 9, 192), (48, 48), {}, None),  # 3 by 3 without a prefix, or 2 by 2 after 5
        ((2, 4, 8, 8, 8), (16, 16, 16), {}, Layout("channels first", (8, 8, 8))),
        ((2, 4, 2, 7, 7), (16, 112, 112), {}, Layout("channels first", (2, 7, 7))),
    ],
)
def test_find_layout(shape, space, facts, expected):
    assert find_layout(shape, space, **facts) == expected


def test_to_grid_keeps_every_value_in_its_place():
    grid = torch.arange(2 * 3 * 2 * 4.0).reshape(2, 3, 2, 4)
    tokens = torch.cat([torch.full((2, 2, 3), -1.0), grid.flatten(2).transpose(1, 2)], 1)
    for layout, output in (
        (Layout("channels first", (2, 4)), grid),
        (Layout("channels last", (2, 4)), grid.permute(0, 2, 3, 1)),
        (Layout("tokens", (2, 4), 2), tokens),
    ):
        assert torch.equal(layout.to_grid(output), grid)
