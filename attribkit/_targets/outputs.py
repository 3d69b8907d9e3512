"""Extraction of class scores, class maps, embeddings, detections and layer outputs from the outputs of models."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from attribkit._core.errors import InvalidInput
from attribkit._core.shapes import LayerMaps
from attribkit._core.tensors import to_device

ClassScores = Float[Tensor, "b classes"]
ClassMaps = Float[Tensor, "b classes *cells"]
Embeddings = Float[Tensor, "b d"]
Link = Literal["softmax", "sigmoid"]  # maps logits to probabilities
Detections = Sequence[Mapping[str, Tensor]]  # boxes (n, 4), labels (n,) and scores (n,) of each image

_LOGITS = ("logits", "logits_per_image")
_MAPS = ("logits", "out")
_EMBEDDINGS = ("image_embeds", "pooler_output")
_DETECTION_KEYS = ("boxes", "labels", "scores")
_FUNCTION_ADVICE = "To score any other output, pass target=function, which returns one score per image, (b,)."


class LayerOutput(NamedTuple):
    """The output of a layer, for a target that scores it instead of the outputs of the model."""

    layer: str  # dotted name
    maps: LayerMaps
    output: Tensor  # the output in the layout of the layer
    notes: tuple[str, ...] = ()  # notes on how the output was read


def class_scores(outputs: Any, images: int | None = None) -> ClassScores:
    """Return the class scores: a tensor, the attribute or key "logits" or "logits_per_image", or the first entry.

    A single output, (b,), becomes (b, 1).

    Args:
        outputs: Outputs of the model.
        images: Number of images, if known. For a single image, axes of length one that the model has squeezed are
            restored: () becomes (1, 1), and (classes,) becomes (1, classes).

    Raises:
        InvalidInput: The outputs do not contain class scores, or contain several candidates.
    """
    scores = _class_tensor(outputs)
    if scores.ndim == 2:
        return scores
    squeezed = images == 1 and scores.ndim == 1
    scores = scores[None] if squeezed else scores.reshape(-1, 1)
    if images not in (None, len(scores)):
        raise InvalidInput(
            f"The model returned {_format_output(outputs, _class_tensor(outputs))} for {images} images instead of "
            f"class scores of shape (b, classes). {_FUNCTION_ADVICE}"
        )
    return scores


def class_maps(outputs: Any, images: int | None = None, axes: int | None = None) -> ClassMaps:
    """Return the maps of class scores: a tensor, the attribute or key "logits" or "out", or the first entry.

    Args:
        outputs: Outputs of the model.
        images: Number of images, if known.
        axes: Number of spatial axes, if known; then a squeezed class axis of length one is restored, and so is the
            squeezed batch axis of a single image.

    Raises:
        InvalidInput: The outputs do not contain such maps.
    """
    maps = _named(outputs, _MAPS)
    if isinstance(maps, Tensor) and axes is not None:
        maps = _with_axes(maps, images, axes)
    if not isinstance(maps, Tensor) or maps.ndim < 3 or (axes is not None and maps.ndim != 2 + axes):
        raise InvalidInput(
            f"The model returned {_format_output(outputs, maps)} instead of maps of class scores (b, classes, *space). "
            "Region requires a segmentation model."
        )
    return maps


def _with_axes(maps: Tensor, images: int | None, axes: int) -> Tensor:
    """Restore the batch axis and the class axis of maps if the model has squeezed them."""
    if images == 1 and maps.ndim in (axes, axes + 1) and maps.shape[: maps.ndim - axes] != (1,):
        return maps[None] if maps.ndim == axes + 1 else maps[None, None]
    return maps.unsqueeze(1) if maps.ndim == axes + 1 else maps


def select_classes(scores: Tensor, index: int | Sequence[int], negative: str = "Binary(0)") -> Tensor:
    """Select a class of each image.

    Args:
        scores: Class scores or maps, (b, classes, ...).
        index: Class index for all images, or one per image.
        negative: How to target the negative class of a model with one output, for the message.

    Returns:
        The scores of the classes, (b, ...).

    Raises:
        InvalidInput: The model does not have a class of this index.
    """
    for item in [index] if isinstance(index, int) else index:
        check_index(item, scores.shape[1], negative)
    if isinstance(index, int):
        return scores[:, index]
    indices = to_device(index, scores.device)[(..., *(None,) * (scores.ndim - 1))]
    return scores.gather(1, indices.expand(-1, 1, *scores.shape[2:])).squeeze(1)


def check_index(index: int, classes: int, negative: str = "Binary(0)") -> None:
    """Check that the model has a class of this index; `negative` is as for `select_classes`."""
    if 0 <= index < classes:
        return
    if classes == 1:
        raise InvalidInput(
            f"The class index {index} is out of range: the model has one output, with index 0. Use index 0 for the "
            f"output itself, or {negative} for its negative class."
        )
    raise InvalidInput(f"The class index {index} is out of range: the model has {classes} classes, 0 to {classes - 1}.")


def read_embedding(outputs: Any) -> Embeddings:
    """Return the embedding of each image, (b, d).

    It is a tensor, the attribute or key "image_embeds" or "pooler_output", or the first entry. A feature map,
    (b, d, *cells), is averaged over its grid cells. Tokens are rejected, since how they represent the image depends on
    the model.

    Raises:
        InvalidInput: The outputs do not contain an embedding or a feature map.
    """
    features = outputs.maps if isinstance(outputs, LayerOutput) else _named(outputs, _EMBEDDINGS)
    if isinstance(features, Tensor) and (
        features.ndim in (2, 4, 5) or (features.ndim > 2 and isinstance(outputs, LayerOutput))
    ):
        return features.flatten(2).mean(2) if features.ndim > 2 else features
    raise InvalidInput(
        f"The model returned {_format_output(outputs, features)} instead of an embedding (b, d) or a feature map "
        "(b, d, *cells). Pass a layer that returns one, as in Similarity(to, layer=...), or target=function."
    )


def is_pooled(outputs: Any) -> bool:
    """Return whether the embedding is the mean of a feature map."""
    features = outputs.maps if isinstance(outputs, LayerOutput) else _named(outputs, _EMBEDDINGS)
    return isinstance(features, Tensor) and features.ndim > 2


def floating_outputs(outputs: Any) -> list[Tensor]:
    """Return the floating-point tensors in the outputs: class scores or an embedding identified by name, else all."""
    named = None if isinstance(outputs, Tensor) else _by_name(outputs, (*_LOGITS, *_EMBEDDINGS))
    return _floats(outputs if named is None else named)


def _floats(outputs: Any) -> list[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs] if outputs.is_floating_point() and outputs.ndim > 0 else []
    if not isinstance(outputs, Mapping | tuple | list):
        return []
    entries = outputs.values() if isinstance(outputs, Mapping) else outputs
    return [tensor for entry in entries for tensor in _floats(entry)]


def read_detections(outputs: Any) -> Detections:
    """Return the detections in each image, in the format of torchvision's detection models."""
    if isinstance(outputs, list) and all(isinstance(e, Mapping) and set(_DETECTION_KEYS) <= e.keys() for e in outputs):
        return outputs
    raise InvalidInput(
        f"The model returned {_format_output(outputs, outputs)} instead of a list of dicts with boxes, labels and "
        "scores. Box requires a detection model in the format of torchvision; for others pass target=function."
    )


def _class_tensor(outputs: Any) -> Tensor:
    """Return the tensor of class scores, (b, classes) or (b,); for a single image it may be (classes,) or ().

    If the outputs contain logits and their probabilities, the logits are returned.
    """
    entries = _entries(outputs)
    scores = _named(outputs, _LOGITS)
    if isinstance(outputs, tuple | list) and not isinstance(_attribute(outputs, _LOGITS), Tensor):
        logits = [entry for entry in entries if find_link(entry, outputs) is not None]
        widths = [entry.shape[1] for entry in entries if entry.ndim == 2]
        if len(logits) == 1:
            scores = logits[0]
        elif len(widths) > 1:
            raise InvalidInput(
                f"The model returned several tensors that could be class scores, with {widths} columns. Pass a "
                "function that selects one as the target, such as target=lambda outputs: outputs[1][:, 3]."
            )
    is_scores = isinstance(scores, Tensor) and scores.ndim <= 2 and scores.is_floating_point()
    if is_scores and (scores.ndim > 0 or len(entries) == 1):  # a scalar among other tensors may be a loss
        return scores  # type: ignore[no-any-return]
    raise InvalidInput(
        f"The model returned {_format_output(outputs, scores)} instead of class scores of shape (b, classes). "
        f"{_advice(outputs, scores)}{_FUNCTION_ADVICE}"
    )


def find_link(logits: Tensor, outputs: Any) -> Link | None:
    """Return the function that maps these logits to probabilities in another output; None if there is none."""
    if logits.ndim == 0:
        return None
    with torch.no_grad():
        for other in _entries(outputs):
            if other is logits or other.shape != logits.shape or other.device != logits.device:
                continue
            if logits.ndim > 1 and logits.shape[1] > 1 and _equal(logits.softmax(1), other):
                return "softmax"
            if _equal(logits.sigmoid(), other):
                return "sigmoid"
    return None


def _equal(first: Tensor, second: Tensor) -> bool:
    """Return whether tensors are equal up to the rounding of the lower precision."""
    tolerance = max(torch.finfo(tensor.dtype).eps for tensor in (first, second)) * 100
    return torch.allclose(first.double(), second.double(), rtol=tolerance, atol=min(tolerance, 1e-2))


def _entries(outputs: Any) -> list[Tensor]:
    """Return the floating-point tensors with at most two axes among the outputs."""
    if isinstance(outputs, Tensor):
        return [outputs]
    entries = outputs.values() if isinstance(outputs, Mapping) else outputs
    if not isinstance(outputs, Mapping | tuple | list):
        return []
    return [entry for entry in entries if isinstance(entry, Tensor) and entry.ndim <= 2 and entry.is_floating_point()]


def _advice(outputs: Any, value: Any) -> str:
    if isinstance(outputs, Mapping) and isinstance(value, type(None)):
        value = _named(outputs, (*_MAPS, *_EMBEDDINGS))
    if isinstance(value, Tensor) and value.ndim == 2:
        return "For an embedding, pass target=Similarity(to) or EmbeddingNorm(). "
    if isinstance(value, Tensor) and value.ndim > 3:
        return "For a segmentation, pass target=Region(class); for an embedding, Similarity(to) or EmbeddingNorm(). "
    if isinstance(outputs, list) and outputs and isinstance(outputs[0], Mapping) and "boxes" in outputs[0]:
        return "For a detection, pass target=Box((x1, y1, x2, y2)). "
    return ""


def _named(outputs: Any, names: Sequence[str]) -> Any:
    """Return the outputs if they are a tensor, else an entry of one of these names, else the first entry."""
    if isinstance(outputs, Tensor):
        return outputs
    value = _by_name(outputs, names)
    if value is None and isinstance(outputs, tuple | list) and outputs:
        value = outputs[0]
    return value


def _by_name(outputs: Any, names: Sequence[str]) -> Any:
    """Return an attribute with one of these names, else a tensor under such a key."""
    value = _attribute(outputs, names)
    if value is None and isinstance(outputs, Mapping):
        value = next((outputs[name] for name in names if isinstance(outputs.get(name), Tensor)), None)
    return value


def _attribute(outputs: Any, names: Sequence[str]) -> Any:
    return next((value for name in names if (value := getattr(outputs, name, None)) is not None), None)


def _format_output(outputs: Any, value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(outputs).__name__


def to_result_dtype(tensor: Tensor, x: Tensor) -> Tensor:
    """Convert a floating-point result to the dtype of the images x, or to float32 if x has half precision.

    Scores, maps and gradients of one call then share a dtype, whatever dtypes the model computes in. Tensors of other
    dtypes, such as indices, are returned unchanged.
    """
    return tensor.to(torch.promote_types(x.dtype, torch.float32)) if tensor.is_floating_point() else tensor


def to_full_precision(tensor: Tensor) -> Tensor:
    """Convert half precision to float32; other dtypes are returned unchanged."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
