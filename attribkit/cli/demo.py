"""`attribkit demo`."""

from pathlib import Path
from typing import Annotated

import typer

from attribkit.cli.app import app, print_table, say, told
from attribkit.cli.options import (
    device_named,
)


@app.command()
@told
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for demo.png and demo.pdf")] = Path("figures"),
    scenes: Annotated[int, typer.Option(min=3, help="scenes per model")] = 16,
    seed: Annotated[int, typer.Option(help="of the first scene")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
) -> None:
    """Explain scenes of known truth by every method on the embedded models; offline, within a minute."""
    from rich.progress import track

    from attribkit import demo as show
    from attribkit import registry
    from attribkit.figures import write
    from attribkit.zoo import ARCHITECTURES

    stages = [show.stage(name, scenes, seed, device_named(device)) for name in ARCHITECTURES]
    methods = list(registry.methods())
    rows = list(track(show.rows(stages, methods), "explaining", total=len(stages) * len(methods)))
    print_table(show.table(rows), f"{scenes} scenes a model; truth: the mask of the object that the label names")
    output.mkdir(parents=True, exist_ok=True)
    figure = show.demo_figure(stages, rows)
    for path in (output / "demo.png", output / "demo.pdf"):
        write(figure, path)
        say(f"written: {path}")
