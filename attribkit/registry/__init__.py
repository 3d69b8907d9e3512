"""Plugins: found, checked, and looked up by name."""

import warnings
from typing import Any, TypeVar, get_args

from torch import nn

from attribkit.contracts.method import Method
from attribkit.contracts.metric import Metric
from attribkit.contracts.visualizer import Visualizer
from attribkit.core.annotations import describe
from attribkit.core.errors import InvalidInput, PluginWarning, UnknownName, join_names, one_line
from attribkit.core.spec import ModelSpec
from attribkit.core.substrates import Imputer, Substrate
from attribkit.registry.discovery import VARIABLE, OfferedClass, Plugin, options_of, plugin_manager
from attribkit.registry.local import register, register_file
from attribkit.runs.guards import refuse_exits

__all__ = [
    "SUBSTRATES",
    "VARIABLE",
    "OfferedClass",
    "Plugin",
    "classes",
    "imputers",
    "make",
    "methods",
    "metrics",
    "model_spec",
    "options_of",
    "plugin_of",
    "plugins",
    "register",
    "register_file",
    "visualizers",
]

PluginClass = TypeVar("PluginClass", Method, Visualizer, Metric, Imputer)
SUBSTRATES = ("substrate", "insertion_substrate", "baseline")  # options that take a filling, or an imputer's name
_FILLINGS = (*get_args(Substrate), "inpaint")


def plugins() -> tuple[Plugin, ...]:
    """Built-in plugins first, then those of installed distributions, in the order of their names."""
    return tuple(plugin_manager()[1])


def methods() -> dict[str, type[Method]]:
    """Every attribution method by name."""
    return classes(Method)


def visualizers() -> dict[str, type[Visualizer]]:
    """Every visualizer by name."""
    return classes(Visualizer)


def metrics() -> dict[str, type[Metric]]:
    """Every metric by name."""
    return classes(Metric)


def imputers() -> dict[str, type[Imputer]]:
    """Every imputer by name."""
    return classes(Imputer)


def classes(kind: type[PluginClass]) -> dict[str, type[PluginClass]]:
    """Every class of a kind by name."""
    return {cls.name: cls for plugin in plugins() for cls in plugin.offers if issubclass(cls, kind)}


def plugin_of(cls: OfferedClass) -> Plugin:
    """The plugin that offers a method, visualizer, metric or imputer."""
    return next(plugin for plugin in plugins() if cls in plugin.offers)


def model_spec(model: nn.Module) -> ModelSpec:
    """What the first plugin that knows this model says of it; one that fails is passed over with a warning."""
    for answer in reversed(plugin_manager()[0].hook.attribkit_model_spec.get_hookimpls()):
        try:
            spec = answer.function(**dict.fromkeys(answer.argnames, model))
        except (Exception, SystemExit) as error:
            spec = error
        if isinstance(spec, ModelSpec):
            return spec
        if spec is not None:
            warnings.warn(
                f"Plugin {one_line(answer.plugin_name)!r} gave no ModelSpec but {describe(spec)}.",
                PluginWarning,
                stacklevel=2,
            )
    return ModelSpec()


def make(what: str | type[PluginClass] | PluginClass, kind: type[PluginClass], **options: Any) -> PluginClass:
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
        with refuse_exits(cls.name):
            return cls(**options)
    except TypeError as error:
        raise InvalidInput(
            f"{cls.name!r} cannot be made with these options: {error}; it has {join_names(known)}."
        ) from error


def _imputer(name: str) -> Imputer:
    if name not in (known := imputers()):
        raise UnknownName("substrate", name, [*_FILLINGS, *known])
    return known[name]()


def _preset(cls: type[Metric], name: Any) -> dict[str, Any]:
    if name not in cls.presets:
        raise UnknownName(f"preset of {cls.name!r}", str(name), cls.presets)
    return dict(cls.presets[name])


def _named(name: Any, kind: type[PluginClass]) -> type[PluginClass]:
    known = classes(kind)
    if not isinstance(name, str):
        raise InvalidInput(
            f"{name!r} is no {kind.__name__.lower()}: give a name ({join_names(known)}), a class or an instance."
        )
    if name not in known:
        raise UnknownName(kind.__name__.lower(), name, known)
    return known[name]
