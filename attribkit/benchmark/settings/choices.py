"""What a benchmark chooses: a model, a method, a metric and the data, each by name and with options."""

from dataclasses import MISSING, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_type_hints

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, TypeAdapter, ValidationError, field_validator
from pydantic.errors import PydanticUserError

from attribkit import datasets, registry
from attribkit.contracts.method import Method
from attribkit.contracts.metric import Metric
from attribkit.core.errors import AttribkitError, InvalidInput, UnknownName, join_names
from attribkit.io.loading import LoadedModel, is_file_model, load_model
from attribkit.io.preprocessing import Preprocessing

Offered = TypeVar("Offered", Method, Metric)


class ConfigTable(BaseModel):
    """A table of the file; what it does not know is refused."""

    model_config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)


class TitledChoice(ConfigTable):
    """A choice that is a row or a column of tables."""

    name: str
    label: str | None = None  # in tables; None is the name

    @property
    def title(self) -> str:
        """What tables call it."""
        return self.label or self.name


class ModelChoice(TitledChoice):
    """A model as `attribkit.load_model` takes it."""

    pretrained: bool = False
    weights: Path | None = Field(None, strict=False)
    arguments: dict[str, Any] = {}
    mean: tuple[float, ...] | None = Field(None, strict=False)  # of the training images; None is the model's own
    std: tuple[float, ...] | None = Field(None, strict=False)
    resize: PositiveInt | None = None  # shorter side before the crop, in pixels; None is the model's own
    dtype: Literal["float64", "float32", "bfloat16", "float16"] | None = None  # None is that of the weights

    @property
    def has_random_weights(self) -> bool:
        """Whether nothing tells of weights; a builder that is registered with timm may load some all the same."""
        told = self.name.startswith(("zoo:", "hf-hub:")) or is_file_model(self.name)
        return not told and self.weights is None and not self.pretrained

    def load(self) -> LoadedModel:
        """The model in evaluation mode, with its preprocessing."""
        loaded = load_model(self.name, pretrained=self.pretrained, weights=self.weights, **self.arguments)
        if not isinstance(loaded.preprocessing, Preprocessing):
            raise InvalidInput(f"{self.name} takes clips, and benchmarks explain photographs: choose another model.")
        given = self.model_dump(include={"mean", "std", "resize"}, exclude_none=True)
        module = loaded.model if self.dtype is None else loaded.model.to(getattr(torch, self.dtype))
        return LoadedModel(module, replace(loaded.preprocessing, **given))


class MethodChoice(TitledChoice):
    """A method with its options."""

    options: dict[str, Any] = Field({}, validate_default=True)

    def make(self) -> Method:
        """The method itself."""
        return _made(Method, self.name, self.options)

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        return _known("method", name, registry.methods())

    @field_validator("options")
    @classmethod
    def _can_be_made(cls, options: dict[str, Any], info: Any) -> dict[str, Any]:
        if "name" in info.data:
            _check(Method, info.data["name"], options)
        return options


class MetricChoice(TitledChoice):
    """A metric with its preset and options."""

    preset: str | None = None
    options: dict[str, Any] = Field({}, validate_default=True)

    @property
    def title(self) -> str:
        """What tables call it: the label, or the name with the preset and what differs from it."""
        changed = ", ".join(f"{option}={value}" for option, value in self.options.items())
        preset = f" {self.preset}{changed and f' ({changed})'}" if self.preset else ""
        return self.label or f"{self.name}{preset}"

    def make(self) -> Metric:
        """The metric itself."""
        return _made(Metric, self.name, _with_preset(self.options, self.preset))

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        return _known("metric", name, registry.metrics())

    @field_validator("preset")
    @classmethod
    def _is_preset(cls, preset: str | None, info: Any) -> str | None:
        if preset is not None and "name" in info.data:
            _known(f"preset of {info.data['name']!r}", preset, registry.metrics()[info.data["name"]].presets)
        return preset

    @field_validator("options")
    @classmethod
    def _can_be_made(cls, options: dict[str, Any], info: Any) -> dict[str, Any]:
        if {"name", "preset"} <= info.data.keys():
            _check(Metric, info.data["name"], _with_preset(options, info.data["preset"]))
        return options


class DataChoice(ConfigTable):
    """A data set with its options."""

    kind: str
    options: dict[str, Any] = Field({}, validate_default=True)
    limit: PositiveInt | None = None  # only the first so many samples

    def make(self) -> Any:
        """The data set itself."""
        return datasets.make_dataset(self.kind, **self.options)

    @field_validator("kind")
    @classmethod
    def _is_known(cls, kind: str) -> str:
        return _known("kind of data", kind, datasets.DATASETS)

    @field_validator("options")
    @classmethod
    def _are_known(cls, options: dict[str, Any], info: Any) -> dict[str, Any]:
        if "kind" in info.data:
            _check_data(info.data["kind"], options)
        return options


def _known(what: str, name: str, known: Any) -> str:
    if name not in known:
        raise ValueError(str(UnknownName(what, name, known)))
    return name


def _check_data(kind: str, options: dict[str, Any]) -> None:
    """See that the options are known, complete and of their types; nothing is read."""
    data_set = datasets.DATASETS[kind]
    known = registry.options_of(data_set)
    for option in options:
        _known(f"option of {kind!r}", option, known)
    if lacking := [option for option, default in known.items() if default is MISSING and option not in options]:
        raise ValueError(f"{kind!r} needs {join_names(map(repr, lacking))}: say options = {{{lacking[0]} = ...}}.")
    _check_types(data_set, options)
    try:
        data_set(**options)
    except AttribkitError as error:
        raise ValueError(str(error)) from error


def _with_preset(options: dict[str, Any], preset: str | None) -> dict[str, Any]:
    return options if preset is None else {"preset": preset, **options}


def _made(kind: type[Offered], name: str, options: dict[str, Any]) -> Offered:
    return registry.make(name, kind, **_fixed(kind, name, options))


def _fixed(kind: type[Offered], name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options as a method or metric takes them: TOML has no None."""
    hints = _hints(registry.classes(kind)[name])
    return {option: _as_hinted(value, hints.get(option)) for option, value in options.items()}


def _as_hinted(value: Any, hint: Any) -> Any:
    is_none = value == "none" and type(None) in get_args(hint) and str not in get_args(hint)
    return None if is_none else value


def _check(kind: type[Offered], name: str, options: dict[str, Any]) -> None:
    """Make it once, which checks its options, so that nothing fails hours later."""
    try:
        _made(kind, name, options)
    except AttribkitError as error:
        raise ValueError(str(error)) from error


def _check_types(cls: type, options: dict[str, Any]) -> None:
    hints = _hints(cls)
    for option in options.keys() & hints.keys():
        _check_type(option, options[option], hints[option])


def _hints(cls: type) -> dict[str, Any]:
    try:
        return get_type_hints(cls)
    except NameError:  # types that a plugin imports for type checkers alone
        return {}


def _check_type(option: str, value: Any, hint: Any) -> None:
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True, strict=True))
    except PydanticUserError:  # a type of a plugin's own that says how it is checked
        return
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        told = error.errors()[0]["msg"].removeprefix("Input ")
        raise ValueError(f"The option {option} = {value!r} {told}.") from error
