"""One run at a time in a folder."""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from attribkit.core.errors import AttribkitError

if sys.platform == "win32":
    import msvcrt

    def _take(file: IO[str]) -> None:
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
    with (folder / "lock").open("a+", encoding="utf-8") as file:
        file.seek(0)
        try:
            _take(file)
        except OSError as error:
            file.seek(0)
            raise AttribkitError(
                f"{str(folder)!r} is in use by another run ({file.read().strip()}): wait for it, or choose another "
                "output."
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
