"""MACO and feature accentuation for attribkit: images for a unit of a model, in the phases of a Fourier spectrum."""

from attribkit import Visualizer, hookimpl

from .accentuation import FeatureAccentuation, SeedImages
from .importance import transparent_pictures, visualize_with_importance
from .maco import Maco
from .magnitudes import RealImages, magnitude_spectrum

__all__ = [
    "FeatureAccentuation",
    "Maco",
    "RealImages",
    "SeedImages",
    "magnitude_spectrum",
    "transparent_pictures",
    "visualize_with_importance",
]


@hookimpl
def attribkit_visualizers() -> list[type[Visualizer]]:
    return [Maco, FeatureAccentuation]
