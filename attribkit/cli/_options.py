"""Options that several commands have, and their parsing."""

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attribkit._core.errors import InvalidInput, UnknownName
from attribkit.cli._app import write_line

if TYPE_CHECKING:  # `attribkit --help` must not wait for the import of torch
    from attribkit._loading import LoadedModel

ModelName = Annotated[str, typer.Option("--model", help="timm:NAME, torchvision:NAME, hf-hub:ORG/NAME or zoo:NAME")]
WindowOption = Annotated[
    str | None,
    typer.Option(
        "--window", help="LOW,HIGH: the values of black and white, for images of more than 8 bits per channel"
    ),
]
ModelArguments = Annotated[list[str], typer.Option("--model-arg", help="KEY=VALUE for the model's constructor")]


def load_named_model(
    model: str, model_arg: list[str], *, weights: Path | None, pretrained: bool, quiet: bool = False
) -> "LoadedModel":
    """Load the model that the options name; warn of random weights, unless quiet."""
    from attribkit._loading import load_model

    arguments = dict(argument(each) for each in model_arg)
    if reserved := arguments.keys() & {"name", "pretrained", "weights"}:
        raise InvalidInput(
            f"--model-arg does not accept {reserved.pop()}: see `attribkit explain --help` for its option."
        )
    loaded = load_model(model, pretrained=pretrained, weights=weights, **arguments)
    if weights is None and not pretrained and not quiet and not model.startswith(("zoo:", "hf-hub:")):
        write_line(f"attribkit: {model} has random weights; give --weights FILE or --pretrained.", err=True)
    return loaded


def explainer_of(loaded: "LoadedModel", preprocessing: Any, device: str) -> Any:
    """Create an explainer whose model spec includes the preprocessing."""
    from attribkit._explainer import Explainer
    from attribkit._loading import complete_spec

    return Explainer(loaded.model.to(parse_device(device)), spec=complete_spec(loaded.model, preprocessing))


def overridden(preprocessing: Any, *, mean: str | None, std: str | None, resize: int | None) -> Any:
    """Return the preprocessing with the values that the user gave."""
    from dataclasses import replace

    values = {"mean": _numbers("mean", mean), "std": _numbers("std", std), "resize": resize}
    return replace(preprocessing, **{name: value for name, value in values.items() if value is not None})


def parse_window(text: str | None) -> tuple[float, float] | None:
    """Parse two numbers, LOW,HIGH."""
    numbers = _numbers("window", text, example="0,4095")
    if numbers is not None and len(numbers) != 2:
        raise InvalidInput(f"--window must be two numbers like 0,4095, got {text!r}.")
    return numbers  # type: ignore[return-value]


def parse_device(name: str) -> str:
    """Return the name of the device; "auto" is a GPU if one is available."""
    from attribkit._core import tensors

    return str(tensors.resolve_device(name))


def class_index(target: str | None) -> str | int | None:
    """Return a target as an index if it is an integer, else as a label."""
    try:
        return target if target is None else int(target)
    except ValueError:
        return target


def argument(text: str, option: str = "--model-arg") -> tuple[str, Any]:
    """Parse KEY=VALUE; the value is a Python literal or else a string."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise InvalidInput(f"{option} must be of the form KEY=VALUE, got {text!r}.")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def methods_with_options(names: Sequence[str], options: Sequence[str]) -> list[Any]:
    """Return the methods with the options of the command line: instances, or the names of those without options.

    Args:
        names: Names of methods.
        options: Texts KEY=VALUE for all methods that have the option, or METHOD.KEY=VALUE for one of them.

    Raises:
        UnknownName: If no method has an option, or METHOD is not one of the names.
        InvalidInput: If an option has a wrong value.
    """
    from attribkit import Method, registry

    chosen: dict[str, dict[str, Any]] = {name: {} for name in names}
    for text in options:
        key, value = argument(text, "--option")
        method, _, key = key.rpartition(".")
        if method and method not in chosen:
            raise UnknownName("explained method", method, names)
        owners = [method] if method else [name for name in names if key in _options_of(name)]
        if not owners:
            raise UnknownName(
                "option of the methods", key, dict.fromkeys(o for name in names for o in _options_of(name))
            )
        for owner in owners:
            chosen[owner][key] = value
    return [registry.make(name, Method, **values) if values else name for name, values in chosen.items()]


def _options_of(name: str) -> dict[str, Any]:
    """Return the options of a method; none if it does not exist, which its use reports."""
    from attribkit import registry

    return registry.options_of(registry.methods()[name]) if name in registry.methods() else {}


def parse_width(text: str) -> float | str:
    """Return a width in inches, or the name of a venue."""
    try:
        return float(text)
    except ValueError:
        return text


def refuse_clips(model: str, command: str) -> None:
    """Raise InvalidInput for a video model, in commands that support image models only."""
    from attribkit._loading import clip_preprocessing

    if clip_preprocessing(model) is not None:
        raise InvalidInput(
            f"`attribkit {command}` supports image models only, and {model} is a video model: use "
            f"Explainer(load_model({model!r}).model) in Python."
        )


def _numbers(name: str, text: str | None, example: str = "0.5,0.5,0.5") -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InvalidInput(f"--{name} must be a list of numbers like {example}, got {text!r}.") from None
