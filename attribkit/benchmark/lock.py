"""One run at a time in a folder."""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from attribkit.core.errors import AttribkitError, UnreadableFile

_BEHIND = 2**20  # a place in the file that nothing is written to

if sys.platform == "win32":
    import msvcrt

    def _take(file: IO[str]) -> None:
        os.lseek(file.fileno(), _BEHIND, os.SEEK_SET)  # others cannot read what is locked here, and are to read it
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _take(file: IO[str]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder, or tell who does.

    The system's own lock, which ends with its process however that ends: a file that a dead run left locks nothing.
    """
    with _opened(folder / "lock") as file:
        try:
            _take(file)
        except (BlockingIOError, PermissionError) as error:  # of Windows, the second
            file.seek(0)
            raise AttribkitError(
                f"{str(folder)!r} is in use by another run ({file.read().strip()}): wait for it, or choose another "
                "output."
            ) from error
        except OSError as error:
            raise AttribkitError(
                f"{str(folder)!r} is on a file system that cannot lock ({error}): choose another output."
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def _opened(path: Path) -> IO[str]:
    try:
        return path.open("a+", encoding="utf-8")
    except OSError as error:
        raise UnreadableFile(f"Nothing can be written into {str(path.parent)!r} ({error}): choose another.") from error
