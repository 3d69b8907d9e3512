"""Python files of the user's own, named in place of an installed package."""

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from attribkit.core.errors import InvalidInput, UnreadableFile


def module_of(path: str | Path) -> ModuleType:
    """What a file defines, once it has run; it may import the files beside it.

    Raises UnreadableFile where there is no such file, InvalidInput where it cannot be run.
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise UnreadableFile(f"There is no file {str(path)!r}: look at the path.")
    name = f"{path.stem}_{sha256(str(path).encode()).hexdigest()[:8]}"  # hides no installed module
    spec: Any = spec_from_file_location(name, path)
    module = module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for the module that they are of
    try:
        with _findable(path.parent):
            spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, KeyboardInterrupt):
            raise
        raise InvalidInput(f"{str(path)!r} cannot be run: {type(error).__name__}: {error}.") from error
    return module


def classes_of(module: ModuleType, kinds: tuple[type, ...]) -> list[type]:
    """The classes of these kinds that a module defines itself, without abstract ones."""
    own = (each for each in vars(module).values() if isinstance(each, type) and each.__module__ == module.__name__)
    return [each for each in own if issubclass(each, kinds) and not inspect.isabstract(each)]


@contextmanager
def _findable(folder: Path) -> Iterator[None]:
    """As for a script: what lies beside the file can be imported."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
