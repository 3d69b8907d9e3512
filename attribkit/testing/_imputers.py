"""Conformance checks for imputers."""

from dataclasses import replace

import torch
from torch import Tensor

from attribkit._core.substrates import Imputer
from attribkit.registry import options_of
from attribkit.testing._checks import NotApplicable, raise_first_failure, require
from attribkit.testing._state import advance_generators, plugin_checks

_TOLERANCE = 1e-5  # relative to the largest magnitude of the pixels


def _images_and_mask() -> tuple[Tensor, Tensor]:
    """Return three images of noise, (3, 3, 12, 20), and a mask of removed pixels that differs between them."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 3, 12, 20, generator=generator, dtype=torch.float32, device="cpu")
    removed = torch.zeros(3, 1, 12, 20, dtype=torch.bool, device="cpu")
    for i in range(3):
        removed[i, 0, 2 + i : 7, 4 : 12 + 2 * i] = True
        removed[i, 0, 10, ::3] = True
    return x, removed


IMPUTER_CHECKS = plugin_checks("imputer", lambda _imputer: _images_and_mask())


def check_imputer(imputer: Imputer, x: Tensor | None = None, removed: Tensor | None = None) -> None:
    """Run all conformance checks (IMPUTER_CHECKS) on an imputer until one fails.

    Args:
        imputer: An instance of the imputer.
        x: At least two images that differ, (b, c, *space); None means small images of noise.
        removed: Mask of the removed pixels, bool, (b, 1, *space), some of them in each image; given with `x`.

    Raises:
        ConformanceError: If a check fails, with the name of the check, what it observed and expected, and how to fix
            it.
    """
    subject = () if x is None or removed is None else (x, removed)
    raise_first_failure(IMPUTER_CHECKS, imputer, *subject)


@IMPUTER_CHECKS.add
def check_imputer_arguments_unchanged(imputer: Imputer, x: Tensor, removed: Tensor) -> None:
    """Check that the images and the mask keep their values."""
    images, mask = x.clone(), removed.clone()
    imputer(images, mask)
    require(
        torch.equal(images, x) and torch.equal(mask, removed),
        "the images or the mask were changed",
        "arguments that keep their values",
        "modify a copy: x.clone(), or torch.where(removed, filling, x)",
    )


@IMPUTER_CHECKS.add
def check_imputer_fits_images(imputer: Imputer, x: Tensor, removed: Tensor) -> None:
    """Check the shape, dtype and device of the images, and that they are finite, also if all pixels are removed."""
    for mask in (removed, torch.zeros_like(removed), torch.ones_like(removed)):
        filled = imputer(x, mask)
        require(
            (filled.shape, filled.dtype, filled.device) == (x.shape, x.dtype, x.device)
            and bool(filled.isfinite().all()),
            f"images of shape {tuple(filled.shape)}, dtype {filled.dtype}, device {filled.device}, finite: "
            f"{bool(filled.isfinite().all())}, with {float(mask.float().mean()):.0%} of the pixels removed",
            f"finite images of shape {tuple(x.shape)}, dtype {x.dtype}, on {x.device}",
            "return images like x; fill images that are removed entirely with a constant",
        )


@IMPUTER_CHECKS.add
def check_imputer_keeps_remaining_pixels(imputer: Imputer, x: Tensor, removed: Tensor) -> None:
    """Check that the pixels that are not removed keep their values."""
    changed = ((imputer(x, removed) != x) & ~removed).any(1)
    require(
        not bool(changed.any()),
        f"{int(changed.sum())} pixels that are not removed have other values",
        "all other pixels unchanged",
        "return torch.where(removed, filling, x)",
    )


@IMPUTER_CHECKS.add
def check_imputer_fills_removed_pixels(imputer: Imputer, x: Tensor, removed: Tensor) -> None:
    """Check that removed pixels of noise do not keep their values."""
    kept = ((imputer(x, removed) == x) & removed).all(1)
    require(
        float(kept.sum()) < 0.5 * float(removed.sum()),
        f"{int(kept.sum())} of {int(removed.sum())} removed pixels keep their values",
        "other values at removed pixels",
        "fill the pixels where `removed` is True",
    )


@IMPUTER_CHECKS.add
def check_imputer_ignores_removed_values(imputer: Imputer, x: Tensor, removed: Tensor) -> None:
    """Check that the values of the removed pixels do not influence the result."""
    other = torch.where(removed, 3 - 2 * x, x)
    gap = float((imputer(x, removed) - imputer(other, removed)).abs().max())
    require(
        gap <= _TOLERANCE * float(x.abs().max()),
        f"other values at the removed pixels change the result by {gap:.2g}",
        "the same result: only the remaining pixels are read",
        "compute the filling from the pixels where `removed` is False",
    )


@IMPUTER_CHECKS.add
def check_imputer_images_are_independent(imputer: Imputer, x: Tensor, removed: Tensor) -> None:
    """Check that the result for an image does not depend on the other images, and that masks are broadcast."""
    together = imputer(x, removed)
    limit = _TOLERANCE * float(x.abs().max())
    for i in range(len(x)):
        gap = float((together[i] - imputer(x[i : i + 1], removed[i : i + 1])[0]).abs().max())
        require(
            gap <= limit,
            f"image {i} alone and in a batch differ by {gap:.2g}",
            "the same result: images are independent",
            "compute the filling for each image; seed random numbers without regard to the batch",
        )
    shared = removed[:1]
    gap = float((imputer(x, shared) - imputer(x, shared.expand(len(x), *shared.shape[1:]))).abs().max())
    require(
        gap <= limit,
        f"a mask (1, 1, *space) and the same mask for each image give results that differ by {gap:.2g}",
        "equal results",
        "broadcast the mask over the images",
    )


@IMPUTER_CHECKS.add
def check_imputer_repeats(imputer: Imputer, x: Tensor, removed: Tensor) -> None:
    """Check that two equal calls give equal images, even if the global random number generators have advanced."""
    first = imputer(x, removed)
    before = torch.get_rng_state()
    advance_generators()
    second = imputer(x, removed)
    torch.set_rng_state(before)
    require(
        torch.equal(first, second),
        f"two equal calls differ by {float((first - second).abs().max()):.2g}",
        "equal images",
        "draw random numbers from torch.Generator().manual_seed(self.seed), with the option `seed: Seed = 0`",
    )


@IMPUTER_CHECKS.add
def check_imputer_seed(imputer: Imputer, x: Tensor, removed: Tensor) -> None:
    """Check that another seed gives other images."""
    if "seed" not in options_of(type(imputer)):
        raise NotApplicable("the imputer does not have the option `seed`")
    other = replace(imputer, seed=imputer.seed + 1)  # type: ignore[attr-defined,call-arg,type-var]
    require(
        not torch.equal(imputer(x, removed), other(x, removed)),
        "the same images for two seeds",
        "other images for another seed",
        "seed a generator with self.seed, or remove the option",
    )
