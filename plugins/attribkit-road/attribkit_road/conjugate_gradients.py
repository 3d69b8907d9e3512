"""Many linear systems at once, each as if it were alone."""

from collections.abc import Callable

import torch
from torch import Tensor

from attribkit import AttribkitError

_EVERY = 8  # steps between two looks at whether all systems are solved, for which the device must be waited
_PATIENCE = 20  # steps for each pixel along an axis; a hole takes a few for each pixel of its width


def solved(apply: Callable[[Tensor], Tensor], diagonal: Tensor, right: Tensor, tolerance: float) -> Tensor:
    """The solutions of symmetric positive definite systems, (b, c, *unknowns): conjugate gradients after Jacobi.

    apply: the products of the matrices with vectors. Each system takes steps of its own, and none once its residual is
    below the tolerance times its right side, so that its solution does not depend on the others.
    """
    axes = tuple(range(2, right.ndim))

    def inner(one: Tensor, other: Tensor) -> Tensor:
        return (one * other).sum(axes, keepdim=True)

    solution, residual = torch.zeros_like(right), right
    direction = residual / diagonal
    size, enough = inner(residual, direction), tolerance**2 * inner(right, right)
    steps = _PATIENCE * sum(right.shape[2:])
    for step in range(steps):
        unsolved = inner(residual, residual) > enough
        if step % _EVERY == 0 and not bool(unsolved.any()):
            return solution
        image = apply(direction)
        length = torch.where(unsolved, size / inner(direction, image), 0)
        solution, residual = solution.addcmul(length, direction), residual.addcmul(length, image, value=-1)
        scaled = residual / diagonal
        last, size = size, torch.where(unsolved, inner(residual, scaled), size)
        direction = torch.where(unsolved, scaled.addcmul(size / last, direction), direction)
    raise AttribkitError(
        f"tolerance={tolerance} is not reached in {steps} steps of {right.dtype}: choose a larger one."
    )
