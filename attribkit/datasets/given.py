"""[datasets/boxes] Images with boxes in a plain JSON file.
[datasets/given] Whatever the user has.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from attribkit.core.errors import InvalidInput, UnknownName
from attribkit.datasets.annotations import annotation_errors, category_of, corners, existing_folder, json_of, subsets_of
from attribkit.datasets.dataset import Dataset
from attribkit.datasets.sample import BoxCorners, ImageSource, MaskSource, Sample, Size
from attribkit.datasets.sources import CalledImage, DrawnMask, HeldImage, PhotographFile, held_mask

_BOX_KEYS = ("boxes", "mask", "label", "category", "subsets", "size", "photograph")


@dataclass(frozen=True)
class BoxedImages(Dataset):
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
        with annotation_errors(path):
            for name, each in sorted(told.items()):
                yield _boxed_sample(root, name, each)


def _boxed_sample(root: Path, name: str, told: Mapping[str, Any]) -> Sample:
    if strange := sorted(set(told) - set(_BOX_KEYS)):
        raise ValueError(f"{name!r} has {strange[0]!r}, known are {', '.join(_BOX_KEYS)}")
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


_KEYS = ("image", "label", "boxes", "mask", "id", "category", "group", "subsets", "photograph")


@dataclass(frozen=True, eq=False)
class ItemDataset(Dataset):
    """Any data set with a length and items by index that are dicts.

    image: a picture of Pillow's, an array (h, w, 3) of bytes, a path, or a function without arguments that makes one;
    items are read at once, so a path or a function keeps memory small. Optional are label (the model's class), boxes
    (n, 4), mask ((h, w) of booleans, or a path to an image that is not 0 on the object), id, category, group, subsets
    and photograph, as in `Sample`.
    """

    kind: ClassVar[str] = "given"

    items: Any

    def read(self) -> Iterator[Sample]:
        return (_sample(self.items[place], str(place)) for place in range(len(self.items)))


def _sample(item: Mapping[str, Any], place: str) -> Sample:
    if not isinstance(item, Mapping) or "image" not in item:
        raise InvalidInput(f"Item {place} is no dict with an 'image' but {type(item).__name__}: give {{'image': ...}}.")
    for key in item:
        if key not in _KEYS:
            raise UnknownName("key of an item", str(key), _KEYS)
    told = {key: value for key, value in item.items() if value is not None}
    name = str(told.get("id", place))
    return Sample(
        id=name,
        group=str(told.get("group", name)),
        image_source=_image_source(told["image"], name),
        label=_label(told["label"], name) if "label" in told else None,
        boxes=_boxes(told["boxes"], name) if "boxes" in told else None,
        mask_source=_mask_source(told["mask"], name) if "mask" in told else None,
        category=category_of(told.get("category")),
        subsets=_subsets(told.get("subsets", ()), name),
        photograph=Size(*told["photograph"]) if "photograph" in told else None,
    )


def _image_source(image: Any, name: str) -> ImageSource:
    if isinstance(image, Image.Image):
        return HeldImage(image)
    if isinstance(image, str | Path):
        return PhotographFile(Path(image))
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return HeldImage(Image.fromarray(image))
    if callable(image):
        return CalledImage(image)
    raise InvalidInput(
        f"The image of item {name!r} is a {type(image).__name__}: give a picture of Pillow's, an array (h, w, 3) of "
        "bytes, a path, or a function that makes a picture."
    )


def _mask_source(mask: Any, name: str) -> MaskSource:
    return DrawnMask(Path(mask)) if isinstance(mask, str | Path) else held_mask(mask, name)


def _label(label: Any, name: str) -> int:
    try:
        return index(label)
    except TypeError as error:
        raise InvalidInput(f"The label of item {name!r} is {label!r}: give an index of the model's classes.") from error


def _boxes(boxes: Any, name: str) -> BoxCorners:
    try:
        return corners(boxes)
    except ValueError as error:
        raise InvalidInput(f"The boxes of item {name!r} are none: {error}.") from error


def _subsets(subsets: Any, name: str) -> frozenset[str]:
    try:
        return subsets_of(subsets)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"The subsets of item {name!r} are none: {error}.") from error
