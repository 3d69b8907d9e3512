"""Models, and what else a command's options name."""

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attribkit.cli.app import write_line
from attribkit.core.errors import InvalidInput

if TYPE_CHECKING:  # torch takes seconds to import; `attribkit --help` does without it
    from attribkit.io.loading import LoadedModel

ModelName = Annotated[str, typer.Option("--model", help="timm:NAME, torchvision:NAME, hf-hub:ORG/NAME or zoo:NAME")]
WindowOption = Annotated[
    str | None,
    typer.Option("--window", help="LOW,HIGH: values that are black and white, of more than 8 bits"),
]
ModelArguments = Annotated[list[str], typer.Option("--model-arg", help="KEY=VALUE for the model's constructor")]


def load_named_model(
    model: str, model_arg: list[str], *, weights: Path | None, pretrained: bool, quiet: bool = False
) -> "LoadedModel":
    """The model that the options name; one whose weights are random is told of, unless quiet."""
    from attribkit.io.loading import load_model

    arguments = dict(argument(each) for each in model_arg)
    if taken := arguments.keys() & {"name", "pretrained", "weights"}:
        raise InvalidInput(f"--model-arg {taken.pop()} has an option of its own, see `attribkit explain --help`.")
    loaded = load_model(model, pretrained=pretrained, weights=weights, **arguments)
    if weights is None and not pretrained and not quiet and not model.startswith(("zoo:", "hf-hub:")):
        write_line(f"attribkit: {model} has random weights; give --weights FILE or --pretrained.", err=True)
    return loaded


def explainer_of(loaded: "LoadedModel", preprocessing: Any, device: str) -> Any:
    """An explainer that knows the model's preprocessing, where its family does not tell."""
    from attribkit.explainer import Explainer
    from attribkit.io.loading import complete_spec

    return Explainer(loaded.model.to(parse_device(device)), spec=complete_spec(loaded.model, preprocessing))


def overridden(preprocessing: Any, *, mean: str | None, std: str | None, resize: int | None) -> Any:
    """The model's own preprocessing, but where the user said otherwise."""
    from dataclasses import replace

    given = {"mean": _numbers("mean", mean), "std": _numbers("std", std), "resize": resize}
    return replace(preprocessing, **{name: value for name, value in given.items() if value is not None})


def parse_window(text: str | None) -> tuple[float, float] | None:
    """Two numbers, LOW,HIGH."""
    numbers = _numbers("window", text, such_as="0,4095")
    if numbers is not None and len(numbers) != 2:
        raise InvalidInput(f"--window {text!r} is no pair of numbers: write it like 0,4095.")
    return numbers  # type: ignore[return-value]


def parse_device(name: str) -> str:
    """The device by name; "auto" is a GPU where there is one."""
    from attribkit.core import tensors

    return str(tensors.resolve_device(name))


def class_index(target: str | None) -> str | int | None:
    """A class index where it is one, else a label."""
    try:
        return target if target is None else int(target)
    except ValueError:
        return target


def argument(text: str, option: str = "--model-arg") -> tuple[str, Any]:
    """KEY=VALUE, the value as Python writes it or else as a string."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise InvalidInput(f"{option} {text!r} is not of the form KEY=VALUE.")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def refuse_clips(model: str, command: str) -> None:
    """Refuse a model of video where figures are of images alone."""
    from attribkit.io.loading import clip_preprocessing

    if clip_preprocessing(model) is not None:
        raise InvalidInput(
            f"`attribkit {command}` draws images, and {model} takes clips: use Explainer(load_model({model!r}).model) "
            "in Python."
        )


def _numbers(name: str, text: str | None, such_as: str = "0.5,0.5,0.5") -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InvalidInput(f"--{name} {text!r} is no list of numbers: write it like {such_as}.") from None
