"""PASCAL VOC."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple
from xml.etree import ElementTree

import numpy as np

from attribkit.core.errors import UnreadableFile
from attribkit.datasets.annotations import (
    LabelMap,
    annotation_errors,
    corners,
    existing_folder,
    list_entries,
    model_classes,
    xml_box,
    xml_of,
    xml_size,
    xml_text,
)
from attribkit.datasets.dataset import Dataset
from attribkit.datasets.sample import Sample, Size, difficult
from attribkit.datasets.sources import PhotographFile

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)


class _Object(NamedTuple):
    category: str
    difficult: bool  # for annotators to tell; not the subset of that name
    box: list[float]


@dataclass(frozen=True)
class PascalVOC(Dataset):
    """Images and boxes of PASCAL VOC (Everingham et al., IJCV 2010), a sample for each image and class in it.

    The object is the union of the class's boxes. Pairs whose boxes are all flagged difficult are left out, as in the
    pointing game (Zhang et al., ECCV 2016), whose "difficult" subset is told in `Sample.subsets`.
    """

    kind: ClassVar[str] = "pascal_voc"

    root: str | Path  # with JPEGImages, Annotations and ImageSets, such as VOCdevkit/VOC2007
    split: str = "test"  # a list in ImageSets/Main
    labels: LabelMap = None  # class -> the model's; "own" numbers them in their order; None: not known
    classes: Sequence[str] = VOC_CLASSES  # that the annotations name; give yours where they are not VOC's

    def read(self) -> Iterator[Sample]:
        root = existing_folder(self.root)
        asked = model_classes(self.labels, self.classes)
        for line in list_entries(root / "ImageSets" / "Main" / f"{self.split}.txt"):
            name = line.split()[0]
            yield from self._samples(root, name, asked)

    def _samples(self, root: Path, name: str, asked: dict[str, int | None]) -> Iterator[Sample]:
        path = root / "Annotations" / f"{name}.xml"
        size, objects = _annotation(path)
        categories = {each.category for each in objects}
        if strange := sorted(categories - set(self.classes)):
            raise UnreadableFile(
                f"{str(path)!r} names {strange[0]!r}, which is none of the {len(self.classes)} classes: where they are "
                "not VOC's, give classes=[...]."
            )
        source = PhotographFile(root / "JPEGImages" / f"{name}.jpg", size)
        for category in (each for each in asked if each in categories):
            own = [each for each in objects if each.category == category]
            if all(each.difficult for each in own):
                continue
            with annotation_errors(path):
                boxes = corners([each.box for each in own])
            area = float(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).sum())
            yield Sample(
                id=f"{name} {category}",
                group=name,
                image_source=source,
                label=asked[category],
                boxes=boxes,
                category=category,
                subsets=difficult(area, size.height * size.width, len(categories)),
            )


def _annotation(path: Path) -> tuple[Size, list[_Object]]:
    root = xml_of(path)
    with annotation_errors(path):
        return xml_size(root), [_object(each) for each in root.iter("object")]


def _object(element: ElementTree.Element) -> _Object:
    """An object; VOC counts pixels from 1, and its last row and column are on the box."""
    left, top, right, bottom = xml_box(element)
    flag = element.findtext("difficult", "0").strip()
    return _Object(xml_text(element, "name"), flag == "1", [left - 1, top - 1, right, bottom])
