"""Plugins: found, checked and looked up by name. Nothing else calls pluggy."""

import hashlib
import inspect
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, get_args

import pluggy
from torch import nn

import attribkit.methods
import attribkit.metrics
import attribkit.models
import attribkit.visualizers
from attribkit import __version__, hookspecs
from attribkit.core.errors import AttribkitError, InvalidInput, PluginWarning, UnknownName, listed
from attribkit.core.method import Method
from attribkit.core.metric import Metric
from attribkit.core.spec import ModelSpec
from attribkit.core.substrates import Imputer, Substrate
from attribkit.core.visualizer import Visualizer
from attribkit.python_files import classes_of, module_of

BUILTIN = {
    "methods": attribkit.methods,
    "visualizers": attribkit.visualizers,
    "metrics": attribkit.metrics,
    "models": attribkit.models,
}
OWN = "this process"  # the distribution of classes that it registers itself
VARIABLE = "ATTRIBKIT_PLUGINS"  # names of the third-party plugins to load, separated by commas, or "none"

Offer = type[Method] | type[Visualizer] | type[Metric] | type[Imputer]
Named = TypeVar("Named", Method, Visualizer, Metric, Imputer)
_KINDS: dict[str, type[Any]] = {
    "attribkit_methods": Method,
    "attribkit_visualizers": Visualizer,
    "attribkit_metrics": Metric,
    "attribkit_imputers": Imputer,
}
SUBSTRATES = ("substrate", "insertion_substrate", "baseline")  # options that take a filling, or an imputer's name
_FILLINGS = (*get_args(Substrate), "inpaint")


@dataclass(frozen=True)
class Plugin:
    """A plugin that was loaded."""

    name: str  # of its entry point
    distribution: str  # that installed it
    version: str  # of the distribution; of this process's own classes, a checksum of their code
    offers: tuple[Offer, ...] = ()


def plugins() -> tuple[Plugin, ...]:
    """Built-in plugins first, then those of installed distributions, in the order of their names."""
    return tuple(_loaded()[1])


def methods() -> dict[str, type[Method]]:
    """Every attribution method by name."""
    return offered(Method)


def visualizers() -> dict[str, type[Visualizer]]:
    """Every visualizer by name."""
    return offered(Visualizer)


def metrics() -> dict[str, type[Metric]]:
    """Every metric by name."""
    return offered(Metric)


def imputers() -> dict[str, type[Imputer]]:
    """Every imputer by name."""
    return offered(Imputer)


def offered(kind: type[Named]) -> dict[str, type[Named]]:
    """Every class of a kind by name."""
    return {cls.name: cls for plugin in plugins() for cls in plugin.offers if issubclass(cls, kind)}


def plugin_of(cls: Offer) -> Plugin:
    """The plugin that offers a method, visualizer, metric or imputer."""
    return next(plugin for plugin in plugins() if cls in plugin.offers)


def register(*classes: Offer) -> None:
    """Offer classes by name in this process, as a plugin does in every one.

    A class takes the place of one of its kind and name that was registered before: a cell of a notebook may run twice.
    """
    manager, found = _loaded()
    for cls in classes:
        hook = next((hook for hook, kind in _KINDS.items() if isinstance(cls, type) and issubclass(cls, kind)), None)
        if hook is None:
            raise InvalidInput(f"{cls!r} is none of {listed(k.__name__ for k in _KINDS.values())}: derive it from one.")
        _check_class(cls, _KINDS[hook], "register")
        plugin = Plugin(f"{_KINDS[hook].__name__.lower()} {cls.name}", OWN, _checksum(cls))
        for other in [each for each in found if (each.name, each.distribution) == (plugin.name, OWN)]:
            manager.unregister(name=f"{OWN}:{other.name}")
            found.remove(other)
        found.append(_register(manager, _answering(hook, cls), plugin, found))


def register_file(path: str | Path) -> None:
    """Run a Python file of the user's own, and offer the methods, visualizers, metrics and imputers that it defines."""
    offers = classes_of(module_of(path), tuple(_KINDS.values()))
    if not offers:
        raise InvalidInput(f"{str(path)!r} defines no {' and no '.join(k.__name__ for k in _KINDS.values())}.")
    register(*offers)


def model_spec(model: nn.Module) -> ModelSpec:
    """What the first plugin that knows this model says of it; one that fails is passed over with a warning."""
    for answer in reversed(_loaded()[0].hook.attribkit_model_spec.get_hookimpls()):
        try:
            spec = answer.function(**dict.fromkeys(answer.argnames, model))
        except Exception as error:
            spec = error
        if isinstance(spec, ModelSpec):
            return spec
        if spec is not None:
            warnings.warn(f"Plugin {answer.plugin_name!r} gave no ModelSpec but {spec!r}.", PluginWarning, stacklevel=2)
    return ModelSpec()


def make(what: str | type[Named] | Named, kind: type[Named], **options: Any) -> Named:
    """A method, visualizer, metric or imputer with its options: by name, by class, or as it was given.

    A metric takes ``preset="rise"`` beside its options, where it has presets; an option that is given too prevails.
    """
    if isinstance(what, kind):
        if options:
            raise InvalidInput(
                f"{what!r} has its options already: give the name {what.name!r} with options, or change it."
            )
        return what
    cls = what if isinstance(what, type) and issubclass(what, kind) else _named(what, kind)
    if issubclass(cls, Metric) and "preset" in options:
        options = {**_preset(cls, options.pop("preset")), **options}
    known = list(options_of(cls))
    for option in options:
        if option not in known:
            raise UnknownName(f"option of {cls.name!r}", option, known)
    for option in set(SUBSTRATES) & set(options):
        if isinstance(name := options[option], str) and name not in _FILLINGS:
            options[option] = _imputer(name)
    try:
        return cls(**options)
    except TypeError as error:
        raise InvalidInput(
            f"{cls.name!r} cannot be made with these options: {error}; it has {listed(known)}."
        ) from error


def options_of(cls: type[Any]) -> dict[str, Any]:
    """The options of a method, visualizer or metric, with their defaults."""
    if not is_dataclass(cls) or not cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise AttribkitError(f"{_path(cls)} is no frozen dataclass: decorate it with @dataclass(frozen=True).")
    return {field.name: field.default for field in fields(cls)}


def _imputer(name: str) -> Imputer:
    if name not in (known := imputers()):
        raise UnknownName("substrate", name, [*_FILLINGS, *known])
    return known[name]()


def _preset(cls: type[Metric], name: Any) -> dict[str, Any]:
    if name not in cls.presets:
        raise UnknownName(f"preset of {cls.name!r}", str(name), cls.presets)
    return dict(cls.presets[name])


def _named(name: Any, kind: type[Named]) -> type[Named]:
    known = offered(kind)
    if not isinstance(name, str):
        raise InvalidInput(
            f"{name!r} is no {kind.__name__.lower()}: give a name ({listed(known)}), a class or an instance."
        )
    if name not in known:
        raise UnknownName(kind.__name__.lower(), name, known)
    return known[name]


@cache
def _loaded() -> tuple[pluggy.PluginManager, list[Plugin]]:
    """The plugin manager and what it holds; a third-party plugin that is not right is left out with a warning."""
    manager = pluggy.PluginManager("attribkit")
    manager.add_hookspecs(hookspecs)
    found: list[Plugin] = []
    for name, module in BUILTIN.items():
        found.append(_register(manager, module, Plugin(name, "attribkit", __version__), found))
    for entry in _wanted():
        distribution, version = (entry.dist.name, entry.dist.version) if entry.dist else (entry.value, "")
        try:
            found.append(_register(manager, entry.load(), Plugin(entry.name, distribution, version), found))
        except Exception as error:
            warnings.warn(
                f"Plugin {entry.name!r} of {distribution!r} was left out: {type(error).__name__}: {error}",
                PluginWarning,
                stacklevel=2,
            )
    return manager, found


def _wanted() -> Iterator[EntryPoint]:
    """The entry points that the environment variable lets in; all of them where it is not set."""
    wanted = os.environ.get(VARIABLE)
    names = None if wanted is None else [name.strip() for name in wanted.split(",")]
    installed = sorted(entry_points(group="attribkit"), key=lambda entry: entry.name)
    return (entry for entry in installed if names is None or entry.name in names)


def _register(manager: pluggy.PluginManager, module: Any, plugin: Plugin, before: list[Plugin]) -> Plugin:
    """Register a plugin whole, or not at all; it comes back with what it offers."""
    manager.register(module, name=f"{plugin.distribution}:{plugin.name}")
    try:
        manager.check_pending()  # catches a misspelt hook
        if not manager.get_hookcallers(module):
            raise AttribkitError("it answers no hook; are its functions marked with @hookimpl?")
        plugin = replace(plugin, offers=tuple(_offers(manager, module)))
        _refuse_taken_names([*before, plugin])
    except Exception:
        manager.unregister(module)
        raise
    return plugin


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


def _offers(manager: pluggy.PluginManager, module: Any) -> Iterator[Offer]:
    """The classes that a plugin's hooks return, checked."""
    for hook, kind in _KINDS.items():
        for answer in getattr(manager.hook, hook).get_hookimpls():
            for cls in answer.function() if answer.plugin is module else ():
                _check_class(cls, kind, hook)
                yield cls


def _check_class(cls: Any, kind: type[Any], hook: str) -> None:
    """Refuse what cannot be used by name."""
    if not (isinstance(cls, type) and issubclass(cls, kind)) or inspect.isabstract(cls):
        raise AttribkitError(f"{hook}() must return classes derived from {kind.__name__}, got {cls!r}.")
    missing = [word for word in ("name", "source") if not isinstance(getattr(cls, word, None), str)]
    if missing:
        raise AttribkitError(f'{_path(cls)} has no {missing[0]}: give the class `{missing[0]} = "..."`.')
    options_of(cls)


def _refuse_taken_names(found: list[Plugin]) -> None:
    taken: dict[tuple[type, str], type] = {}
    for cls in (cls for plugin in found for cls in plugin.offers):
        kind = next(kind for kind in _KINDS.values() if issubclass(cls, kind))
        other = taken.setdefault((kind, cls.name), cls)
        if other is not cls:
            raise AttribkitError(f"{_path(other)} and {_path(cls)} are both named {cls.name!r}; rename the second.")


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
