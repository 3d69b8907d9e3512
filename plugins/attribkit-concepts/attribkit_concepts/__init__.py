"""Concepts of a layer for attribkit: discovery by factorisation as in CRAFT, and tests with examples as in TCAV."""

from .concepts import Concepts, Crop
from .discovery import find_concepts
from .importance import Importance
from .sensitivity import ConceptSensitivity
from .sobol import total_indices
from .tcav import Tcav, tcav

__all__ = ["ConceptSensitivity", "Concepts", "Crop", "Importance", "Tcav", "find_concepts", "tcav", "total_indices"]
