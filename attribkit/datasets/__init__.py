"""Annotated images for benchmarks."""

from dataclasses import fields
from typing import Any

from attribkit._core.errors import InvalidInput, UnknownName
from attribkit.datasets._coco import Coco
from attribkit.datasets._dataset import Dataset, ImageSource, MaskSource, Sample, Size
from attribkit.datasets._folders import ImageFolder, ImageNet
from attribkit.datasets._geometry import Prepared, prepare_sample
from attribkit.datasets._items import BoxedImages, ItemDataset
from attribkit.datasets._pascal_voc import OxfordPets, PascalVOC
from attribkit.datasets._scenes import Scenes, grid_mosaics

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
    """Create a data set by its name and read its annotations.

    Args:
        kind: The `kind` of a data set, a key of `DATASETS`.
        **options: Fields of its class.

    Returns:
        The data set.

    Raises:
        UnknownName: If the data set or an option does not exist.
        InvalidInput: If an option is invalid or missing, or the data set is empty.
        UnreadableFile: If a folder or annotations are missing or broken.
    """
    if kind not in DATASETS:
        raise UnknownName("data set", kind, DATASETS)
    names = {field.name for field in fields(DATASETS[kind])}
    for name in options:
        if name not in names:
            raise UnknownName(f"option of the data set {kind!r}", name, sorted(names))
    try:
        dataset = DATASETS[kind](**options)
        len(dataset)  # reads the annotations
    except TypeError as error:
        raise InvalidInput(
            f"The data set {kind!r} cannot be created: {error}. Its options: {', '.join(sorted(names))}."
        ) from error
    return dataset
