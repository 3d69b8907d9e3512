"""Images and what annotators say of them, for benchmarks."""

from dataclasses import fields
from typing import Any

from attribkit.core.errors import InvalidInput, UnknownName
from attribkit.datasets.coco import Coco
from attribkit.datasets.dataset import Dataset
from attribkit.datasets.folders import ImageFolder, ImageNet
from attribkit.datasets.geometry import Prepared, prepare_sample
from attribkit.datasets.given import BoxedImages, ItemDataset
from attribkit.datasets.oxford_pets import OxfordPets
from attribkit.datasets.pascal_voc import PascalVOC
from attribkit.datasets.sample import ImageSource, MaskSource, Sample, Size
from attribkit.datasets.scenes import Scenes, grid_mosaics

__all__ = [
    "DATASETS",
    "BoxedImages",
    "Coco",
    "Dataset",
    "ImageFolder",
    "ImageNet",
    "ImageSource",
    "ItemDataset",
    "MaskSource",
    "OxfordPets",
    "PascalVOC",
    "Prepared",
    "Sample",
    "Scenes",
    "Size",
    "grid_mosaics",
    "make_dataset",
    "prepare_sample",
]

DATASETS: dict[str, type[Dataset]] = {
    each.kind: each for each in (Scenes, ImageFolder, ImageNet, PascalVOC, Coco, OxfordPets, BoxedImages, ItemDataset)
}


def make_dataset(kind: str, **options: Any) -> Dataset:
    """A data set by its kind; options are its fields. Its annotations are read, so that what is broken is told now.

    Raises UnknownName, InvalidInput for options that do not fit, and UnreadableFile for what is missing or broken.
    """
    if kind not in DATASETS:
        raise UnknownName("data set", kind, DATASETS)
    known = {field.name for field in fields(DATASETS[kind])}
    for name in options:
        if name not in known:
            raise UnknownName(f"option of the data set {kind!r}", name, sorted(known))
    try:
        made = DATASETS[kind](**options)
        len(made)  # reads the annotations
    except TypeError as error:
        raise InvalidInput(f"The data set {kind!r} cannot be made: {error}. Its options: {sorted(known)}.") from error
    return made
