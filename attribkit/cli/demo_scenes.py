"""Every registered method on the embedded models, over scenes whose truth is known."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Bool
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from attribkit import registry, zoo
from attribkit.contracts.attribution import Attribution
from attribkit.core.errors import AttribkitError
from attribkit.explainer import Explainer
from attribkit.figures import Cell, grid
from attribkit.figures.figure import caption
from attribkit.io.loading import load_model

SHOWN = 3  # scenes per model in the figure
QUICK: dict[str, dict[str, Any]] = {"rise": {"masks": 300, "cells": 6}}  # options of what would take minutes
METRICS = ("relevance_mass", "pointing_game")
_ROUNDS = 3  # of a plain forward, which is the unit of cost
Timed = TypeVar("Timed")


@dataclass(frozen=True, eq=False)
class DemoRow:
    """What one method gave on one model."""

    model: str
    method: str
    seconds: float = 0.0  # for all scenes
    forwards: float = 0.0  # the same, in units of one plain forward of all scenes
    metrics: dict[str, float] | None = None  # means over the scenes
    attribution: Attribution | None = None
    refusal: str = ""  # why there is none


@dataclass(frozen=True, eq=False)
class Stage:
    """A model with the scenes before it."""

    name: str
    explainer: Explainer
    scenes: Sequence[zoo.Scene]
    x: Tensor
    labels: Tensor
    mask: Bool[Tensor, "b h w"]
    forward_seconds: float


def stage(name: str, count: int, seed: int, device: torch.device | str) -> Stage:
    """Load a zoo model and draw its scenes."""
    model, preprocessing = load_model(f"zoo:{name}")
    scenes = list(zoo.scenes(count, seed))
    x = torch.stack([preprocessing(Image.fromarray(scene.image)) for scene in scenes]).to(device)
    labels = torch.tensor([scene.label for scene in scenes], device=device)
    mask = torch.from_numpy(np.stack([scene.target.mask for scene in scenes])).to(device)
    explainer = Explainer(model.to(device))
    with torch.inference_mode():
        rounds = [_timed(lambda: model(x), x.device)[1] for _ in range(_ROUNDS + 1)]
    return Stage(name, explainer, scenes, x, labels, mask, statistics.median(rounds[1:]))


def rows(stages: Sequence[Stage], methods: Sequence[str]) -> Iterator[DemoRow]:
    """Explain every stage's scenes by every method; one that refuses or fails does not stop the others."""
    for each in stages:
        for name in methods:
            try:
                yield _row(each, name)
            except AttribkitError as error:
                yield DemoRow(each.name, name, refusal=str(error))
            except Exception as error:  # a plugin's, most likely
                yield DemoRow(each.name, name, refusal=f"{type(error).__name__}: {error}")


def table_rows(done: Sequence[DemoRow]) -> list[dict[str, str]]:
    """The rows as a terminal shows them; each metric's mean over the scenes, with the arrow towards the better."""
    arrows = {name: f"{name} {'↑' if registry.metrics()[name].higher_is_better else '↓'}" for name in METRICS}
    return [
        {"model": row.model, "method": row.method}
        | (
            {"seconds": f"{row.seconds:.3f}", "forwards": f"{row.forwards:.1f}"}
            if row.metrics
            else {"seconds": row.refusal, "forwards": ""}
        )
        | {arrow: f"{row.metrics[name]:.2f}" if row.metrics else "" for name, arrow in arrows.items()}
        for row in done
    ]


def demo_figure(stages: Sequence[Stage], done: Sequence[DemoRow]) -> Figure:
    """A row per scene and model, a column per method; the object that the label names is outlined."""
    methods = list(dict.fromkeys(row.method for row in done if row.attribution))
    rows = [
        [Cell(each.scenes[i].image), *(_map_cell(each, i, name, done) for name in methods)]
        for each in stages
        for i in range(SHOWN)
    ]
    titles = [f"{each.name}: {zoo.SHAPES[each.scenes[i].label]}" for each in stages for i in range(SHOWN)]
    shown = [row.attribution for row in done if row.attribution]
    return grid(rows, row_titles=titles, column_titles=["scene", *methods], caption=caption(shown))


def _row(stage: Stage, name: str) -> DemoRow:
    options = QUICK.get(name, {})
    explain: Callable[[], Attribution] = lambda: stage.explainer.attribute(  # noqa: E731
        stage.x, name, target=stage.labels, **options
    )
    stage.explainer.attribute(
        stage.x[:1], name, target=stage.labels[:1], **options
    )  # what is done once per model is not timed
    attribution, seconds = _timed(explain, stage.x.device)
    found = stage.explainer.measure([attribution], METRICS, mask=stage.mask)
    metrics = {each.metric.name: float(each.values.nanmean()) for each in found}
    return DemoRow(stage.name, name, seconds, seconds / stage.forward_seconds, metrics, attribution)


def _timed(run: Callable[[], Timed], device: torch.device) -> tuple[Timed, float]:
    start = time.perf_counter()
    result = run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - start


def _map_cell(stage: Stage, i: int, method: str, done: Sequence[DemoRow]) -> Cell:
    found = next((r.attribution for r in done if r.model == stage.name and r.method == method), None)
    if found is None:
        return Cell(stage.scenes[i].image, title="refused")
    hit = bool(stage.explainer.evaluate(found[i], "pointing_game", mask=stage.mask[i : i + 1]) == 1)
    return Cell(stage.scenes[i].image, found[i].heatmap()[0], stage.mask[i].float(), "hit" if hit else "miss")
