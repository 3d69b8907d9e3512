"""Files that are there whole or not at all."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

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
