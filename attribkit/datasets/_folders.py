"""Data sets with a folder for each class: ImageFolder and ImageNet."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from attribkit._contracts.dataset import BoxCorners, Dataset, Sample, Size
from attribkit._core.errors import InvalidInput
from attribkit.datasets._annotations import (
    LabelMap,
    annotation_errors,
    as_box_corners,
    existing_folder,
    image_files,
    map_labels,
    read_xml,
    subfolders,
    xml_box,
    xml_size,
)
from attribkit.datasets._sources import ImageFile


@dataclass(frozen=True)
class ImageFolder(Dataset):
    """Images in a folder for each class.

    Args:
        root: The folder of the class folders.
        labels: Mapping from folder names to the model's classes, or the folder names in the order of the model's
            classes; folders that are left out are not read. "dataset" numbers the folders by name, from 0. None: the
            labels are unknown.
    """

    name: ClassVar[str] = "image_folder"
    source: ClassVar[str] = "the user"

    root: str | Path
    labels: LabelMap = None

    def read(self) -> Iterator[Sample]:
        root = existing_folder(self.root)
        folders = subfolders(root)
        classes = map_labels(self.labels, [folder.name for folder in folders])
        for folder in folders:
            if folder.name in classes:
                for path in image_files(folder):
                    name = path.relative_to(root).as_posix()
                    yield Sample(id=name, group=name, image_source=ImageFile(path), label=classes[folder.name])


@dataclass(frozen=True)
class ImageNet(Dataset):
    """Images of ImageNet-1k in folders named by synset, such as n01440764.

    Labels follow the usual order of ImageNet-1k, which is that of the models of timm and torchvision.

    Args:
        root: The folder of the synset folders.
        boxes: The folder of the XML files with the boxes, one for an image, possibly in subfolders; None: no boxes.
        per_class: Number of images to read of each class, the first by name; None: all.

    Reference:
        Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", IJCV 2015.
    """

    name: ClassVar[str] = "imagenet"
    source: ClassVar[str] = "Russakovsky et al., IJCV 2015"

    root: str | Path
    boxes: str | Path | None = None
    per_class: int | None = None

    def __post_init__(self) -> None:
        if self.per_class is not None and self.per_class < 1:
            raise InvalidInput(f"per_class must be a positive integer or None, got {self.per_class}.")

    def read(self) -> Iterator[Sample]:
        labels = _synset_indices()
        root = existing_folder(self.root)
        annotations = (
            {} if self.boxes is None else {path.stem: path for path in existing_folder(self.boxes).rglob("*.xml")}
        )
        for folder in subfolders(root):
            if folder.name not in labels:
                raise InvalidInput(
                    f"The name of the folder {str(folder)!r} is not an ImageNet-1k synset ID, such as 'n01440764': "
                    "use the data set 'image_folder' for other classes."
                )
            for path in image_files(folder)[: self.per_class]:
                yield _sample(path, labels[folder.name], annotations.get(path.stem))


def _sample(path: Path, label: int, annotation: Path | None) -> Sample:
    size, boxes = (None, None) if annotation is None else _annotation(annotation)
    source = ImageFile(path, size)
    return Sample(id=path.stem, group=path.stem, image_source=source, label=label, boxes=boxes)


def _annotation(path: Path) -> tuple[Size, BoxCorners]:
    """Return the size of the annotated image and its boxes, whose coordinates are edges, from 0 to width and height."""
    root = read_xml(path)
    with annotation_errors(path):
        return xml_size(root), as_box_corners([xml_box(each) for each in root.iter("object")])


def _synset_indices() -> dict[str, int]:
    """Return the class index of each synset."""
    from timm.data import ImageNetInfo  # imported here, since timm is slow to import

    return {synset: index for index, synset in enumerate(ImageNetInfo().label_names())}
