"""The images of a shard as a model gets them, and the truth about them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from traceback import extract_tb
from typing import Any

import torch

import attribkit
from attribkit.core.errors import AttribkitError
from attribkit.core.ground_truth import GroundTruth
from attribkit.core.shapes import Images, PerImage
from attribkit.datasets import Prepared, prepare_sample
from attribkit.explainer import Explainer
from attribkit.state.hooks import frozen
from attribkit.targets.binary import Binary
from attribkit.targets.class_outputs import read_scores
from attribkit.targets.logits import ClassLogit, Predicted
from attribkit.targets.target import Target

_HOME = str(Path(attribkit.__file__).parent)

LeftOut = dict[str, str]  # by the ids of images, why they cannot be explained


@dataclass(frozen=True, eq=False)
class Shard:
    """Images that are explained together."""

    samples: Sequence[Prepared]
    x: Images
    classes: tuple[int, ...]  # for which they are explained
    sides: bool = False  # whether the model has one output, of which the classes 0 and 1 are the sides

    @property
    def target(self) -> ClassLogit | Binary:
        """The classes as what is explained."""
        return Binary(self.classes) if self.sides else ClassLogit(self.classes)

    @property
    def ids(self) -> list[str]:
        """Of the samples."""
        return [sample.id for sample in self.samples]

    def truth(self) -> GroundTruth:
        """Where the objects are; nowhere, where nobody told."""
        mask = torch.zeros(len(self.samples), *self.x.shape[2:], dtype=torch.bool, device="cpu")
        pixel = torch.ones(len(self.samples), self.x.ndim - 2, dtype=torch.float32, device="cpu")
        most = max((len(sample.boxes) for sample in self.samples if sample.boxes is not None), default=0)
        boxes = torch.full((len(self.samples), most, 4), torch.nan, dtype=torch.float32, device="cpu")
        for place, sample in enumerate(self.samples):
            pixel[place] = sample.pixel
            if sample.mask is not None:
                mask[place] = sample.mask
            if sample.boxes is not None:
                boxes[place, : len(sample.boxes)] = sample.boxes
        return GroundTruth(*(each.to(self.x.device) for each in (mask, pixel, boxes)))


def read_samples(data: Any, images: Iterable[int], preprocessing: Any) -> tuple[list[Prepared], LeftOut]:
    """The samples at these places of the data set, prepared, and those that cannot be."""
    samples, left_out = [], {}
    for place in images:
        sample = data[place]
        try:
            samples.append(prepare_sample(sample, preprocessing))
        except Exception as error:  # an image that cannot be read costs no other its place
            left_out[sample.id] = sentence_of(error)
    return samples, left_out


def with_targets(samples: Sequence[Prepared], explainer: Explainer, wanted: str) -> tuple[Shard, LeftOut]:
    """The samples with the class that each is explained for, by one forward, and those whose scores are not finite.

    wanted: "label", that of the data, or "predicted"; a sample without a label is explained for the predicted class.
    """
    some = next(explainer.model.module.parameters())
    if not samples:
        return Shard([], some.new_empty(0, 1, 1, 1), ()), {}
    x = torch.stack([sample.x for sample in samples]).to(some)
    predicted, finite, count = _predicted(explainer, x)
    labels = [sample.label if wanted == "label" else None for sample in samples]
    classes = [guess if label is None else label for guess, label in zip(predicted, labels, strict=True)]
    left_out = {
        sample.id: why
        for sample, is_finite, asked in zip(samples, finite, classes, strict=True)
        if (why := _why_not(is_finite, asked, max(2, count)))
    }
    kept = [place for place, sample in enumerate(samples) if sample.id not in left_out]
    chosen = tuple(classes[place] for place in kept)
    return Shard([samples[place] for place in kept], x[kept], chosen, sides=count == 1), left_out


def sentence_of(error: Exception) -> str:
    """An error in a sentence, with its kind and its place in the code where it is not one of ours."""
    return str(error) if isinstance(error, AttribkitError) else f"{type(error).__name__}: {error}{_place(error)}"


def _place(error: Exception) -> str:
    """The innermost line of code that belongs to no installed package."""
    lines = extract_tb(error.__traceback__)
    own = [line for line in lines if "site-packages" not in line.filename and not line.filename.startswith(_HOME)]
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""


def _why_not(is_finite: bool, asked: int, count: int) -> str:
    """Why an image cannot be explained for a class, if it cannot."""
    if not is_finite:
        return "The model's scores are not finite."
    return "" if 0 <= asked < count else f"There is no class {asked}: the model has {count} classes, from 0."


@dataclass(frozen=True)
class _Classes(Target):
    """How many class scores the model has."""

    @property
    def reads_classes(self) -> bool:
        return True

    def __call__(self, outputs: Any) -> PerImage:
        scores = read_scores(outputs).scores
        return scores.new_full((len(scores),), scores.shape[1], dtype=torch.float64)


def _predicted(explainer: Explainer, x: Images) -> tuple[list[int], list[bool], int]:
    """The class that the model predicts, whether its score is finite, and how many class scores there are.

    Of a model with one output it is the side, 0 or 1.
    """
    with frozen(explainer.model.module):
        model = explainer.model.bind(x)
        count = int(model.score(x[:1], _Classes()))
        question: Target = Binary() if count == 1 else Predicted()
        scores = model.score(x, question)
        meant = model.resolve(question)
    assert isinstance(meant, ClassLogit | Binary)
    assert isinstance(meant.index, tuple)
    return list(meant.index), scores.isfinite().tolist(), count
