"""Checks of arguments that the functions of this package share."""

from numbers import Integral
from typing import Any

from torch import Tensor

from attribkit import InvalidInput


def check_integer(name: str, value: Any, least: int = 1, advice: str = "") -> int:
    """Return an integer; raise InvalidInput for another value, or one below the least."""
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise InvalidInput(f"{name} must be an integer >= {least}, got {value!r}{advice and ': ' + advice}.")
    return int(value)


def check_fraction(name: str, value: Any) -> float:
    """Return a number between 0 and 1, both excluded; raise InvalidInput for another value."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise InvalidInput(f"{name} must be a number > 0 and < 1, got {value!r}.")
    return float(value)


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise InvalidInput unless the value is one of the choices."""
    if value not in choices:
        raise InvalidInput(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def check_image_batch(name: str, images: Any) -> None:
    """Raise InvalidInput unless the images are a batch of two-dimensional images; the explainer checks the rest."""
    if not isinstance(images, Tensor) or images.ndim != 4 or not len(images):
        got = f"shape {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise InvalidInput(f"{name} must be images of shape (b, c, h, w), at least one, got {got}.")
