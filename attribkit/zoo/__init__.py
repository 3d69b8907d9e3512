"""The embedded default: scenes whose truth is known and two models trained on them, so that everything runs offline."""

from attribkit.zoo.models import ARCHITECTURES, build, load_zoo_model
from attribkit.zoo.scenes import SHAPES, SIDE, Scene, SceneObject, scene, scenes

__all__ = ["ARCHITECTURES", "SHAPES", "SIDE", "Scene", "SceneObject", "build", "load_zoo_model", "scene", "scenes"]
