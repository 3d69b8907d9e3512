"""Generated scenes with known ground truth, and two small models trained on them, for use without a network."""

from attribkit.zoo._models import ARCHITECTURES, build_zoo_model, load_zoo_model
from attribkit.zoo._scenes import SHAPES, SIDE, Scene, SceneObject, scene, scenes

__all__ = [
    "ARCHITECTURES",
    "SHAPES",
    "SIDE",
    "Scene",
    "SceneObject",
    "build_zoo_model",
    "load_zoo_model",
    "scene",
    "scenes",
]
