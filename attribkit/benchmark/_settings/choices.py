"""The models, methods, metrics and data of a benchmark: each a name with options."""

from dataclasses import MISSING, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_type_hints

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, TypeAdapter, ValidationError, field_validator
from pydantic.errors import PydanticUserError

from attribkit import registry
from attribkit._contracts.method import Method
from attribkit._contracts.metric import Metric
from attribkit._core.errors import AttribkitError, InvalidInput, UnknownName, join_names
from attribkit._loading import LoadedModel, is_file_model, load_model
from attribkit.benchmark._settings.validation_errors import type_message
from attribkit.io._preprocessing import Preprocessing

PluginChoice = TypeVar("PluginChoice", Method, Metric)


class ConfigTable(BaseModel):
    """A table of the configuration; unknown settings are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)


class TitledChoice(ConfigTable):
    """A choice with a row or a column in tables.

    Args:
        name: The registered name.
        label: The title in tables; None means the name.
    """

    name: str
    label: str | None = None

    @property
    def title(self) -> str:
        """The title in tables."""
        return self.label or self.name


class ModelChoice(TitledChoice):
    """A model, as `attribkit.load_model` loads it.

    Args:
        name: Name of the model, such as "timm:resnet50".
        label: The title in tables; None means the name.
        pretrained: Whether to download the library's weights.
        weights: File of weights.
        arguments: Arguments of the model's constructor.
        mean: Mean of the training images by channel; None means that of the model's preprocessing.
        std: Standard deviation of the training images by channel; None means that of the model's preprocessing.
        resize: Shorter side before the crop, in pixels; None means that of the model's preprocessing.
        dtype: Type of the parameters; None means that of the weights.
    """

    pretrained: bool = False
    weights: Path | None = Field(None, strict=False)
    arguments: dict[str, Any] = {}
    mean: tuple[float, ...] | None = Field(None, strict=False)
    std: tuple[float, ...] | None = Field(None, strict=False)
    resize: PositiveInt | None = None
    dtype: Literal["float64", "float32", "bfloat16", "float16"] | None = None

    @property
    def has_random_weights(self) -> bool:
        """Whether the settings do not name any weights; a builder that timm registers may load some nevertheless."""
        brings_weights = self.name.startswith(("zoo:", "hf-hub:")) or is_file_model(self.name)
        return not brings_weights and self.weights is None and not self.pretrained

    def load(self) -> LoadedModel:
        """Load the model in evaluation mode, with its preprocessing."""
        loaded = load_model(self.name, pretrained=self.pretrained, weights=self.weights, **self.arguments)
        if not isinstance(loaded.preprocessing, Preprocessing):
            raise InvalidInput(f"The model {self.name} expects video clips, but benchmarks require an image model.")
        changes = self.model_dump(include={"mean", "std", "resize"}, exclude_none=True)
        module = loaded.model if self.dtype is None else loaded.model.to(getattr(torch, self.dtype))
        return LoadedModel(module, replace(loaded.preprocessing, **changes))


class MethodChoice(TitledChoice):
    """A method with its options.

    Args:
        name: Name of the method.
        label: The title in tables; None means the name.
        options: Options of the method.
    """

    options: dict[str, Any] = Field({}, validate_default=True)

    def make(self) -> Method:
        """Create the method."""
        return _make(Method, self.name, self.options)

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        return _check_known("method", name, registry.methods())

    @field_validator("options")
    @classmethod
    def _check_options(cls, options: dict[str, Any], info: Any) -> dict[str, Any]:
        if "name" in info.data:
            _try_make(Method, info.data["name"], options)
        return options


class MetricChoice(TitledChoice):
    """A metric with its preset and options.

    Args:
        name: Name of the metric.
        label: The title in tables; None means the name with the preset and the options that differ from it.
        preset: Name of a set of options.
        options: Options of the metric; they override the preset.
    """

    preset: str | None = None
    options: dict[str, Any] = Field({}, validate_default=True)

    @property
    def title(self) -> str:
        """The title in tables: the label, or the name with the preset and the options that differ from it."""
        changed = ", ".join(f"{option}={value}" for option, value in self.options.items())
        preset = f" {self.preset}{changed and f' ({changed})'}" if self.preset else ""
        return self.label or f"{self.name}{preset}"

    def make(self) -> Metric:
        """Create the metric."""
        return _make(Metric, self.name, _with_preset(self.options, self.preset))

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        return _check_known("metric", name, registry.metrics())

    @field_validator("preset")
    @classmethod
    def _check_preset(cls, preset: str | None, info: Any) -> str | None:
        if preset is not None and "name" in info.data:
            _check_known(f"preset of {info.data['name']!r}", preset, registry.metrics()[info.data["name"]].presets)
        return preset

    @field_validator("options")
    @classmethod
    def _check_options(cls, options: dict[str, Any], info: Any) -> dict[str, Any]:
        if {"name", "preset"} <= info.data.keys():
            _try_make(Metric, info.data["name"], _with_preset(options, info.data["preset"]))
        return options


class DataChoice(ConfigTable):
    """A data set with its options.

    Args:
        name: Name of the data set.
        options: Options of the data set.
        limit: Number of samples to use, from the first; None means all.
    """

    name: str
    options: dict[str, Any] = Field({}, validate_default=True)
    limit: PositiveInt | None = None

    def make(self) -> Any:
        """Create the data set."""
        return registry.make_dataset(self.name, **self.options)

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        return _check_known("data set", name, registry.datasets())

    @field_validator("options")
    @classmethod
    def _check_options(cls, options: dict[str, Any], info: Any) -> dict[str, Any]:
        if "name" in info.data:
            _check_data(info.data["name"], options)
        return options


def _check_known(what: str, name: str, known: Any) -> str:
    if name not in known:
        raise ValueError(str(UnknownName(what, name, known)))
    return name


def _check_data(name: str, options: dict[str, Any]) -> None:
    """Check that the options are known, complete and of the right types, without reading the data."""
    data_set = registry.datasets()[name]
    known = registry.options_of(data_set)
    for option in options:
        _check_known(f"option of {name!r}", option, known)
    if lacking := [option for option, default in known.items() if default is MISSING and option not in options]:
        raise ValueError(f"{name!r} needs {join_names(map(repr, lacking))}: set options = {{{lacking[0]} = ...}}.")
    _check_types(data_set, options)
    try:
        data_set(**options)
    except AttribkitError as error:
        raise ValueError(str(error)) from error


def _with_preset(options: dict[str, Any], preset: str | None) -> dict[str, Any]:
    return options if preset is None else {"preset": preset, **options}


def _make(kind: type[PluginChoice], name: str, options: dict[str, Any]) -> PluginChoice:
    return registry.make(name, kind, **_replace_none(kind, name, options))


def _replace_none(kind: type[PluginChoice], name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Replace "none" by None, which TOML cannot express, in options that accept None but not a string."""
    hints = _type_hints(registry.classes(kind)[name])
    return {option: _none_or_value(value, hints.get(option)) for option, value in options.items()}


def _none_or_value(value: Any, hint: Any) -> Any:
    is_none = value == "none" and type(None) in get_args(hint) and str not in get_args(hint)
    return None if is_none else value


def _try_make(kind: type[PluginChoice], name: str, options: dict[str, Any]) -> None:
    """Create the method or metric once to check its options before a long run."""
    try:
        _make(kind, name, options)
    except AttribkitError as error:
        raise ValueError(str(error)) from error


def _check_types(cls: type, options: dict[str, Any]) -> None:
    hints = _type_hints(cls)
    for option in options.keys() & hints.keys():
        _check_type(option, options[option], hints[option])


def _type_hints(cls: type) -> dict[str, Any]:
    try:
        return get_type_hints(cls)
    except NameError:  # types that a plugin imports only for type checkers
        return {}


def _check_type(option: str, value: Any, hint: Any) -> None:
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True, strict=True))
    except PydanticUserError:  # a type of a plugin that configures its validation
        return
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        raise ValueError(type_message(option, value, error.errors())) from error
