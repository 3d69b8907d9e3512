"""The plugins that are installed: found, registered whole, and checked. Nothing else calls pluggy."""

import inspect
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

import attribkit.methods
import attribkit.metrics
import attribkit.models
import attribkit.visualizers
from attribkit import __version__, hookspecs
from attribkit.contracts.method import Method
from attribkit.contracts.metric import Metric
from attribkit.contracts.visualizer import Visualizer
from attribkit.core.annotations import describe
from attribkit.core.errors import AttribkitError, PluginWarning, one_line
from attribkit.core.substrates import Imputer

BUILTIN = {
    "methods": attribkit.methods,
    "visualizers": attribkit.visualizers,
    "metrics": attribkit.metrics,
    "models": attribkit.models,
}
_NAME = re.compile(r"\w[\w.+-]*")
_LONGEST = 64  # characters of a name
VARIABLE = "ATTRIBKIT_PLUGINS"  # names of the third-party plugins to load, separated by commas, or "none"


OfferedClass = type[Method] | type[Visualizer] | type[Metric] | type[Imputer]
KINDS: dict[str, type[Any]] = {
    "attribkit_methods": Method,
    "attribkit_visualizers": Visualizer,
    "attribkit_metrics": Metric,
    "attribkit_imputers": Imputer,
}


@dataclass(frozen=True)
class Plugin:
    """A plugin that was loaded."""

    name: str  # of its entry point
    distribution: str  # that installed it
    version: str  # of the distribution; of this process's own classes, a checksum of their code
    offers: tuple[OfferedClass, ...] = ()


@cache
def plugin_manager() -> tuple[pluggy.PluginManager, list[Plugin]]:
    """The plugin manager and what it holds; a third-party plugin that is not right is left out with a warning."""
    manager = pluggy.PluginManager("attribkit")
    manager.add_hookspecs(hookspecs)
    found: list[Plugin] = []
    for name, module in BUILTIN.items():
        found.append(add(manager, module, Plugin(name, "attribkit", __version__), found))
    for entry in _wanted():
        distribution, version = (entry.dist.name, entry.dist.version) if entry.dist else (entry.value, "")
        try:
            check_name(entry.name, "The plugin")
            found.append(add(manager, entry.load(), Plugin(entry.name, distribution, version), found))
        except (Exception, SystemExit) as error:
            warnings.warn(
                f"Plugin {describe(entry.name)} of {describe(distribution)} was left out: {type(error).__name__}: "
                f"{one_line(str(error))}",
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


def add(manager: pluggy.PluginManager, module: Any, plugin: Plugin, before: list[Plugin]) -> Plugin:
    """Register a plugin whole, or not at all; it comes back with what it offers."""
    manager.register(module, name=f"{plugin.distribution}:{plugin.name}")
    try:
        manager.check_pending()  # catches a misspelt hook
        if not manager.get_hookcallers(module):
            raise AttribkitError("it answers no hook; are its functions marked with @hookimpl?")
        plugin = replace(plugin, offers=tuple(_offers(manager, module)))
        _refuse_taken_names([*before, plugin])
    except BaseException:
        manager.unregister(module)
        raise
    return plugin


def _offers(manager: pluggy.PluginManager, module: Any) -> Iterator[OfferedClass]:
    """The classes that a plugin's hooks return, checked."""
    for hook, kind in KINDS.items():
        for answer in getattr(manager.hook, hook).get_hookimpls():
            for cls in answer.function() if answer.plugin is module else ():
                check_class(cls, kind, hook)
                yield cls


def check_class(cls: Any, kind: type[Any], hook: str) -> None:
    """Refuse what cannot be used by name."""
    if not (isinstance(cls, type) and issubclass(cls, kind)) or inspect.isabstract(cls):
        raise AttribkitError(f"{hook}() must return classes derived from {kind.__name__}, got {cls!r}.")
    if (name := getattr(cls, "name", None)) is not None:
        check_name(name, _path(cls))
    missing = [word for word in ("name", "source") if not isinstance(getattr(cls, word, None), str)]
    if missing:
        raise AttribkitError(f'{_path(cls)} has no {missing[0]}: give the class `{missing[0]} = "..."`.')
    options_of(cls)
    if kind is Metric:
        _check_metric(cls)


def check_name(name: Any, whose: str) -> None:
    """Refuse what cannot be a word of a command, a table and a file's name at once."""
    if not isinstance(name, str) or len(name) > _LONGEST or not _NAME.fullmatch(name):
        raise AttribkitError(
            f"{whose} is named {describe(name)}: a name has up to {_LONGEST} letters, digits and characters of '_+-.', and "
            "begins with a letter, a digit or '_'."
        )


def _check_metric(cls: type[Metric]) -> None:
    """Refuse a metric that tables cannot describe."""
    direction = getattr(cls, "higher_is_better", "missing")
    if not (direction is None or isinstance(direction, bool)):
        raise AttribkitError(f"{_path(cls)}.higher_is_better is {describe(direction)}: give True, False or None.")
    if not isinstance(cls.presets, Mapping) or not all(
        isinstance(options, Mapping) for options in cls.presets.values()
    ):
        raise AttribkitError(f"{_path(cls)}.presets is {describe(cls.presets)}: give a mapping of names to options.")
    for preset in cls.presets:
        check_name(preset, f"A preset of {_path(cls)}")


def _refuse_taken_names(found: list[Plugin]) -> None:
    taken: dict[tuple[type, str], type] = {}
    for cls in (cls for plugin in found for cls in plugin.offers):
        kind = next(kind for kind in KINDS.values() if issubclass(cls, kind))
        other = taken.setdefault((kind, cls.name), cls)
        if other is not cls:
            raise AttribkitError(f"{_path(other)} and {_path(cls)} are both named {cls.name!r}; rename the second.")


def options_of(cls: type[Any]) -> dict[str, Any]:
    """The options of a method, visualizer or metric, with their defaults."""
    if not is_dataclass(cls) or not cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise AttribkitError(f"{_path(cls)} is no frozen dataclass: decorate it with @dataclass(frozen=True).")
    return {field.name: field.default for field in fields(cls)}


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
