"""Files that are there whole or not at all."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from attribkit.core.errors import UnreadableFile

UNFINISHED = ".unfinished"  # ending of a file that is being written


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside its place, and put it there once the disk has it."""
    beside = path.with_name(f"{path.name}.{uuid4().hex}{UNFINISHED}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(beside)
        _flush(beside)
        beside.replace(path)
        _flush(path.parent)
    except OSError as error:
        with suppress(OSError):  # of a folder that is read-only, too
            beside.unlink()
        raise UnreadableFile(
            f"{str(path)!r} cannot be written ({error}): mend that and start the same run again; what is finished is "
            "kept."
        ) from error


def write_text_whole(path: Path, text: str) -> None:
    """Write a text so."""
    write_whole(path, lambda beside: beside.write_text(text, encoding="utf-8", newline=""))


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes were writing."""
    for path in folder.rglob(f"*{UNFINISHED}"):
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Have the disk keep a file, or the names in a folder."""
    if path.is_dir() and os.name == "nt":
        return  # Windows keeps them itself
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
