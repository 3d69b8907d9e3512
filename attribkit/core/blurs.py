"""Images out of focus: what removed pixels are replaced by, an axis of space after the other."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from attribkit.core.bounds import Rule
from attribkit.core.errors import InvalidInput
from attribkit.core.options import Count, Options, Positive
from attribkit.core.shapes import Images

OddSize = Annotated[Count, Rule(lambda size: size % 2 == 1, "odd")]  # pixels of a kernel, with one in its middle

_SHARE = 1 / 12  # standard deviation of the blur that grows with the image, as a share of each axis
_TAIL = 4  # standard deviations after which SciPy cuts a Gaussian off


@dataclass(frozen=True)
class GaussianBlur(Options):
    """A Gaussian kernel, cut off and made to sum to one; beyond the border the image is mirrored, as in torchvision."""

    size: OddSize = 15  # pixels of the kernel along each axis, an odd number
    sigma: Positive = 5.0  # pixels

    def __call__(self, x: Images) -> Images:
        """The images blurred."""
        short = [side for side in x.shape[2:] if side <= self.size // 2]
        if short:
            raise InvalidInput(f"{self!r} mirrors {self.size // 2} pixels, of {short[0]}: give a smaller kernel.")
        kernel = _gaussian(self.size // 2, self.sigma)
        return _along_axes(x, lambda length: _mirrored(kernel, length))


@dataclass(frozen=True)
class FoldedBlur(Options):
    """A Gaussian kernel whose tails are folded back into it, nearly a box; zeros beyond the border of the image.

    Source: the authors' code of Petsiuk et al., BMVC 2018, where SciPy filters a single one amid zeros of the kernel's
    size: the parts of the Gaussian that leave it come back mirrored.
    """

    size: OddSize = 11  # pixels of the kernel along each axis, an odd number
    sigma: Positive = 5.0  # pixels

    def __call__(self, x: Images) -> Images:
        """The images blurred; normalised ones fade to the mean colour at their borders."""
        kernel = self.kernel()
        return _along_axes(x, lambda length: _zero_padded(kernel, length))

    def kernel(self) -> Tensor:
        """The weights along one axis, (size,), in double precision."""
        radius = int(_TAIL * self.sigma + 0.5)
        places = (torch.arange(-radius, radius + 1, device="cpu") + self.size // 2) % (2 * self.size)
        folded = torch.minimum(places, 2 * self.size - 1 - places)
        return torch.zeros(self.size, dtype=torch.float64, device="cpu").index_add(
            0, folded, _gaussian(radius, self.sigma)
        )


Blur = GaussianBlur | FoldedBlur


def wide_blur(x: Images) -> Images:
    """The images far out of focus, by a Gaussian that grows with them."""
    return _along_axes(x, _wide)


def _along_axes(x: Images, matrix: Callable[[int], Tensor]) -> Images:
    """Each line of pixels times the matrix for its length, along every axis of space; no coarser than float32."""
    blurred = x.to(torch.promote_types(x.dtype, torch.float32))
    for axis in range(2, x.ndim):
        kernel = matrix(x.shape[axis]).to(blurred)
        blurred = (blurred.movedim(axis, -1) @ kernel.mT).movedim(-1, axis)
    return blurred.to(x.dtype)


def _gaussian(radius: int, sigma: float) -> Tensor:
    """Weights that sum to one, (2 * radius + 1,)."""
    places = torch.arange(-radius, radius + 1, dtype=torch.float64, device="cpu")
    return torch.softmax(-((places / sigma) ** 2) / 2, dim=0)


def _wide(length: int) -> Tensor:
    place = torch.arange(length, dtype=torch.float32, device="cpu") / (_SHARE * length)
    return torch.softmax(-((place[:, None] - place) ** 2) / 2, dim=1)


def _zero_padded(kernel: Tensor, length: int) -> Tensor:
    """The kernel around each pixel of a line, (length, length); what lies beyond the line is lost."""
    places, weights = _around(kernel, length)
    inside = (places >= 0) & (places < length)
    return _matrix(places.clamp(0, length - 1), weights * inside)


def _mirrored(kernel: Tensor, length: int) -> Tensor:
    """The same; what lies beyond the line is read from it, mirrored at its last pixels."""
    places, weights = _around(kernel, length)
    places = places.abs()
    return _matrix(torch.minimum(places, 2 * (length - 1) - places), weights)


def _around(kernel: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """For each pixel of a line the places that the kernel reads, and its weights, (length, size) both."""
    radius = len(kernel) // 2
    places = torch.arange(length, device="cpu")[:, None] + torch.arange(-radius, radius + 1, device="cpu")
    return places, kernel.expand(length, -1)


def _matrix(places: Tensor, weights: Tensor) -> Tensor:
    length = len(places)
    return torch.zeros(length, length, dtype=weights.dtype, device="cpu").scatter_add(1, places, weights)
