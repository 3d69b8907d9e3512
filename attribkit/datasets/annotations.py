"""[datasets/annotations] Reading what annotators wrote, or telling in one sentence why it cannot be read.
[datasets/labels] Which class of the model a name of the data set means.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np

from attribkit.core.errors import AttribkitError, InvalidInput, UnknownName, UnreadableFile
from attribkit.datasets.sample import BoxCorners, Size

_ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}


@contextmanager
def annotation_errors(path: Path) -> Iterator[None]:
    """Whatever is wrong with the file of annotations becomes one sentence that names it."""
    try:
        yield
    except AttribkitError:
        raise
    except FileNotFoundError as error:
        raise UnreadableFile(f"There are no annotations {str(path)!r}: look at the path.") from error
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise UnreadableFile(
            f"{str(path)!r} holds no annotations that can be read ({type(error).__name__}: {error}): mend it, or "
            "fetch it anew."
        ) from error


def existing_folder(path: str | Path) -> Path:
    """The folder, if it is there."""
    if not Path(path).is_dir():
        raise UnreadableFile(f"There is no folder {str(path)!r}: look at the path.")
    return Path(path)


def image_files(folder: Path) -> list[Path]:
    """The images in a folder and its own folders, by name, without hidden ones."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in _ENDINGS)
    return sorted(path for path in found if not path.name.startswith("."))


def subfolders(folder: Path) -> list[Path]:
    """Those directly in a folder, by name, without hidden ones."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def json_of(path: Path) -> Any:
    """What a JSON file holds."""
    with annotation_errors(path):
        return json.loads(path.read_text(encoding="utf-8"))


def list_entries(path: Path) -> list[str]:
    """The lines of a list, without empty ones and comments."""
    with annotation_errors(path):
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        return [line for line in lines if line and not line.startswith("#")]


def xml_of(path: Path) -> ElementTree.Element:
    """The root of an XML file."""
    with annotation_errors(path):
        return ElementTree.fromstring(path.read_bytes())


def xml_text(element: ElementTree.Element, tag: str) -> str:
    """The words of a tag; a ValueError names one that is missing."""
    found = element.findtext(tag)
    if found is None:
        raise ValueError(f"no <{tag}> in <{element.tag}>")
    return found.strip()


def xml_size(root: ElementTree.Element) -> Size:
    """The size of the image that the annotations are for."""
    return Size(int(xml_text(root, "size/height")), int(xml_text(root, "size/width")))


def xml_box(element: ElementTree.Element) -> list[float]:
    """The four numbers of an object's box as they are written: left, top, right, bottom."""
    return [float(xml_text(element, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]


def corners(boxes: Any) -> BoxCorners:
    """Boxes, (n, 4); a ValueError names one that is none."""
    found = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    wrong = ~np.isfinite(found).all(1) | (found[:, 2:] < found[:, :2]).any(1)
    if wrong.any():
        raise ValueError(f"{found[wrong][0].tolist()} is no box left, top, right, bottom")
    return found


def category_of(told: Any) -> str | None:
    """What class means are taken over; a number is a name too."""
    return None if told is None else str(told)


def subsets_of(told: Any) -> frozenset[str]:
    """Names of parts of the data; a ValueError tells what are none."""
    names = frozenset(told)
    if isinstance(told, str) or not all(isinstance(name, str) for name in names) or "all" in names:
        raise ValueError(f"subsets={told!r} is no list of names other than 'all'")
    return names


LabelMap = Mapping[str, int] | Sequence[str] | Literal["own"] | None


def model_classes(labels: LabelMap, own: Sequence[str]) -> dict[str, int | None]:
    """The model's class of each name that is explained; None where it is not known.

    labels: a mapping of names to the model's classes, or the names in the order of its classes; names that it leaves
    out are not explained. "own" is the data set's own numbering. None explains all, and knows the class of none.
    """
    if labels is None:
        return dict.fromkeys(own)
    if labels == "own":
        return {name: index for index, name in enumerate(own)}
    if isinstance(labels, str) or not isinstance(labels, Mapping | Sequence):
        raise InvalidInput(
            f"labels={labels!r} must be a mapping of names to the model's classes, a list of names, or 'own'."
        )
    told = labels if isinstance(labels, Mapping) else {name: index for index, name in enumerate(labels)}
    for name, index in told.items():
        if name not in own:
            raise UnknownName("class of the data set", str(name), own)
        if not isinstance(index, int) or index < 0:
            raise InvalidInput(f"labels[{name!r}] = {index!r} is no class of a model: give an index from 0.")
    return {name: told[name] for name in own if name in told}
