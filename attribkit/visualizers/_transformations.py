"""Small random shifts, scalings and rotations, to which an optimised image becomes robust."""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from attribkit._core.errors import InvalidInput
from attribkit._core.shapes import Images


@dataclass(frozen=True)
class RandomMovement:
    """Random transform that shifts, scales and rotates each image about its centre, anew at each call.

    The image is mirrored beyond its border. Volumes are rotated in the plane of their last two axes.

    Args:
        jitter: Maximum shift in whole pixels, for all axes or for each.
        scale: Maximum relative change of the image's size.
        rotate: Maximum angle, in degrees.
        generator: Generator of the random numbers, on the CPU.
    """

    jitter: int | tuple[int, ...]
    scale: float
    rotate: float
    generator: torch.Generator

    def weakened(self, strength: float) -> "RandomMovement":
        """Return the same transform with its maxima multiplied by a strength from 0 to 1."""
        maxima = {
            "jitter": tuple(round(strength * shift) for shift in self._max_shifts()),
            "scale": strength * self.scale,
            "rotate": strength * self.rotate,
        }
        return replace(self, **maxima)  # type: ignore[arg-type]

    def __call__(self, images: Images) -> Images:
        if not (any(self._max_shifts()) or self.scale or self.rotate):
            return images
        if images.ndim not in (4, 5):
            raise InvalidInput(
                f"Random movement requires images with two or three spatial axes, got shape {tuple(images.shape)}: "
                "use jitter=0, scale=0 and rotate=0."
            )
        grid = F.affine_grid(self._matrices(images), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)

    def _matrices(self, images: Images) -> Float[Tensor, "n axes axes_and_one"]:
        """Return affine matrices for affine_grid, whose coordinates run from -1 to 1, last axis first."""
        count, axes = len(images), images.ndim - 2
        angle = math.radians(self.rotate) * self._uniform(count)
        matrices = torch.eye(axes, dtype=torch.float64, device="cpu").repeat(count, 1, 1)
        matrices[:, 0, 0], matrices[:, 0, 1] = angle.cos(), -angle.sin()
        matrices[:, 1, 0], matrices[:, 1, 1] = angle.sin(), angle.cos()
        matrices /= (1 + self.scale * self._uniform(count))[:, None, None]
        maxima = torch.tensor((self._max_shifts() * axes)[:axes], device="cpu")[:, None]
        largest = int(maxima.max())
        shift = torch.randint(-largest, largest + 1, (count, axes, 1), generator=self.generator, device="cpu")
        shift = (shift * maxima / max(1, largest)).round()  # drawn in one range, scaled to that of each axis
        half = torch.tensor(images.shape[:1:-1], dtype=torch.float64, device="cpu") / 2  # pixels, centre to border
        matrices = matrices * half / half[:, None]
        return torch.cat([matrices, shift / half[:, None]], dim=2).to(images)

    def _max_shifts(self) -> tuple[int, ...]:
        """Return the maximum shifts: one for all axes, or one for each."""
        return self.jitter if isinstance(self.jitter, tuple) else (self.jitter,)

    def _uniform(self, count: int) -> Tensor:
        """Draw numbers between -1 and 1."""
        return 2 * torch.rand(count, generator=self.generator, dtype=torch.float64, device="cpu") - 1
