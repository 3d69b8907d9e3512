"""Segments of images: superpixels, or labels that the user provides."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from skimage.segmentation import slic
from torch import Tensor

from attribkit._core.errors import InvalidInput
from attribkit._core.options import PositiveInt
from attribkit._core.pictures import extremes
from attribkit._core.shapes import Images
from attribkit._core.tensors import Fingerprinted

SegmentLabels = Int[Tensor, "b 1 *space"]


@dataclass(frozen=True, eq=False, repr=False)
class GivenSegments(Fingerprinted):
    """Labels of segments as an option: integers (*space), or (b, *space) with b = 1 or one for each image.

    Raises:
        InvalidInput: The tensor is not an integer tensor with at least one axis.
    """

    def __post_init__(self) -> None:
        if self.tensor.ndim == 0 or self.tensor.is_floating_point() or self.tensor.is_complex():
            raise InvalidInput(
                f"The labels of the segments have shape {tuple(self.tensor.shape)} and dtype {self.tensor.dtype}; they "
                "must be integers of the size of the images, (*space) or (b, *space)."
            )


Segments = PositiveInt | GivenSegments | Tensor  # type of options: the number of superpixels, or labels


def segment(x: Images, segments: int | GivenSegments | Tensor) -> SegmentLabels:
    """Divide images into segments.

    Args:
        x: Images, (b, c, *space).
        segments: Approximate number of superpixels of each image (SLIC, Achanta et al., TPAMI 2012), or integer labels,
            (*space) for all images or (b, *space).

    Returns:
        The labels of each image, (b, 1, *space): 0, 1, 2, ... without gaps.

    Raises:
        InvalidInput: If given labels do not have the size of the images or are not integers.
    """
    if isinstance(segments, int):
        return _superpixels(x, segments)
    labels = segments.tensor if isinstance(segments, GivenSegments) else GivenSegments(segments).tensor
    shape = tuple(x.shape[2:])
    batch = labels[None] if labels.ndim == len(shape) else labels
    if tuple(batch.shape[1:]) != shape or len(batch) not in (1, len(x)):
        raise InvalidInput(
            f"The labels of the segments have shape {tuple(labels.shape)} and dtype {labels.dtype}; for these "
            f"{len(x)} images they must be integers of shape {shape}, or {(len(x), *shape)}."
        )
    consecutive = [image.unique(return_inverse=True)[1] for image in batch]
    return torch.stack(consecutive).to(x.device)[:, None].expand(len(x), 1, *shape)


def spanned_axes(labels: SegmentLabels) -> Sequence[int]:
    """Return the spatial axes along which every segment spans the image: SLIC places one seed along a short axis."""
    axes = [axis for axis in range(2, labels.ndim) if labels.shape[axis] > 1]
    spanned = [axis - 2 for axis in axes if torch.equal(labels.narrow(axis, 0, 1).expand_as(labels), labels)]
    return spanned if len(spanned) < len(axes) else []


def _superpixels(x: Images, count: int) -> SegmentLabels:
    """Segment each image, scaled to 0 to 1, on the CPU."""
    low, high = extremes(x)
    images = ((x - low) / (high - low).clamp(min=1e-12)).double().cpu().numpy()
    # The conversion to Lab is defined for three channels only.
    labels = [slic(image, count, channel_axis=0, convert2lab=x.shape[1] == 3, start_label=0) for image in images]
    return torch.from_numpy(np.stack(labels))[:, None].to(x.device)
