"""Images with boxes in a plain JSON file."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any, ClassVar

from attribkit.datasets.annotations import category_of, corners, existing_folder, json_of, reading, subsets_of
from attribkit.datasets.dataset import Dataset
from attribkit.datasets.sample import Sample, Size
from attribkit.datasets.sources import DrawnMask, PhotographFile

_KEYS = ("boxes", "mask", "label", "category", "subsets", "size", "photograph")


@dataclass(frozen=True)
class Boxes(Dataset):
    """Images with boxes or masks: a JSON file maps each image's file to what is known of it.

    {"a.jpg": {"boxes": [[left, top, right, bottom], ...], "label": 207}}: edges in pixels of the file; [] is no object.
    In place of boxes, or beside them, "mask" is a file under the root, not 0 where the object is. Optional are label,
    category, subsets (a list), size ([height, width] of the file, checked) and photograph ([height, width] of what the
    file was made from by resizing, whose pixels distances are told in).
    """

    kind: ClassVar[str] = "boxes"

    root: str | Path  # of the images
    annotations: str | Path

    def read(self) -> Iterator[Sample]:
        root, path = existing_folder(self.root), Path(self.annotations)
        told = json_of(path)
        with reading(path):
            for name, each in sorted(told.items()):
                yield _sample(root, name, each)


def _sample(root: Path, name: str, told: Mapping[str, Any]) -> Sample:
    if strange := sorted(set(told) - set(_KEYS)):
        raise ValueError(f"{name!r} has {strange[0]!r}, known are {', '.join(_KEYS)}")
    if not {"boxes", "mask"} & set(told):
        raise ValueError(f"{name!r} has neither 'boxes' nor 'mask'; boxes of [] say that there is no object")
    return Sample(
        id=name,
        group=name,
        image_source=PhotographFile(root / name, _size(told.get("size"))),
        label=None if told.get("label") is None else index(told["label"]),
        boxes=corners(told["boxes"]) if "boxes" in told else None,
        mask_source=DrawnMask(root / told["mask"]) if "mask" in told else None,
        category=category_of(told.get("category")),
        subsets=subsets_of(told.get("subsets", ())),
        photograph=_size(told.get("photograph")),
    )


def _size(told: Any) -> Size | None:
    return None if told is None else Size(*(int(side) for side in told))
