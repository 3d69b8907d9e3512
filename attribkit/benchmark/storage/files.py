"""Files that are there whole or not at all."""

from collections.abc import Callable
from pathlib import Path

from attribkit.core import files
from attribkit.core.errors import UnreadableFile

UNFINISHED = files.UNFINISHED  # ending of a file that is being written


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside its place, and put it there once the disk has it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_whole(path, write)
    except OSError as error:
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
