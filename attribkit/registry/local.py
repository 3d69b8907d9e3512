"""[python_files] Python files of the user's own, named in place of an installed package.
[registry/own] Classes of the user's own, offered by name without a package.
"""

import hashlib
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from attribkit import hookspecs
from attribkit.core.errors import InvalidInput, UnreadableFile, join_names
from attribkit.registry.discovery import KINDS, OfferedClass, Plugin, add, check_class, plugin_manager


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


_OWN = "this process"  # the distribution of classes that it registers itself


def register(*classes: OfferedClass) -> None:
    """Offer classes by name in this process, as a plugin does in every one.

    A class takes the place of one of its kind and name that was registered before: a cell of a notebook may run twice.
    Raises InvalidInput for what is none of the kinds, AttribkitError for a class that cannot be used by name, or whose
    name a plugin has.
    """
    manager, found = plugin_manager()
    for cls in classes:
        hook = next((hook for hook, kind in KINDS.items() if isinstance(cls, type) and issubclass(cls, kind)), None)
        if hook is None:
            raise InvalidInput(
                f"{cls!r} is none of {join_names(k.__name__ for k in KINDS.values())}: derive it from one."
            )
        check_class(cls, KINDS[hook], "register")
        plugin = Plugin(f"{KINDS[hook].__name__.lower()} {cls.name}", _OWN, _checksum(cls))
        for other in [each for each in found if (each.name, each.distribution) == (plugin.name, _OWN)]:
            manager.unregister(name=f"{_OWN}:{other.name}")
            found.remove(other)
        found.append(add(manager, _answering(hook, cls), plugin, found))


def register_file(path: str | Path) -> None:
    """Run a Python file of the user's own, and offer the methods, visualizers, metrics and imputers that it defines.

    Raises UnreadableFile where there is none, InvalidInput where it cannot be run or defines none; else as `register`.
    """
    offers = classes_of(module_of(path), tuple(KINDS.values()))
    if not offers:
        raise InvalidInput(f"{str(path)!r} defines no {' and no '.join(k.__name__ for k in KINDS.values())}.")
    register(*offers)


def _answering(hook: str, cls: OfferedClass) -> SimpleNamespace:
    """A plugin that answers one hook with one class."""

    def answer() -> list[OfferedClass]:
        return [cls]

    return SimpleNamespace(**{hook: hookspecs.hookimpl(answer)})


def _checksum(cls: type) -> str:
    """Of the file that defines a class, or of the class alone where there is no file."""
    try:
        code = Path(inspect.getfile(cls)).read_bytes()
    except (OSError, TypeError):
        try:
            code = inspect.getsource(cls).encode()
        except (OSError, TypeError):
            code = repr(cls).encode()
    return f"sha256 {hashlib.sha256(code).hexdigest()[:16]}"
