"""Discovery, registration and validation of plugins, with pluggy."""

import inspect
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple

import pluggy

import attribkit._models
import attribkit.datasets
import attribkit.methods
import attribkit.metrics
import attribkit.visualizers
from attribkit import __version__
from attribkit import _hookspecs as hookspecs
from attribkit._contracts.dataset import Dataset
from attribkit._contracts.method import Method
from attribkit._contracts.metric import Metric
from attribkit._contracts.visualizer import Visualizer
from attribkit._core.annotations import describe
from attribkit._core.errors import AttribkitError, PluginWarning, UnknownName, one_line
from attribkit._core.substrates import Imputer
from attribkit._display.representations import short_value

BUILTIN = {
    "methods": attribkit.methods,
    "visualizers": attribkit.visualizers,
    "metrics": attribkit.metrics,
    "datasets": attribkit.datasets,
    "models": attribkit._models,
}
_NAME = re.compile(r"\w[\w.+-]*")
_MAX_LENGTH = 64  # characters of a name
VARIABLE = "ATTRIBKIT_PLUGINS"  # environment variable: third-party plugins to load, separated by commas, or "none"


OfferedClass = type[Method] | type[Visualizer] | type[Metric] | type[Imputer] | type[Dataset]
KINDS: dict[str, type[Any]] = {
    "attribkit_methods": Method,
    "attribkit_visualizers": Visualizer,
    "attribkit_metrics": Metric,
    "attribkit_imputers": Imputer,
    "attribkit_datasets": Dataset,
}


@dataclass(frozen=True)
class Plugin:
    """A loaded plugin.

    Args:
        name: Name of the entry point.
        distribution: Distribution that installed the plugin.
        version: Version of the distribution; a checksum of the code for classes that are registered in this process.
        offers: The methods, visualizers, metrics, imputers and data sets that the plugin provides.
    """

    name: str
    distribution: str
    version: str
    offers: tuple[OfferedClass, ...] = ()

    def __repr__(self) -> str:
        names = short_value([each.__name__ for each in self.offers])
        return f"Plugin({self.name!r} of {self.distribution} {self.version}, offers {names})"


@dataclass(frozen=True)
class SkippedPlugin:
    """An installed plugin that is not loaded.

    Args:
        name: Name of the entry point.
        distribution: Distribution that installed the plugin.
        version: Version of the distribution.
        reason: Why it was skipped.
    """

    name: str
    distribution: str
    version: str
    reason: str


class Plugins(NamedTuple):
    """The plugin manager, and the plugins of this process."""

    manager: pluggy.PluginManager
    loaded: list[Plugin]
    skipped: list[SkippedPlugin]


@cache
def load_plugins() -> Plugins:
    """Return the plugin manager and all plugins; invalid third-party plugins are skipped with a warning."""
    manager = pluggy.PluginManager("attribkit")
    manager.add_hookspecs(hookspecs)
    plugins = Plugins(manager, [], [])
    for name, module in BUILTIN.items():
        plugins.loaded.append(add_plugin(manager, module, Plugin(name, "attribkit", __version__), plugins.loaded))
    for entry in sorted(entry_points(group="attribkit"), key=lambda entry: entry.name):
        distribution, version = (entry.dist.name, entry.dist.version) if entry.dist else (entry.value, "")
        if not _is_selected(entry):
            reason = f"the environment variable {VARIABLE} does not list it"
            plugins.skipped.append(SkippedPlugin(entry.name, distribution, version, reason))
            continue
        try:
            check_name(entry.name, "The plugin")
            plugin = Plugin(entry.name, distribution, version)
            plugins.loaded.append(add_plugin(manager, entry.load(), plugin, plugins.loaded))
        except BaseException as error:  # a plugin may raise anything at import, such as SystemExit
            if isinstance(error, KeyboardInterrupt):
                raise
            reason = f"{type(error).__name__}: {one_line(str(error))}"
            plugins.skipped.append(SkippedPlugin(entry.name, distribution, version, reason))
            text = f"Plugin {describe(entry.name)} of {describe(distribution)} was skipped: {reason}"
            warnings.warn(text, PluginWarning, stacklevel=2)
    return plugins


def _is_selected(entry: EntryPoint) -> bool:
    """Return whether the environment variable names the entry point, or is not set."""
    variable = os.environ.get(VARIABLE)
    return variable is None or entry.name in [name.strip() for name in variable.split(",")]


def add_plugin(manager: pluggy.PluginManager, module: Any, plugin: Plugin, loaded: list[Plugin]) -> Plugin:
    """Register a plugin completely or not at all, and return it with the classes that it provides."""
    _check_hooks(module)
    manager.register(module, name=f"{plugin.distribution}:{plugin.name}")
    try:
        manager.check_pending()
        if not manager.get_hookcallers(module):
            raise AttribkitError(
                "it must implement at least one hook: check that its functions are decorated with @hookimpl"
            )
        plugin = replace(plugin, offers=tuple(_offered_classes(manager, module)))
        _check_names_are_unique([*loaded, plugin])
    except BaseException:
        manager.unregister(module)
        raise
    return plugin


def _check_hooks(module: Any) -> None:
    """Raise AttribkitError for a plugin of another version of the hooks, or with a hook that does not exist."""
    version = getattr(module, "attribkit_hooks_version", hookspecs.HOOKS_VERSION)
    if version != hookspecs.HOOKS_VERSION:
        raise AttribkitError(
            f"it implements version {describe(version)} of the hooks, but attribkit {__version__} calls version "
            f"{hookspecs.HOOKS_VERSION}: install versions of both that match."
        )
    known = [name for name, function in vars(hookspecs).items() if hasattr(function, "attribkit_spec")]
    for name, function in vars(module).items():
        if hasattr(function, "attribkit_impl") and name not in known:
            raise UnknownName("hook", name, known)


def _offered_classes(manager: pluggy.PluginManager, module: Any) -> Iterator[OfferedClass]:
    """Check and yield the classes that a plugin's hooks return."""
    for hook, kind in KINDS.items():
        for implementation in getattr(manager.hook, hook).get_hookimpls():
            for cls in implementation.function() if implementation.plugin is module else ():
                check_class(cls, kind, hook)
                yield cls


def check_class(cls: Any, kind: type[Any], hook: str) -> None:
    """Raise AttribkitError unless the class can be used by name: a concrete frozen dataclass with name and source."""
    if not (isinstance(cls, type) and issubclass(cls, kind)) or inspect.isabstract(cls):
        raise AttribkitError(f"{hook}() must return classes derived from {kind.__name__}, got {cls!r}.")
    if (name := getattr(cls, "name", None)) is not None:
        check_name(name, _path(cls))
    missing = [attribute for attribute in ("name", "source") if not isinstance(getattr(cls, attribute, None), str)]
    if missing:
        raise AttribkitError(
            f'{_path(cls)} must have the class attribute {missing[0]!r}, a string: write `{missing[0]} = "..."`.'
        )
    options_of(cls)
    if kind is Metric:
        _check_metric(cls)


def check_name(name: Any, owner: str) -> None:
    """Raise AttribkitError unless the name can be used in commands, tables and file names."""
    if not isinstance(name, str) or len(name) > _MAX_LENGTH or not _NAME.fullmatch(name):
        raise AttribkitError(
            f"{owner} is named {describe(name)}: a name must consist of at most {_MAX_LENGTH} letters, digits and "
            "characters from '_+-.', and start with a letter, a digit or '_'."
        )


def _check_metric(cls: type[Metric]) -> None:
    """Raise AttribkitError unless the class attributes of a metric are valid."""
    direction = getattr(cls, "higher_is_better", "missing")
    if not (direction is None or isinstance(direction, bool)):
        raise AttribkitError(f"{_path(cls)}.higher_is_better must be True, False or None, got {describe(direction)}.")
    if not isinstance(cls.presets, Mapping) or not all(
        isinstance(options, Mapping) for options in cls.presets.values()
    ):
        raise AttribkitError(
            f"{_path(cls)}.presets must be a mapping of names to options, got {describe(cls.presets)}."
        )
    for preset in cls.presets:
        check_name(preset, f"A preset of {_path(cls)}")


def _check_names_are_unique(plugins: list[Plugin]) -> None:
    by_name: dict[tuple[type, str], type] = {}
    for cls in (cls for plugin in plugins for cls in plugin.offers):
        kind = next(kind for kind in KINDS.values() if issubclass(cls, kind))
        other = by_name.setdefault((kind, cls.name), cls)
        if other is not cls:
            raise AttribkitError(f"{_path(other)} and {_path(cls)} are both named {cls.name!r}: rename the second.")


def options_of(cls: type[Any]) -> dict[str, Any]:
    """Return the options of a method, visualizer, metric or imputer with their defaults."""
    if not is_dataclass(cls) or not cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise AttribkitError(f"{_path(cls)} must be a frozen dataclass: decorate it with @dataclass(frozen=True).")
    return {field.name: field.default for field in fields(cls)}


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
