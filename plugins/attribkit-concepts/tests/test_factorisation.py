"""Coefficients against SciPy, total Sobol indices against closed forms, and planted factors."""

import attribkit_concepts as plugin
import attribkit_concepts.nnls as nnls
import attribkit_concepts.sobol as sobol
import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.optimize import nnls as scipy_nnls
from torch import nn

from attribkit import Explainer, InvalidInput

EXACT = {"rtol": 0, "atol": 1e-10}


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Non-negative least squares


@pytest.mark.parametrize("basis", ["random", "overlapping", "nearly parallel", "repeated", "with a zero"])
@pytest.mark.parametrize("kind", ["mixture", "noise"])
def test_coefficients_are_those_of_scipy(basis, kind):
    w = uniform(5, 12)
    if basis == "overlapping":
        w = w + 3
    if basis == "nearly parallel":
        w[1] = w[0] + 1e-4 * uniform(12, seed=1)
    if basis == "repeated":
        w[1] = w[0]
    if basis == "with a zero":
        w[3] = 0
    a = uniform(40, 5, seed=2) @ w if kind == "mixture" else torch.randn(40, 12, dtype=torch.float64)
    a[7] = 0
    solved = nnls.solve_nnls(a, w)
    expected = torch.stack([torch.from_numpy(scipy_nnls(w.T.numpy(), row)[0]) for row in a.numpy()])
    assert bool((solved >= 0).all())
    torch.testing.assert_close(solved @ w, expected @ w, **EXACT)  # the minimum is unique, its coefficients may not be
    if basis in ("random", "overlapping"):
        torch.testing.assert_close(solved, expected, **EXACT)


def test_rows_that_converge_slowly_are_solved_too(monkeypatch):
    monkeypatch.setattr(nnls, "_SWEEPS", 1)
    w, a = uniform(4, 9), uniform(10, 9, seed=3)
    expected = torch.stack([torch.from_numpy(scipy_nnls(w.T.numpy(), row)[0]) for row in a.numpy()])
    torch.testing.assert_close(nnls.solve_nnls(a, w), expected, **EXACT)


# Total Sobol indices


def additive(x):
    return x @ torch.tensor([3.0, 2.0, 1.0, 0.0], dtype=torch.float64), torch.tensor([9, 4, 1, 0]) / 14


def multiplicative(x):
    """The factors 1 + c (x - 1/2) have mean 1 and variance c^2 / 12."""
    c = torch.tensor([2.0, 1.0, 0.5], dtype=torch.float64)
    variances = c**2 / 12
    total = (1 + variances).prod()
    expected = variances * total / (1 + variances) / (total - 1)
    return (1 + c * (x - 0.5)).prod(-1), expected


def ishigami(x):
    a, b = 7.0, 0.1
    x1, x2, x3 = (2 * torch.pi * (x - 0.5)).unbind(-1)
    first = 0.5 * (1 + b * torch.pi**4 / 5) ** 2
    second, both = a**2 / 8, b**2 * torch.pi**8 * 8 / 225
    expected = torch.tensor([first + both, second, both]) / (first + second + both)
    return x1.sin() + a * x2.sin() ** 2 + b * x3**4 * x1.sin(), expected


@pytest.mark.parametrize("sequence", ["sobol", "halton"])
@pytest.mark.parametrize(("function", "factors"), [(additive, 4), (multiplicative, 3), (ishigami, 3)])
def test_total_indices_are_those_of_closed_forms(function, factors, sequence):
    values, expected = function(sobol.jansen_design(factors, 4096, sequence, seed=1))
    indices = sobol.total_indices(values, factors)
    torch.testing.assert_close(indices, expected.double(), rtol=0, atol=0.01)


def test_known_totals_of_ishigami():
    _, expected = ishigami(torch.zeros(1, 3, dtype=torch.float64))
    torch.testing.assert_close(expected.float(), torch.tensor([0.5576, 0.4424, 0.2437]), rtol=0, atol=1e-4)


def test_errors_shrink_with_the_number_of_designs():
    errors = []
    for designs in (16, 256, 4096):
        runs = [ishigami(sobol.jansen_design(3, designs, seed=seed)) for seed in range(8)]
        errors.append(max(float((sobol.total_indices(v, 3) - e).abs().max()) for v, e in runs))
    assert errors[0] > 4 * errors[1] > 16 * errors[2]


def test_the_design_replaces_one_column_at_a_time():
    points = sobol.jansen_design(3, 8).unflatten(0, (4, 8))
    for factor in range(3):
        changed = (points[1 + factor] != points[0]).any(0)
        assert changed.tolist() == [i == factor for i in range(3)]


def test_designs_depend_on_the_seed_alone():
    first = sobol.jansen_design(3, 8, "halton", 5)
    torch.rand(1)
    np.random.rand()  # noqa: NPY002
    assert torch.equal(first, sobol.jansen_design(3, 8, "halton", 5))
    assert not torch.equal(first, sobol.jansen_design(3, 8, "halton", 6))


def test_constant_functions_have_no_indices():
    scores = torch.stack([torch.full((32,), 0.1), torch.rand(32)])
    indices = sobol.total_indices(scores, 3)
    assert indices.isnan().tolist() == [[True] * 3, [False] * 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, 12), "power of two for the Sobol sequence, got 12: pass 16"),
        ((3, 1), "designs must be an integer >= 2, got 1"),
        ((3, 8, "latin"), "one of 'sobol', 'halton', got 'latin'"),
        ((3, 8, "sobol", -1), "seed must be an integer >= 0, got -1"),
    ],
)
def test_wrong_designs_are_refused(arguments, message):
    with pytest.raises(InvalidInput, match=message):
        sobol.jansen_design(*arguments)


# Planted factors


def matched_cosines(found, planted):
    """Cosine of each planted factor with the found one that the best matching assigns."""
    cosines = nn.functional.normalize(planted, dim=1) @ nn.functional.normalize(found, dim=1).T
    return cosines[linear_sum_assignment(-cosines)]


def planted_images(sides=(16, 16), patch=2, images=8):
    """Images of 12 channels whose patches are sparse non-negative mixtures of four factors, with a little noise."""
    w = uniform(4, 12) * (uniform(4, 12, seed=1) < 0.5)
    cells = [side // patch for side in sides]
    u = uniform(images, 4, *cells, seed=2) * (uniform(images, 4, *cells, seed=3) < 0.5)
    u = u.repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    x = torch.einsum("bkhw,kd->bdhw", u, w)
    return x + 0.01 * uniform(*x.shape, seed=4), w


def reader(channels=12, classes=3):
    """A network whose ReLU returns the image itself."""
    head = nn.Linear(channels, classes, dtype=torch.float64)
    return nn.Sequential(nn.Identity(), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


@pytest.mark.parametrize("seed", [0, 1])
def test_planted_factors_are_found_at_positions(seed):
    x, w = planted_images()
    found = plugin.find_concepts(Explainer(reader()), x, 4, layer="1", seed=seed, samples="positions")
    assert bool((matched_cosines(found.basis, w) > 0.95).all())
    assert found.reconstruction_error < 0.02


def test_planted_factors_are_found_in_crops():
    x, w = planted_images(sides=(40, 40), patch=8, images=12)
    found = plugin.find_concepts(Explainer(reader()), x, 4, layer="1", crop=0.15)
    assert bool((matched_cosines(found.basis, w) > 0.95).all())


def test_too_few_concepts_leave_an_error():
    x, _ = planted_images()
    errors = [
        plugin.find_concepts(Explainer(reader()), x, k, layer="1", samples="positions").reconstruction_error
        for k in (1, 2, 3, 4)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] > 5 * errors[3]
