"""Random crops with noise, through which the model views a generated image at each step."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_SPREAD = 0.15  # standard deviation of the centre of crops, as a fraction of each axis


@dataclass(frozen=True)
class View:
    """Crops at fixed places, resized to the size of the image, with fixed noise.

    Args:
        matrices: Affine matrices for `affine_grid`, (k * n, 2, 3): the crops of image i are i, i + n, ...; None means
            the whole image.
        noise: Noise that is added, (k * n, c, h, w); None for none.
        count: k, the number of crops of each image.
    """

    matrices: Tensor | None
    noise: Tensor | None
    count: int

    def __call__(self, images: Tensor) -> Tensor:
        """Return the crops, (k * n, c, h, w), of images (n, c, h, w)."""
        views = images.repeat(self.count, 1, 1, 1)
        if self.matrices is not None:
            grid = F.affine_grid(self.matrices, list(views.shape), align_corners=False)
            views = F.grid_sample(views, grid, padding_mode="border", align_corners=False)
        return views if self.noise is None else views + self.noise


@dataclass(frozen=True)
class RandomViews:
    """Random crops inside the image, around its centre, with Gaussian noise.

    Args:
        count: Number of crops of each image at each step.
        sizes: Smallest and largest side of a crop, as a fraction of the image's.
        noise: Standard deviation of the noise, in units of the normalised images.
        generator: Generator of the random numbers, on the CPU.
    """

    count: int
    sizes: tuple[float, float]
    noise: float
    generator: torch.Generator

    def draw(self, images: Tensor) -> View:
        """Return new crops and noise for images, (n, c, h, w)."""
        rows = self.count * len(images)
        noise = None
        if self.noise:
            shape = (rows, *images.shape[1:])
            drawn = torch.randn(shape, generator=self.generator, dtype=torch.float32, device="cpu")
            noise = self.noise * drawn.to(images)
        return View(None if self.sizes == (1, 1) else self._matrices(rows).to(images), noise, self.count)

    def _matrices(self, rows: int) -> Tensor:
        least, largest = self.sizes
        drawn = torch.rand(rows, generator=self.generator, dtype=torch.float64, device="cpu")
        size = least + (largest - least) * drawn
        centre = torch.randn(rows, 2, generator=self.generator, dtype=torch.float64, device="cpu")
        room = (1 - size)[:, None]  # from -1 to 1 the centre can move by this much
        centre = (2 * _SPREAD * centre).clamp(-room, room)
        return torch.cat([torch.diag_embed(size[:, None].expand(-1, 2)), centre[:, :, None]], 2)
