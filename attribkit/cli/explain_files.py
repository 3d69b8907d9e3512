"""Photographs or clips in, a figure, a clip or an archive of heatmaps out: what ``attribkit explain`` does."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attribkit.contracts.attribution import Attribution, FailedAttribution
from attribkit.core.errors import InvalidInput, UnreadableFile
from attribkit.core.pictures import evenly
from attribkit.core.shapes import Pictures
from attribkit.explainer import Explainer
from attribkit.figures import Cell, animate, check_ending, grid, save_figure, write_clip
from attribkit.figures.animation import CLIP_WRITERS, tile_clips
from attribkit.figures.figure import caption
from attribkit.figures.sections import strip_rows
from attribkit.io.clips import Clip, read_clip
from attribkit.io.preprocessing import ClipPreprocessing, IntensityWindow, Preprocessing, read_image
from attribkit.state.hooks import frozen
from attribkit.targets.binary import Binary, LabelOfTwo
from attribkit.targets.outputs import check_index
from attribkit.targets.resolution import as_target

BATCH = 8  # images explained at a time
FIGURE_ROWS = 100  # more than anybody looks at
STRIP = 8  # frames of a clip in a figure
SLOWEST = 2.0  # frames a second of a clip that is written


@dataclass(frozen=True, eq=False)
class ExplainedImage:
    """One image or clip and one class, by every method."""

    image: str  # file name
    label: str
    index: int
    probability: float
    picture: Pictures
    answers: tuple[Attribution | FailedAttribution, ...]  # of each method; an attribution is of one image
    clip: Clip | None = None  # that it was; None is a photograph

    @property
    def attributions(self) -> tuple[Attribution, ...]:
        """Those of the methods that did not fail."""
        return tuple(each for each in self.answers if isinstance(each, Attribution))

    @property
    def failures(self) -> tuple[FailedAttribution, ...]:
        """Those of the methods that failed."""
        return tuple(each for each in self.answers if isinstance(each, FailedAttribution))


def explain_images(
    explainer: Explainer,
    preprocessing: Preprocessing | ClipPreprocessing,
    images: Mapping[str, Any],
    methods: Sequence[str],
    *,
    target: str | int | None = None,
    top: int = 1,
) -> Iterator[ExplainedImage]:
    """Explain each image's or clip's target, or its `top` predicted classes, by every method, in batches.

    A method that fails costs the others nothing.

    images: by name, as preprocessing takes them: photographs of PIL, or a Clip each.
    """
    names = list(images)
    for start in range(0, len(names), BATCH):
        batch = names[start : start + BATCH]
        x = torch.stack([preprocessing(images[name]) for name in batch]).to(_device(explainer))
        probabilities, sides = _probabilities(explainer, x)
        classes = _classes(explainer, probabilities, sides, target, top)
        targets = [Binary(each) if sides else each for each in classes.T.tolist()]
        own = explainer.model.spec.in_own_axes(x)
        compared = explainer.compare(own, methods, targets=targets, errors="note")
        for i, name in enumerate(batch):
            for rank, answers in enumerate(compared.rows):
                index = int(classes[i, rank])
                label, probability = _label(explainer, index), float(probabilities[i, index])
                chosen = tuple(each[i] if isinstance(each, Attribution) else each for each in answers)
                picture = preprocessing.picture(images[name])
                clip = images[name] if isinstance(images[name], Clip) else None
                yield ExplainedImage(name, label, index, probability, picture, chosen, clip)


def read_images(
    paths: Sequence[Path], clips: ClipPreprocessing | None, window: IntensityWindow | None = None
) -> dict[str, Any]:
    """The files by name: as clips, if there is a preprocessing for these, or as photographs.

    window: as for `read_image`, of photographs.
    """
    if clips is None:
        return {str(path): read_image(path, window) for path in paths}
    if window is not None:
        raise InvalidInput("--window is for photographs of more than 8 bits, and clips have 8: leave it out.")
    return {str(path): read_clip(path, clips.frames) for path in paths}


def prepare_output(path: Path, *, clips: bool = False) -> None:
    """Refuse, before anything is computed, a path that could not be written; make its folder.

    clips: whether clips are explained, which can be written as clips.
    """
    check_ending(path, [ending.removeprefix(".") for ending in (*WRITERS, *(CLIP_WRITERS if clips else ()))])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnreadableFile(f"The folder of {str(path)!r} cannot be made ({error}): choose another.") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UnreadableFile(f"{str(path)!r} cannot be written: it is a folder, or its folder is not yours.")


def save(explained: Sequence[ExplainedImage], path: Path) -> None:
    """Write a figure (png, pdf, svg ...), the overlays of clips as .mp4 or .gif, or the heatmaps and scores as .npz.

    Raises the first error where every method failed for every image.
    """
    if not any(each.attributions for each in explained):
        raise explained[0].failures[0].error
    of_clips = explained[0].clip is not None
    writer = WRITERS.get(path.suffix.lower(), _save_strips if of_clips else _save_figure)
    (_save_clip if of_clips and path.suffix.lower() in CLIP_WRITERS else writer)(explained, path)


def describe_clips(images: Mapping[str, Any], clips: ClipPreprocessing) -> list[str]:
    """Which frames of each clip were explained, how fast they follow each other, and what the model was made for."""
    made_for = f"; the model was trained on {clips.rate:g} a second" if clips.rate else ""
    return [
        f"{name}: {_frames(clip)} were explained{made_for}" for name, clip in images.items() if isinstance(clip, Clip)
    ]


def _frames(clip: Clip) -> str:
    several = f", some twice, for there are only {clip.length}" if clip.length < len(clip.places) else ""
    rate = f", {clip.chosen_rate:.3g} a second" if clip.chosen_rate else ""
    return f"{len(clip.places)} of {clip.length} frames{rate}{several}"


def _columns(explained: Sequence[ExplainedImage]) -> list[list[Attribution | FailedAttribution]]:
    """The answers by method, of the methods that have an attribution of any image."""
    columns = map(list, zip(*(each.answers for each in explained), strict=True))
    return [column for column in columns if any(isinstance(each, Attribution) for each in column)]


def _cell(picture: Any, answer: Attribution | FailedAttribution) -> Cell:
    """The map over the picture; white where there is none."""
    if isinstance(answer, Attribution):
        return Cell(picture, answer.heatmap()[0])
    return Cell(np.full_like(picture, 255))


def _save_figure(explained: Sequence[ExplainedImage], path: Path) -> None:
    _check_rows(len(explained))
    columns = _columns(explained)
    maps = [[_cell(each.picture, answer) for each, answer in zip(explained, c, strict=True)] for c in columns]
    rows = [list(row) for row in zip([Cell(each.picture) for each in explained], *maps, strict=True)]
    names = ["", *(column[0].method.name for column in columns)]
    save_figure(grid(rows, row_titles=_titles(explained), column_titles=names, caption=_caption(explained)), path)


def _save_strips(explained: Sequence[ExplainedImage], path: Path) -> None:
    """For each clip a row of some of its frames, and a row for each method."""
    _check_rows(sum(1 + len(each.attributions) for each in explained))
    length = len(explained[0].picture)
    places = evenly(length, min(STRIP, length))
    rows, titles = [], []
    for each, title in zip(explained, _titles(explained), strict=True):
        rows += strip_rows(each.picture, [a.heatmap()[0] for a in each.attributions], places)
        titles += [title, *(a.method.name for a in each.attributions)]
    columns = [f"frame {place}" for place in places]
    save_figure(grid(rows, row_titles=titles, column_titles=columns, caption=_caption(explained)), path)


def _save_clip(explained: Sequence[ExplainedImage], path: Path) -> None:
    """Each clip beside its overlays, in its own time where that is not too slow to watch."""
    whole = [column for column in _columns(explained) if all(isinstance(each, Attribution) for each in column)]
    if not whole:
        raise InvalidInput("No method explained every clip: write a figure or an .npz file, or explain fewer clips.")
    by_clip: list[Any] = list(zip(*whole, strict=True))
    rows = [animate(own, pictures=[each.picture]) for each, own in zip(explained, by_clip, strict=True)]
    rates = [each.clip.chosen_rate for each in explained if each.clip and each.clip.chosen_rate]
    write_clip(tile_clips(rows, axis=1), path, max([SLOWEST, *rates]))


def _check_rows(rows: int) -> None:
    if rows > FIGURE_ROWS:
        raise InvalidInput(f"A figure of {rows} rows is too long: explain fewer images, or write an .npz file.")


def _titles(explained: Sequence[ExplainedImage]) -> list[str]:
    return [f"{each.label.split(',')[0]}\n{each.probability:.0%}" for each in explained]


def _caption(explained: Sequence[ExplainedImage]) -> str:
    return caption([a for each in explained for a in each.attributions])


def _save_arrays(explained: Sequence[ExplainedImage], path: Path) -> None:
    arrays: dict[str, Any] = {
        "image": np.array([each.image for each in explained]),
        "target": np.array([each.index for each in explained]),
        "label": np.array([each.label for each in explained]),
        "probability": np.array([each.probability for each in explained], dtype=np.float32),
    }
    if all(each.clip for each in explained):
        arrays["frames"] = np.array([each.clip.places for each in explained if each.clip])
    for column in _columns(explained):
        name = column[0].method.name
        arrays[f"heatmap_{name}"] = _joined([a.heatmap() if isinstance(a, Attribution) else None for a in column])
        arrays[f"scores_{name}"] = _joined([a.scores if isinstance(a, Attribution) else None for a in column])
        arrays[f"method_{name}"] = np.array(repr(column[0].method))
    np.savez_compressed(path, **arrays)


def _joined(maps: Sequence[Tensor | None]) -> np.ndarray:
    """Maps of one image each, joined; NaN where there is none."""
    lacking = torch.full_like(next(each for each in maps if each is not None), torch.nan)
    return torch.cat([lacking if each is None else each for each in maps]).cpu().numpy()


WRITERS: dict[str, Callable[[Sequence[ExplainedImage], Path], None]] = {".npz": _save_arrays}


def _device(explainer: Explainer) -> torch.device:
    return next(explainer.model.module.parameters()).device


def _probabilities(explainer: Explainer, x: Tensor) -> tuple[Tensor, bool]:
    """The probability of every class, (b, classes), and whether they are the two sides of a model with one output."""
    if explainer.model.spec.is_embedding_model:
        raise InvalidInput(
            "This model has no classes, it embeds: explain it in Python, by Explainer(model).attribute(x, "
            "target=Similarity(to)) or without a target."
        )
    with frozen(explainer.model.module):
        found = explainer.model.bind(x).probabilities(x)
    return (torch.cat([1 - found, found], 1), True) if found.shape[1] == 1 else (found, False)


def _classes(explainer: Explainer, probabilities: Tensor, sides: bool, target: str | int | None, top: int) -> Tensor:
    """The classes to explain, (b, number of them)."""
    if target is None:
        if not 1 <= top <= probabilities.shape[1]:
            raise InvalidInput(f"top={top} is no number of classes from 1 to {probabilities.shape[1]}.")
        return probabilities.topk(top).indices
    wanted = as_target(target, explainer.model.spec.labels)
    index: int = wanted.named.index if isinstance(wanted, LabelOfTwo) else wanted.index  # type: ignore[attr-defined]
    if sides and isinstance(target, int):
        check_index(target, 1)
        index = 1  # the output itself speaks for the positive side
    check_index(index, probabilities.shape[1])
    return torch.full((len(probabilities), 1), index, device="cpu")


def _label(explainer: Explainer, index: int) -> str:
    labels = explainer.model.spec.labels
    names = labels() if callable(labels) else labels
    return names[index] if names is not None and index < len(names) else f"class {index}"
