"""The command `attribkit explain`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attribkit._core.errors import InvalidInput, join_names
from attribkit.cli._app import app, print_table, report_errors, write_line
from attribkit.cli._options import (
    ModelArguments,
    ModelName,
    WindowOption,
    class_index,
    load_named_model,
    methods_with_options,
    overridden,
    parse_device,
    parse_width,
    parse_window,
)

if TYPE_CHECKING:
    from attribkit.cli._explain_files import ExplainedImage


@app.command("explain")
@report_errors
def explain_command(
    images: Annotated[list[Path], typer.Argument(help="image files; for video models, clips (mp4, avi, gif ...)")],
    model: ModelName = "zoo:cnn",
    model_arg: ModelArguments = [],  # noqa: B006  # typer copies it
    weights: Annotated[Path | None, typer.Option(help="safetensors file or saved state dict")] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="download the published weights")] = False,
    method: Annotated[list[str], typer.Option(help="may be repeated; see `attribkit methods`")] = ["gradcam"],  # noqa: B006
    option: Annotated[
        list[str], typer.Option(help="KEY=VALUE for all methods that have the option, or METHOD.KEY=VALUE for one")
    ] = [],  # noqa: B006
    target: Annotated[str | None, typer.Option(help="class index or label; default: the predicted class")] = None,
    top: Annotated[int, typer.Option(min=1, help="number of predicted classes to explain")] = 1,
    mean: Annotated[str | None, typer.Option(help="mean per channel, values 0 to 1: 0.5,0.5,0.5")] = None,
    std: Annotated[str | None, typer.Option(help="standard deviation per channel")] = None,
    resize: Annotated[int | None, typer.Option(help="shorter side before the crop, in pixels")] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, help="frames per clip, evenly spaced; default: the model's")
    ] = None,
    window: WindowOption = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    width: Annotated[
        str | None, typer.Option(help="width of the figure in inches, or a venue: cvpr, cvpr-text, neurips, ieee ...")
    ] = None,
    scale: Annotated[
        str,
        typer.Option(help="what maps are divided by: the 99.5th percentile of each, the largest of the row, or shared"),
    ] = "each",
    smooth: Annotated[
        float, typer.Option(min=0, help="pixels of a Gaussian filter for maps of images, for display only")
    ] = 0.0,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="figure (png, pdf, svg), report (html), arrays (npz), or for clips mp4, gif"
        ),
    ] = Path("explanation.png"),
    as_json: Annotated[
        bool, typer.Option("--json", help="print a JSON manifest of the run in place of the table and the notes")
    ] = False,
) -> None:
    """Explain the predictions of a model on images or clips.

    If a method fails, the results of the others are written, the error is printed, and the exit code is 1.
    """
    from attribkit._display.progress import track
    from attribkit._explainer import Explainer
    from attribkit.cli._explain_files import FigureStyle, describe_clips, prepare_output, read_images, save
    from attribkit.cli._explain_files import explain_images as explain_files
    from attribkit.cli._manifest import ModelSource, manifest

    clips = _clip_preprocessing(model, frames)
    prepare_output(output, clips=clips is not None)
    style = FigureStyle(None if width is None else parse_width(width), scale, smooth)
    if target is not None and top > 1:
        raise InvalidInput("--top selects predicted classes and cannot be combined with --target: use one of them.")
    methods = methods_with_options(method, option)
    files = read_images(images, clips, parse_window(window))
    loaded = load_named_model(model, model_arg, weights=weights, pretrained=pretrained)
    preprocessing = overridden(clips or loaded.preprocessing, mean=mean, std=std, resize=resize)
    explainer = Explainer(loaded.model.to(parse_device(device)))
    explained = explain_files(explainer, preprocessing, files, methods, target=class_index(target), top=top)
    results = list(track(explained, "explanations", len(files) * (1 if target is not None else top)))
    save(results, output, style)
    if as_json:
        source = ModelSource(model, model_arg, weights, pretrained)
        typer.echo(json.dumps(manifest(source, loaded.model, preprocessing, results, [output]), indent=2))
    else:
        _print_results(results, model, describe_clips(files, clips) if clips else (), output)
    failures = dict.fromkeys(str(failure) for each in results for failure in each.failures)
    for failure in failures:
        write_line(f"attribkit: {failure}", err=True)
    if failures:
        raise typer.Exit(1)


def _print_results(results: Sequence["ExplainedImage"], model: str, clip_notes: Sequence[str], output: Path) -> None:
    """Print a table of the explained classes, the notes without repetitions, and the path of the output."""
    rows = [
        {"image": e.image, "class": e.label, "index": e.index, "probability": f"{e.probability:.3f}"} for e in results
    ]
    print_table(rows, model)
    notes = [note for each in results for a in each.attributions for note in a.notes]
    for note in dict.fromkeys([*clip_notes, *notes]):
        write_line(f"note: {note}")
    failed = list(dict.fromkeys(failure.method.name for each in results for failure in each.failures))
    write_line(f"written: {output}" + (f" ({join_names(failed)} failed)" if failed else ""))


def _clip_preprocessing(model: str, frames: int | None) -> Any:
    """Return the preprocessing of a video model, with this number of frames; None for an image model."""
    from dataclasses import replace

    from attribkit._loading import clip_preprocessing

    clips = clip_preprocessing(model)
    if frames is None:
        return clips
    if clips is None:
        raise InvalidInput(f"--frames is for video models, and {model} is an image model: omit --frames.")
    return replace(clips, frames=frames)
