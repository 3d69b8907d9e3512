"""Small random movements that an image must survive: shifted, scaled, turned."""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from attribkit.core.errors import InvalidInput
from attribkit.core.shapes import Images


@dataclass(frozen=True)
class RandomMovement:
    """Each image moved anew at each call, about its centre; beyond the border it is mirrored.

    Volumes are turned in the plane of their last two axes.
    """

    jitter: int | tuple[int, ...]  # largest shift along every axis, or along each, in whole pixels
    scale: float  # largest share by which an image grows or shrinks
    rotate: float  # largest angle, in degrees
    generator: torch.Generator

    def faded(self, strength: float) -> "RandomMovement":
        """The same, by a share of its extent, 0 to 1."""
        share = {
            "jitter": tuple(round(strength * most) for most in self._most()),
            "scale": strength * self.scale,
            "rotate": strength * self.rotate,
        }
        return replace(self, **share)  # type: ignore[arg-type]

    def __call__(self, images: Images) -> Images:
        if not (any(self._most()) or self.scale or self.rotate):
            return images
        if images.ndim not in (4, 5):
            raise InvalidInput(
                f"Images of shape {tuple(images.shape)} cannot be moved: use jitter=0, scale=0 and rotate=0."
            )
        grid = F.affine_grid(self._matrices(images), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)

    def _matrices(self, images: Images) -> Float[Tensor, "n axes axes_and_one"]:
        """Where each image is read, in the coordinates of affine_grid: last axis first, -1 to 1 over each."""
        count, axes = len(images), images.ndim - 2
        angle = math.radians(self.rotate) * self._uniform(count)
        matrices = torch.eye(axes, dtype=torch.float64, device="cpu").repeat(count, 1, 1)
        matrices[:, 0, 0], matrices[:, 0, 1] = angle.cos(), -angle.sin()
        matrices[:, 1, 0], matrices[:, 1, 1] = angle.sin(), angle.cos()
        matrices /= (1 + self.scale * self._uniform(count))[:, None, None]
        most = torch.tensor((self._most() * axes)[:axes], device="cpu")[:, None]
        largest = int(most.max())
        shift = torch.randint(-largest, largest + 1, (count, axes, 1), generator=self.generator, device="cpu")
        shift = (shift * most / max(1, largest)).round()  # one draw for all axes
        half = (
            torch.tensor(images.shape[:1:-1], dtype=torch.float64, device="cpu") / 2
        )  # pixels from the centre to the border
        matrices = matrices * half / half[:, None]
        return torch.cat([matrices, shift / half[:, None]], dim=2).to(images)

    def _most(self) -> tuple[int, ...]:
        """The largest shifts: one for every axis, or one for each."""
        return self.jitter if isinstance(self.jitter, tuple) else (self.jitter,)

    def _uniform(self, count: int) -> Tensor:
        """Numbers between -1 and 1."""
        return 2 * torch.rand(count, generator=self.generator, dtype=torch.float64, device="cpu") - 1
