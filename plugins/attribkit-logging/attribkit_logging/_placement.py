"""Heat maps of a model's input at their place on the photograph, which the preprocessing has resized and cropped."""

from typing import Literal

import torch
from numpy import ndarray
from torch import Tensor
from torchvision import tv_tensors

from attribkit import InvalidInput
from attribkit.io import Preprocessing

Sides = tuple[int, int]  # height and width in pixels
Placement = Preprocessing | Literal["stretch"] | None


def place_on_photograph(heatmap: Tensor, photograph: Sides, placement: Placement) -> ndarray:
    """Return a heat map that covers the whole photograph, with zeros where the model's input does not reach.

    The scores are those of the pixels of the model's input; they are not resampled. The map has the aspect ratio of the
    photograph, and FiftyOne stretches it over the photograph.

    Args:
        heatmap: The heat map of the model's input, (h, w).
        photograph: Height and width of the upright photograph, in pixels.
        placement: The preprocessing that made the input from the photograph; "stretch" if it was resized to the size of
            the input without a crop; None if the photograph has the size of the input.

    Returns:
        The map as float32, (H, W): the size of the photograph after the preprocessing has resized it, before the crop.

    Raises:
        InvalidInput: If the sizes do not fit together, or `placement` is not valid.
    """
    sides = (heatmap.shape[0], heatmap.shape[1])
    if isinstance(placement, Preprocessing):
        return _uncropped(heatmap, photograph, placement)
    if placement is not None and placement != "stretch":
        raise InvalidInput(
            f"preprocessing must be a Preprocessing, 'stretch' or None, got {placement!r}: pass the second value that "
            "attribkit.load_model returns."
        )
    if placement is None and photograph != sides:
        raise InvalidInput(
            f"The photograph has {photograph[0]}x{photograph[1]} pixels (height x width) and the input of the model "
            f"{sides[0]}x{sides[1]}: pass preprocessing=..., a Preprocessing as attribkit.load_model returns it, or "
            "'stretch' if photographs were resized without a crop."
        )
    return _as_array(heatmap)


def _uncropped(heatmap: Tensor, photograph: Sides, preprocessing: Preprocessing) -> ndarray:
    """Return the map on the resized photograph, from which the preprocessing cuts the input of the model."""
    if tuple(heatmap.shape) != tuple(preprocessing.size):
        raise InvalidInput(
            f"The preprocessing makes inputs of {tuple(preprocessing.size)} (height, width), but the attribution is of "
            f"inputs of {tuple(heatmap.shape)}: pass the preprocessing that made them."
        )
    height, width = _resized_sides(photograph, preprocessing)
    top, left = _crop_corner(height, width, preprocessing)
    canvas = heatmap.new_zeros(height, width)
    canvas[top : top + heatmap.shape[0], left : left + heatmap.shape[1]] = heatmap
    return _as_array(canvas)


def _resized_sides(photograph: Sides, preprocessing: Preprocessing) -> Sides:
    """Return the sides of the photograph after the resizing, as torchvision computes them for boxes."""
    corners = torch.tensor([[0.0, 0.0, photograph[1], photograph[0]]], dtype=torch.float32, device="cpu")
    boxes = tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=photograph)
    height, width = preprocessing.geometry.transforms[0](boxes).canvas_size
    return height, width


def _crop_corner(height: int, width: int, preprocessing: Preprocessing) -> Sides:
    """Return the row and the column at which the crop begins, found by cropping the indices of the pixels."""
    indices = torch.arange(height * width, dtype=torch.int64, device="cpu").view(1, height, width)
    first = int(preprocessing.geometry.transforms[1](tv_tensors.Mask(indices))[0, 0, 0])
    return divmod(first, width)


def _as_array(heatmap: Tensor) -> ndarray:
    array: ndarray = heatmap.detach().float().cpu().numpy()
    return array
