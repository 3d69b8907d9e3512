"""Boxes on the pixels of images."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attribkit.core.shapes import Masks

Boxes = Float[Tensor, "b n 4"]  # left, top, right, bottom edges in pixels, whose own are 0, 0, w, h; NaN is no box


def filled(boxes: Boxes, height: int, width: int) -> Masks:
    """The union of each image's boxes.

    A pixel is on a box if its centre is; a box too thin for that has the pixels under its own middle.
    """
    left, top, right, bottom = boxes.unbind(-1)
    rows, columns = _under(top, bottom, height), _under(left, right, width)
    return (rows.float().mT @ columns.float()) > 0


def _under(low: Float[Tensor, "b n"], high: Float[Tensor, "b n"], count: int) -> Bool[Tensor, "b n cells"]:
    """Which of a row of pixels lie under spans."""
    places = torch.arange(count, device=low.device)
    centres = places + 0.5
    under = (low[..., None] <= centres) & (centres < high[..., None])
    thin = ~under.any(-1) & low.isfinite() & high.isfinite()
    middle = ((low + high) / 2).nan_to_num().floor().long().clamp(0, count - 1)
    return under | (thin[..., None] & (places == middle[..., None]))
