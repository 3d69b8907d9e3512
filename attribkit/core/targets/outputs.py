"""What models return, read: class scores, maps of classes, embeddings, detections, or what one layer put out."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from attribkit.core.devices import sent
from attribkit.core.errors import InvalidInput
from attribkit.core.shapes import LayerMaps

ClassScores = Float[Tensor, "b classes"]
ClassMaps = Float[Tensor, "b classes *cells"]
Embeddings = Float[Tensor, "b d"]
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


def class_scores(outputs: Any) -> ClassScores:
    """The scores of the classes: a tensor, ``.logits``, ``.logits_per_image``, such a key, or a first entry.

    One logit, (b, 1) or (b,), becomes the two of classes 0 and 1 whose softmax is the logit's sigmoid: minus and plus
    its half.
    """
    scores = _class_tensor(outputs)
    return _two_sided(scores.reshape(len(scores), 1)) if has_one_logit(outputs) else scores


def has_one_logit(outputs: Any) -> bool:
    """Whether the class scores are a single logit, of two classes."""
    scores = _class_tensor(outputs)
    return scores.ndim == 1 or scores.shape[1] == 1


def class_maps(outputs: Any) -> ClassMaps:
    """The scores of the classes at each place: a tensor, ``.logits``, the key "logits" or "out", or a first entry.

    One logit for each place becomes two, as in `class_scores`.
    """
    maps = _named(outputs, _MAPS)
    if not isinstance(maps, Tensor) or maps.ndim < 3:
        raise InvalidInput(
            f"The model returned {_got(outputs, maps)}, no maps of class scores (b, classes, *space): a Region is for "
            "segmentation models."
        )
    return _two_sided(maps) if maps.shape[1] == 1 else maps


def has_one_map(outputs: Any) -> bool:
    """Whether the class maps are of a single logit, of two classes."""
    return bool(_named(outputs, _MAPS).shape[1] == 1)


def picked(scores: Tensor, index: int | Sequence[int]) -> Tensor:
    """Each image's class out of (b, classes, ...): (b, ...); index: a class, or one for each image."""
    classes = scores.shape[1]
    wrong = [i for i in ([index] if isinstance(index, int) else index) if not 0 <= i < classes]
    if wrong:
        raise InvalidInput(f"There is no class {wrong[0]}: the model has {classes} classes, 0 to {classes - 1}.")
    if isinstance(index, int):
        return scores[:, index]
    own = sent(index, scores.device)[(..., *(None,) * (scores.ndim - 1))]
    return scores.gather(1, own.expand(-1, 1, *scores.shape[2:])).squeeze(1)


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


def detections(outputs: Any) -> Detections:
    """What was found in each image, as torchvision's detection models tell it."""
    if isinstance(outputs, list) and all(isinstance(e, Mapping) and set(_OF_A_DETECTION) <= e.keys() for e in outputs):
        return outputs
    raise InvalidInput(
        f"The model returned {_got(outputs, outputs)}, no list of dicts with boxes, labels and scores: a Box is for "
        "detection models like torchvision's; for others pass target=function."
    )


def _class_tensor(outputs: Any) -> Tensor:
    """(b, classes) or (b,)."""
    if isinstance(outputs, tuple | list) and not isinstance(_attribute(outputs, _LOGITS), Tensor):
        widths = [each.shape[1] for each in outputs if isinstance(each, Tensor) and each.ndim == 2]
        if len(widths) > 1:
            raise InvalidInput(
                f"The model returned several tensors that could be class scores, of {widths} columns: pass "
                "target=function, which picks from the model's outputs, as in lambda outputs: outputs[1][:, 3]."
            )
    scores = _named(outputs, _LOGITS)
    if isinstance(scores, Tensor) and scores.ndim in (1, 2) and scores.is_floating_point():
        return scores
    raise InvalidInput(
        f"The model returned {_got(outputs, scores)}, not class scores of shape (b, classes): "
        f"{_advice(outputs, scores)}target=function turns anything that a model returns into one score per image."
    )


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
    found = _attribute(outputs, names)
    if found is None and isinstance(outputs, Mapping):
        found = next((outputs[name] for name in names if isinstance(outputs.get(name), Tensor)), None)
    if found is None and isinstance(outputs, tuple | list) and outputs:
        found = outputs[0]
    return found


def _attribute(outputs: Any, names: Sequence[str]) -> Any:
    return next((found for name in names if (found := getattr(outputs, name, None)) is not None), None)


def _two_sided(logit: Tensor) -> Tensor:
    """(b, 1, ...) to (b, 2, ...)."""
    return torch.cat([-logit / 2, logit / 2], 1)


def _got(outputs: Any, found: Any) -> str:
    return f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(outputs).__name__


def precise(tensor: Tensor) -> Tensor:
    """In float32 what was computed in half of it."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
