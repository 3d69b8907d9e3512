"""The score of a target for a chunk of images, or as a module, and the batching state between calls."""

import copy
import gc
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from attribkit._core.errors import InvalidInput, OutOfMemory, UnsupportedModel
from attribkit._core.layouts import Layout
from attribkit._core.nested import tensors_in
from attribkit._core.shapes import Images, PerImage
from attribkit._state.snapshot import ModelState
from attribkit._targets.class_outputs import OutputReader, Returned
from attribkit._targets.target import Target, TargetNote, outputs_for
from attribkit._tracing.layers import ModelLayers

_ONEDNN_FAILURE = "could not create a primitive"
_OUT_OF_MEMORY = ("can't allocate memory", _ONEDNN_FAILURE)  # messages of errors on a CPU


class RunsDiffer(Exception):  # internal signal to run the images one by one
    """A layer ran more often for these images than for one of them, for example in a loop over the images."""


class TargetEvaluation:
    """The scores of a target for one chunk of images, with its decision and its notes.

    Args:
        target: Target of all images.
        images: Position of the chunk among all images.
        returned: Wraps the outputs of the model and the number of images for targets that read class scores.
    """

    def __init__(self, target: Target, images: slice, returned: Callable[[Any, int], Returned] = Returned) -> None:
        self.target = target.subset(images)
        self.images = images.stop - images.start
        self.returned = returned
        self.first = images.start
        self.needs_outputs = target.needs_outputs  # stored, since a subset may be resolved when the whole target is not
        self.decision: list[Tensor] = []
        self.notes: list[TargetNote] = []
        self.finite: Tensor | None = None  # whether all scores are finite; None before the first evaluation
        self.first_score: Tensor | None = None  # score of the first image of the chunk

    def __call__(self, outputs: Any) -> Tensor:
        """Score each image of the chunk.

        Args:
            outputs: Outputs of the model for the chunk.

        Returns:
            Scores of shape (b,), in the graph of the outputs.

        Raises:
            InvalidInput: The target wrote into the outputs, or did not return one score per image.
        """
        tensors = [
            tensor for tensor in tensors_in(outputs) if not tensor.is_inference()
        ]  # inference tensors do not have a version counter
        versions = [tensor._version for tensor in tensors]
        outputs = outputs_for(self.target, self.returned(outputs, self.images))
        scores = self.target(outputs)
        if versions != [tensor._version for tensor in tensors]:
            raise InvalidInput(
                f"The target {self.target!r} modified the outputs of the model in place, but other targets read them "
                "too. Modify a copy instead: outputs.clone()."
            )
        if scores.shape != (self.images,):
            raise InvalidInput(
                f"The target {self.target!r} returned scores of shape {tuple(scores.shape)} for {self.images} images; "
                "a target returns one score per image. Large batches are evaluated in chunks, so a function must not "
                "rely on the size of the whole batch."
            )
        with torch.no_grad():
            self.decision = self.target.decision(outputs) if self.needs_outputs else []
            self.notes = self.target.notes(outputs)
            self.finite = scores.isfinite().all()
            self.first_score = scores[:1].detach()
        return scores


Run = Callable[[Tensor, list[TargetEvaluation]], list[Tensor]]  # from images and targets to tensors of rows


@dataclass
class BatchingState:
    """The state kept between calls of a model; shared by all copies of a `BatchedModel`."""

    batch_size: int | None  # images per forward; None means all of them
    channels_last: bool  # whether convolutions use the faster memory layout
    images: int = 0  # number of images that went through the model
    forwards: dict[Hashable, ModelLayers] = field(default_factory=dict)  # keyed by the sizes of images and other inputs
    layers: dict[Hashable, ModelLayers] = field(default_factory=dict)  # keyed by size and target
    query_tokens: dict[Hashable, Tensor] = field(default_factory=dict)  # tokens that the score reads; same key
    checked: dict[Hashable, Layout | None] = field(default_factory=dict)  # verified layouts, keyed by size and layer
    diagnoses: dict[Hashable, Any] = field(default_factory=dict)  # keyed as in `_runs.diagnosis`
    state: ModelState | None = None  # state of the model at the first entry
    reader: OutputReader | None = None  # the reader of the last images

    def forget_if_changed(self, module: nn.Module) -> None:
        """Drop all entries if the model has changed since they were made."""
        if self.state is None or not self.state.is_unchanged():
            for entries in (self.forwards, self.layers, self.query_tokens, self.checked, self.diagnoses):
                entries.clear()
            self.state = ModelState(module)

    def can_retry(self, error: RuntimeError, x: Tensor) -> bool:
        """Adapt to an error in a forward; return whether the chunk can be run again.

        Args:
            error: The error that the forward raised.
            x: The chunk, (b, c, *space).

        Raises:
            OutOfMemory: A single image does not fit into memory.
        """
        if isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in _OUT_OF_MEMORY):
            if len(x) == 1 and _ONEDNN_FAILURE in str(error):
                return False  # oneDNN also uses this message for other failures
            if len(x) == 1:
                raise OutOfMemory(
                    f"One image of shape {tuple(x.shape[1:])} does not fit in the memory of {x.device}. Use a smaller "
                    "image, a lower-precision model or another device."
                ) from error
            self.batch_size = len(x) // 2
            return True
        if self.channels_last and "view size is not compatible" in str(error):
            self.channels_last = False
            return True
        return False


def target_notes(evaluations: Sequence[TargetEvaluation], *, images: bool) -> list[str]:
    """Collect the notes on one target from its chunks.

    Args:
        evaluations: Evaluations of the same target, one per chunk.
        images: Whether to keep notes on single images too.
    """
    notes: dict[str, list[int]] = {}
    for evaluation in evaluations:
        for text, mask in evaluation.notes:
            if mask is None or images:
                positions = [] if mask is None else (mask.nonzero().flatten() + evaluation.first).tolist()
                if mask is None or positions:
                    notes.setdefault(text, []).extend(positions)
    return [f"{text} (images {positions})" if positions else text for text, positions in notes.items()]


def free_memory(device: torch.device) -> None:
    """Release the memory of a failed forward."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


class ScoringModule(nn.Module):
    """A module that maps images, (n, c, *space), to the score of a target for each image, (n,).

    It contains the model as `module`, so that hooks on the layers of the model see every call.

    Args:
        module: The model.
        score: Computes the scores, with their graph.
    """

    def __init__(self, module: nn.Module, score: Callable[[Images], PerImage]) -> None:
        super().__init__()
        self.module = module
        self.training = module.training
        self._score = score

    def forward(self, images: Tensor) -> Tensor:
        return self._score(images)


def deep_copy(module: nn.Module) -> nn.Module:
    """Return a deep copy; raises UnsupportedModel if the module cannot be copied."""
    try:
        return copy.deepcopy(module)
    except Exception as error:
        raise UnsupportedModel(
            f"{type(module).__name__} cannot be copied ({type(error).__name__}: {error}), and a copy of the model is "
            "required here: make copy.deepcopy(model) work, or choose another method or metric."
        ) from error


def without_inplace(module: nn.Module) -> nn.Module:
    """Return a deep copy whose modules do not work in place, such as ``nn.ReLU(inplace=True)``.

    Functions that work in place, such as ``F.relu_``, are not changed.

    Raises:
        UnsupportedModel: The module cannot be copied.
    """
    copied = deep_copy(module)
    for each in copied.modules():
        if getattr(each, "inplace", False) is True:
            each.inplace = False  # type: ignore[assignment]
    return copied
