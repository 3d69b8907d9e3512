"""Solver for batches of independent linear systems."""

from collections.abc import Callable

import torch
from torch import Tensor

from attribkit import AttribkitError

_CHECK_INTERVAL = 8  # steps between checks of convergence, which synchronise with the device
_MAX_STEPS_PER_PIXEL = 20  # along all axes; a hole needs a few steps for each pixel of its width


def solve(apply: Callable[[Tensor], Tensor], diagonal: Tensor, right: Tensor, tolerance: float) -> Tensor:
    """Solve symmetric positive definite systems by conjugate gradients with Jacobi's preconditioner.

    Each system has its own step lengths and stops when it has converged, so its solution does not depend on the other
    systems of the batch.

    Args:
        apply: Function that multiplies the matrices with vectors (b, c, *unknowns).
        diagonal: Diagonals of the matrices, broadcastable to the vectors.
        right: Right-hand sides, (b, c, *unknowns).
        tolerance: Norm of the residual, relative to that of the right side, at which a system has converged.

    Raises:
        AttribkitError: If a system does not converge within the maximum number of steps.
    """
    axes = tuple(range(2, right.ndim))

    def inner(one: Tensor, other: Tensor) -> Tensor:
        return (one * other).sum(axes, keepdim=True)

    solution, residual = torch.zeros_like(right), right
    direction = residual / diagonal
    size, threshold = inner(residual, direction), tolerance**2 * inner(right, right)
    steps = _MAX_STEPS_PER_PIXEL * sum(right.shape[2:])
    for step in range(steps):
        unsolved = inner(residual, residual) > threshold
        if step % _CHECK_INTERVAL == 0 and not bool(unsolved.any()):
            return solution
        image = apply(direction)
        length = torch.where(unsolved, size / inner(direction, image), 0)
        solution, residual = solution.addcmul(length, direction), residual.addcmul(length, image, value=-1)
        scaled = residual / diagonal
        last, size = size, torch.where(unsolved, inner(residual, scaled), size)
        direction = torch.where(unsolved, scaled.addcmul(size / last, direction), direction)
    raise AttribkitError(
        f"tolerance={tolerance} was not reached in {steps} steps in {right.dtype}: choose a larger tolerance."
    )
