"""The PASCAL VOC data set."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple
from xml.etree import ElementTree

import numpy as np

from attribkit._core.errors import UnreadableFile
from attribkit.datasets._annotations import (
    LabelMap,
    annotation_errors,
    as_box_corners,
    existing_folder,
    map_labels,
    read_list,
    read_xml,
    xml_box,
    xml_size,
    xml_text,
)
from attribkit.datasets._dataset import Dataset
from attribkit.datasets._sample import Sample, Size, difficult_subset
from attribkit.datasets._sources import ImageFile

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
    difficult: bool  # flagged by the annotators; unrelated to the subset "difficult"
    box: list[float]


@dataclass(frozen=True)
class PascalVOC(Dataset):
    """Images and boxes of PASCAL VOC, with a sample for each pair of an image and a class in it.

    The object is the union of the boxes of the class. Pairs whose boxes are all flagged difficult are left out, as in
    the pointing game, whose subset "difficult" is in `Sample.subsets`.

    Args:
        root: The folder that contains `JPEGImages`, `Annotations` and `ImageSets`, such as VOCdevkit/VOC2007.
        split: Name of the list in `ImageSets/Main`.
        labels: Mapping from class names to the model's classes, or the names in the order of the model's classes;
            classes that are left out are not read. "dataset" numbers them in the order of `classes`, from 0. None: the
            labels are unknown.
        classes: All class names that the annotations use; the default is VOC's.

    Reference:
        Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", IJCV 2010; the pointing game: Zhang et
        al., ECCV 2016.
    """

    kind: ClassVar[str] = "pascal_voc"

    root: str | Path
    split: str = "test"
    labels: LabelMap = None
    classes: Sequence[str] = VOC_CLASSES

    def read(self) -> Iterator[Sample]:
        root = existing_folder(self.root)
        labels = map_labels(self.labels, self.classes)
        for line in read_list(root / "ImageSets" / "Main" / f"{self.split}.txt"):
            name = line.split()[0]
            yield from self._samples(root, name, labels)

    def _samples(self, root: Path, name: str, labels: dict[str, int | None]) -> Iterator[Sample]:
        path = root / "Annotations" / f"{name}.xml"
        size, objects = _annotation(path)
        categories = {each.category for each in objects}
        if unknown := sorted(categories - set(self.classes)):
            raise UnreadableFile(
                f"The annotation file {str(path)!r} names the class {unknown[0]!r}, which is not one of the "
                f"{len(self.classes)} classes of the data set: pass classes=[...] if the data set does not have the "
                "VOC classes."
            )
        source = ImageFile(root / "JPEGImages" / f"{name}.jpg", size)
        for category in (each for each in labels if each in categories):
            objects_of_category = [each for each in objects if each.category == category]
            if all(each.difficult for each in objects_of_category):
                continue
            with annotation_errors(path):
                boxes = as_box_corners([each.box for each in objects_of_category])
            area = float(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).sum())
            yield Sample(
                id=f"{name} {category}",
                group=name,
                image_source=source,
                label=labels[category],
                boxes=boxes,
                category=category,
                subsets=difficult_subset(area, size.height * size.width, len(categories)),
            )


def _annotation(path: Path) -> tuple[Size, list[_Object]]:
    root = read_xml(path)
    with annotation_errors(path):
        return xml_size(root), [_object(each) for each in root.iter("object")]


def _object(element: ElementTree.Element) -> _Object:
    """Parse an object; VOC counts pixels from 1, and its last row and column belong to the box."""
    left, top, right, bottom = xml_box(element)
    flag = element.findtext("difficult", "0").strip()
    return _Object(xml_text(element, "name"), flag == "1", [left - 1, top - 1, right, bottom])
