"""`attribkit inspect`."""

from pathlib import Path
from typing import Annotated

import typer

from attribkit.cli.app import app, print_table, say, told
from attribkit.cli.options import (
    ModelArguments,
    Window,
    device_named,
    load,
    refuse_clips,
    window_of,
)


@app.command()
@told
def inspect(
    model: Annotated[str, typer.Argument(help="timm:NAME, torchvision:NAME, hf-hub:ORG/NAME or zoo:NAME")],
    layer: Annotated[str | None, typer.Argument(help="dotted name; default: the layer that methods read")] = None,
    image: Annotated[Path | None, typer.Option(help="photograph; default: a generated scene")] = None,
    model_arg: ModelArguments = [],  # noqa: B006
    weights: Annotated[Path | None, typer.Option(help="safetensors file or saved state dict")] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="fetch the published weights")] = False,
    window: Window = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    output: Annotated[Path, typer.Option("--output", "-o", help="figure (png, pdf, svg)")] = Path("inspection.png"),
) -> None:
    """Look into a layer: its filters, its feature maps, and how much of the image its units see."""
    from attribkit.explain_files import prepare
    from attribkit.figures import check_ending, write
    from attribkit.inspect_files import inspect_layer
    from attribkit.preprocessing import read_image

    check_ending(output)
    prepare(output)
    refuse_clips(model, "inspect")
    photograph = None if image is None else read_image(image, window_of(window))
    loaded = load(model, model_arg, weights=weights, pretrained=pretrained)
    inspected = inspect_layer(loaded, layer, photograph, device_named(device))
    print_table(inspected.facts, f"{model} {inspected.layer}")
    for note in inspected.notes:
        say(f"note: {note}")
    write(inspected.figure, output)
    say(f"written: {output}")
