"""What a heatmap must pass before the coverage table says "ok"."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attribkit import AttribkitError, Attribution, Explainer

OF_LAYERS = ("gradcam", "gradcam++")
_CLASSES = 10  # a CAM may be zero everywhere for one class of a random model; not for so many
_POSITIONS = ("pos", "relative", "rel_h", "rel_w", "rope", "token_mixer_bias", "attention_bias")  # in parameters' names


@dataclass(frozen=True)
class Cell:
    """What came of one method on one model."""

    status: str  # ok, refused or wrong
    layer: str = ""
    grid: str = ""
    text: str = ""  # of a refusal, or what is wrong


def checked(explainer: Explainer, x: Tensor, method: str, options: dict[str, Any]) -> Cell:
    """Explain an image, and look for what is wrong with the answer; options: the method's, target and inputs."""
    model = explainer.model.module
    before = _fingerprint(model)
    try:
        attribution = _not_all_zero(explainer, x, method, options)
    except AttribkitError as error:
        return Cell("refused", text=str(error))
    except Exception as error:
        return Cell("wrong", text=f"{type(error).__name__}: {error}")
    wrong = [*_wrong(attribution, x, method, whole="target" not in options)]
    if _fingerprint(model) != before:
        wrong.append("the model is not as it was")
    layer = next((note.split("'")[1] for note in attribution.notes if note.startswith("layer=")), "")
    grid = "x".join(map(str, attribution.scores.shape[2:]))
    return Cell("wrong" if wrong else "ok", layer, grid, "; ".join(wrong))


def flipped(model: nn.Module, x: Tensor, methods: tuple[str, ...]) -> dict[str, float]:
    """How much the heatmap of the mirrored image differs from the mirrored heatmap, as a share of its range.

    Asked of a copy of the model in double precision, made symmetric: its kernels the mean of themselves and their
    mirror images, its positional parameters zero. Empty where that does not make its answer the same for both images,
    as with padding or strides of one side only and with shifted windows.
    """
    twin = _symmetric(model)
    for images in (x, nn.functional.pad(x, (0, 1, 0, 1))):
        try:
            if not _same_for_both(twin.float(), images, 1e-3):
                continue
            images = images.double()
            if _same_for_both(twin.double(), images, 1e-9):
                explainer = Explainer(twin)
                with torch.no_grad():
                    target = int(twin(images).argmax())
                return {method: _asymmetry(explainer, images, target, method) for method in methods}
        except Exception:  # another size than the model takes, no double precision, or a refusal that has its own cell
            continue
    return {}


def _same_for_both(model: nn.Module, images: Tensor, tolerance: float) -> bool:
    """Whether the model gives mirrored images the same answer, but others another."""
    with torch.no_grad():
        one, other = model(images), model(images.flip(-1))
        return isinstance(one, Tensor) and bool(
            (one - other).abs().max() <= tolerance * (one - model(images.roll(images.shape[-1] // 3, -1))).abs().max()
        )


def _not_all_zero(explainer: Explainer, x: Tensor, method: str, options: dict[str, Any]) -> Attribution:
    """The attribution; of a CAM that its ReLU cuts to zero everywhere, that of another class, or before the ReLU."""
    attribution = explainer.attribute(x, method, **options)
    if method not in OF_LAYERS or attribution.scores.any():
        return attribution
    if "target" in options:
        return explainer.attribute(x, method, **options, relu=False)
    for other in range(_CLASSES):
        attribution = explainer.attribute(x, method, target=other, **options)
        if attribution.scores.any():
            break
    return attribution


def _wrong(attribution: Attribution, x: Tensor, method: str, *, whole: bool) -> Iterator[str]:
    """What is wrong with an answer; whole: whether the score looks at all of the image, as a box's does not."""
    heatmap, scores = attribution.heatmap(), attribution.scores
    if heatmap.shape != (len(x), *x.shape[2:]):
        yield f"a heatmap of shape {tuple(heatmap.shape)}"
    if not bool(heatmap.isfinite().all()):
        yield "not finite"
    if float(heatmap.max()) == float(heatmap.min()):
        yield "the same everywhere"
    if method not in OF_LAYERS and not method.startswith("attention") and scores.shape[2:] != x.shape[2:]:
        yield f"scores of shape {tuple(scores.shape)}"
    if min(scores.shape[2:]) < 2:
        yield f"a grid of {tuple(scores.shape[2:])}"
    if whole:
        yield from (note for note in attribution.notes if "exactly zero at" in note)


def _fingerprint(model: nn.Module) -> list[Any]:
    """What must not change: every tensor, what it is for, modes and hooks."""
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
            if any(word in name for word in _POSITIONS) and tensor.is_floating_point():
                tensor.zero_()
            elif tensor.ndim in (4, 5):
                tensor.copy_((tensor + tensor.flip(-1)) / 2)
    return twin


def _asymmetry(explainer: Explainer, images: Tensor, target: int, method: str) -> float:
    one = explainer.attribute(images, method, target=target).heatmap()
    other = explainer.attribute(images.flip(-1), method, target=target).heatmap()
    span = float(one.max() - one.min())
    return float((one - other.flip(-1)).abs().max()) / span if span else 0.0
