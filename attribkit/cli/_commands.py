"""The commands `attribkit demo`, `inspect` and `visualize`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from attribkit._core.errors import InvalidInput
from attribkit.cli._app import app, print_table, report_errors, write_line
from attribkit.cli._options import (
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


@app.command()
@report_errors
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="folder of demo_1.png, demo_2.png ...")] = Path(
        "figures"
    ),
    scenes: Annotated[int, typer.Option(min=3, help="scenes per model")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="seed of the first scene")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    all_methods: Annotated[bool, typer.Option("--all", help="include the slow methods")] = False,
) -> None:
    """Explain generated scenes with exact masks on the embedded models: a table, and a figure for each family.

    It works offline and takes less than a minute on two cores, without the methods that need the most forwards.
    """
    from attribkit import registry
    from attribkit._display.progress import track
    from attribkit.cli import _demo_scenes as demo_scenes
    from attribkit.cli._explain_files import prepare_output
    from attribkit.zoo import ARCHITECTURES

    prepare_output(output / "demo_1.png")
    stages = [demo_scenes.stage(name, scenes, seed, parse_device(device)) for name in ARCHITECTURES]
    slow = [] if all_methods else [name for name in demo_scenes.SLOW_METHODS if name in registry.methods()]
    methods = [name for name in registry.methods() if name not in slow]
    rows = demo_scenes.rows(stages, methods)
    results = list(track(rows, "explanations", len(stages) * len(methods)))
    print_table(demo_scenes.table_rows(results), f"{scenes} scenes per model")
    write_line("seconds: for all scenes; forwards: the same in units of a forward of all scenes.")
    write_line("relevance_mass: fraction of the positive scores inside the mask of the labelled object.")
    write_line("pointing_game: fraction of maps whose maximum is within 15 pixels of that object (preset torchray).")
    for row in results:
        if row.error:
            write_line(f"not applicable: {row.method} on {row.model}: {row.error}")
    if slow:
        write_line(
            f"left out, since each costs more than {demo_scenes.MAX_FORWARDS} forwards: {', '.join(slow)}; "
            "`attribkit demo --all` includes them."
        )
    for number, figure in enumerate(demo_scenes.demo_figures(stages, results), 1):
        path = output / f"demo_{number}.png"
        figure.savefig(path, dpi=demo_scenes.DPI)
        write_line(f"written: {path} ({figure.get_label()})")


@app.command()
@report_errors
def inspect(
    model: Annotated[str, typer.Argument(help="timm:NAME, torchvision:NAME, hf-hub:ORG/NAME or zoo:NAME")],
    layer: Annotated[str | None, typer.Argument(help="dotted name; default: the layer that methods use")] = None,
    image: Annotated[Path | None, typer.Option(help="image file; default: a generated scene")] = None,
    model_arg: ModelArguments = [],  # noqa: B006
    weights: Annotated[Path | None, typer.Option(help="safetensors file or saved state dict")] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="download the published weights")] = False,
    window: WindowOption = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    output: Annotated[Path, typer.Option("--output", "-o", help="figure (png, pdf, svg)")] = Path("inspection.png"),
) -> None:
    """Show the filters, the feature maps and the receptive field of a layer."""
    from attribkit.cli._explain_files import prepare_output
    from attribkit.cli._inspect_files import inspect_layer
    from attribkit.figures import check_ending
    from attribkit.io._preprocessing import read_image

    check_ending(output)
    prepare_output(output)
    refuse_clips(model, "inspect")
    picture = None if image is None else read_image(image, parse_window(window))
    loaded = load_named_model(model, model_arg, weights=weights, pretrained=pretrained)
    inspected = inspect_layer(loaded, layer, picture, parse_device(device))
    print_table(inspected.facts, f"{model} {inspected.layer}")
    for note in inspected.notes:
        write_line(f"note: {note}")
    inspected.figure.save(output)
    write_line(f"written: {output}")


@app.command()
@report_errors
def visualize(
    model: ModelName = "zoo:cnn",
    model_arg: ModelArguments = [],  # noqa: B006
    weights: Annotated[Path | None, typer.Option(help="safetensors file or saved state dict")] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="download the published weights")] = False,
    classes: Annotated[list[str], typer.Option("--class", help="class index or label; may be repeated")] = [],  # noqa: B006
    layer: Annotated[str | None, typer.Option(help="layer of the channels, see `attribkit layers`")] = None,
    channels: Annotated[list[int], typer.Option("--channel", help="channel of the layer; may be repeated")] = [],  # noqa: B006
    position: Annotated[
        str | None, typer.Option(help='"centre" or a position of the grid like 3,4; default: the mean')
    ] = None,
    visualizer: Annotated[str, typer.Option(help="see `attribkit plugins`")] = "activation_maximization",
    option: Annotated[list[str], typer.Option(help="KEY=VALUE for the visualizer, such as steps=512")] = [],  # noqa: B006
    size: Annotated[int | None, typer.Option(help="side of the images in pixels; default: the model's")] = None,
    mean: Annotated[str | None, typer.Option(help="mean per channel, values 0 to 1: 0.5,0.5,0.5")] = None,
    std: Annotated[str | None, typer.Option(help="standard deviation per channel")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    output: Annotated[Path, typer.Option("--output", "-o", help="figure (png, pdf, svg)")] = Path("visualization.png"),
) -> None:
    """Generate images that maximise the score of classes, or the activation of channels."""
    from attribkit.cli._explain_files import prepare_output
    from attribkit.figures import check_ending, gallery

    check_ending(output)
    prepare_output(output)
    units = _units(classes, layer, channels, position)
    options = dict(argument(each, "--option") for each in option)
    refuse_clips(model, "visualize")
    loaded = load_named_model(model, model_arg, weights=weights, pretrained=pretrained)
    explainer = explainer_of(loaded, overridden(loaded.preprocessing, mean=mean, std=std, resize=None), device)
    results = [explainer.visualize(unit, visualizer, size=size, **options) for unit in units]
    gallery(results).save(output)
    rows = [
        {"unit": name, "response": f"{response:.3g}"}
        for each in results
        for name, response in zip(each.names, each.responses[-1].tolist(), strict=True)
    ]
    print_table(rows, model)
    for note in dict.fromkeys(note for each in results for note in each.notes):
        write_line(f"note: {note}")
    write_line(f"written: {output}")


def _units(classes: list[str], layer: str | None, channels: list[int], position: str | None) -> list[Any]:
    """Return the units to visualise: all classes as one unit, or a unit for each channel."""
    from attribkit._targets.units import Unit

    if bool(classes) == bool(layer) or bool(layer) != bool(channels):
        raise InvalidInput("Specify what to visualise: --class CLASS, or --layer LAYER with --channel CHANNEL.")
    if classes and position:
        raise InvalidInput("--position selects a position in a layer's grid: use it with --layer and --channel.")
    return [Unit(str(layer), channel, _position(position)) for channel in channels] or [[*map(class_index, classes)]]


def _position(text: str | None) -> Any:
    """Parse a position of a grid: indices, "centre" or None."""
    if text in (None, "centre"):
        return text
    try:
        return tuple(int(part) for part in str(text).split(","))
    except ValueError:
        raise InvalidInput(f'--position must be indices of the grid like 3,4 or "centre", got {text!r}.') from None
