"""The commands `attribkit methods`, `metrics`, `plugins` and `layers`."""

import json
from typing import Annotated, Any

import typer

from attribkit.cli._app import app, print_table, report_errors
from attribkit.cli._options import ModelArguments, load_named_model


@app.command("methods")
@report_errors
def list_methods(as_json: Annotated[bool, typer.Option("--json", help="print a list of JSON objects")] = False) -> None:
    """List the attribution methods: name, options, source, plugin."""
    from attribkit import registry

    rows = [_describe(cls) for cls in registry.methods().values()]
    _print_list(rows, "attribution methods", as_json=as_json)


@app.command("metrics")
@report_errors
def list_metrics(as_json: Annotated[bool, typer.Option("--json", help="print a list of JSON objects")] = False) -> None:
    """List the metrics: name, whether higher or lower is better, options, presets, source, plugin."""
    from attribkit import registry

    better = {True: "higher", False: "lower", None: "neither"}
    rows = [
        {"name": cls.name, "better": better[cls.higher_is_better], "presets": list(cls.presets)} | _describe(cls)
        for cls in registry.metrics().values()
    ]
    _print_list(rows, "metrics", as_json=as_json)


@app.command("plugins")
@report_errors
def list_plugins(as_json: Annotated[bool, typer.Option("--json", help="print a list of JSON objects")] = False) -> None:
    """List the installed plugins: version, state, and what each provides, or why it was skipped."""
    from attribkit import registry

    rows = [
        {
            "plugin": plugin.name,
            "distribution": plugin.distribution,
            "version": plugin.version,
            "state": "loaded",
            "offers": [cls.name for cls in plugin.offers] or ["model specs"],
            "reason": "",
        }
        for plugin in registry.plugins()
    ]
    rows += [
        {
            "plugin": plugin.name,
            "distribution": plugin.distribution,
            "version": plugin.version,
            "state": "skipped",
            "offers": [],
            "reason": plugin.reason,
        }
        for plugin in registry.skipped_plugins()
    ]
    _print_list(rows, "plugins", as_json=as_json)


@app.command("layers")
@report_errors
def list_layers(
    model: Annotated[str, typer.Argument(help="timm:NAME, torchvision:NAME, hf-hub:ORG/NAME or zoo:NAME")],
    model_arg: ModelArguments = [],  # noqa: B006
) -> None:
    """List the layers of a model that have a spatial grid, and why one of them is the default."""
    import torch

    from attribkit._explainer import Explainer

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


def _describe(cls: Any) -> dict[str, Any]:
    """Return the name, options, source and plugin of a method or metric."""
    from attribkit import registry

    return {
        "name": cls.name,
        "options": {option: repr(default) for option, default in registry.options_of(cls).items()},
        "source": cls.source,
        "plugin": registry.plugin_of(cls).distribution,
    }


def _print_list(rows: list[dict[str, Any]], title: str, *, as_json: bool) -> None:
    """Print objects as JSON, or as a table with nested values as text."""
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    print_table([{key: _as_text(value) for key, value in row.items()} for row in rows], title)


def _as_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={each}" for key, each in value.items())
    return ", ".join(value) if isinstance(value, list) else str(value)
