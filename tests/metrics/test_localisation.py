"""A patch of the image that changes moves its own cell of the layer's grid, at every position of the grid.

A wrong reshape still gives a map: one that is transposed, mirrored or in another order fails here.
"""

import itertools

import pytest
import timm
import torch
import torchvision
from torch import nn

from attribkit import Explainer

VIT = {"depth": 4, "img_size": 112}
SWIN = {"img_size": 56, "depths": (2, 2), "num_heads": (3, 6)}
NAFLEX = {"depth": 3, "embed_dim": 96, "num_heads": 3}
CASES = {  # layout: (model, its options, layer or None for the one that is chosen, images)
    "channels first": ("resnet18", {}, None, (3, 192, 160)),
    "channels last": ("swin_tiny_patch4_window7_224", {**SWIN, "img_size": 112}, None, (3, 112, 112)),
    "shifted windows": ("swin_tiny_patch4_window7_224", SWIN, "layers.0.blocks.1", (3, 56, 56)),
    "windows made tokens": ("swin_tiny_patch4_window7_224", SWIN, "layers.0.blocks.1.mlp", (3, 56, 56)),
    "tokens, no prefix": ("vit_srelpos_small_patch16_224", {"depth": 4, "img_size": (96, 128)}, None, (3, 96, 128)),
    "tokens after 1": ("vit_tiny_patch16_224", VIT, None, (3, 112, 112)),
    "tokens after 2": ("deit_tiny_distilled_patch16_224", VIT, None, (3, 112, 112)),
    "tokens after 4": ("naflexvit_base_patch16_gap", NAFLEX, None, (3, 96, 128)),
    "tokens after 5": ("vit_tiny_patch16_dinov3_qkvb", {**VIT, "num_classes": 5}, None, (3, 112, 112)),
    "unrolled windows": ("hiera_tiny_224", {}, "blocks.2", (3, 224, 224)),
    "unrolled, last stage": ("hiera_tiny_224", {}, None, (3, 224, 224)),
    "two branches": ("crossvit_tiny_240", {}, None, (3, 240, 240)),
    "parallel branches": ("coat_tiny", {"parallel_depth": 1}, None, (3, 224, 224)),
    "class attention": ("cait_xxs24_224", VIT, None, (3, 112, 112)),
    "cross-covariance": ("xcit_nano_12_p16_224", {"depth": 3}, None, (3, 112, 112)),
    "pooled tokens": ("mvitv2_tiny", {}, None, (3, 224, 224)),
    "square tokens": ("levit_128s", {}, "stages.0", (3, 224, 224)),
    "blocked": ("nest_tiny", {"img_size": 112}, None, (3, 112, 112)),
    "mixer": ("mixer_s32_224", {}, None, (3, 224, 224)),
    "video": ("r3d_18", {}, None, (3, 8, 64, 64)),
}
SLOW = {"unrolled windows", "unrolled, last stage", "parallel branches", "pooled tokens", "mixer", "video"}


def made(name, options):
    torch.manual_seed(0)
    build = timm.create_model if timm.is_model(name) else torchvision.models.get_model
    model = build(name, **options)
    for module in model.modules():  # heads and residual branches that are born as zeros
        weight = getattr(module, "weight", None)
        if isinstance(module, nn.Linear) and weight is not None and not weight.any():
            nn.init.trunc_normal_(weight, std=0.02)
    return model.eval()


@pytest.mark.parametrize(
    "layout", [pytest.param(each, marks=pytest.mark.slow) if each in SLOW else each for each in CASES]
)
def test_each_patch_moves_its_own_cell(layout):
    name, options, layer, size = CASES[layout]
    explainer, x = Explainer(made(name, options)), torch.randn(1, *size)
    before = explainer.feature_maps(x, layer).values
    grid = before.shape[2:]
    cells = [min(side, 7) for side in grid]
    for place in itertools.product(*(range(side) for side in cells)):
        patch = tuple(
            slice(i * side // n, (i + 1) * side // n) for i, n, side in zip(place, cells, size[1:], strict=True)
        )
        changed = x.clone()
        changed[(..., *patch)] += 3 * torch.randn(changed[(..., *patch)].shape)
        moved = (explainer.feature_maps(changed, layer).values - before).abs().sum((0, 1))
        most = torch.unravel_index(moved.argmax(), grid)
        for found, i, n, side in zip(most, place, cells, grid, strict=True):
            first, last = i * side // n, -(-(i + 1) * side // n) - 1  # of the cells that the patch covers
            assert first - 1 <= int(found) <= last + 1, f"the patch at {place} of {cells} moves cell {most} of {grid}"
