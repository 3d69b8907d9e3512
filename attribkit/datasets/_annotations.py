"""Readers of annotation files and checks of their content."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np

from attribkit._contracts.dataset import BoxCorners, Size
from attribkit._core.errors import AttribkitError, InvalidInput, UnknownName, UnreadableFile

LabelMap = Mapping[str, int] | Sequence[str] | Literal["dataset"] | None

_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}


@contextmanager
def annotation_errors(path: Path) -> Iterator[None]:
    """Raise UnreadableFile, with the path in its message, for errors in reading or parsing an annotation file."""
    try:
        yield
    except AttribkitError:
        raise
    except FileNotFoundError as error:
        raise UnreadableFile(f"The annotation file {str(path)!r} does not exist: check the path.") from error
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise UnreadableFile(
            f"The annotation file {str(path)!r} cannot be read ({type(error).__name__}: {error}): correct the file or "
            "download it again."
        ) from error


def existing_folder(path: str | Path) -> Path:
    """Return the folder as a Path, or raise UnreadableFile if it does not exist."""
    if not Path(path).is_dir():
        raise UnreadableFile(f"The folder {str(path)!r} does not exist: check the path.")
    return Path(path)


def image_files(folder: Path) -> list[Path]:
    """List the image files in a folder and its subfolders, sorted, without hidden files."""
    images = (path for path in folder.rglob("*") if path.suffix.lower() in _IMAGE_SUFFIXES)
    return sorted(path for path in images if not path.name.startswith("."))


def subfolders(folder: Path) -> list[Path]:
    """List the direct subfolders, sorted, without hidden ones."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    with annotation_errors(path):
        return json.loads(path.read_text(encoding="utf-8"))


def read_list(path: Path) -> list[str]:
    """Read the lines of a text file, without empty lines and comments."""
    with annotation_errors(path):
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        return [line for line in lines if line and not line.startswith("#")]


def read_xml(path: Path) -> ElementTree.Element:
    """Read an XML file and return its root."""
    with annotation_errors(path):
        return ElementTree.fromstring(path.read_bytes())


def xml_text(element: ElementTree.Element, tag: str) -> str:
    """Return the text of a tag, or raise ValueError if the tag is missing."""
    text = element.findtext(tag)
    if text is None:
        raise ValueError(f"<{tag}> is missing in <{element.tag}>")
    return text.strip()


def xml_size(root: ElementTree.Element) -> Size:
    """Return the size of the annotated image."""
    return Size(int(xml_text(root, "size/height")), int(xml_text(root, "size/width")))


def xml_box(element: ElementTree.Element) -> list[float]:
    """Return the box of an object as it is stored: left, top, right, bottom."""
    return [float(xml_text(element, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]


def as_box_corners(boxes: Any) -> BoxCorners:
    """Convert boxes to an array (n, 4), or raise ValueError for numbers that are not finite or not in order."""
    array = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    invalid = ~np.isfinite(array).all(1) | (array[:, 2:] < array[:, :2]).any(1)
    if invalid.any():
        raise ValueError(f"box {array[invalid][0].tolist()} must be [left, top, right, bottom], finite and in order")
    return array


def category_name(value: Any) -> str | None:
    """Return a category, given as text or as a number, as text."""
    return None if value is None else str(value)


def subset_names(value: Any) -> frozenset[str]:
    """Convert a list of subset names to a set, or raise ValueError if it is not one."""
    names = frozenset(value)
    if isinstance(value, str) or not all(isinstance(name, str) for name in names) or "all" in names:
        raise ValueError(f"subsets={value!r} must be a list of names, and 'all' is reserved")
    return names


def map_labels(labels: LabelMap, classes: Sequence[str]) -> dict[str, int | None]:
    """Map the selected classes of a data set to classes of the model.

    Args:
        labels: A mapping from names to the model's classes, or the names in the order of the model's classes; names
            that are left out are not selected. "dataset" numbers the classes in the data set's order. None selects
            all classes, with None as the class of the model.
        classes: Names of the data set's classes, in order.
    """
    if labels is None:
        return dict.fromkeys(classes)
    if labels == "dataset":
        return {name: index for index, name in enumerate(classes)}
    if isinstance(labels, str) or not isinstance(labels, Mapping | Sequence):
        raise InvalidInput(
            f"labels must be a mapping from names to the model's classes, a list of names, 'dataset' or None, got "
            f"{labels!r}."
        )
    indices = labels if isinstance(labels, Mapping) else {name: index for index, name in enumerate(labels)}
    for name, index in indices.items():
        if name not in classes:
            raise UnknownName("class of the data set", str(name), classes)
        if not isinstance(index, int) or index < 0:
            raise InvalidInput(f"labels[{name!r}] must be a class index of the model, 0 or more, got {index!r}.")
    return {name: indices[name] for name in classes if name in indices}
