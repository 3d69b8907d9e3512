"""[core/files] Files that are there whole or not at all.
[core/saved] Tensors and a record of them in one safetensors file.
"""

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from attribkit.core.errors import InvalidInput, UnreadableFile, printable

UNFINISHED = ".unfinished"  # ending of a file that is being written
_SHOWN = 100  # characters of the name that the unfinished file keeps, so that its own name is not too long


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside its place, and put it there once the disk has it; an error leaves what was there before.

    write: writes the file at the path that it gets. Raises what that raises, and OSError.
    """
    beside = path.with_name(f"{path.name[:_SHOWN]}.{uuid4().hex}{UNFINISHED}")
    try:
        write(beside)
        _flush(beside)
        beside.replace(path)
        _flush(path.parent)
    except BaseException:
        with suppress(OSError):  # of a folder that is read-only, too
            beside.unlink()
        raise


def _flush(path: Path) -> None:
    """Have the disk keep a file, or the names in a folder."""
    if path.is_dir() and os.name == "nt":
        return  # Windows keeps them itself
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_FORMAT = 1  # of the files that are written; all from 1 to this are read
_VERSION, _RECORD = "attribkit", "attribution"  # keys of the metadata


def write_tensors(path: Any, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write the file whole, or leave what is there; raises UnreadableFile where that cannot be."""
    place = _place(path)
    try:
        own = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}  # that share nothing
        metadata = {_VERSION: str(_FORMAT), _RECORD: json.dumps(record)}
        write_whole(place, lambda beside: save_file(own, beside, metadata=metadata))
    except (OSError, SafetensorError) as error:
        raise UnreadableFile(f"{str(path)!r} cannot be written ({_told(error)}): look at the folder.") from error
    except (NotImplementedError, TypeError, ValueError) as error:
        raise UnreadableFile(f"{str(path)!r} cannot be written: no file holds {_told(error)}.") from error


def read_tensors(path: Any, names: frozenset[str]) -> tuple[dict[str, Tensor], Any]:
    """The tensors of these names, and the record.

    Raises UnreadableFile where the file was written by a newer attribkit; InvalidInput, OSError, SafetensorError,
    ValueError or RecursionError where it is something else.
    """
    if not Path(path).is_file():
        raise InvalidInput("it is no file" if Path(path).exists() else "there is no such file")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        _check_version(path, metadata.get(_VERSION))
        if _RECORD not in metadata or set(file.keys()) != names:
            raise InvalidInput(f"it has other content than a record and the tensors {', '.join(sorted(names))}")
        return {name: file.get_tensor(name) for name in sorted(names)}, json.loads(metadata[_RECORD])


def _check_version(path: Any, told: str | None) -> None:
    """Refuse a format that is none, and one that is newer than what is read here."""
    if told is None or not (told.isascii() and told.isdigit()) or len(told) > 9 or int(told) < 1:
        raise InvalidInput("it tells no version of the format" if told is None else f"its version is {told[:20]!r}")
    if int(told) > _FORMAT:
        raise UnreadableFile(
            f"{str(path)!r} was written by a newer attribkit (format {told}; this one reads up to {_FORMAT}): update "
            "attribkit."
        )


def _place(path: Any) -> Path:
    """Where to write: the file that a link leads to; raises UnreadableFile for what can be no file."""
    try:
        place = Path(os.path.realpath(Path(path)))
        is_other = place.exists() and not place.is_file()
    except (TypeError, ValueError, OSError) as error:
        raise UnreadableFile(f"{path!r} is no path of a file ({error}): give one like 'map.safetensors'.") from error
    if is_other:
        raise UnreadableFile(f"{str(path)!r} is a folder or a device: give the path of a file, as 'map.safetensors'.")
    if place.exists() and not os.access(place, os.W_OK):
        raise UnreadableFile(f"{str(path)!r} cannot be written, it is read-only: give another path.")
    return place


def _told(error: Exception) -> str:
    return printable(str(error)).partition("\n")[0]
