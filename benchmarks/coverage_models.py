"""The architectures of the coverage table: all modules of timm and all builders of torchvision."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import timm
import torch
import torchvision
from environment import RESULTS
from torch import nn

from attribkit import Box, Region

_SURVEY = RESULTS / "timm_architectures.json"
_GROUPS = {  # torchvision's builders: their module and the size of their images
    "classification": (torchvision.models, (3, 224, 224)),
    "quantization": (torchvision.models.quantization, (3, 224, 224)),
    "segmentation": (torchvision.models.segmentation, (3, 224, 224)),
    "detection": (torchvision.models.detection, (3, 320, 320)),
    "video": (torchvision.models.video, (3, 16, 112, 112)),
    "optical_flow": (torchvision.models.optical_flow, (3, 128, 128)),
}
_SIZES = {  # by prefix of the builder's name
    "inception_v3": (3, 299, 299),
    "mvit": (3, 16, 224, 224),
    "s3d": (3, 16, 224, 224),
    "swin3d": (3, 8, 112, 112),
}
_OPTIONS: dict[str, dict[str, Any]] = {  # smaller images for timm's architectures that are built for large ones
    "deepseek_vit": {"img_size": 210},
    "gemma4_vit": {"img_size": 192},
    "qwen3_vit": {"img_size": 224},
}
_SMALLER = {"hieradet_sam2": (3, 224, 224), "csatv2": (3, 256, 256)}  # for architectures that accept any size
_BOX_SCORE_THRESH = ("fasterrcnn", "keypointrcnn", "maskrcnn")  # detectors whose threshold has this name


@dataclass(frozen=True)
class Architecture:
    """A model to build."""

    library: str
    family: str  # timm's module or torchvision's group
    name: str
    make: Callable[[], nn.Module]

    def size(self, model: Any) -> tuple[int, ...]:
        """Return the (c, *space) of the model's images; model: as built, with timm's attributes."""
        if self.library == "timm":
            side = _OPTIONS.get(self.family, {}).get("img_size")
            return (3, side, side) if side else _SMALLER.get(self.family, tuple(model.pretrained_cfg["input_size"]))
        special = [size for prefix, size in _SIZES.items() if self.name.startswith(prefix)]
        return special[0] if special else _GROUPS[self.family][1]

    def question(self, x: torch.Tensor) -> dict[str, Any]:
        """Return target and inputs: the predicted class, or a target that suits the task."""
        if self.family == "segmentation":
            return {"target": Region(1, torch.ones(1, *x.shape[2:], dtype=torch.bool, device=x.device))}
        if self.family == "detection":
            return {"target": Box((0, 0, x.shape[-1], x.shape[-2]))}
        if self.family == "optical_flow":
            return {"target": _mean_square_flow, "inputs": {"image2": x.roll(8, -1)}}
        return {}


def architectures(*, every: bool) -> Iterator[Architecture]:
    """Yield all architectures, or the smallest of each module of timm (classifiers first) and all of torchvision."""
    for module, sizes in survey().items():
        by_size = sorted(sizes, key=lambda name: (sizes[name][1] == 0, sizes[name][0]))
        for name in by_size if every else by_size[:1]:
            yield Architecture("timm", module, name, partial(timm.create_model, name, **_OPTIONS.get(module, {})))
    for group, (where, _) in _GROUPS.items():
        for name in torchvision.models.list_models(module=where):
            yield Architecture("torchvision", group, name, partial(_build, name))


def survey() -> dict[str, dict[str, tuple[int, int]]]:
    """Return parameters and classes of each architecture by module of timm; saved once for each version of timm."""
    if _SURVEY.exists() and (saved := json.loads(_SURVEY.read_text()))["timm"] == version("timm"):
        architectures: dict[str, dict[str, tuple[int, int]]] = saved["architectures"]
        return architectures
    sizes = {module: {name: _size(name) for name in timm.list_models(module=module)} for module in timm.list_modules()}
    lines = (f"{json.dumps(module)}: {json.dumps(names)}" for module, names in sizes.items() if names)
    _SURVEY.write_text(f'{{"timm": "{version("timm")}", "architectures": {{\n' + ",\n".join(lines) + "\n}}\n")
    return survey()


def initialise(model: nn.Module, size: tuple[int, ...]) -> nn.Module:
    """Give the model random weights that carry a signal from the image to the score.

    Layers that are initialised with zeros (some heads and residual branches) get small weights. Batch norms get the
    statistics of noise, without which the signal vanishes in a deep random network.
    """
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, nn.Linear | nn.Conv2d) and isinstance(weight, torch.Tensor) and not weight.any():
            nn.init.trunc_normal_(weight, std=0.02)
    model.eval()
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    if norms:
        try:
            with torch.no_grad():
                model(torch.randn(2, *size))
        except (TypeError, ValueError, RuntimeError):  # several inputs, or one value per channel: unchanged
            pass
    return model.train()


def _size(name: str) -> tuple[int, int]:
    with torch.device("meta"):
        model: Any = timm.create_model(name)
    return sum(parameter.numel() for parameter in model.parameters()), model.num_classes or 0


def _mean_square_flow(flows: list[torch.Tensor]) -> torch.Tensor:
    """Return the mean square of the last refinement of an optical flow, (b, 2, h, w)."""
    return flows[-1].square().mean((1, 2, 3))


def _build(name: str) -> nn.Module:
    options: dict[str, Any] = {"weights": None}
    if any(name in torchvision.models.list_models(module=_GROUPS[group][0]) for group in ("segmentation", "detection")):
        options["weights_backbone"] = None
    if name in torchvision.models.list_models(module=torchvision.models.detection):
        threshold = "box_score_thresh" if name.startswith(_BOX_SCORE_THRESH) else "score_thresh"
        options[threshold] = 0.0  # detections of random weights have low scores
        options |= {} if name.startswith("ssd") else {"min_size": 320, "max_size": 320}
    if name.startswith("quantized_"):
        options["quantize"] = True
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = True
    return torchvision.models.get_model(name, **options)
