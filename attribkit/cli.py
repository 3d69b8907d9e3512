"""The command line."""

import ast
import functools
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attribkit.core.errors import AttribkitError, InvalidInput, PluginWarning

if TYPE_CHECKING:  # torch takes seconds to import; `attribkit --help` does without it
    from attribkit.loading import LoadedModel

app = typer.Typer(
    help="What a PyTorch vision model looks at, and whether the answer can be trusted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ModelName = Annotated[str, typer.Option("--model", help="timm:NAME, torchvision:NAME, hf-hub:ORG/NAME or zoo:NAME")]
ModelArguments = Annotated[list[str], typer.Option("--model-arg", help="KEY=VALUE for the model's constructor")]


def _told(command: Callable[..., None]) -> Callable[..., None]:
    """End with the sentence of an AttribkitError and exit code 2; show warnings as sentences too."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        warnings.showwarning = _sentence
        try:
            command(*args, **kwargs)
        except AttribkitError as error:
            typer.echo(f"attribkit: {error}", err=True)
            raise typer.Exit(2) from None

    return run


def _sentence(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    prefix = "attribkit: " if issubclass(category, PluginWarning) else f"{category.__name__}: "
    typer.echo(f"{prefix}{message}", err=True)


@app.command()
@_told
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

    stages = [show.stage(name, scenes, seed, _device(device)) for name in ARCHITECTURES]
    methods = list(registry.methods())
    rows = list(track(show.rows(stages, methods), "explaining", total=len(stages) * len(methods)))
    _print_table(show.table(rows), f"{scenes} scenes a model; truth: the mask of the object that the label names")
    output.mkdir(parents=True, exist_ok=True)
    figure = show.demo_figure(stages, rows)
    for path in (output / "demo.png", output / "demo.pdf"):
        write(figure, path)
        typer.echo(f"written: {path}")


@app.command()
@_told
def explain(
    images: Annotated[list[Path], typer.Argument(help="photographs; for a model of video, clips (mp4, avi, gif ...)")],
    model: ModelName = "zoo:cnn",
    model_arg: ModelArguments = [],  # noqa: B006  # typer copies it
    weights: Annotated[Path | None, typer.Option(help="safetensors file or saved state dict")] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="fetch the published weights")] = False,
    method: Annotated[list[str], typer.Option(help="may be repeated; see `attribkit methods`")] = ["gradcam"],  # noqa: B006
    target: Annotated[str | None, typer.Option(help="class index or label; default: the predicted class")] = None,
    top: Annotated[int, typer.Option(min=1, help="explain so many of the predicted classes")] = 1,
    mean: Annotated[str | None, typer.Option(help="of each channel, values 0 to 1: 0.5,0.5,0.5")] = None,
    std: Annotated[str | None, typer.Option(help="of each channel")] = None,
    resize: Annotated[int | None, typer.Option(help="shorter side before the crop, in pixels")] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="of each clip, chosen evenly; default: the model's")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    output: Annotated[
        Path, typer.Option("--output", "-o", help="figure (png, pdf, svg), arrays (npz), of clips also mp4 or gif")
    ] = Path("explanation.png"),
) -> None:
    """Explain photographs, or clips, by a model: which pixels speak for a class?"""
    from dataclasses import replace

    from rich.progress import track

    from attribkit.explain_files import explain as explain_files
    from attribkit.explain_files import prepare, read_inputs, save, told_of_clips
    from attribkit.explainer import Explainer
    from attribkit.loading import clip_preprocessing

    clips = clip_preprocessing(model)
    prepare(output, clips=clips is not None)
    if target is not None and top > 1:
        raise InvalidInput("--top chooses among the predicted classes: give it or --target, not both.")
    if frames is not None and clips is None:
        raise InvalidInput(f"--frames is for models of clips, and {model} explains photographs: leave it out.")
    if clips is not None and frames is not None:
        clips = replace(clips, frames=frames)
    files = read_inputs(images, clips)
    loaded = _load(model, model_arg, weights=weights, pretrained=pretrained)
    preprocessing = _overridden(clips or loaded.preprocessing, mean=mean, std=std, resize=resize)
    explainer = Explainer(loaded.model.to(_device(device)))
    wanted = _class(target)
    explained = explain_files(explainer, preprocessing, files, method, target=wanted, top=top)
    done = list(track(explained, "explaining", total=len(files) * (1 if target is not None else top)))
    save(done, output)
    rows = [{"image": e.image, "class": e.label, "index": e.index, "probability": f"{e.probability:.3f}"} for e in done]
    _print_table(rows, model)
    notes = [note for each in done for a in each.attributions for note in a.notes]
    for note in dict.fromkeys([*(told_of_clips(files, clips) if clips else ()), *notes]):
        typer.echo(f"note: {note}")
    typer.echo(f"written: {output}")


@app.command()
@_told
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
    options = dict(_argument(each, "--option") for each in option)
    _refuse_clips(model, "visualize")
    loaded = _load(model, model_arg, weights=weights, pretrained=pretrained)
    explainer = _explainer(loaded, _overridden(loaded.preprocessing, mean=mean, std=std, resize=None), device)
    made = [explainer.visualize(unit, visualizer, size=size, **options) for unit in units]
    write(gallery(made), output)
    rows = [
        {"unit": name, "response": f"{reached:.3g}"}
        for each in made
        for name, reached in zip(each.names, each.responses[-1].tolist(), strict=True)
    ]
    _print_table(rows, model)
    for note in dict.fromkeys(note for each in made for note in each.notes):
        typer.echo(f"note: {note}")
    typer.echo(f"written: {output}")


@app.command()
@_told
def methods(as_json: Annotated[bool, typer.Option("--json", help="a list of objects")] = False) -> None:
    """List the attribution methods: name, options, source, plugin."""
    from attribkit import registry

    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "options": {option: repr(default) for option, default in registry.options_of(cls).items()},
            "source": cls.source,
            "plugin": registry.plugin_of(cls).distribution,
        }
        for name, cls in registry.methods().items()
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    told = [row | {"options": ", ".join(f"{k}={v}" for k, v in row["options"].items())} for row in rows]
    _print_table(told, "attribution methods")


@app.command()
@_told
def plugins() -> None:
    """List the plugins that were loaded and what each offers."""
    from attribkit import registry

    rows = [
        {
            "plugin": p.name,
            "distribution": p.distribution,
            "offers": ", ".join(cls.name for cls in p.offers) or "model specs",
        }
        for p in registry.plugins()
    ]
    _print_table(rows, "plugins")


@app.command()
@_told
def layers(
    model: Annotated[str, typer.Argument(help="timm:NAME, torchvision:NAME, hf-hub:ORG/NAME or zoo:NAME")],
    model_arg: ModelArguments = [],  # noqa: B006
) -> None:
    """List the layers of a model that are maps of the image, and why one of them is chosen."""
    import torch

    from attribkit.explainer import Explainer

    loaded = _load(model, model_arg, weights=None, pretrained=False, quiet=True)
    x = torch.zeros(1, *loaded.preprocessing.shape)
    rows = [
        {
            "layer": layer.name,
            "kind": layer.kind,
            "output": "x".join(map(str, layer.shape)),
            "layout": str(layer.layout),
            "grid": "x".join(map(str, layer.layout.grid)),
            "": f"chosen: {layer.reason}" if layer.chosen else "",
        }
        for layer in Explainer(loaded.model).layers(x)
    ]
    _print_table(rows, model)


@app.command()
@_told
def inspect(
    model: Annotated[str, typer.Argument(help="timm:NAME, torchvision:NAME, hf-hub:ORG/NAME or zoo:NAME")],
    layer: Annotated[str | None, typer.Argument(help="dotted name; default: the layer that methods read")] = None,
    image: Annotated[Path | None, typer.Option(help="photograph; default: a generated scene")] = None,
    model_arg: ModelArguments = [],  # noqa: B006
    weights: Annotated[Path | None, typer.Option(help="safetensors file or saved state dict")] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="fetch the published weights")] = False,
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
    _refuse_clips(model, "inspect")
    photograph = None if image is None else read_image(image)
    loaded = _load(model, model_arg, weights=weights, pretrained=pretrained)
    inspected = inspect_layer(loaded, layer, photograph, _device(device))
    _print_table(inspected.facts, f"{model} {inspected.layer}")
    for note in inspected.notes:
        typer.echo(f"note: {note}")
    write(inspected.figure, output)
    typer.echo(f"written: {output}")


@app.callback(invoke_without_command=True)
def _main(version: Annotated[bool, typer.Option("--version", help="show the version and exit")] = False) -> None:
    if version:
        from attribkit import __version__

        typer.echo(__version__)
        raise typer.Exit


def _load(
    model: str, model_arg: list[str], *, weights: Path | None, pretrained: bool, quiet: bool = False
) -> "LoadedModel":
    from attribkit.loading import load_model

    arguments = dict(_argument(each) for each in model_arg)
    if taken := arguments.keys() & {"name", "pretrained", "weights"}:
        raise InvalidInput(f"--model-arg {taken.pop()} has an option of its own, see `attribkit explain --help`.")
    loaded = load_model(model, pretrained=pretrained, weights=weights, **arguments)
    if weights is None and not pretrained and not quiet and not model.startswith(("zoo:", "hf-hub:")):
        typer.echo(f"attribkit: {model} has random weights; give --weights FILE or --pretrained.", err=True)
    return loaded


def _refuse_clips(model: str, command: str) -> None:
    """Refuse a model of video where figures are of images alone."""
    from attribkit.loading import clip_preprocessing

    if clip_preprocessing(model) is not None:
        raise InvalidInput(
            f"`attribkit {command}` draws images, and {model} takes clips: use Explainer(load_model({model!r}).model) "
            "in Python."
        )


def _class(target: str | None) -> str | int | None:
    """A class index where it is one, else a label."""
    try:
        return target if target is None else int(target)
    except ValueError:
        return target


def _units(classes: list[str], layer: str | None, channels: list[int], position: str | None) -> list[Any]:
    """What to visualise: the classes together, or the channels one by one."""
    from attribkit.core.targets.units import Unit

    if bool(classes) == bool(layer) or bool(layer) != bool(channels):
        raise InvalidInput("Say what to visualise: --class CLASS, or --layer LAYER with --channel CHANNEL.")
    if classes and position:
        raise InvalidInput("--position is a place in a layer: give it with --layer and --channel.")
    return [Unit(str(layer), channel, _position(position)) for channel in channels] or [[*map(_class, classes)]]


def _position(text: str | None) -> Any:
    """A cell of a grid, the word for its middle, or None."""
    if text in (None, "centre"):
        return text
    try:
        return tuple(int(part) for part in str(text).split(","))
    except ValueError:
        raise InvalidInput(f'--position {text!r} is no cell of a grid: write 3,4 or "centre".') from None


def _explainer(loaded: "LoadedModel", preprocessing: Any, device: str) -> Any:
    """An explainer that knows the model's preprocessing, where its family does not tell."""
    from dataclasses import replace

    from attribkit import registry
    from attribkit.explainer import Explainer

    spec = registry.model_spec(loaded.model)
    size = spec.input_size or preprocessing.shape
    spec = replace(spec, mean=preprocessing.mean, std=preprocessing.std, input_size=size)
    return Explainer(loaded.model.to(_device(device)), spec=spec)


def _argument(text: str, option: str = "--model-arg") -> tuple[str, Any]:
    """KEY=VALUE, the value as Python writes it or else as a string."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise InvalidInput(f"{option} {text!r} is not of the form KEY=VALUE.")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def _overridden(preprocessing: Any, *, mean: str | None, std: str | None, resize: int | None) -> Any:
    """The model's own preprocessing, but where the user said otherwise."""
    from dataclasses import replace

    given = {"mean": _numbers("mean", mean), "std": _numbers("std", std), "resize": resize}
    return replace(preprocessing, **{name: value for name, value in given.items() if value is not None})


def _numbers(name: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InvalidInput(f"--{name} {text!r} is no list of numbers: write it like 0.5,0.5,0.5.") from None


def _device(name: str) -> str:
    """The device by name; "auto" is a GPU where there is one."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).tolist()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InvalidInput(f"--device {name} cannot be used: {str(error).splitlines()[0]}") from error
    return name


def _print_table(rows: list[dict[str, Any]], title: str) -> None:
    """A table in the terminal; plain and whole where the output is no terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in rows[0] if rows else ():
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
