"""Code of others that wants to end the program."""

from collections.abc import Iterator
from contextlib import contextmanager

from attribkit.core.errors import AttribkitError
from attribkit.core.kinds import told


@contextmanager
def exits_refused(what: object) -> Iterator[None]:
    """A SystemExit that a method, metric or visualizer raises becomes an AttribkitError that names it."""
    try:
        yield
    except SystemExit as error:
        raise AttribkitError(
            f"{told(what)} raised SystemExit({error.code!r}), and only the program itself may end: let it raise an "
            "error, or leave it out."
        ) from error
