"""User-defined data sets: images with a JSON file, and sequences of dicts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from attribkit._contracts.dataset import BoxCorners, Dataset, ImageSource, MaskSource, Sample, Size
from attribkit._core.errors import InvalidInput, UnknownName
from attribkit.datasets._annotations import (
    annotation_errors,
    as_box_corners,
    category_name,
    existing_folder,
    read_json,
    subset_names,
)
from attribkit.datasets._sources import BinaryMaskFile, ImageFile, ImageFunction, InMemoryImage, mask_from_array

_BOX_KEYS = ("boxes", "mask", "label", "category", "subsets", "size", "photograph")
_ITEM_KEYS = ("image", "label", "boxes", "mask", "id", "category", "group", "subsets", "photograph")


@dataclass(frozen=True)
class BoxedImages(Dataset):
    """Images with boxes or masks in a JSON file, which maps the name of each image file to its annotations.

    An entry is like {"a.jpg": {"boxes": [[left, top, right, bottom], ...], "label": 207}}, with edges in pixels of the
    file; [] means that the image does not contain an object. In place of boxes, or in addition to them, "mask" names a
    file under the root that is nonzero on the object. Optional keys: label, category, subsets (a list of names), size
    ([height, width] of the file, which is then checked) and photograph ([height, width] of the original if the file was
    resized from it; distances are measured in its pixels).

    Args:
        root: The folder of the images.
        annotations: The JSON file.
    """

    name: ClassVar[str] = "boxes"
    source: ClassVar[str] = "the user"

    root: str | Path
    annotations: str | Path

    def read(self) -> Iterator[Sample]:
        root, path = existing_folder(self.root), Path(self.annotations)
        entries = read_json(path)
        with annotation_errors(path):
            for name, entry in sorted(entries.items()):
                yield _sample_of_entry(root, name, entry)


@dataclass(frozen=True, eq=False)
class ItemDataset(Dataset):
    """A sequence of dicts.

    The keys of an item are image (a Pillow image, an array (h, w, 3) of uint8, a path, or a function without arguments
    that returns a Pillow image) and optionally label (class index of the model), boxes (n, 4), mask ((h, w) of
    booleans, or the path of an image that is nonzero on the object), id, category, group, subsets and photograph, as in
    `Sample`. All items are read at once; use paths or functions to save memory.

    Args:
        items: An object with a length, indexed by integers.
    """

    name: ClassVar[str] = "items"
    source: ClassVar[str] = "the user"

    items: Any

    def read(self) -> Iterator[Sample]:
        return (_sample_of_item(self.items[i], str(i)) for i in range(len(self.items)))


def _sample_of_entry(root: Path, name: str, entry: Mapping[str, Any]) -> Sample:
    if unknown := sorted(set(entry) - set(_BOX_KEYS)):
        raise ValueError(f"{name!r} has the unknown key {unknown[0]!r}, use {', '.join(_BOX_KEYS)}")
    if not {"boxes", "mask"} & set(entry):
        raise ValueError(f"{name!r} has neither 'boxes' nor 'mask'; write 'boxes': [] for an image without an object")
    return Sample(
        id=name,
        group=name,
        image_source=ImageFile(root / name, _size(entry.get("size"))),
        label=None if entry.get("label") is None else index(entry["label"]),
        boxes=as_box_corners(entry["boxes"]) if "boxes" in entry else None,
        mask_source=BinaryMaskFile(root / entry["mask"]) if "mask" in entry else None,
        category=category_name(entry.get("category")),
        subsets=subset_names(entry.get("subsets", ())),
        photograph=_size(entry.get("photograph")),
    )


def _size(value: Any) -> Size | None:
    return None if value is None else Size(*(int(side) for side in value))


def _sample_of_item(item: Mapping[str, Any], position: str) -> Sample:
    if not isinstance(item, Mapping) or "image" not in item:
        received = f"the keys {[*item]}" if isinstance(item, Mapping) else type(item).__name__
        raise InvalidInput(f"Item {position} must be a dict with an 'image' key, got {received}.")
    for key in item:
        if key not in _ITEM_KEYS:
            raise UnknownName("key of an item", str(key), _ITEM_KEYS)
    values = {key: value for key, value in item.items() if value is not None}
    name = str(values.get("id", position))
    return Sample(
        id=name,
        group=str(values.get("group", name)),
        image_source=_image_source(values["image"], name, str(values.get("group", name))),
        label=_label(values["label"], name) if "label" in values else None,
        boxes=_boxes(values["boxes"], name) if "boxes" in values else None,
        mask_source=_mask_source(values["mask"], name) if "mask" in values else None,
        category=category_name(values.get("category")),
        subsets=_subsets(values.get("subsets", ()), name),
        photograph=Size(*values["photograph"]) if "photograph" in values else None,
    )


def _image_source(image: Any, name: str, group: str) -> ImageSource:
    if isinstance(image, Image.Image):
        return InMemoryImage(image)
    if isinstance(image, str | Path):
        return ImageFile(Path(image))
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return InMemoryImage(Image.fromarray(image))
    if callable(image):
        return ImageFunction(image, group)
    raise InvalidInput(
        f"The image of item {name!r} must be a Pillow image, a uint8 array (h, w, 3), a path, or a function that "
        f"returns a Pillow image, got {type(image).__name__}."
    )


def _mask_source(mask: Any, name: str) -> MaskSource:
    return BinaryMaskFile(Path(mask)) if isinstance(mask, str | Path) else mask_from_array(mask, name)


def _label(label: Any, name: str) -> int:
    try:
        return index(label)
    except TypeError as error:
        raise InvalidInput(f"The label of item {name!r} must be a class index of the model, got {label!r}.") from error


def _boxes(boxes: Any, name: str) -> BoxCorners:
    try:
        return as_box_corners(boxes)
    except ValueError as error:
        raise InvalidInput(f"The boxes of item {name!r} are invalid: {error}.") from error


def _subsets(subsets: Any, name: str) -> frozenset[str]:
    try:
        return subset_names(subsets)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"The subsets of item {name!r} are invalid: {error}.") from error
