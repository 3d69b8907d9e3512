"""`attribkit methods`, `metrics`, `plugins` and `layers`: what there is."""

import json
from typing import Annotated, Any

import typer

from attribkit.cli.app import app, print_table, report_errors
from attribkit.cli.options import (
    ModelArguments,
    load_named_model,
)


@app.command()
@report_errors
def list_methods(as_json: Annotated[bool, typer.Option("--json", help="a list of objects")] = False) -> None:
    """List the attribution methods: name, options, source, plugin."""
    from attribkit import registry

    rows = [_described(cls) for cls in registry.methods().values()]
    _list(rows, "attribution methods", as_json=as_json)


@app.command()
@report_errors
def list_metrics(as_json: Annotated[bool, typer.Option("--json", help="a list of objects")] = False) -> None:
    """List the metrics: name, which way is better, options, presets, source, plugin."""
    from attribkit import registry

    better = {True: "higher", False: "lower", None: "neither"}
    rows = [
        {"name": cls.name, "better": better[cls.higher_is_better], "presets": list(cls.presets)} | _described(cls)
        for cls in registry.metrics().values()
    ]
    _list(rows, "metrics", as_json=as_json)


@app.command()
@report_errors
def list_plugins() -> None:
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
    print_table(rows, "plugins")


@app.command()
@report_errors
def list_layers(
    model: Annotated[str, typer.Argument(help="timm:NAME, torchvision:NAME, hf-hub:ORG/NAME or zoo:NAME")],
    model_arg: ModelArguments = [],  # noqa: B006
) -> None:
    """List the layers of a model that are maps of the image, and why one of them is chosen."""
    import torch

    from attribkit.explainer import Explainer

    loaded = load_named_model(model, model_arg, weights=None, pretrained=False, quiet=True)
    x = torch.zeros(1, *loaded.preprocessing.shape, dtype=torch.float32, device="cpu")
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
    print_table(rows, model)


def _described(cls: Any) -> dict[str, Any]:
    """What a method or metric says of itself."""
    from attribkit import registry

    return {
        "name": cls.name,
        "options": {option: repr(default) for option, default in registry.options_of(cls).items()},
        "source": cls.source,
        "plugin": registry.plugin_of(cls).distribution,
    }


def _list(rows: list[dict[str, Any]], title: str, *, as_json: bool) -> None:
    """Objects as JSON, or as a table with what is nested in words."""
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    print_table([{key: _in_words(value) for key, value in row.items()} for row in rows], title)


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={each}" for key, each in value.items())
    return ", ".join(value) if isinstance(value, list) else str(value)
