"""Non-negative least squares for many right-hand sides and one small basis."""

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from attribkit import AttribkitError

_SWEEPS = 2000  # sweeps over the concepts; rows that have not converged then go to SciPy's active-set solver
_TOLERANCE = 1e-12  # of the optimality conditions, relative to the largest product of activations and concepts


def solve_nnls(activations: Tensor, basis: Tensor) -> Tensor:
    """Return the non-negative coefficients with the least squared error, ``coefficients @ basis ~ activations``.

    Coordinate descent solves all rows at once and stops each of them when it meets the optimality conditions.

    Args:
        activations: Rows to approximate, (rows, d).
        basis: The concepts, (k, d).

    Returns:
        The coefficients, (rows, k), float64 on the CPU.
    """
    activations, basis = activations.detach().cpu().double(), basis.detach().cpu().double()
    gram, products = basis @ basis.T, activations @ basis.T
    coefficients = torch.zeros_like(products)
    active = torch.arange(len(products), device="cpu")
    limit = _TOLERANCE * products.abs().amax(1, keepdim=True)
    for _ in range(_SWEEPS):
        rows = _sweep(coefficients[active], products[active], gram)
        coefficients[active] = rows
        active = active[~_is_optimal(rows, products[active], gram, limit[active])]
        if not len(active):
            return coefficients
    return _solve_rest(coefficients, activations, basis, active)


def _sweep(coefficients: Tensor, products: Tensor, gram: Tensor) -> Tensor:
    """Return the coefficients after an exact minimisation over each concept in turn."""
    for j in range(len(gram)):
        if gram[j, j] > 0:
            step = (products[:, j] - coefficients @ gram[:, j]) / gram[j, j]
            coefficients[:, j] = (coefficients[:, j] + step).clamp(min=0)
    return coefficients


def _is_optimal(coefficients: Tensor, products: Tensor, gram: Tensor, limit: Tensor) -> Tensor:
    """Return which rows satisfy the optimality conditions: zero gradient where positive, not negative at zeros."""
    gradient = coefficients @ gram - products
    violation = torch.where(coefficients > 0, gradient.abs(), (-gradient).clamp(min=0))
    return (violation <= limit).all(1)


def _solve_rest(coefficients: Tensor, activations: Tensor, basis: Tensor, rows: Tensor) -> Tensor:
    """Solve the given rows one by one, for concepts that are nearly parallel."""
    matrix = basis.T.numpy()
    try:
        solved = [nnls(matrix, activation)[0] for activation in activations[rows].numpy()]
    except RuntimeError as error:
        raise AttribkitError(
            f"The coefficients of the concepts cannot be computed ({error}): choose a smaller k."
        ) from error
    coefficients[rows] = torch.from_numpy(np.stack(solved))
    return coefficients
