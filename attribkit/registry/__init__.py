"""Lookup of methods, visualizers, metrics, imputers and data sets by name, over all loaded plugins."""

import warnings
from typing import Any, TypeVar, get_args

from torch import nn

from attribkit._contracts.dataset import Dataset
from attribkit._contracts.method import Method
from attribkit._contracts.metric import Metric
from attribkit._contracts.visualizer import Visualizer
from attribkit._core.annotations import describe
from attribkit._core.errors import InvalidInput, PluginWarning, UnknownName, join_names, one_line
from attribkit._core.spec import ModelSpec
from attribkit._core.substrates import Imputer, Substrate
from attribkit._runs.validation import refuse_exits
from attribkit.registry._discovery import VARIABLE, OfferedClass, Plugin, SkippedPlugin, load_plugins, options_of
from attribkit.registry._local import register, register_file

__all__ = [
    "SUBSTRATES",
    "VARIABLE",
    "OfferedClass",
    "Plugin",
    "SkippedPlugin",
    "classes",
    "datasets",
    "imputers",
    "make",
    "make_dataset",
    "methods",
    "metrics",
    "model_spec",
    "options_of",
    "plugin_of",
    "plugins",
    "register",
    "register_file",
    "skipped_plugins",
    "visualizers",
]

PluginClass = TypeVar("PluginClass", Method, Visualizer, Metric, Imputer, Dataset)
SUBSTRATES = ("substrate", "insertion_substrate", "baseline")  # options that accept a filling or an imputer's name
_FILLINGS = (*get_args(Substrate), "inpaint")


def plugins() -> tuple[Plugin, ...]:
    """Return the loaded plugins: built-in ones first, then those of installed distributions in the order of names."""
    return tuple(load_plugins().loaded)


def skipped_plugins() -> tuple[SkippedPlugin, ...]:
    """Return the installed plugins that are not loaded, with the reasons."""
    return tuple(load_plugins().skipped)


def methods() -> dict[str, type[Method]]:
    """Return all attribution methods by name."""
    return classes(Method)


def visualizers() -> dict[str, type[Visualizer]]:
    """Return all visualizers by name."""
    return classes(Visualizer)


def metrics() -> dict[str, type[Metric]]:
    """Return all metrics by name."""
    return classes(Metric)


def imputers() -> dict[str, type[Imputer]]:
    """Return all imputers by name."""
    return classes(Imputer)


def datasets() -> dict[str, type[Dataset]]:
    """Return all data sets by name."""
    return classes(Dataset)


def classes(kind: type[PluginClass]) -> dict[str, type[PluginClass]]:
    """Return all classes of a kind (Method, Visualizer, Metric, Imputer or Dataset) by name."""
    return {cls.name: cls for plugin in plugins() for cls in plugin.offers if issubclass(cls, kind)}


def plugin_of(cls: OfferedClass) -> Plugin:
    """Return the plugin that provides a method, visualizer, metric, imputer or data set."""
    return next(plugin for plugin in plugins() if cls in plugin.offers)


def model_spec(model: nn.Module) -> ModelSpec:
    """Return the spec of the first plugin that supports the model; plugins that fail are skipped with a warning."""
    for implementation in reversed(load_plugins().manager.hook.attribkit_model_spec.get_hookimpls()):
        try:
            spec = implementation.function(**dict.fromkeys(implementation.argnames, model))
        except (Exception, SystemExit) as error:
            spec = error
        if isinstance(spec, ModelSpec):
            return spec
        if spec is not None:
            warnings.warn(
                f"attribkit_model_spec of plugin {one_line(implementation.plugin_name)!r} was skipped: it must return "
                f"a ModelSpec or None, got {describe(spec)}.",
                PluginWarning,
                stacklevel=2,
            )
    return ModelSpec()


def make(choice: str | type[PluginClass] | PluginClass, kind: type[PluginClass], **options: Any) -> PluginClass:
    """Make an instance of a method, visualizer, metric, imputer or data set.

    Args:
        choice: Its name, its class or an instance, which is returned unchanged.
        kind: The base class: Method, Visualizer, Metric, Imputer or Dataset.
        **options: Options of the instance. Metrics with presets also accept ``preset="..."``; further options replace
            those of the preset.

    Returns:
        The instance.

    Raises:
        UnknownName: If the name, an option, the preset or the imputer does not exist.
        InvalidInput: If an option has a wrong value, or is given for an instance.
    """
    if isinstance(choice, kind):
        if options:
            raise InvalidInput(
                f"{choice!r} is an instance with its own options, but {join_names(options)} was passed too: pass the "
                f"name {choice.name!r} with options, or an instance without options."
            )
        return choice
    cls = choice if isinstance(choice, type) and issubclass(choice, kind) else _class_named(choice, kind)
    if issubclass(cls, Metric) and "preset" in options:
        options = {**_preset(cls, options.pop("preset")), **options}
    names = list(options_of(cls))
    for option in options:
        if option not in names:
            raise UnknownName(f"option of {cls.name!r}", option, names)
    for option in set(SUBSTRATES) & set(options):
        if isinstance(name := options[option], str) and name not in _FILLINGS:
            options[option] = _imputer(name)
    try:
        with refuse_exits(cls.name):
            return cls(**options)
    except TypeError as error:
        raise InvalidInput(
            f"{cls.name!r} cannot be created with these options: {error}. Its options are {join_names(names)}."
        ) from error


def make_dataset(name: str, **options: Any) -> Dataset:
    """Create a data set by its name and read its annotations.

    Args:
        name: A key of `datasets()`.
        **options: Fields of its class.

    Returns:
        The data set.

    Raises:
        UnknownName: If the data set or an option does not exist.
        InvalidInput: If an option is invalid or missing, or the data set is empty.
        UnreadableFile: If a folder or annotations are missing or broken.
    """
    dataset = make(name, Dataset, **options)
    len(dataset)  # reads the annotations
    return dataset


def _imputer(name: str) -> Imputer:
    if name not in (by_name := imputers()):
        raise UnknownName("substrate", name, [*_FILLINGS, *by_name])
    return by_name[name]()


def _preset(cls: type[Metric], name: Any) -> dict[str, Any]:
    if name not in cls.presets:
        raise UnknownName(f"preset of {cls.name!r}", str(name), cls.presets)
    return dict(cls.presets[name])


def _words(kind: type[Any]) -> str:
    return "data set" if kind is Dataset else kind.__name__.lower()


def _class_named(name: Any, kind: type[PluginClass]) -> type[PluginClass]:
    by_name = classes(kind)
    if not isinstance(name, str):
        raise InvalidInput(
            f"{_words(kind)} must be a name ({join_names(by_name)}), a class or an instance, got {name!r}."
        )
    if name not in by_name:
        raise UnknownName(_words(kind), name, by_name)
    return by_name[name]
