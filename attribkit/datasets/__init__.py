"""Annotated images for benchmarks."""

from attribkit._contracts.dataset import Dataset, ImageSource, MaskSource, Sample, Size
from attribkit._hookspecs import hookimpl
from attribkit.datasets._annotations import LabelMap, map_labels
from attribkit.datasets._coco import Coco
from attribkit.datasets._folders import ImageFolder, ImageNet
from attribkit.datasets._geometry import Prepared, prepare_sample
from attribkit.datasets._items import BoxedImages, ItemDataset
from attribkit.datasets._pascal_voc import OxfordPets, PascalVOC
from attribkit.datasets._scenes import Scenes, grid_mosaics
from attribkit.datasets._sources import BinaryMaskFile, ImageFile

__all__ = [
    "BinaryMaskFile",
    "BoxedImages",
    "Coco",
    "Dataset",
    "ImageFile",
    "ImageFolder",
    "ImageNet",
    "ImageSource",
    "ItemDataset",
    "LabelMap",
    "MaskSource",
    "OxfordPets",
    "PascalVOC",
    "Prepared",
    "Sample",
    "Scenes",
    "Size",
    "grid_mosaics",
    "map_labels",
    "prepare_sample",
]


@hookimpl
def attribkit_datasets() -> list[type[Dataset]]:
    """Return the data sets of attribkit."""
    return [Scenes, ImageFolder, ImageNet, PascalVOC, Coco, OxfordPets, BoxedImages, ItemDataset]
