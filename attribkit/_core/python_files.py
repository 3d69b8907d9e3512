"""Import of Python files by path."""

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from attribkit._core.errors import InvalidInput, UnreadableFile


def import_file(path: str | Path) -> ModuleType:
    """Run a Python file and return its module; the file can import other files of its folder.

    Raises:
        UnreadableFile: If the file does not exist.
        InvalidInput: If it cannot be run.
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise UnreadableFile(f"File {str(path)!r} does not exist: check the path.")
    name = f"{path.stem}_{sha256(str(path).encode()).hexdigest()[:8]}"  # must not shadow an installed module
    spec: Any = spec_from_file_location(name, path)
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up their module there
    try:
        with _importable(path.parent):
            spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, KeyboardInterrupt):
            raise
        raise InvalidInput(f"{str(path)!r} cannot be run: {type(error).__name__}: {error}.") from error
    return module


def classes_in(module: ModuleType, kinds: tuple[type, ...]) -> list[type]:
    """Return the concrete classes of these kinds that a module defines, without those that it imports."""
    local = (each for each in vars(module).values() if isinstance(each, type) and each.__module__ == module.__name__)
    return [each for each in local if issubclass(each, kinds) and not inspect.isabstract(each)]


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Make the modules of a folder importable, as for a script in this folder."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
