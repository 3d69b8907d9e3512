"""The COCO data set and its encodings of masks."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from skimage import draw

from attribkit._contracts.dataset import BoxCorners, Dataset, Mask, MaskSource, Sample, Size, difficult_subset
from attribkit._core.errors import InvalidInput
from attribkit.datasets._annotations import (
    LabelMap,
    annotation_errors,
    as_box_corners,
    existing_folder,
    map_labels,
    read_json,
)
from attribkit.datasets._sources import ImageFile, digest

CocoRecord = Mapping[str, Any]  # an image or an instance, as in the file


@dataclass(frozen=True)
class Coco(Dataset):
    """Images with instances in the format of COCO, with a sample for each pair of an image and a category in it.

    The object is the union of the instances of the category. Images without instances are left out.

    Args:
        root: The folder of the images.
        annotations: The JSON file of the instances, such as instances_val2017.json.
        regions: "masks" or "boxes".
        crowds: Whether regions of crowds belong to the object; if False, they are left out.
        labels: Mapping from category names to the model's classes, or the names in the order of the model's classes;
            categories that are left out are not read. "dataset" numbers the categories in the order of their ids, from
            0. None: the labels are unknown.

    Reference:
        Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014.
    """

    name: ClassVar[str] = "coco"
    source: ClassVar[str] = "Lin et al., ECCV 2014"

    root: str | Path
    annotations: str | Path
    regions: Literal["masks", "boxes"] = "masks"
    crowds: bool = True
    labels: LabelMap = None

    def __post_init__(self) -> None:
        if self.regions not in ("masks", "boxes"):
            raise InvalidInput(f"regions must be 'masks' or 'boxes', got {self.regions!r}.")

    def read(self) -> Iterator[Sample]:
        existing_folder(self.root)
        path = Path(self.annotations)
        content = read_json(path)
        with annotation_errors(path):
            categories = sorted(content["categories"], key=lambda each: each["id"])
            names = {each["id"]: str(each["name"]) for each in categories}
            labels = map_labels(self.labels, list(names.values()))
            instances: dict[Any, list[CocoRecord]] = defaultdict(list)
            for each in content["annotations"]:
                if self.crowds or not each.get("iscrowd"):
                    instances[each["image_id"]].append(each)
            for image in sorted(content["images"], key=lambda each: each["id"]):
                yield from self._samples(image, instances[image["id"]], names, labels)

    def _samples(
        self, image: CocoRecord, instances: list[CocoRecord], names: dict[Any, str], labels: dict[str, int | None]
    ) -> Iterator[Sample]:
        size = Size(int(image["height"]), int(image["width"]))
        file = Path(image["file_name"])
        categories = {each["category_id"] for each in instances}
        for category in (each for each in names if each in categories and names[each] in labels):
            selected = [each for each in instances if each["category_id"] == category]
            area = sum(float(each.get("area", each["bbox"][2] * each["bbox"][3])) for each in selected)
            yield Sample(
                id=f"{file.with_suffix('').as_posix()} {names[category]}",
                group=file.with_suffix("").as_posix(),
                image_source=ImageFile(Path(self.root) / file, size),
                label=labels[names[category]],
                boxes=_boxes(selected),
                mask_source=self._mask_source(selected, size) if self.regions == "masks" else None,
                category=names[category],
                subsets=difficult_subset(area, size.height * size.width, len(categories)),
            )

    def _mask_source(self, instances: list[CocoRecord], size: Size) -> MaskSource:
        return _SegmentationMask(tuple(each["segmentation"] for each in instances), size, Path(self.annotations))


@dataclass(frozen=True, eq=False)
class _SegmentationMask(MaskSource):
    """The union of segmentations, decoded on reading."""

    segmentations: tuple[Any, ...]
    size: Size
    path: Path  # annotation file

    def read(self) -> Mask:
        with annotation_errors(self.path):
            return np.logical_or.reduce([decode_segmentation(each, self.size) for each in self.segmentations])

    def stamp(self) -> str:
        return digest(json.dumps(self.segmentations).encode())


def _boxes(instances: list[CocoRecord]) -> BoxCorners:
    """Convert left, top, width and height to edges."""
    boxes = np.array([each["bbox"] for each in instances], dtype=np.float64)
    return as_box_corners(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1))


def decode_segmentation(segmentation: Any, size: Size) -> Mask:
    """Decode a segmentation: a list of polygons, or run lengths as numbers or as text.

    Raises:
        ValueError: If it is neither; also TypeError or LookupError.
    """
    if isinstance(segmentation, Mapping):
        return _decode_run_lengths(segmentation, size)
    mask = np.zeros(size, dtype=bool)
    for polygon in segmentation:
        mask[_pixels_inside(polygon, size)] = True
    return mask


def _pixels_inside(polygon: Sequence[float], size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of the pixels whose centre is in a polygon x, y, x, y ... of edge coordinates."""
    columns, rows = np.asarray(polygon, dtype=np.float64).reshape(-1, 2).T - 0.5
    return draw.polygon(rows, columns, size)


def _decode_run_lengths(segmentation: Mapping[str, Any], size: Size) -> Mask:
    """Decode runs that are alternately off and on the object, down the columns."""
    if tuple(segmentation["size"]) != size:
        raise ValueError(f"the run lengths must be of a mask {list(size)} like the image, got {segmentation['size']}")
    counts = segmentation["counts"]
    lengths = np.asarray(_parse_run_lengths(counts) if isinstance(counts, str) else counts, dtype=np.int64)
    if (lengths < 0).any() or lengths.sum() != size.height * size.width:
        raise ValueError(f"the run lengths must cover {size.height * size.width} pixels, got {lengths.sum()}")
    on = np.arange(len(lengths)) % 2 == 1
    return np.repeat(on, lengths).reshape(size.width, size.height).T


def _parse_run_lengths(text: str) -> list[int]:
    """Parse run lengths: five bits a character, the least significant first; the sixth bit marks a continuation.

    Numbers are signed; from the fourth on they are differences to the number two positions before.
    """
    lengths: list[int] = []
    value = bits = 0
    for code in (character - 48 for character in text.encode("ascii")):
        value |= (code & 0b011111) << bits
        bits += 5
        if code & 0b100000:
            continue
        signed = value - (1 << bits) if code & 0b010000 else value
        lengths.append(signed + lengths[-2] if len(lengths) > 2 else signed)
        value = bits = 0
    return lengths
