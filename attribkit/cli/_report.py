"""The command `attribkit report`."""

from pathlib import Path
from typing import Annotated

import typer

from attribkit.cli._app import app, report_errors, write_line


@app.command("report")
@report_errors
def report_command(
    sources: Annotated[
        list[Path], typer.Argument(help="the output folder of a benchmark, or files that Attribution.save wrote")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file")] = Path("report.html"),
    title: Annotated[str | None, typer.Option(help="title; default: the name of the run")] = None,
    picture_size: Annotated[int, typer.Option(min=1, help="longer side of the photographs, in pixels")] = 288,
    map_size: Annotated[int, typer.Option(min=1, help="longer side of the maps, in grid cells")] = 90,
    photographs: Annotated[
        bool, typer.Option(help="include photographs and names of classes; this runs Python files of the configuration")
    ] = True,
    max_images: Annotated[int, typer.Option(min=1, help="number of images at most, from the first one on")] = 512,
) -> None:
    """Write a report about a benchmark or about saved maps: one HTML file that works offline.

    It contains photographs, labels and, for a benchmark, the configuration with its paths. Check this before you share
    it.
    """
    from attribkit.report import write_report

    output.parent.mkdir(parents=True, exist_ok=True)
    write_report(
        sources,
        output,
        title=title,
        picture_size=picture_size,
        map_size=map_size,
        photographs=photographs,
        max_images=max_images,
    )
    write_line(f"written: {output} ({output.stat().st_size / 1e6:.1f} MB)")
