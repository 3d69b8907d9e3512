"""[cli/demo] `attribkit demo`.
[cli/inspect] `attribkit inspect`.
[cli/visualize] `attribkit visualize`.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from attribkit.cli.app import app, print_table, report_errors, write_line
from attribkit.cli.options import (
    ModelArguments,
    ModelName,
    WindowOption,
    argument,
    class_index,
    explainer_of,
    load_named_model,
    overridden,
    parse_device,
    parse_window,
    refuse_clips,
)
from attribkit.core.errors import InvalidInput


@app.command()
@report_errors
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for demo.png and demo.pdf")] = Path("figures"),
    scenes: Annotated[int, typer.Option(min=3, help="scenes per model")] = 16,
    seed: Annotated[int, typer.Option(help="of the first scene")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
) -> None:
    """Explain scenes of known truth by every method on the embedded models; offline, within a minute."""
    from rich.progress import track

    from attribkit import registry
    from attribkit.cli import demo_scenes as show
    from attribkit.figures import save_figure
    from attribkit.zoo import ARCHITECTURES

    stages = [show.stage(name, scenes, seed, parse_device(device)) for name in ARCHITECTURES]
    methods = list(registry.methods())
    rows = list(track(show.rows(stages, methods), "explaining", total=len(stages) * len(methods)))
    print_table(show.table_rows(rows), f"{scenes} scenes a model; truth: the mask of the object that the label names")
    output.mkdir(parents=True, exist_ok=True)
    figure = show.demo_figure(stages, rows)
    for path in (output / "demo.png", output / "demo.pdf"):
        save_figure(figure, path)
        write_line(f"written: {path}")


@app.command()
@report_errors
def inspect(
    model: Annotated[str, typer.Argument(help="timm:NAME, torchvision:NAME, hf-hub:ORG/NAME or zoo:NAME")],
    layer: Annotated[str | None, typer.Argument(help="dotted name; default: the layer that methods read")] = None,
    image: Annotated[Path | None, typer.Option(help="photograph; default: a generated scene")] = None,
    model_arg: ModelArguments = [],  # noqa: B006
    weights: Annotated[Path | None, typer.Option(help="safetensors file or saved state dict")] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="fetch the published weights")] = False,
    window: WindowOption = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    output: Annotated[Path, typer.Option("--output", "-o", help="figure (png, pdf, svg)")] = Path("inspection.png"),
) -> None:
    """Look into a layer: its filters, its feature maps, and how much of the image its units see."""
    from attribkit.cli.explain_files import prepare_output
    from attribkit.cli.inspect_files import inspect_layer
    from attribkit.figures import check_ending, save_figure
    from attribkit.io.preprocessing import read_image

    check_ending(output)
    prepare_output(output)
    refuse_clips(model, "inspect")
    photograph = None if image is None else read_image(image, parse_window(window))
    loaded = load_named_model(model, model_arg, weights=weights, pretrained=pretrained)
    inspected = inspect_layer(loaded, layer, photograph, parse_device(device))
    print_table(inspected.facts, f"{model} {inspected.layer}")
    for note in inspected.notes:
        write_line(f"note: {note}")
    save_figure(inspected.figure, output)
    write_line(f"written: {output}")


@app.command()
@report_errors
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
    from attribkit.cli.explain_files import prepare_output
    from attribkit.figures import check_ending, gallery, save_figure

    check_ending(output)
    prepare_output(output)
    units = _units(classes, layer, channels, position)
    options = dict(argument(each, "--option") for each in option)
    refuse_clips(model, "visualize")
    loaded = load_named_model(model, model_arg, weights=weights, pretrained=pretrained)
    explainer = explainer_of(loaded, overridden(loaded.preprocessing, mean=mean, std=std, resize=None), device)
    made = [explainer.visualize(unit, visualizer, size=size, **options) for unit in units]
    save_figure(gallery(made), output)
    rows = [
        {"unit": name, "response": f"{reached:.3g}"}
        for each in made
        for name, reached in zip(each.names, each.responses[-1].tolist(), strict=True)
    ]
    print_table(rows, model)
    for note in dict.fromkeys(note for each in made for note in each.notes):
        write_line(f"note: {note}")
    write_line(f"written: {output}")


def _units(classes: list[str], layer: str | None, channels: list[int], position: str | None) -> list[Any]:
    """What to visualise: the classes together, or the channels one by one."""
    from attribkit.targets.units import Unit

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
