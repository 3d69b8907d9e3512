"""Annotated images for benchmarks."""

from attribkit._contracts.dataset import Dataset, ImageSource, MaskSource, Sample, Size
from attribkit._hookspecs import hookimpl
from attribkit.datasets._coco import Coco
from attribkit.datasets._folders import ImageFolder, ImageNet
from attribkit.datasets._geometry import Prepared, prepare_sample
from attribkit.datasets._items import BoxedImages, ItemDataset
from attribkit.datasets._pascal_voc import OxfordPets, PascalVOC
from attribkit.datasets._scenes import Scenes, grid_mosaics

__all__ = [
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
    "prepare_sample",
]


@hookimpl
def attribkit_datasets() -> list[type[Dataset]]:
    """Return the data sets of attribkit."""
    return [Scenes, ImageFolder, ImageNet, PascalVOC, Coco, OxfordPets, BoxedImages, ItemDataset]
