"""Attribution methods on the embedded models, over generated scenes with exact masks: tables and figures."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from attribkit import registry, zoo
from attribkit._contracts.attribution import Attribution
from attribkit._contracts.metric import Metric
from attribkit._core.errors import AttribkitError
from attribkit._explainer import Explainer
from attribkit._loading import load_model
from attribkit.figures import Cell, PaperFigure, grid
from attribkit.figures._figure import caption

FAMILIES = {
    "Class activation maps": ("cam", "gradcam", "gradcam++", "hirescam", "xgradcam", "layercam", "eigencam"),
    "Gradients": (
        "saliency", "input_x_gradient", "smoothgrad", "integrated_gradients", "guided_backprop", "deconvnet",
        "guided_gradcam",
    ),
    "Perturbations": ("ablationcam", "scorecam", "occlusion", "rise"),
    "Attention": ("attention", "attention_rollout", "gradient_rollout", "attention_gates"),
    "Controls": ("random", "centre", "edges", "constant", "input_norm"),
}  # fmt: skip
OTHER_FAMILY = "Other methods"
MAX_FORWARDS = 75  # time of a method on all scenes, in forwards of all scenes
SLOW_METHODS = ("scorecam", "integrated_gradients", "rise")  # above MAX_FORWARDS on one of the embedded models
OPTIONS: dict[str, dict[str, Any]] = {"rise": {"masks": 300, "cells": 6}}  # fewer masks than the default
METRICS: dict[str, dict[str, Any]] = {"relevance_mass": {}, "pointing_game": {"preset": "torchray"}}  # with options
SCENES_SHOWN = 3  # per model in a figure
METHODS_PER_FIGURE = 8
DPI = 150  # resolution of the figures: about 2,000 pixels wide with METHODS_PER_FIGURE

_TIMED_FORWARDS = 3
Timed = TypeVar("Timed")


@dataclass(frozen=True, eq=False)
class DemoRow:
    """The result of one method on one model."""

    model: str
    method: str
    seconds: float = 0.0  # time for all scenes
    forwards: float = 0.0  # time in units of one plain forward of all scenes
    metrics: dict[str, Tensor] | None = None  # a value per scene
    attribution: Attribution | None = None
    error: str = ""


@dataclass(frozen=True, eq=False)
class Stage:
    """A model with its scenes."""

    name: str
    explainer: Explainer
    scenes: Sequence[zoo.Scene]
    x: Tensor
    labels: Tensor
    mask: Bool[Tensor, "b h w"]
    forward_seconds: float


def stage(name: str, count: int, seed: int, device: torch.device | str) -> Stage:
    """Load a zoo model, generate its scenes and time a plain forward."""
    model, preprocessing = load_model(f"zoo:{name}")
    scenes = list(zoo.scenes(count, seed))
    x = torch.stack([preprocessing(Image.fromarray(scene.image)) for scene in scenes]).to(device)
    labels = torch.tensor([scene.label for scene in scenes], device=device)
    mask = torch.from_numpy(np.stack([scene.target.mask for scene in scenes])).to(device)
    explainer = Explainer(model.to(device))
    with torch.inference_mode():
        seconds = [_timed(lambda: model(x), x.device)[1] for _ in range(_TIMED_FORWARDS + 1)]
    return Stage(name, explainer, scenes, x, labels, mask, statistics.median(seconds[1:]))


def rows(stages: Sequence[Stage], methods: Sequence[str]) -> Iterator[DemoRow]:
    """Explain the scenes of each stage by each method; the error of a method does not stop the others."""
    for each in stages:
        for name in methods:
            try:
                yield _row(each, name)
            except AttribkitError as error:
                yield DemoRow(each.name, name, error=str(error))
            except Exception as error:  # most likely an error of a plugin
                yield DemoRow(each.name, name, error=f"{type(error).__name__}: {error}")


def table_rows(results: Sequence[DemoRow]) -> list[dict[str, str]]:
    """Return the rows of the table: costs, and the mean of each metric with an arrow towards the better values."""
    arrows = {name: f"{name} {'↑' if registry.metrics()[name].higher_is_better else '↓'}" for name in METRICS}
    return [
        {
            "model": row.model,
            "method": row.method,
            "seconds": f"{row.seconds:.3f}",
            "forwards": f"{row.forwards:.1f}",
            **{arrow: f"{float(row.metrics[name].nanmean()):.2f}" for name, arrow in arrows.items()},
        }
        for row in results
        if row.metrics is not None
    ]


def demo_figures(stages: Sequence[Stage], results: Sequence[DemoRow]) -> list[PaperFigure]:
    """Draw the methods of each family, at most METHODS_PER_FIGURE in a figure."""
    methods = list(dict.fromkeys(row.method for row in results if row.attribution is not None))
    family_of = {name: family for family, names in FAMILIES.items() for name in names}
    figures = []
    for family in (*FAMILIES, OTHER_FAMILY):
        members = [name for name in methods if family_of.get(name, OTHER_FAMILY) == family]
        for start in range(0, len(members), METHODS_PER_FIGURE):
            figures.append(demo_figure(stages, results, members[start : start + METHODS_PER_FIGURE], title=family))
    return figures


def demo_figure(
    stages: Sequence[Stage],
    results: Sequence[DemoRow],
    methods: Sequence[str],
    *,
    title: str = "",
    scenes: int = SCENES_SHOWN,
) -> PaperFigure:
    """Draw a row for each scene and model and a column for each method; the labelled object is outlined.

    Models that none of the methods explains are left out.
    """
    by_name = {(row.model, row.method): row for row in results if row.attribution is not None}
    shown = [each for each in stages if any((each.name, method) in by_name for method in methods)]
    cells = [
        [Cell(each.scenes[i].image), *(_map_cell(each, i, by_name.get((each.name, method))) for method in methods)]
        for each in shown
        for i in range(scenes)
    ]
    titles = [f"{each.name}: {zoo.SHAPES[each.scenes[i].label]}" for each in shown for i in range(scenes)]
    attributions = [by_name[key].attribution for key in by_name if key[1] in methods]
    figure = grid(
        cells,
        row_titles=titles,
        column_titles=[title, *map(_display_name, methods)],
        caption=caption([each for each in attributions if each is not None]),
    )
    figure.set_label(title)
    return figure


def _display_name(method: str) -> str:
    cls = registry.methods().get(method)
    return (cls and cls.display_name) or method


def _row(stage: Stage, name: str) -> DemoRow:
    options = OPTIONS.get(name, {})
    explain: Callable[[], Attribution] = lambda: stage.explainer.attribute(  # noqa: E731
        stage.x, name, target=stage.labels, **options
    )
    # Work that is done once per model is not timed.
    stage.explainer.attribute(stage.x[:1], name, target=stage.labels[:1], **options)
    attribution, seconds = _timed(explain, stage.x.device)
    metrics = [registry.make(metric, Metric, **METRICS[metric]) for metric in METRICS]
    results = stage.explainer.measure([attribution], metrics, mask=stage.mask)
    values = {each.metric.name: each.values[0] for each in results}
    return DemoRow(stage.name, name, seconds, seconds / stage.forward_seconds, values, attribution)


def _timed(run: Callable[[], Timed], device: torch.device) -> tuple[Timed, float]:
    start = time.perf_counter()
    result = run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - start


def _map_cell(stage: Stage, i: int, row: DemoRow | None) -> Cell:
    if row is None or row.attribution is None or row.metrics is None:
        return Cell(stage.scenes[i].image, title="not applicable")
    title = "hit" if float(row.metrics["pointing_game"][i]) == 1 else "miss"
    return Cell(stage.scenes[i].image, row.attribution[i].heatmap()[0], stage.mask[i].float(), title=title)
