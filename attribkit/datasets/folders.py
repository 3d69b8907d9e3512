"""[datasets/image_folder] A folder of images for each class.
[datasets/imagenet] ImageNet's validation images.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from attribkit.core.errors import InvalidInput
from attribkit.datasets.annotations import (
    LabelMap,
    annotation_errors,
    corners,
    existing_folder,
    image_files,
    model_classes,
    subfolders,
    xml_box,
    xml_of,
    xml_size,
)
from attribkit.datasets.dataset import Dataset
from attribkit.datasets.sample import BoxCorners, Sample, Size
from attribkit.datasets.sources import PhotographFile


@dataclass(frozen=True)
class ImageFolder(Dataset):
    """Images in folders named by their class."""

    kind: ClassVar[str] = "image_folder"

    root: str | Path
    labels: LabelMap = None  # folder -> the model's class; "own" numbers the folders by name; None: not known

    def read(self) -> Iterator[Sample]:
        root = existing_folder(self.root)
        folders = subfolders(root)
        asked = model_classes(self.labels, [folder.name for folder in folders])
        for folder in folders:
            if folder.name in asked:
                for path in image_files(folder):
                    name = path.relative_to(root).as_posix()
                    yield Sample(id=name, group=name, image_source=PhotographFile(path), label=asked[folder.name])


@dataclass(frozen=True)
class ImageNet(Dataset):
    """Images of ImageNet-1k (Russakovsky et al., IJCV 2015) in folders named by synset, n01440764 and so on.

    Labels are those of ImageNet-1k's usual order, which models of timm and torchvision have.
    """

    kind: ClassVar[str] = "imagenet"

    root: str | Path  # of the folders
    boxes: str | Path | None = None  # folder of the XML files, one for an image; they may lie in folders of it
    per_class: int | None = None  # the first of each class by name; None is all

    def __post_init__(self) -> None:
        if self.per_class is not None and self.per_class < 1:
            raise InvalidInput(f"per_class={self.per_class} is no number of images from 1.")

    def read(self) -> Iterator[Sample]:
        labels = _labels()
        root = existing_folder(self.root)
        drawn = {} if self.boxes is None else {path.stem: path for path in existing_folder(self.boxes).rglob("*.xml")}
        for folder in subfolders(root):
            if folder.name not in labels:
                raise InvalidInput(
                    f"{str(folder)!r} is not named by a synset of ImageNet-1k, such as 'n01440764': use the data set "
                    "'image_folder' for other classes."
                )
            for path in image_files(folder)[: self.per_class]:
                yield _sample(path, labels[folder.name], drawn.get(path.stem))


def _sample(path: Path, label: int, drawn: Path | None) -> Sample:
    size, boxes = (None, None) if drawn is None else _annotation(drawn)
    source = PhotographFile(path, size)
    return Sample(id=path.stem, group=path.stem, image_source=source, label=label, boxes=boxes)


def _annotation(path: Path) -> tuple[Size, BoxCorners]:
    """The size of the annotated image, and its boxes; their numbers are edges, from 0 to its width and height."""
    root = xml_of(path)
    with annotation_errors(path):
        return xml_size(root), corners([xml_box(each) for each in root.iter("object")])


def _labels() -> dict[str, int]:
    """The index of each synset."""
    from timm.data import ImageNetInfo  # here, since timm is slow to import

    return {synset: index for index, synset in enumerate(ImageNetInfo().label_names())}
