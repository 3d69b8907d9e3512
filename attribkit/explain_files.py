"""Photographs in, a figure or an archive of heatmaps out: what ``attribkit explain`` does."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attribkit.core.asked import as_target
from attribkit.core.attribution import Attribution
from attribkit.core.errors import InvalidInput, UnreadableFile
from attribkit.core.hooks import frozen
from attribkit.core.outputs import class_scores
from attribkit.core.shapes import Picture
from attribkit.explainer import Explainer
from attribkit.figures import Cell, check_ending, grid, write
from attribkit.figures.figure import caption
from attribkit.preprocessing import Preprocessing

BATCH = 8  # images explained at a time
FIGURE_ROWS = 100  # more than anybody looks at


@dataclass(frozen=True, eq=False)
class Explained:
    """One image and one class, by every method."""

    image: str  # file name
    label: str
    index: int
    probability: float
    picture: Picture
    attributions: tuple[Attribution, ...]  # of one image each


def explain(
    explainer: Explainer,
    preprocessing: Preprocessing,
    images: dict[str, Image.Image],
    methods: Sequence[str],
    *,
    target: str | int | None = None,
    top: int = 1,
) -> Iterator[Explained]:
    """Explain each image's target, or its `top` predicted classes, by every method, in batches."""
    names = list(images)
    for start in range(0, len(names), BATCH):
        batch = names[start : start + BATCH]
        x = torch.stack([preprocessing(images[name]) for name in batch]).to(_device(explainer))
        probabilities = _probabilities(explainer, x)
        classes = _classes(explainer, probabilities, target, top)
        compared = explainer.compare(x, methods, targets=classes.T.tolist())
        by_rank = [compared[i : i + len(methods)] for i in range(0, len(compared), len(methods))]
        for i, name in enumerate(batch):
            for rank, attributions in enumerate(by_rank):
                index = int(classes[i, rank])
                label, probability = _label(explainer, index), float(probabilities[i, index])
                chosen = tuple(each[i] for each in attributions)
                yield Explained(name, label, index, probability, preprocessing.picture(images[name]), chosen)


def prepare(path: Path) -> None:
    """Refuse, before anything is computed, a path that could not be written; make its folder."""
    check_ending(path, [ending.removeprefix(".") for ending in WRITERS])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnreadableFile(f"The folder of {str(path)!r} cannot be made ({error}): choose another.") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UnreadableFile(f"{str(path)!r} cannot be written: it is a folder, or its folder is not yours.")


def save(explained: Sequence[Explained], path: Path) -> None:
    """Write a figure (png, pdf, svg ...) or, as .npz, the heatmaps and scores as arrays."""
    WRITERS.get(path.suffix.lower(), _save_figure)(explained, path)


def _save_figure(explained: Sequence[Explained], path: Path) -> None:
    if len(explained) > FIGURE_ROWS:
        raise InvalidInput(
            f"A figure of {len(explained)} rows is too long: explain fewer images, or write an .npz file."
        )
    rows = [
        [Cell(each.picture), *(Cell(each.picture, a.heatmap()[0]) for a in each.attributions)] for each in explained
    ]
    attributions = [a for each in explained for a in each.attributions]
    titles = [f"{each.label.split(',')[0]}\n{each.probability:.0%}" for each in explained]
    columns = ["", *(a.method.name for a in explained[0].attributions)]
    write(grid(rows, row_titles=titles, column_titles=columns, caption=caption(attributions)), path)


def _save_arrays(explained: Sequence[Explained], path: Path) -> None:
    arrays: dict[str, Any] = {
        "image": np.array([each.image for each in explained]),
        "target": np.array([each.index for each in explained]),
        "label": np.array([each.label for each in explained]),
        "probability": np.array([each.probability for each in explained], dtype=np.float32),
    }
    for column in zip(*(each.attributions for each in explained), strict=True):
        name = column[0].method.name
        arrays[f"heatmap_{name}"] = torch.cat([a.heatmap() for a in column]).cpu().numpy()
        arrays[f"scores_{name}"] = torch.cat([a.scores for a in column]).cpu().numpy()
        arrays[f"method_{name}"] = np.array(repr(column[0].method))
    np.savez_compressed(path, **arrays)


WRITERS: dict[str, Callable[[Sequence[Explained], Path], None]] = {".npz": _save_arrays}


def _device(explainer: Explainer) -> torch.device:
    return next(explainer.model.module.parameters()).device


def _probabilities(explainer: Explainer, x: Tensor) -> Tensor:
    with frozen(explainer.model.module), torch.no_grad():
        return class_scores(explainer.model(x)).softmax(1)


def _classes(explainer: Explainer, probabilities: Tensor, target: str | int | None, top: int) -> Tensor:
    """The classes to explain, (b, number of them)."""
    if target is None:
        if not 1 <= top <= probabilities.shape[1]:
            raise InvalidInput(f"top={top} is no number of classes from 1 to {probabilities.shape[1]}.")
        return probabilities.topk(top).indices
    wanted = as_target(target, explainer.model.spec.labels)
    index: int = wanted.index  # type: ignore[attr-defined]
    if not 0 <= index < probabilities.shape[1]:
        classes = probabilities.shape[1]
        raise InvalidInput(f"There is no class {index}: the model has {classes} classes, 0 to {classes - 1}.")
    return torch.full((len(probabilities), 1), index)


def _label(explainer: Explainer, index: int) -> str:
    labels = explainer.model.spec.labels
    names = labels() if callable(labels) else labels
    return names[index] if names is not None else f"class {index}"
