"""Max pooling with overlapping windows, as pooling of windows that do not overlap."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SeparateWindows(nn.Module):
    """Copies the windows of a max pooling next to each other, (b, c, rows * k, columns * k).

    captum's rule for max pooling returns the relevance of a pixel from one of the windows that contain it, so it is
    correct only if no two windows overlap.

    Args:
        pool: The pooling.
    """

    def __init__(self, pool: nn.MaxPool2d) -> None:
        super().__init__()
        self.size, self.stride, self.padding = _pair(pool.kernel_size), _pair(pool.stride), _pair(pool.padding)
        self.ceil_mode = pool.ceil_mode
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        (up, left), lowest = self.padding, torch.finfo(x.dtype).min / 2  # finite: captum subtracts padded images
        down, right = (up + self._missing(x.shape[2], 0), left + self._missing(x.shape[3], 1))
        windows = F.pad(x, (left, right, up, down), value=lowest)
        for axis in (0, 1):
            windows = windows.unfold(2 + axis, self.size[axis], self.stride[axis])
        return windows.transpose(3, 4).flatten(4, 5).flatten(2, 3)

    def _missing(self, length: int, axis: int) -> int:
        """Return how many pixels the last window of an axis lacks, if it counts."""
        room = length + 2 * self.padding[axis] - self.size[axis]
        last = -(-room // self.stride[axis]) * self.stride[axis]
        counts = self.ceil_mode and last < length + self.padding[axis]  # no window starts in the padding on the right
        return max(last - room, 0) if counts else 0


def without_overlap(module: nn.Module) -> nn.Module:
    """Return the same pooling for windows that do not overlap; other modules are returned as they are."""
    if type(module) is not nn.MaxPool2d or module.return_indices or _pair(module.dilation) != (1, 1):
        return module
    size, stride = _pair(module.kernel_size), _pair(module.stride)
    if all(step >= side for step, side in zip(stride, size, strict=True)):
        return module
    return nn.Sequential(SeparateWindows(module), nn.MaxPool2d(size)).eval()


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])
