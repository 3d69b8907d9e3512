"""The PASCAL VOC data set, and the Oxford-IIIT Pet data set, which has the same format."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple
from xml.etree import ElementTree

import numpy as np

from attribkit._contracts.dataset import Dataset, Sample, Size, difficult_subset
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
from attribkit.datasets._sources import ImageFile, IndexedMaskFile

_PET, _BACKGROUND, _BORDER = 1, 2, 3  # values of the trimaps

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

    name: ClassVar[str] = "pascal_voc"
    source: ClassVar[str] = "Everingham et al., IJCV 2010"

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


@dataclass(frozen=True)
class OxfordPets(Dataset):
    """Cats and dogs of 37 breeds with their masks.

    Args:
        root: The folder that contains `images`, `annotations/trimaps` and `annotations/test.txt`.
        split: Name of the list in `annotations`.
        border: Whether the band along the outline, which the annotators left undecided, belongs to the mask.
        labels: Mapping from breeds, such as "beagle", to the model's classes, or the breeds in the order of the
            model's classes; breeds that are left out are not read. "dataset" numbers the breeds as the list does, from
            0. None: the labels are unknown.

    Reference:
        Parkhi et al., "Cats and Dogs", CVPR 2012.
    """

    name: ClassVar[str] = "oxford_pets"
    source: ClassVar[str] = "Parkhi et al., CVPR 2012"

    root: str | Path
    split: str = "test"
    border: bool = False
    labels: LabelMap = None

    def read(self) -> Iterator[Sample]:
        root = existing_folder(self.root)
        path = root / "annotations" / f"{self.split}.txt"
        with annotation_errors(path):
            pets = [(line.split()[0], int(line.split()[1])) for line in read_list(path)]
        breeds = {number: _breed(name) for name, number in sorted(pets, key=lambda pet: pet[1])}
        classes = map_labels(self.labels, list(breeds.values()))
        for name, number in pets:
            if breeds[number] in classes:
                yield self._sample(root, name, breeds[number], classes[breeds[number]])

    def _sample(self, root: Path, name: str, breed: str, label: int | None) -> Sample:
        foreground = {_PET, _BORDER} if self.border else {_PET}
        trimap = root / "annotations" / "trimaps" / f"{name}.png"
        return Sample(
            id=name,
            group=name,
            image_source=ImageFile(root / "images" / f"{name}.jpg"),
            label=label,
            mask_source=IndexedMaskFile(trimap, frozenset(foreground), frozenset({_PET, _BACKGROUND, _BORDER})),
            category=breed,
        )


def _breed(name: str) -> str:
    return name.rsplit("_", 1)[0]
