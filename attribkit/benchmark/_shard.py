"""The images of a shard, prepared for a model, with their targets and ground truth."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from traceback import extract_tb
from typing import Any, cast

import torch

import attribkit
from attribkit._core.errors import AttribkitError
from attribkit._core.ground_truth import GroundTruth
from attribkit._core.shapes import Images, PerImage
from attribkit._explainer import Explainer
from attribkit._state.hooks import frozen
from attribkit._targets.binary import Binary
from attribkit._targets.class_outputs import read_scores
from attribkit._targets.logits import ClassLogit, Predicted
from attribkit._targets.target import Target
from attribkit.datasets import Prepared, prepare_sample

_PACKAGE_FOLDER = str(Path(attribkit.__file__).parent)

SkippedImages = dict[str, str]  # the reason by the id of the image


@dataclass(frozen=True, eq=False)
class Shard:
    """Images that are explained together.

    Args:
        samples: The prepared samples.
        x: Their images as a batch.
        classes: The class that is explained for each image.
        binary: Whether the model has a single output, with the classes 0 and 1.
    """

    samples: Sequence[Prepared]
    x: Images
    classes: tuple[int, ...]
    binary: bool = False

    @property
    def target(self) -> ClassLogit | Binary:
        """The target of the classes."""
        return Binary(self.classes) if self.binary else ClassLogit(self.classes)

    @property
    def ids(self) -> list[str]:
        """The ids of the samples."""
        return [sample.id for sample in self.samples]

    def truth(self) -> GroundTruth:
        """Return masks, points and boxes of the objects; empty ones for samples without annotations."""
        mask = torch.zeros(len(self.samples), *self.x.shape[2:], dtype=torch.bool, device="cpu")
        pixel = torch.ones(len(self.samples), self.x.ndim - 2, dtype=torch.float32, device="cpu")
        most = max((len(sample.boxes) for sample in self.samples if sample.boxes is not None), default=0)
        boxes = torch.full((len(self.samples), most, 4), torch.nan, dtype=torch.float32, device="cpu")
        for index, sample in enumerate(self.samples):
            pixel[index] = sample.pixel
            if sample.mask is not None:
                mask[index] = sample.mask
            if sample.boxes is not None:
                boxes[index, : len(sample.boxes)] = sample.boxes
        return GroundTruth(*(each.to(self.x.device) for each in (mask, pixel, boxes)))


def read_samples(data: Any, images: Iterable[int], preprocessing: Any) -> tuple[list[Prepared], SkippedImages]:
    """Read and prepare the samples with these indices, and return them and those that cannot be prepared."""
    samples, skipped = [], {}
    for index in images:
        sample = data[index]
        try:
            samples.append(prepare_sample(sample, preprocessing))
        except Exception as error:  # an unreadable image must not stop the others
            skipped[sample.id] = format_error(error)
    return samples, skipped


def with_targets(samples: Sequence[Prepared], explainer: Explainer, source: str) -> tuple[Shard, SkippedImages]:
    """Choose the class that is explained for each sample, by one forward, and skip samples without a valid one.

    Args:
        samples: The prepared samples.
        explainer: The explainer of the model.
        source: "label" for the class in the data, or "predicted". A sample without a label is explained for the
            predicted class.
    """
    parameter = next(explainer.model.module.parameters())
    if not samples:
        return Shard([], parameter.new_empty(0, 1, 1, 1), ()), {}
    x = torch.stack([sample.x for sample in samples]).to(parameter)
    predicted, finite, count = _predict(explainer, x)
    labels = [sample.label if source == "label" else None for sample in samples]
    classes = [default if label is None else label for default, label in zip(predicted, labels, strict=True)]
    skipped = {
        sample.id: reason
        for sample, is_finite, index in zip(samples, finite, classes, strict=True)
        if (reason := _skip_reason(is_finite, index, max(2, count)))
    }
    kept = [k for k, sample in enumerate(samples) if sample.id not in skipped]
    chosen = tuple(classes[k] for k in kept)
    return Shard([samples[k] for k in kept], x[kept], chosen, binary=count == 1), skipped


def format_error(error: Exception) -> str:
    """Format an error as a sentence, with its type and location in the code unless it is an AttribkitError."""
    return str(error) if isinstance(error, AttribkitError) else f"{type(error).__name__}: {error}{_location(error)}"


def _location(error: Exception) -> str:
    """Return the innermost line of code outside attribkit and installed packages."""
    frames = [
        frame
        for frame in extract_tb(error.__traceback__)
        if "site-packages" not in frame.filename and not frame.filename.startswith(_PACKAGE_FOLDER)
    ]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""


def _skip_reason(is_finite: bool, index: int, count: int) -> str:
    """Return why an image cannot be explained for a class; an empty string if it can."""
    if not is_finite:
        return "The model's scores are not finite."
    return "" if 0 <= index < count else f"The label must be between 0 and {count - 1}, got {index}."


@dataclass(frozen=True)
class _ClassCount(Target):
    """The number of the model's class scores."""

    @property
    def reads_classes(self) -> bool:
        return True

    def __call__(self, outputs: Any) -> PerImage:
        scores = read_scores(outputs).scores
        return scores.new_full((len(scores),), scores.shape[1], dtype=torch.float64)


def _predict(explainer: Explainer, x: Images) -> tuple[list[int], list[bool], int]:
    """Return the predicted classes, whether their scores are finite, and the number of class scores.

    The class of a model with a single output is 0 or 1.
    """
    with frozen(explainer.model.module):
        model = explainer.model.bind(x)
        count = int(model.score(x[:1], _ClassCount()))
        target: Target = Binary() if count == 1 else Predicted()
        scores = model.score(x, target)
        resolved = cast(ClassLogit | Binary, model.resolve(target))
    classes = cast(tuple[int, ...], resolved.index)  # the outputs have decided the class of each image
    return list(classes), scores.isfinite().tolist(), count
