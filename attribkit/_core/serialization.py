"""Atomic writing of files, and safetensors files of tensors with a JSON record."""

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

from attribkit._core.errors import InvalidInput, UnreadableFile, printable

UNFINISHED = ".unfinished"  # suffix of temporary files

_NAME_LENGTH = 100  # characters of the name that a temporary file keeps, to limit the length of its name
_FORMAT = 1  # version that is written; versions from 1 to this are read
_VERSION, _RECORD = "attribkit", "attribution"  # keys of the metadata


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file atomically, through a temporary file in the same folder; an error leaves the previous file.

    Args:
        path: The file.
        write: Writes the content to the path that it receives.

    Raises:
        OSError: The file cannot be written. Exceptions of `write` propagate too.
    """
    temporary = path.with_name(f"{path.name[:_NAME_LENGTH]}.{uuid4().hex}{UNFINISHED}")
    try:
        write(temporary)
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    except BaseException:
        with suppress(OSError):  # the folder may be read-only
            temporary.unlink()
        raise


def _flush(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open folders, and flushes them itself
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_tensors(path: Any, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write tensors and a JSON record to a safetensors file, atomically.

    Raises:
        UnreadableFile: The path cannot be written, or the tensors or the record cannot be stored.
    """
    file = _writable_file(path)
    try:
        copies = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}  # not shared
        metadata = {_VERSION: str(_FORMAT), _RECORD: json.dumps(record)}
        write_whole(file, lambda temporary: save_file(copies, temporary, metadata=metadata))
    except (OSError, SafetensorError) as error:
        reason = _first_line(error)
        raise UnreadableFile(f"{str(path)!r} cannot be written ({reason}). Check the folder.") from error
    except (NotImplementedError, TypeError, ValueError) as error:
        raise UnreadableFile(
            f"{str(path)!r} cannot be written: the content cannot be stored in a file ({_first_line(error)})."
        ) from error


def read_tensors(path: Any, names: frozenset[str]) -> tuple[dict[str, Tensor], Any]:
    """Return the tensors of these names and the record.

    Raises:
        UnreadableFile: The file was written by a newer attribkit.
        InvalidInput: The file does not exist, or was not written by `write_tensors`. Such a file can also raise
            OSError, SafetensorError, ValueError or RecursionError.
    """
    if not Path(path).is_file():
        raise InvalidInput("it is not a file" if Path(path).exists() else "the file does not exist")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        _check_version(path, metadata.get(_VERSION))
        if _RECORD not in metadata or set(file.keys()) != names:
            raise InvalidInput(f"it must contain a record and the tensors {', '.join(sorted(names))}")
        return {name: file.get_tensor(name) for name in sorted(names)}, json.loads(metadata[_RECORD])


def _check_version(path: Any, version: str | None) -> None:
    """Reject an invalid format version, and one that is newer than the supported ones."""
    if version is None or not (version.isascii() and version.isdigit()) or len(version) > 9 or int(version) < 1:
        raise InvalidInput(
            "its format version is missing" if version is None else f"its format version is {version[:20]!r}"
        )
    if int(version) > _FORMAT:
        raise UnreadableFile(
            f"{str(path)!r} was written by a newer attribkit (format {version}; this version reads up to {_FORMAT}). "
            "Update attribkit."
        )


def _writable_file(path: Any) -> Path:
    """Return the file to write, with links resolved; raise UnreadableFile if it cannot be written."""
    try:
        file = Path(os.path.realpath(Path(path)))
        is_other = file.exists() and not file.is_file()
    except (TypeError, ValueError, OSError) as error:
        raise UnreadableFile(
            f"{path!r} is not a valid file path ({error}). Pass a path such as 'map.safetensors'."
        ) from error
    if is_other:
        raise UnreadableFile(f"{str(path)!r} is a folder or a device. Pass a file path, such as 'map.safetensors'.")
    if file.exists() and not os.access(file, os.W_OK):
        raise UnreadableFile(f"{str(path)!r} cannot be written: the file is read-only. Pass another path.")
    return file


def _first_line(error: Exception) -> str:
    return printable(str(error)).partition("\n")[0]
