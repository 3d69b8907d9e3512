"""What keeps an image from noise: penalties per image, and blur."""

import torch
import torch.nn.functional as F

from attribkit.core.shapes import Images, PerImage


def squared_norm(images: Images) -> PerImage:
    """The sum of the squares of all values (Simonyan et al., 2014, sec. 2)."""
    return images.square().flatten(1).sum(1)


def total_variation(images: Images) -> PerImage:
    """The isotropic total variation: the length of the step to the next pixels, summed over pixels and channels.

    Rudin, Osher and Fatemi, Physica D 1992. No step leads over the border; where the image is flat, its gradient is 0.
    """
    steps = [_step(images, axis) for axis in range(2, images.ndim)]
    return torch.linalg.vector_norm(torch.stack(steps), dim=0).flatten(1).sum(1)


def blurred(images: Images, sigma: float) -> Images:
    """The images under a Gaussian of this standard deviation in pixels, cut off and renormalised at the border."""
    for axis in range(2, images.ndim):
        place = torch.arange(images.shape[axis], device=images.device, dtype=images.dtype) / sigma
        kernel = torch.softmax(-((place[:, None] - place) ** 2) / 2, dim=1)
        images = (images.movedim(axis, -1) @ kernel.mT).movedim(-1, axis)
    return images


def _step(images: Images, axis: int) -> Images:
    """The difference to the next pixel along an axis, zero at the last."""
    padding = [0, 0] * (images.ndim - 1 - axis) + [0, 1]
    return F.pad(images.diff(dim=axis), padding)
