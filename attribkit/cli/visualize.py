"""`attribkit visualize`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from attribkit.cli.app import app, print_table, say, told
from attribkit.cli.options import (
    ModelArguments,
    ModelName,
    argument,
    class_index,
    explainer_of,
    load,
    overridden,
    refuse_clips,
)
from attribkit.core.errors import InvalidInput


@app.command()
@told
def visualize(
    model: ModelName = "zoo:cnn",
    model_arg: ModelArguments = [],  # noqa: B006
    weights: Annotated[Path | None, typer.Option(help="safetensors file or saved state dict")] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="fetch the published weights")] = False,
    classes: Annotated[list[str], typer.Option("--class", help="class index or label; may be repeated")] = [],  # noqa: B006
    layer: Annotated[str | None, typer.Option(help="of a channel; see `attribkit layers`")] = None,
    channels: Annotated[list[int], typer.Option("--channel", help="of the layer; may be repeated")] = [],  # noqa: B006
    position: Annotated[str | None, typer.Option(help='"centre" or a cell of the grid, 3,4; default: the mean')] = None,
    visualizer: Annotated[str, typer.Option(help="see `attribkit plugins`")] = "activation_maximization",
    option: Annotated[list[str], typer.Option(help="KEY=VALUE for the visualizer, such as steps=512")] = [],  # noqa: B006
    size: Annotated[int | None, typer.Option(help="side of the images, in pixels; default: the model's own")] = None,
    mean: Annotated[str | None, typer.Option(help="of each channel, values 0 to 1: 0.5,0.5,0.5")] = None,
    std: Annotated[str | None, typer.Option(help="of each channel")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    output: Annotated[Path, typer.Option("--output", "-o", help="figure (png, pdf, svg)")] = Path("visualization.png"),
) -> None:
    """Make images that classes, or channels of a layer, respond to."""
    from attribkit.explain_files import prepare
    from attribkit.figures import check_ending, gallery, write

    check_ending(output)
    prepare(output)
    units = _units(classes, layer, channels, position)
    options = dict(argument(each, "--option") for each in option)
    refuse_clips(model, "visualize")
    loaded = load(model, model_arg, weights=weights, pretrained=pretrained)
    explainer = explainer_of(loaded, overridden(loaded.preprocessing, mean=mean, std=std, resize=None), device)
    made = [explainer.visualize(unit, visualizer, size=size, **options) for unit in units]
    write(gallery(made), output)
    rows = [
        {"unit": name, "response": f"{reached:.3g}"}
        for each in made
        for name, reached in zip(each.names, each.responses[-1].tolist(), strict=True)
    ]
    print_table(rows, model)
    for note in dict.fromkeys(note for each in made for note in each.notes):
        say(f"note: {note}")
    say(f"written: {output}")


def _units(classes: list[str], layer: str | None, channels: list[int], position: str | None) -> list[Any]:
    """What to visualise: the classes together, or the channels one by one."""
    from attribkit.core.targets.units import Unit

    if bool(classes) == bool(layer) or bool(layer) != bool(channels):
        raise InvalidInput("Say what to visualise: --class CLASS, or --layer LAYER with --channel CHANNEL.")
    if classes and position:
        raise InvalidInput("--position is a place in a layer: give it with --layer and --channel.")
    return [Unit(str(layer), channel, _position(position)) for channel in channels] or [[*map(class_index, classes)]]


def _position(text: str | None) -> Any:
    """A cell of a grid, the word for its middle, or None."""
    if text in (None, "centre"):
        return text
    try:
        return tuple(int(part) for part in str(text).split(","))
    except ValueError:
        raise InvalidInput(f'--position {text!r} is no cell of a grid: write 3,4 or "centre".') from None
