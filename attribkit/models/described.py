"""Models that describe themselves: any module whose attribute ``spec`` is a ModelSpec."""

from typing import Any

from attribkit.core.spec import ModelSpec


def spec(model: Any) -> ModelSpec | None:
    """Take the model at its word."""
    own = getattr(model, "spec", None)
    return own if isinstance(own, ModelSpec) else None
