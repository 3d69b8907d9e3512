"""How much of a map lies inside a region."""

import torch

from attribkit.core.shapes import Heatmaps, Masks, PerImage


def share_inside(energy: Heatmaps, region: Masks, least: float = 0.0) -> PerImage:
    """The share of the energy that lies in the region, 0 to 1.

    energy: from 0 up. NaN where all of it is no more than the least, or the region is empty.
    """
    energy, region = energy.flatten(1), region.flatten(1)
    total = energy.sum(1)
    defined = (total > least) & region.any(1)
    return torch.where(defined, (energy * region).sum(1) / total, torch.nan)
