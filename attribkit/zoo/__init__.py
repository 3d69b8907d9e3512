"""Generated scenes with known ground truth, and two small models trained on them, for use without a network."""

from collections.abc import Callable
from functools import partial
from importlib.resources import as_file, files

import timm
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import ConvStem, HybridEmbed
from torch import nn

from attribkit._core.errors import UnknownName
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

_CONFIG = {
    "input_size": (3, SIDE, SIDE),
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "interpolation": "bilinear",
    "crop_pct": 1.0,
    "num_classes": len(SHAPES),
    "label_names": SHAPES,
}  # the format of timm's pretrained_cfg


def build_zoo_model(name: str) -> nn.Module:
    """Build an untrained zoo model with a `pretrained_cfg`, as timm's models have it.

    Args:
        name: "cnn" or "vit".

    Raises:
        UnknownName: If the model does not exist.
    """
    if name not in ARCHITECTURES:
        raise UnknownName("zoo model", name, ARCHITECTURES)
    model = ARCHITECTURES[name]()
    model.pretrained_cfg = dict(_CONFIG)  # type: ignore[assignment]
    return model


def load_zoo_model(name: str) -> nn.Module:
    """Load a trained zoo model, in evaluation mode.

    Args:
        name: "cnn" or "vit".

    Raises:
        UnknownName: If the model does not exist.
    """
    model = build_zoo_model(name)
    with as_file(files("attribkit.zoo") / "weights" / f"{name}.safetensors") as path:
        model.load_state_dict(load_file(path))
    return model.eval()


def _cnn() -> nn.Module:
    """Build a residual network of four blocks with global average pooling and a linear layer."""
    return timm.create_model(
        "resnet18", layers=(1, 1, 1, 1), channels=(16, 32, 64, 128), output_stride=16, num_classes=len(SHAPES)
    )


def _vit() -> nn.Module:
    """Build a transformer of three blocks with a class token over 8 by 8 patches from a convolutional stem.

    It has two register tokens (Darcet et al., ICLR 2024). A model of five blocks without registers used background
    patches for global information more often, and Grad-CAM highlighted them.
    """
    stem = ConvStem(depth=4, channels=(16, 32, 64, 96), stride=(2, 2, 2, 2))
    return VisionTransformer(
        img_size=SIDE,
        patch_size=1,
        embed_dim=96,
        depth=3,
        reg_tokens=2,
        num_heads=3,
        num_classes=len(SHAPES),
        embed_layer=partial(HybridEmbed, backbone=stem, proj=False),
    )


ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {"cnn": _cnn, "vit": _vit}
