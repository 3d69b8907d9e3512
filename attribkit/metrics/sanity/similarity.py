"""How alike two maps of an image are."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from skimage.feature import hog
from skimage.metrics import structural_similarity
from torch import Tensor

from attribkit.core.broadcast import extremes
from attribkit.core.errors import InvalidInput
from attribkit.core.shapes import Heatmaps, PerImage
from attribkit.metrics.correlation import pearson, spearman

Similarity = Literal["spearman", "cosine", "ssim", "hog"]

_CELL, _BLOCK = 16, 3  # pixels of a cell and cells of a block, of histograms of gradients
_WINDOW = 11  # pixels, of structural similarity: a Gaussian of 1.5, cut off at 3.5 of these


def similarity(kind: Similarity, first: Heatmaps, second: Heatmaps) -> PerImage:
    """1 where two maps are the same, in float64; NaN where they cannot be compared, as constant ones.

    "spearman": the correlation of the pixels' ranks. "cosine": of their values. "ssim": structural similarity (Wang et
    al., IEEE TIP 2004) of the maps stretched to 0..1; on the CPU. "hog": the correlation of histograms of oriented
    gradients (Dalal and Triggs, CVPR 2005) of the stretched maps, of images alone; on the CPU.
    """
    if kind == "spearman":
        return spearman(first.flatten(1), second.flatten(1))
    if kind == "cosine":
        return _cosine(first.flatten(1).double(), second.flatten(1).double())
    if kind == "ssim":
        return _structural(first, second)
    return pearson(_histograms(first), _histograms(second))


def _cosine(first: Float[Tensor, "b n"], second: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """Exactly 1 of equal vectors; NaN of one that is zero."""
    return (first * second).sum(1) / (first.square().sum(1) * second.square().sum(1)).sqrt()


def _structural(first: Heatmaps, second: Heatmaps) -> PerImage:
    if min(first.shape[1:]) < _WINDOW:
        raise InvalidInput(
            f"similarity='ssim' looks at windows of {_WINDOW} pixels, more than maps {_told(first)} have."
        )
    pairs = zip(*(_stretched(each).cpu().numpy() for each in (first, second)), strict=True)
    found = [_structural_of(*pair) for pair in pairs]
    return torch.tensor(found, dtype=torch.float64, device=first.device)


def _structural_of(first: np.ndarray, second: np.ndarray) -> float:
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    return float(structural_similarity(first, second, **options))


def _stretched(maps: Heatmaps) -> Heatmaps:
    """From 0 to 1 in float64; NaN of a constant map."""
    low, high = extremes(maps.double())
    return (maps - low) / (high - low)


def _histograms(maps: Heatmaps) -> Float[Tensor, "b n"]:
    if maps.ndim != 3 or min(maps.shape[1:]) < _CELL * _BLOCK:
        raise InvalidInput(
            f"similarity='hog' takes maps of images from {_CELL * _BLOCK} pixels along each axis, got {_told(maps)}: "
            "use 'spearman' or 'ssim'."
        )
    options = {"pixels_per_cell": (_CELL, _CELL), "cells_per_block": (_BLOCK, _BLOCK)}
    found = [hog(each, **options) for each in _stretched(maps).cpu().numpy()]
    return torch.from_numpy(np.stack(found)).to(maps.device)


def _told(maps: Heatmaps) -> str:
    return str(tuple(maps.shape[1:]))
