"""Checks that a heatmap must pass for an "ok" in the coverage table."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attribkit import AttribkitError, Attribution, Explainer

LAYER_METHODS = ("gradcam", "gradcam++")
_CLASSES = 10  # tried in turn: a CAM of a random model may be zero everywhere for one class, but not for ten
_POSITIONAL = (
    "pos",
    "relative",
    "rel_h",
    "rel_w",
    "rope",
    "token_mixer_bias",
    "attention_bias",
)  # in names


@dataclass(frozen=True)
class Cell:
    """The outcome of one method on one model."""

    status: str  # ok, refused or wrong
    layer: str = ""
    grid: str = ""
    text: str = ""  # of a refusal, or the defect


def check_method(explainer: Explainer, x: Tensor, method: str, options: dict[str, Any]) -> Cell:
    """Explain an image and check the result; options: those of the method, target and inputs."""
    model = explainer.model.module
    before = _fingerprint(model)
    try:
        attribution = _nonzero_attribution(explainer, x, method, options)
    except AttribkitError as error:
        return Cell("refused", text=str(error))
    except Exception as error:
        return Cell("wrong", text=f"{type(error).__name__}: {error}")
    defects = [*_defects(attribution, x, method, whole="target" not in options)]
    if _fingerprint(model) != before:
        defects.append("the model was changed")
    layer = next((note.split("'")[1] for note in attribution.notes if note.startswith("layer=")), "")
    grid = "x".join(map(str, attribution.scores.shape[2:]))
    return Cell("wrong" if defects else "ok", layer, grid, "; ".join(defects))


def mirror_asymmetry(model: nn.Module, x: Tensor, methods: tuple[str, ...]) -> dict[str, float]:
    """Return the difference of the heatmap of the mirrored image from the mirrored heatmap, as a fraction of its range.

    Uses a symmetric copy of the model in double precision: kernels are averaged with their mirror images, positional
    parameters are zero. Empty if the copy's outputs still differ between an image and its mirror image, as with
    padding or strides on one side only and with shifted windows.
    """
    twin = _symmetric(model)
    for images in (x, nn.functional.pad(x, (0, 1, 0, 1))):
        try:
            if not _is_symmetric(twin.float(), images, 1e-3):
                continue
            images = images.double()
            if _is_symmetric(twin.double(), images, 1e-9):
                explainer = Explainer(twin)
                with torch.no_grad():
                    target = int(twin(images).argmax())
                return {method: _asymmetry(explainer, images, target, method) for method in methods}
        except Exception:  # unsupported size or dtype, or a refusal, which has its own cell
            continue
    return {}


def _is_symmetric(model: nn.Module, images: Tensor, tolerance: float) -> bool:
    """Return whether the outputs are the same for mirrored images, but not for shifted ones."""
    with torch.no_grad():
        one, other = model(images), model(images.flip(-1))
        return isinstance(one, Tensor) and bool(
            (one - other).abs().max() <= tolerance * (one - model(images.roll(images.shape[-1] // 3, -1))).abs().max()
        )


def _nonzero_attribution(explainer: Explainer, x: Tensor, method: str, options: dict[str, Any]) -> Attribution:
    """Attribute; if the ReLU of a CAM makes it zero everywhere, use another class, or the map before the ReLU."""
    attribution = explainer.attribute(x, method, **options)
    if method not in LAYER_METHODS or attribution.scores.any():
        return attribution
    if "target" in options:
        return explainer.attribute(x, method, **options, relu=False)
    for other in range(_CLASSES):
        attribution = explainer.attribute(x, method, target=other, **options)
        if attribution.scores.any():
            break
    return attribution


def _defects(attribution: Attribution, x: Tensor, method: str, *, whole: bool) -> Iterator[str]:
    """Yield the defects of a result; whole: the score depends on the whole image, unlike that of a box."""
    heatmap, scores = attribution.heatmap(), attribution.scores
    if heatmap.shape != (len(x), *x.shape[2:]):
        yield f"a heatmap of shape {tuple(heatmap.shape)}"
    if not bool(heatmap.isfinite().all()):
        yield "not finite"
    if float(heatmap.max()) == float(heatmap.min()):
        yield "the same everywhere"
    if method not in LAYER_METHODS and not method.startswith("attention") and scores.shape[2:] != x.shape[2:]:
        yield f"scores of shape {tuple(scores.shape)}"
    if min(scores.shape[2:]) < 2:
        yield f"a grid of {tuple(scores.shape[2:])}"
    if whole:
        yield from (note for note in attribution.notes if "exactly zero at" in note)


def _fingerprint(model: nn.Module) -> list[Any]:
    """Return what must not change: tensors, modes and hooks."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [
        [(name, id(t), t._version, t.requires_grad, t.grad is None, t.sum().item()) for name, t in tensors.items()],
        [(name, m.training, *(len(getattr(m, each)) for each in hooks)) for name, m in model.named_modules()],
    ]


def _symmetric(model: nn.Module) -> nn.Module:
    twin = deepcopy(model).eval()
    with torch.no_grad():
        for name, tensor in [*twin.named_parameters(), *twin.named_buffers()]:
            if any(word in name for word in _POSITIONAL) and tensor.is_floating_point():
                tensor.zero_()
            elif tensor.ndim in (4, 5):
                tensor.copy_((tensor + tensor.flip(-1)) / 2)
    return twin


def _asymmetry(explainer: Explainer, images: Tensor, target: int, method: str) -> float:
    one = explainer.attribute(images, method, target=target).heatmap()
    other = explainer.attribute(images.flip(-1), method, target=target).heatmap()
    span = float(one.max() - one.min())
    return float((one - other.flip(-1)).abs().max()) / span if span else 0.0
