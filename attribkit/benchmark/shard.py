"""The images of a shard as a model gets them, and the truth about them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attribkit.core.errors import AttribkitError
from attribkit.core.hooks import frozen
from attribkit.core.shapes import Images
from attribkit.core.targets.logits import ClassLogit, Predicted
from attribkit.core.targets.target import Target
from attribkit.core.truth import Truth
from attribkit.datasets import Prepared, prepare
from attribkit.explainer import Explainer

LeftOut = dict[str, str]  # by the ids of images, why they cannot be explained


@dataclass(frozen=True, eq=False)
class Shard:
    """Images that are explained together."""

    samples: Sequence[Prepared]
    x: Images
    classes: tuple[int, ...]  # for which they are explained

    @property
    def target(self) -> ClassLogit:
        """The classes as what is explained."""
        return ClassLogit(self.classes)

    @property
    def ids(self) -> list[str]:
        """Of the samples."""
        return [sample.id for sample in self.samples]

    def truth(self) -> Truth:
        """Where the objects are; nowhere, where nobody told."""
        mask = torch.zeros(len(self.samples), *self.x.shape[2:], dtype=torch.bool)
        pixel = torch.ones(len(self.samples), self.x.ndim - 2)
        for place, sample in enumerate(self.samples):
            pixel[place] = sample.pixel
            if sample.mask is not None:
                mask[place] = sample.mask
        return Truth(mask.to(self.x.device), pixel.to(self.x.device))


def read_samples(data: Any, images: Iterable[int], preprocessing: Any) -> tuple[list[Prepared], LeftOut]:
    """The samples at these places of the data set, prepared, and those that cannot be."""
    samples, left_out = [], {}
    for place in images:
        sample = data[place]
        try:
            samples.append(prepare(sample, preprocessing))
        except Exception as error:  # an image that cannot be read costs no other its place
            left_out[sample.id] = told(error)
    return samples, left_out


def asked_shard(samples: Sequence[Prepared], explainer: Explainer, wanted: str) -> tuple[Shard, LeftOut]:
    """The samples with the class that each is explained for, by one forward, and those whose scores are not finite.

    wanted: "label", that of the data, or "predicted"; a sample without a label is explained for the predicted class.
    """
    some = next(explainer.model.module.parameters())
    if not samples:
        return Shard([], some.new_empty(0, 1, 1, 1), ()), {}
    x = torch.stack([sample.x for sample in samples]).to(some)
    predicted, finite = _predicted(explainer, x)
    kept = [place for place, is_finite in enumerate(finite.tolist()) if is_finite]
    left_out = {
        sample.id: "The model's scores are not finite." for place, sample in enumerate(samples) if place not in kept
    }
    labels = [samples[place].label if wanted == "label" else None for place in kept]
    classes = (predicted[place] if label is None else label for place, label in zip(kept, labels, strict=True))
    shard = Shard([samples[place] for place in kept], x[kept], tuple(classes))
    return shard, left_out


def told(error: Exception) -> str:
    """An error in a sentence, with its kind where it is not one of ours."""
    return str(error) if isinstance(error, AttribkitError) else f"{type(error).__name__}: {error}"


def _predicted(explainer: Explainer, x: Images) -> tuple[list[int], Tensor]:
    """The class that the model scores highest, and whether that score is finite."""
    with frozen(explainer.model.module):
        model = explainer.model.explaining(x)
        question: Target = Predicted()
        scores = model.score(x, question)
        meant = model.resolved(question)
    assert isinstance(meant, ClassLogit)
    return list(meant.index), scores.isfinite()
