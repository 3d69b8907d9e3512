"""What models return, read: class scores, maps of classes, embeddings, detections, or what one layer put out."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from attribkit.core.errors import InvalidInput
from attribkit.core.shapes import LayerMaps
from attribkit.core.tensors import to_device

ClassScores = Float[Tensor, "b classes"]
ClassMaps = Float[Tensor, "b classes *cells"]
Embeddings = Float[Tensor, "b d"]
Link = Literal["softmax", "sigmoid"]  # from logits to probabilities
Detections = Sequence[Mapping[str, Tensor]]  # for each image its boxes (n, 4), labels (n,) and scores (n,)

_LOGITS = ("logits", "logits_per_image")
_MAPS = ("logits", "out")
_EMBEDDINGS = ("image_embeds", "pooler_output")
_OF_A_DETECTION = ("boxes", "labels", "scores")


class LayerOutput(NamedTuple):
    """What a layer put out, for a target that scores it instead of what the model returns."""

    layer: str  # dotted name
    maps: LayerMaps
    output: Tensor  # the same, as the layer has it
    notes: tuple[str, ...] = ()  # how it was read


def class_scores(outputs: Any, images: int | None = None) -> ClassScores:
    """The scores of the classes: a tensor, ``.logits``, ``.logits_per_image``, such a key, or a first entry.

    One output, (b,), becomes (b, 1). images: how many the model was given; for a single one, axes of length one that
    the model squeezed away are put back: () becomes (1, 1), and (classes,) becomes (1, classes).
    """
    scores = _class_tensor(outputs)
    if scores.ndim == 2:
        return scores
    squeezed = images == 1 and scores.ndim == 1
    scores = scores[None] if squeezed else scores.reshape(-1, 1)
    if images not in (None, len(scores)):
        raise InvalidInput(
            f"The model returned {_got(outputs, _class_tensor(outputs))} for {images} images, not class scores of "
            "shape (b, classes): target=function turns anything that a model returns into one score per image."
        )
    return scores


def class_maps(outputs: Any, images: int | None = None, axes: int | None = None) -> ClassMaps:
    """The scores of the classes at each place: a tensor, ``.logits``, the key "logits" or "out", or a first entry.

    images: how many the model was given. axes: of the images' space; where it is known, maps whose axis of classes, of
    length one, was squeezed away get it back, and so does the batch axis of a single image.
    """
    maps = _named(outputs, _MAPS)
    if isinstance(maps, Tensor) and axes is not None:
        maps = _with_axes(maps, images, axes)
    if not isinstance(maps, Tensor) or maps.ndim < 3 or (axes is not None and maps.ndim != 2 + axes):
        raise InvalidInput(
            f"The model returned {_got(outputs, maps)}, no maps of class scores (b, classes, *space): a Region is for "
            "segmentation models."
        )
    return maps


def _with_axes(maps: Tensor, images: int | None, axes: int) -> Tensor:
    """Maps with the axes of the batch and of the classes, where the model squeezed them away."""
    if images == 1 and maps.ndim in (axes, axes + 1) and maps.shape[: maps.ndim - axes] != (1,):
        return maps[None] if maps.ndim == axes + 1 else maps[None, None]
    return maps.unsqueeze(1) if maps.ndim == axes + 1 else maps


def select_classes(scores: Tensor, index: int | Sequence[int], negative: str = "Binary(0)") -> Tensor:
    """Each image's class out of (b, classes, ...): (b, ...); index: a class, or one for each image.

    negative: how the negative side of a model with one output is asked for.
    """
    for each in [index] if isinstance(index, int) else index:
        check_index(each, scores.shape[1], negative)
    if isinstance(index, int):
        return scores[:, index]
    own = to_device(index, scores.device)[(..., *(None,) * (scores.ndim - 1))]
    return scores.gather(1, own.expand(-1, 1, *scores.shape[2:])).squeeze(1)


def check_index(index: int, classes: int, negative: str = "Binary(0)") -> None:
    """Refuse the index of a class that the model does not have; negative: as for `picked`."""
    if 0 <= index < classes:
        return
    if classes == 1:
        raise InvalidInput(
            f"There is no class {index}: the model has one output, whose index is 0. Use index 0 for the output "
            f"itself, or {negative} for its negative side."
        )
    raise InvalidInput(f"There is no class {index}: the model has {classes} classes, 0 to {classes - 1}.")


def embedding(outputs: Any) -> Embeddings:
    """What the model makes of each image as a whole: a tensor, ``.image_embeds``, ``.pooler_output`` or a first entry.

    A map, (b, d, *cells), is averaged over its cells. Tokens are refused: which of them speak for the image is the
    model's own affair.
    """
    found = outputs.maps if isinstance(outputs, LayerOutput) else _named(outputs, _EMBEDDINGS)
    if isinstance(found, Tensor) and (found.ndim in (2, 4, 5) or (found.ndim > 2 and isinstance(outputs, LayerOutput))):
        return found.flatten(2).mean(2) if found.ndim > 2 else found
    raise InvalidInput(
        f"The model returned {_got(outputs, found)}, no embedding of shape (b, d) nor a map (b, d, *cells): name the "
        "layer that puts one out, as in Similarity(to, layer=...), or pass target=function."
    )


def is_pooled(outputs: Any) -> bool:
    """Whether the embedding is the mean of a map."""
    found = outputs.maps if isinstance(outputs, LayerOutput) else _named(outputs, _EMBEDDINGS)
    return isinstance(found, Tensor) and found.ndim > 2


def every_output(outputs: Any) -> list[Tensor]:
    """The tensors of floats that a model returned: named class scores or a named embedding, else all."""
    named = None if isinstance(outputs, Tensor) else _by_name(outputs, (*_LOGITS, *_EMBEDDINGS))
    return _floats(outputs if named is None else named)


def _floats(outputs: Any) -> list[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs] if outputs.is_floating_point() and outputs.ndim > 0 else []
    entries = outputs.values() if isinstance(outputs, Mapping) else outputs
    return [each for entry in entries for each in _floats(entry)] if isinstance(outputs, Mapping | tuple | list) else []


def detections(outputs: Any) -> Detections:
    """What was found in each image, as torchvision's detection models tell it."""
    if isinstance(outputs, list) and all(isinstance(e, Mapping) and set(_OF_A_DETECTION) <= e.keys() for e in outputs):
        return outputs
    raise InvalidInput(
        f"The model returned {_got(outputs, outputs)}, no list of dicts with boxes, labels and scores: a Box is for "
        "detection models like torchvision's; for others pass target=function."
    )


def _class_tensor(outputs: Any) -> Tensor:
    """(b, classes) or (b,), of a single image perhaps (classes,) or (); the logits of a pair with probabilities."""
    entries = _entries(outputs)
    scores = _named(outputs, _LOGITS)
    if isinstance(outputs, tuple | list) and not isinstance(_attribute(outputs, _LOGITS), Tensor):
        pairs = [one for one in entries if find_link(one, outputs) is not None]
        widths = [each.shape[1] for each in entries if each.ndim == 2]
        if len(pairs) == 1:
            scores = pairs[0]
        elif len(widths) > 1:
            raise InvalidInput(
                f"The model returned several tensors that could be class scores, of {widths} columns: pass "
                "target=function, which picks from the model's outputs, as in lambda outputs: outputs[1][:, 3]."
            )
    is_scores = isinstance(scores, Tensor) and scores.ndim <= 2 and scores.is_floating_point()
    if is_scores and (scores.ndim > 0 or len(entries) == 1):  # a number beside others is a loss, say
        return scores  # type: ignore[no-any-return]
    raise InvalidInput(
        f"The model returned {_got(outputs, scores)}, not class scores of shape (b, classes): "
        f"{_advice(outputs, scores)}target=function turns anything that a model returns into one score per image."
    )


def find_link(logits: Tensor, outputs: Any) -> Link | None:
    """How another of the model's outputs is computed from these as their probabilities, if one is."""
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


def _equal(some: Tensor, others: Tensor) -> bool:
    """Whether they are the same but for the rounding of the lower precision."""
    tolerance = max(torch.finfo(each.dtype).eps for each in (some, others)) * 100
    return torch.allclose(some.double(), others.double(), rtol=tolerance, atol=min(tolerance, 1e-2))


def _entries(outputs: Any) -> list[Tensor]:
    """The tensors of floats, of at most two axes, that a model returned side by side."""
    if isinstance(outputs, Tensor):
        return [outputs]
    entries = outputs.values() if isinstance(outputs, Mapping) else outputs
    if not isinstance(outputs, Mapping | tuple | list):
        return []
    return [each for each in entries if isinstance(each, Tensor) and each.ndim <= 2 and each.is_floating_point()]


def _advice(outputs: Any, found: Any) -> str:
    if isinstance(outputs, Mapping) and isinstance(found, type(None)):
        found = _named(outputs, (*_MAPS, *_EMBEDDINGS))
    if isinstance(found, Tensor) and found.ndim == 2:
        return "for an embedding, pass target=Similarity(to) or EmbeddingNorm(); "
    if isinstance(found, Tensor) and found.ndim > 3:
        return "for a segmentation, pass target=Region(class); for an embedding, Similarity(to) or EmbeddingNorm(); "
    if isinstance(outputs, list) and outputs and isinstance(outputs[0], Mapping) and "boxes" in outputs[0]:
        return "for a detection, pass target=Box((x1, y1, x2, y2)); "
    return ""


def _named(outputs: Any, names: Sequence[str]) -> Any:
    """The outputs themselves if they are a tensor, else what is called so in them, else a first entry."""
    if isinstance(outputs, Tensor):
        return outputs
    found = _by_name(outputs, names)
    if found is None and isinstance(outputs, tuple | list) and outputs:
        found = outputs[0]
    return found


def _by_name(outputs: Any, names: Sequence[str]) -> Any:
    """An attribute of that name, or the tensor under such a key."""
    found = _attribute(outputs, names)
    if found is None and isinstance(outputs, Mapping):
        found = next((outputs[name] for name in names if isinstance(outputs.get(name), Tensor)), None)
    return found


def _attribute(outputs: Any, names: Sequence[str]) -> Any:
    return next((found for name in names if (found := getattr(outputs, name, None)) is not None), None)


def _got(outputs: Any, found: Any) -> str:
    return f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(outputs).__name__


def to_result_dtype(tensor: Tensor, x: Tensor) -> Tensor:
    """Convert a floating-point result to the dtype of the images x, or to float32 if x has half precision.

    Scores, maps and gradients of one call then share a dtype, whatever dtypes the model computes in. Tensors of other
    dtypes, such as indices, are returned unchanged.
    """
    return tensor.to(torch.promote_types(x.dtype, torch.float32)) if tensor.is_floating_point() else tensor


def to_full_precision(tensor: Tensor) -> Tensor:
    """In float32 what was computed in half of it."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
