"""Questions put to as many images at a time as fit into memory."""

import gc
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from attribkit.core.errors import InvalidInput, OutOfMemory
from attribkit.core.layouts import Layout
from attribkit.core.nested import tensors_in
from attribkit.state.snapshot import ModelState
from attribkit.targets.class_outputs import Returned
from attribkit.targets.target import Remark, Target, check_count, handed
from attribkit.tracing.layers import FoundLayers

_OF_ONEDNN = "could not create a primitive"
_OUT_OF_MEMORY = ("can't allocate memory", _OF_ONEDNN)  # on a CPU


class RunsDiffer(Exception):  # no error: several images take another way through the model than one
    """A layer ran more often for these images than for one of them, as where the forward loops over its images."""


class Question:
    """A target put to one chunk of images; keeps what decides its meaning, and what is worth a note.

    returned: what the model returned for so many images, with what is known of its class scores.
    """

    def __init__(self, target: Target, images: slice, returned: Callable[[Any, int], Returned] = Returned) -> None:
        self.target = target.part(images)
        self.images = images.stop - images.start
        self.returned = returned
        self.first = images.start  # of all the images
        self.is_open = target.is_open  # the part of a target may be settled where the whole is not
        self.evidence: list[Tensor] = []
        self.remarks: list[Remark] = []
        self.finite: Tensor | None = None  # whether the scores are, once asked
        self.first_score: Tensor | None = None  # of the first of the images

    def __call__(self, outputs: Any) -> Tensor:
        written = [tensor for tensor in tensors_in(outputs) if not tensor.is_inference()]  # those have no version
        versions = [tensor._version for tensor in written]
        outputs = handed(self.target, self.returned(outputs, self.images))
        scores = self.target(outputs)
        if versions != [tensor._version for tensor in written]:
            raise InvalidInput(
                f"The target {self.target!r} wrote into the model's outputs, which other targets read too: let it work "
                "on a copy, outputs.clone()."
            )
        if scores.shape != (self.images,):
            raise InvalidInput(
                f"The target {self.target!r} gave scores of shape {tuple(scores.shape)} for {self.images} images: give "
                "one score per image, of those that it is shown (large batches are asked about in parts)."
            )
        with torch.no_grad():
            self.evidence = self.target.evidence(outputs) if self.is_open else []
            self.remarks = self.target.remarks(outputs)
            self.finite = scores.isfinite().all()
            self.first_score = scores[:1].detach()
        return scores


Run = Callable[[Tensor, list[Question]], list[Tensor]]


@dataclass
class Learnt:
    """What earlier calls taught about a model."""

    batch_size: int | None  # images at a time; None is all of them
    channels_last: bool  # whether convolutions get their images in the faster memory layout
    images: int = 0  # that went through it
    forwards: dict[Hashable, FoundLayers] = field(default_factory=dict)  # one for each size of images and inputs
    layers: dict[Hashable, FoundLayers] = field(default_factory=dict)  # by the size and what the target adds
    readers: dict[Hashable, Tensor] = field(default_factory=dict)  # the tokens that are read, by the same
    checked: dict[Hashable, Layout | None] = field(default_factory=dict)  # those that shapes suggest, after a look
    diagnoses: dict[Hashable, Any] = field(default_factory=dict)  # by the key of `core.diagnosis`
    state: ModelState | None = None  # of the model, when the first of them was found

    def forget_if_changed(self, module: nn.Module) -> None:
        """Drop what was found before the model was changed."""
        if self.state is None or not self.state.is_unchanged():
            for found in (self.forwards, self.layers, self.readers, self.checked, self.diagnoses):
                found.clear()
            self.state = ModelState(module)

    def from_error(self, error: RuntimeError, x: Tensor) -> bool:
        """Whether the error says how to ask again."""
        if isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY):
            if len(x) == 1 and _OF_ONEDNN in str(error):
                return False  # which it says of much else too
            if len(x) == 1:
                raise OutOfMemory(
                    f"One image of shape {tuple(x.shape[1:])} alone does not fit into the memory of {x.device}: "
                    "use a smaller image, a model of lower precision or another device."
                ) from error
            self.batch_size = len(x) // 2
            return True
        if self.channels_last and "view size is not compatible" in str(error):
            self.channels_last = False
            return True
        return False


def in_chunks(
    run: Run,
    x: Tensor,
    targets: Sequence[Target],
    learnt: Learnt,
    given: Callable[[slice], AbstractContextManager[None]],
    returned: Callable[[Any, int], Returned],
) -> tuple[list[Tensor], list[list[Question]]]:
    """Run the questions on chunks of the images; join the answers, and hand back the questions on each target.

    given: what some of the images go through the model with. returned: as for `Question`.
    """
    for target in targets:
        check_count(target, len(x))
    parts: list[list[Tensor]] = []
    asked: list[list[Question]] = [[] for _ in targets]
    start = 0
    while start < len(x):
        images = slice(start, min(len(x), start + (learnt.batch_size or len(x))))
        questions = [Question(target, images, returned) for target in targets]
        with given(images):
            part = _attempt(run, x[images], questions, learnt)
        if part is not None:
            parts.append(part)
            for earlier, question in zip(asked, questions, strict=True):
                earlier.append(question)
            start = images.stop
    return parts[0] if len(parts) == 1 else [torch.cat(each) for each in zip(*parts, strict=True)], asked


def settled(target: Target, asked: Sequence[Question]) -> Target:
    """What an open target means, by the questions that put it to all of the images."""
    return target.settled([each for question in asked for each in question.evidence])


def remarks(asked: Sequence[Question], *, images: bool) -> list[str]:
    """What the questions on one target left to be told; images: whether of single images too."""
    told: dict[str, list[int]] = {}
    for question in asked:
        for text, where in question.remarks:
            if where is None or images:
                found = [] if where is None else (where.nonzero().flatten() + question.first).tolist()
                if where is None or found:
                    told.setdefault(text, []).extend(found)
    return [f"{text} (images {where})" if where else text for text, where in told.items()]


def _attempt(run: Run, x: Tensor, questions: list[Question], learnt: Learnt) -> list[Tensor] | None:
    """Run, or learn why it could not be run so and return None."""
    try:
        return run(x, questions)
    except RunsDiffer:
        learnt.batch_size = 1
        return None
    except RuntimeError as error:
        if not learnt.from_error(error, x):
            raise
    gc.collect()
    if x.device.type == "cuda":
        torch.cuda.empty_cache()
    return None
