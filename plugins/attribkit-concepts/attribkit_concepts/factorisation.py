"""Non-negative factorisation of activations into concepts and coefficients."""

import warnings
from typing import NamedTuple

import torch
from sklearn.decomposition import NMF  # type: ignore[import-untyped]
from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped]
from torch import Tensor

from .nnls import solve_nnls


class Factors(NamedTuple):
    """A factorisation ``coefficients @ basis ~ activations``, with concepts of unit length."""

    basis: Tensor  # (k, d), float64
    coefficients: Tensor  # (samples, k), float64
    error: float  # norm of the residual, relative to that of the activations
    notes: tuple[str, ...]


def factorise(activations: Tensor, k: int, seed: int, iterations: int) -> Factors:
    """Factorise activations, (samples, d), into k concepts, in order of decreasing mean coefficient.

    The coefficients are the exact non-negative least squares for the basis, not those of the last iteration.
    """
    model = NMF(k, init="nndsvda", random_state=seed, max_iter=iterations)
    notes = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            model.fit(activations.numpy())
        except ConvergenceWarning:
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(activations.numpy())
            notes.append(f"the factorisation did not converge in iterations={iterations}")
    basis = torch.from_numpy(model.components_).double()
    basis = basis / basis.norm(dim=1, keepdim=True).clamp(min=torch.finfo(basis.dtype).tiny)
    coefficients = solve_nnls(activations, basis)
    order = coefficients.mean(0).argsort(descending=True, stable=True)
    basis, coefficients = basis[order], coefficients[:, order]
    unused = int((coefficients.amax(0) == 0).sum())
    if unused:
        notes.append(f"{unused} of the {k} concepts do not occur in the samples: choose a smaller k")
    error = float((activations - coefficients @ basis).norm() / activations.norm())
    return Factors(basis, coefficients, error, tuple(notes))
