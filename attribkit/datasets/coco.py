"""[datasets/outlines] Masks as COCO writes them.
[datasets/coco] COCO.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from skimage import draw

from attribkit.core.errors import InvalidInput
from attribkit.datasets.annotations import LabelMap, annotation_errors, corners, existing_folder, json_of, model_classes
from attribkit.datasets.dataset import Dataset
from attribkit.datasets.sample import BoxCorners, Mask, MaskSource, Sample, Size, difficult
from attribkit.datasets.sources import PhotographFile, digest


def outlined(segmentation: Any, size: Size) -> Mask:
    """The mask of a segmentation: a list of polygons, or run lengths as numbers or as text.

    Raises ValueError, TypeError or LookupError where it is none of them.
    """
    if isinstance(segmentation, Mapping):
        return _from_run_lengths(segmentation, size)
    mask = np.zeros(size, dtype=bool)
    for polygon in segmentation:
        mask[_inside(polygon, size)] = True
    return mask


def _inside(polygon: Sequence[float], size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels whose centre is in a polygon x, y, x, y ..., given by edges of pixels."""
    columns, rows = np.asarray(polygon, dtype=np.float64).reshape(-1, 2).T - 0.5
    return draw.polygon(rows, columns, size)


def _from_run_lengths(segmentation: Mapping[str, Any], size: Size) -> Mask:
    """Runs off and on the object by turns, down the columns."""
    if tuple(segmentation["size"]) != size:
        raise ValueError(f"run lengths of a mask {segmentation['size']}, not {list(size)}")
    written = segmentation["counts"]
    lengths = np.asarray(_lengths(written) if isinstance(written, str) else written, dtype=np.int64)
    if (lengths < 0).any() or lengths.sum() != size.height * size.width:
        raise ValueError(f"run lengths of {lengths.sum()} pixels, not {size.height * size.width}")
    on = np.arange(len(lengths)) % 2 == 1
    return np.repeat(on, lengths).reshape(size.width, size.height).T


def _lengths(text: str) -> list[int]:
    """Run lengths from text: five bits a character, the least first, the sixth says that more follow.

    Numbers are signed; from the fourth on they are the difference to the number before the last.
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


CocoRecord = Mapping[str, Any]  # as the file has it


@dataclass(frozen=True, eq=False)
class _Outlines(MaskSource):
    """The union of segmentations, drawn when it is asked for."""

    segmentations: tuple[Any, ...]
    size: Size
    path: Path  # of the annotations

    def read(self) -> Mask:
        with annotation_errors(self.path):
            return np.logical_or.reduce([outlined(each, self.size) for each in self.segmentations])

    def stamp(self) -> str:
        return digest(json.dumps(self.segmentations).encode())


@dataclass(frozen=True)
class Coco(Dataset):
    """Images with instances of COCO (Lin et al., ECCV 2014) or in its format, a sample for each image and category.

    The object is the union of the category's instances. Images without instances are left out.
    """

    kind: ClassVar[str] = "coco"

    root: str | Path  # of the images
    annotations: str | Path  # such as instances_val2017.json
    regions: Literal["masks", "boxes"] = "masks"
    crowds: bool = True  # regions of crowds belong to the object; False leaves them out
    labels: LabelMap = None  # category -> the model's class; "own" numbers them by their ids; None: not known

    def __post_init__(self) -> None:
        if self.regions not in ("masks", "boxes"):
            raise InvalidInput(f"regions={self.regions!r} is neither 'masks' nor 'boxes'.")

    def read(self) -> Iterator[Sample]:
        existing_folder(self.root)
        path = Path(self.annotations)
        told = json_of(path)
        with annotation_errors(path):
            names = {each["id"]: str(each["name"]) for each in sorted(told["categories"], key=lambda each: each["id"])}
            asked = model_classes(self.labels, list(names.values()))
            instances: dict[Any, list[CocoRecord]] = defaultdict(list)
            for each in told["annotations"]:
                if self.crowds or not each.get("iscrowd"):
                    instances[each["image_id"]].append(each)
            for image in sorted(told["images"], key=lambda each: each["id"]):
                yield from self._samples(image, instances[image["id"]], names, asked)

    def _samples(
        self, image: CocoRecord, instances: list[CocoRecord], names: dict[Any, str], asked: dict[str, int | None]
    ) -> Iterator[Sample]:
        size = Size(int(image["height"]), int(image["width"]))
        file = Path(image["file_name"])
        categories = {each["category_id"] for each in instances}
        for category in (each for each in names if each in categories and names[each] in asked):
            own = [each for each in instances if each["category_id"] == category]
            area = sum(float(each.get("area", each["bbox"][2] * each["bbox"][3])) for each in own)
            yield Sample(
                id=f"{file.with_suffix('').as_posix()} {names[category]}",
                group=file.with_suffix("").as_posix(),
                image_source=PhotographFile(Path(self.root) / file, size),
                label=asked[names[category]],
                boxes=_boxes(own),
                mask_source=self._outlines(own, size) if self.regions == "masks" else None,
                category=names[category],
                subsets=difficult(area, size.height * size.width, len(categories)),
            )

    def _outlines(self, instances: list[CocoRecord], size: Size) -> MaskSource:
        return _Outlines(tuple(each["segmentation"] for each in instances), size, Path(self.annotations))


def _boxes(instances: list[CocoRecord]) -> BoxCorners:
    """Left, top, width, height as edges."""
    told = np.array([each["bbox"] for each in instances], dtype=np.float64)
    return corners(np.concatenate([told[:, :2], told[:, :2] + told[:, 2:]], axis=1))
