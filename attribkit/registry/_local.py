"""Registration of classes in the current process, without an installed package."""

import inspect
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

from attribkit import _hookspecs as hookspecs
from attribkit._core.errors import InvalidInput, join_names
from attribkit._core.python_files import classes_in, import_file
from attribkit.registry._discovery import KINDS, OfferedClass, Plugin, add_plugin, check_class, load_plugins

_LOCAL = "this process"  # the distribution of classes that are registered in this process


def register(*classes: OfferedClass) -> None:
    """Make classes available by their names in this process, as plugins do permanently.

    A class replaces an earlier one of the same kind and name that was registered in this process, so that the cell of a
    notebook can run twice.

    Args:
        *classes: Methods, visualizers, metrics, imputers or data sets.

    Raises:
        InvalidInput: If an argument is not such a class.
        AttribkitError: If a class cannot be used by name, or a plugin already has its name.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class MyMethod(Method):
        ...     "The gradient of the score."
        ...     name = "my_method"
        ...     source = "example"
        ...     def __call__(self, model, x, target):
        ...         return model.gradient(x, target)
        >>> register(MyMethod)
        >>> explainer.attribute(x, "my_method").scores.shape
        torch.Size([2, 3, 128, 128])
    """
    manager, loaded, _ = load_plugins()
    for cls in classes:
        hook = next((hook for hook, kind in KINDS.items() if isinstance(cls, type) and issubclass(cls, kind)), None)
        if hook is None:
            kinds = join_names(kind.__name__ for kind in KINDS.values())
            raise InvalidInput(f"A registered class must derive from one of {kinds}, got {cls!r}.")
        check_class(cls, KINDS[hook], "register")
        plugin = Plugin(f"{KINDS[hook].__name__.lower()} {cls.name}", _LOCAL, _checksum(cls))
        for other in [each for each in loaded if (each.name, each.distribution) == (plugin.name, _LOCAL)]:
            manager.unregister(name=f"{_LOCAL}:{other.name}")
            loaded.remove(other)
        loaded.append(add_plugin(manager, _plugin_with(hook, cls), plugin, loaded))


def register_file(path: str | Path) -> None:
    """Run a Python file, and register the methods, visualizers, metrics, imputers and data sets that it defines.

    Args:
        path: Path of the file.

    Raises:
        UnreadableFile: If the file does not exist.
        InvalidInput: If it cannot be run, or does not define such a class.
        AttribkitError: As for `register`.
    """
    offers = classes_in(import_file(path), tuple(KINDS.values()))
    if not offers:
        kinds = join_names(kind.__name__ for kind in KINDS.values())
        raise InvalidInput(f"{str(path)!r} must define a class that derives from one of {kinds}, but does not.")
    register(*offers)


def _plugin_with(hook: str, cls: OfferedClass) -> SimpleNamespace:
    """Return a plugin that implements one hook with one class."""

    def implementation() -> list[OfferedClass]:
        return [cls]

    return SimpleNamespace(**{hook: hookspecs.hookimpl(implementation)})


def _checksum(cls: type) -> str:
    """Return a checksum of the file that defines a class, or of the class itself if it was not defined in a file."""
    try:
        code = Path(inspect.getfile(cls)).read_bytes()
    except (OSError, TypeError):
        try:
            code = inspect.getsource(cls).encode()
        except (OSError, TypeError):
            code = repr(cls).encode()
    return f"sha256 {sha256(code).hexdigest()[:16]}"
