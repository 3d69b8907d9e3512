"""Data sets of the Hugging Face `datasets` library for the benchmarks of attribkit."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import datasets
import numpy as np
from PIL import Image, ImageOps

from attribkit import InvalidInput, UnknownName, UnreadableFile, hookimpl
from attribkit.datasets import Dataset, ImageSource, LabelMap, MaskSource, Sample, map_labels

BoxFormat = Literal["coco", "corners"]


@dataclass(frozen=True)
class HuggingFaceDataset(Dataset):
    """Images, classes, boxes and masks in the columns of a Hugging Face data set.

    A dotted name such as "objects.bbox" is a field of a column. Images and masks are decoded when a sample is accessed;
    the other columns are read at once.

    Args:
        path: Name on the hub, a builder such as "imagefolder" or "parquet", or a folder that
            `datasets.Dataset.save_to_disk` or `datasets.DatasetDict.save_to_disk` wrote.
        split: Name of the split; it may contain a slice, such as "test[:500]", except in folders of `save_to_disk`.
        config: Name of the configuration; None means the default one.
        data_dir: Folder of the files that a builder reads; None for data sets of the hub.
        image: Column of the images.
        label: Column of the class, as a name or a number; None if there is none.
        labels: Mapping from class names to the model's classes, or the names in the order of the model's classes;
            samples of other classes are not read. "dataset" is the numbering of the column. None: the labels are
            unknown.
        boxes: Column of the boxes of each image; None: no boxes.
        box_format: Numbers of a box in pixels: "coco" for left, top, width, height; "corners" for left, top, right,
            bottom.
        mask: Column of mask images, whose nonzero pixels are on the object; None: no masks.

    Raises:
        UnreadableFile: When it is read: the data set cannot be loaded.
        UnknownName: When it is read: a column, a field or a class does not exist.

    Reference:
        Lhoest et al., Datasets: A Community Library for Natural Language Processing, EMNLP 2021 (demonstrations).
    """

    name: ClassVar[str] = "hf_datasets"
    source: ClassVar[str] = "Lhoest et al., EMNLP 2021 (the library datasets)"

    path: str | Path
    split: str = "test"
    config: str | None = None
    data_dir: str | Path | None = None
    image: str = "image"
    label: str | None = None
    labels: LabelMap = None
    boxes: str | None = None
    box_format: BoxFormat = "coco"
    mask: str | None = None

    def __post_init__(self) -> None:
        if self.box_format not in ("coco", "corners"):
            raise InvalidInput(f"box_format must be 'coco' or 'corners', got {self.box_format!r}.")
        if self.labels is not None and self.label is None:
            raise InvalidInput("labels were passed without label, the column of the class: pass both, or neither.")

    def read(self) -> Iterator[Sample]:
        images = _Column(self._table, self.image)
        masks = None if self.mask is None else _Column(self._table, self.mask)
        names = [None] * len(self._table) if self.label is None else self._class_names(self.label)
        classes = map_labels(self.labels, self._classes(names))
        boxes = [None] * len(self._table) if self.boxes is None else self._values(self.boxes)
        for row, (name, own) in enumerate(zip(names, boxes, strict=True)):
            if name is None or name in classes:
                yield Sample(
                    id=str(row),
                    group=str(row),
                    image_source=_RowImage(images, row),
                    label=None if name is None else classes[name],
                    category=name,
                    boxes=None if own is None else _corners(own, self.box_format),
                    mask_source=None if masks is None else _RowMask(masks, row),
                )

    @cached_property
    def _table(self) -> datasets.Dataset:
        """The split, loaded once."""
        try:
            if _is_saved(self.path):
                loaded = datasets.load_from_disk(str(self.path))
                return loaded if isinstance(loaded, datasets.Dataset) else _split(loaded, self.split)
            folder = None if self.data_dir is None else str(self.data_dir)
            return datasets.load_dataset(str(self.path), self.config, data_dir=folder, split=self.split)
        except UnknownName:
            raise
        except Exception as error:
            raise UnreadableFile(
                f"The data set {str(self.path)!r}, split {self.split!r}, cannot be loaded "
                f"({type(error).__name__}: {error}): check the path, the split and the configuration."
            ) from error

    def _values(self, column: str) -> list[Any]:
        """Return the values of a column or of a field of it, without the other columns."""
        name, *fields = column.split(".")
        values = list(_checked(self._table, name)[name])
        for field in fields:
            for value in values:
                if field not in value:
                    raise UnknownName(f"field of the column {name!r}", field, list(value))
            values = [value[field] for value in values]
        return values

    def _class_names(self, column: str) -> list[str]:
        """Return the class of each row by name."""
        feature = self._table.features.get(column)
        values = self._values(column)
        return [feature.int2str(each) if isinstance(feature, datasets.ClassLabel) else str(each) for each in values]

    def _classes(self, names: list[str] | list[None]) -> list[str]:
        """Return the classes in the order of the column: that of its feature, of numbers, or of the alphabet."""
        feature = self._table.features.get(self.label or "")
        if isinstance(feature, datasets.ClassLabel):
            return list(feature.names)
        found = {name for name in names if name is not None}
        return sorted(found, key=lambda name: (0, int(name), "") if name.isdecimal() else (1, 0, name))


@dataclass(frozen=True, eq=False)
class _Column:
    """A column whose values are decoded on access."""

    table: datasets.Dataset
    name: str

    def __post_init__(self) -> None:
        _checked(self.table, self.name)

    def picture(self, row: int) -> Image.Image:
        """Decode an image, upright."""
        value = self.table[row][self.name]
        if not isinstance(value, Image.Image):
            raise UnreadableFile(
                f"Row {row} of the column {self.name!r} contains {type(value).__name__}, not an image: choose a column "
                "with the feature datasets.Image()."
            )
        return ImageOps.exif_transpose(value)

    def stamp(self, row: int) -> str:
        """Return text that identifies a value: it changes with the content or the transforms of the data set."""
        return f"{self.table._fingerprint} {self.name} {row}"


@dataclass(frozen=True)
class _RowImage(ImageSource):
    column: _Column
    row: int

    def read(self) -> Image.Image:
        return self.column.picture(self.row).convert("RGB")

    def stamp(self) -> str:
        return self.column.stamp(self.row)


@dataclass(frozen=True)
class _RowMask(MaskSource):
    column: _Column
    row: int

    def read(self) -> np.ndarray:
        values = np.asarray(self.column.picture(self.row))
        return (values if values.ndim == 2 else values.max(2)) > 0

    def stamp(self) -> str:
        return self.column.stamp(self.row)


def _is_saved(path: str | Path) -> bool:
    """Return whether a folder was written by `save_to_disk`."""
    return any((Path(path) / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))


def _split(splits: datasets.DatasetDict, name: str) -> datasets.Dataset:
    if name not in splits:
        raise UnknownName("split", name, list(splits))
    return splits[name]


def _checked(table: datasets.Dataset, column: str) -> datasets.Dataset:
    """Return the table with one column; raises UnknownName if it does not exist."""
    if column not in table.column_names:
        raise UnknownName("column of the data set", column, table.column_names)
    return table.select_columns([column])


def _corners(boxes: Any, box_format: BoxFormat) -> np.ndarray:
    """Return boxes as left, top, right and bottom edges."""
    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    if box_format == "coco":
        corners[:, 2:] += corners[:, :2]
    return corners


@hookimpl
def attribkit_datasets() -> list[type[Dataset]]:
    return [HuggingFaceDataset]
