"""Total Sobol indices by Jansen's estimator on quasi-random designs."""

from typing import Literal

import numpy as np
import torch
from scipy.stats import qmc
from torch import Tensor

from attribkit import InvalidInput

from .arguments import check_choice, check_integer

Sequence = Literal["sobol", "halton"]
_CONSTANT = 1e-12  # variance, relative to the mean square, below which the scores count as constant


def jansen_design(factors: int, designs: int, sequence: Sequence = "sobol", seed: int = 0) -> Tensor:
    """Return the points at which `total_indices` needs the function.

    Two independent designs A and B are the halves of one scrambled sequence of twice as many dimensions. The points are
    A, then A with column 1 of B, A with column 2 of B, and so on. B itself is not needed.

    Args:
        factors: Number of factors, k.
        designs: Number of points of A, n; a power of two for the Sobol sequence.
        sequence: "sobol" or "halton", both scrambled.
        seed: Seed of the scrambling.

    Returns:
        Points in the unit cube, ((k + 1) n, k), float64.

    Raises:
        InvalidInput: If an argument is not valid.
    """
    check_integer("designs", designs, 2)
    check_integer("seed", seed, 0)
    check_choice("sequence", sequence, ("sobol", "halton"))
    if sequence == "sobol" and designs & (designs - 1):
        raise InvalidInput(
            f"designs must be a power of two for the Sobol sequence, got {designs}: pass "
            f'{2 ** designs.bit_length()}, or sequence="halton".'
        )
    kind = qmc.Sobol if sequence == "sobol" else qmc.Halton
    points = kind(2 * factors, scramble=True, rng=np.random.default_rng(seed)).random(designs)
    a, b = points[:, :factors], points[:, factors:]
    replaced = [np.where(np.arange(factors) == factor, b, a) for factor in range(factors)]
    return torch.from_numpy(np.concatenate([a, *replaced]))


def total_indices(scores: Tensor, factors: int) -> Tensor:
    """Return the total Sobol index of each factor, the share of the variance that vanishes if the others are fixed.

    ``S_i = mean((f(A) - f(A with column i of B)) ** 2) / (2 var f(A))``

    Args:
        scores: Values of the function at the points of `jansen_design`, (..., (k + 1) n).
        factors: Number of factors, k.

    Returns:
        The indices, (..., k); NaN if the function is constant.

    Reference:
        Jansen, Computer Physics Communications, 1999; Saltelli et al., 2010, Table 2 (f).
    """
    values = scores.double().unflatten(-1, (factors + 1, -1))
    base, changed = values[..., :1, :], values[..., 1:, :]
    variance = base.var(-1)
    is_constant = variance <= _CONSTANT * base.square().mean(-1)
    indices = (changed - base).square().mean(-1) / (2 * variance)
    return indices.masked_fill(is_constant, torch.nan)
