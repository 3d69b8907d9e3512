"""Classes of the user's own, offered by name without a package."""

import hashlib
import inspect
from pathlib import Path
from types import SimpleNamespace

from attribkit import hookspecs
from attribkit.core.errors import InvalidInput, listed
from attribkit.python_files import classes_of, module_of
from attribkit.registry.discovery import KINDS, Offer, Plugin, add, check_class, loaded

_OWN = "this process"  # the distribution of classes that it registers itself


def register(*classes: Offer) -> None:
    """Offer classes by name in this process, as a plugin does in every one.

    A class takes the place of one of its kind and name that was registered before: a cell of a notebook may run twice.
    Raises InvalidInput for what is none of the kinds, AttribkitError for a class that cannot be used by name, or whose
    name a plugin has.
    """
    manager, found = loaded()
    for cls in classes:
        hook = next((hook for hook, kind in KINDS.items() if isinstance(cls, type) and issubclass(cls, kind)), None)
        if hook is None:
            raise InvalidInput(f"{cls!r} is none of {listed(k.__name__ for k in KINDS.values())}: derive it from one.")
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


def _answering(hook: str, cls: Offer) -> SimpleNamespace:
    """A plugin that answers one hook with one class."""

    def answer() -> list[Offer]:
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
