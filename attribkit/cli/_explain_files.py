"""Explanation of image and clip files, and the files that `attribkit explain` writes."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attribkit._contracts.attribution import Attribution, FailedAttribution
from attribkit._contracts.method import Method
from attribkit._core.errors import InvalidInput, UnreadableFile
from attribkit._core.pictures import middle_indices
from attribkit._core.shapes import Pictures
from attribkit._explainer import Explainer
from attribkit._state.hooks import frozen
from attribkit._targets.binary import Binary, LabelOfTwo
from attribkit._targets.outputs import check_index
from attribkit._targets.resolution import as_target
from attribkit.figures import Cell, animate, check_ending, grid, write_clip
from attribkit.figures._clips import CLIP_WRITERS, strip_rows, tile_clips
from attribkit.figures._figure import caption, display_map, display_name, smoothing_note
from attribkit.figures._grid import check_scale
from attribkit.figures._page import figure_width
from attribkit.io._clips import Clip, read_clip
from attribkit.io._preprocessing import ClipPreprocessing, IntensityWindow, Preprocessing, read_image

BATCH_SIZE = 8
MAX_ROWS = 100  # maximum number of rows of a figure
STRIP_FRAMES = 8  # frames of a clip in a figure
MIN_RATE = 2.0  # frames per second of a clip that is written


@dataclass(frozen=True, eq=False)
class ExplainedImage:
    """The results of all methods for one image or clip and one class.

    Args:
        image: File name.
        label: Name of the class.
        index: Index of the class.
        probability: Predicted probability of the class.
        picture: The region of the photograph that is explained, or the frames of the clip after resizing and cropping.
        results: One result for each method; attributions have a batch size of 1.
        clip: The clip; None for an image.
    """

    image: str
    label: str
    index: int
    probability: float
    picture: Pictures
    results: tuple[Attribution | FailedAttribution, ...]
    clip: Clip | None = None

    @property
    def attributions(self) -> tuple[Attribution, ...]:
        """Results of the methods that did not fail."""
        return tuple(each for each in self.results if isinstance(each, Attribution))

    @property
    def failures(self) -> tuple[FailedAttribution, ...]:
        """Results of the methods that failed."""
        return tuple(each for each in self.results if isinstance(each, FailedAttribution))


def explain_images(
    explainer: Explainer,
    preprocessing: Preprocessing | ClipPreprocessing,
    images: Mapping[str, Any],
    methods: Sequence[str | Method],
    *,
    target: str | int | None = None,
    top: int = 1,
) -> Iterator[ExplainedImage]:
    """Explain the target, or the `top` predicted classes, of each image or clip by each method, in batches.

    A method that fails does not affect the others.

    Args:
        explainer: An explainer of the model.
        preprocessing: The preprocessing of the model.
        images: PIL images by name, or clips for a ClipPreprocessing.
        methods: Names or instances of the methods.
        target: Label or index of the class; None for the predicted classes.
        top: Number of predicted classes.
    """
    names = list(images)
    for start in range(0, len(names), BATCH_SIZE):
        batch = names[start : start + BATCH_SIZE]
        x = torch.stack([preprocessing(images[name]) for name in batch]).to(_device(explainer))
        probabilities, binary = _probabilities(explainer, x)
        classes = _classes(explainer, probabilities, binary, target, top)
        targets = [Binary(each) if binary else each for each in classes.T.tolist()]
        inputs = explainer.model.spec.to_model_axes(x)
        comparison = explainer.compare(inputs, methods, targets=targets, errors="note")
        for i, name in enumerate(batch):
            for rank, results in enumerate(comparison.rows):
                index = int(classes[i, rank])
                label, probability = _label(explainer, index), float(probabilities[i, index])
                of_image = tuple(each[i] if isinstance(each, Attribution) else each for each in results)
                clip = images[name] if isinstance(images[name], Clip) else None
                picture = _picture(preprocessing, images[name])
                yield ExplainedImage(name, label, index, probability, picture, of_image, clip)


def _picture(preprocessing: Preprocessing | ClipPreprocessing, image: Any) -> Pictures:
    """Return what figures show of an image or a clip."""
    return preprocessing.photograph(image) if isinstance(preprocessing, Preprocessing) else preprocessing.picture(image)


def read_images(
    paths: Sequence[Path], clips: ClipPreprocessing | None, window: IntensityWindow | None = None
) -> dict[str, Any]:
    """Read the files as clips if a preprocessing of clips is given, else as images.

    Args:
        paths: Paths of the files.
        clips: The preprocessing of a video model; None for an image model.
        window: As in `read_image`; for images only.

    Returns:
        Images or clips, by path.
    """
    if clips is None:
        return {str(path): read_image(path, window) for path in paths}
    if window is not None:
        raise InvalidInput(
            "--window applies to images with more than 8 bits per channel, but clips have 8: omit --window."
        )
    return {str(path): read_clip(path, clips.frames) for path in paths}


def prepare_output(path: Path, *, clips: bool = False) -> None:
    """Check that the path can be written, and create its folder.

    Args:
        path: Path of the output.
        clips: Whether clips are explained, so that mp4 and gif are allowed.

    Raises:
        InvalidInput: If the suffix is not supported.
        UnreadableFile: If the path cannot be written.
    """
    check_ending(path, [ending.removeprefix(".") for ending in (*WRITERS, *(CLIP_WRITERS if clips else ()))])
    if path.suffix.lower() == ".html":
        import attribkit.report  # noqa: F401  # raises an error now, not after the work, if a package is missing
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnreadableFile(
            f"The folder of {str(path)!r} cannot be created ({error}): choose another path."
        ) from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UnreadableFile(f"{str(path)!r} cannot be written: it is a folder, or its folder is not writable.")


@dataclass(frozen=True)
class FigureStyle:
    """The width and the scale of a figure and the smoothing of its maps, as for `attribkit.figures.figure`."""

    width: float | str | None = None
    scale: Any = "each"
    smooth: float = 0.0

    def __post_init__(self) -> None:
        check_scale(self.scale)
        if self.width is not None:
            figure_width(self.width)


def save(results: Sequence[ExplainedImage], path: Path, style: FigureStyle = FigureStyle()) -> None:
    """Write a figure (png, pdf, svg ...), overlays of clips (mp4, gif), heatmaps and scores (npz), or a report (html).

    Raises the first error if every method failed for every image.
    """
    if not any(each.attributions for each in results):
        raise results[0].failures[0].error
    of_clips = results[0].clip is not None
    if path.suffix.lower() in WRITERS:
        WRITERS[path.suffix.lower()](results, path)
    elif of_clips and path.suffix.lower() in CLIP_WRITERS:
        _save_clip(results, path)
    else:
        drawn = _draw_strips(results) if of_clips else _draw_figure(results, style.smooth)
        grid(**drawn, width=style.width, scale=style.scale).save(path)


def describe_clips(images: Mapping[str, Any], clips: ClipPreprocessing) -> list[str]:
    """Describe which frames of each clip were explained, their rate, and the rate of the model's training data."""
    training = f"; the model was trained on {clips.rate:g} frames per second" if clips.rate else ""
    return [
        f"{name}: {_frames(clip)} were explained{training}" for name, clip in images.items() if isinstance(clip, Clip)
    ]


def _frames(clip: Clip) -> str:
    repeated = f", some repeated since the clip has only {clip.length}" if clip.length < len(clip.frame_indices) else ""
    rate = f", {clip.chosen_rate:.3g} per second" if clip.chosen_rate else ""
    return f"{len(clip.frame_indices)} of {clip.length} frames{rate}{repeated}"


def _columns(results: Sequence[ExplainedImage]) -> list[list[Attribution | FailedAttribution]]:
    """Return the results by method, for the methods that explained at least one image."""
    columns = map(list, zip(*(each.results for each in results), strict=True))
    return [column for column in columns if any(isinstance(each, Attribution) for each in column)]


def _cell(picture: Any, result: Attribution | FailedAttribution, smooth: float) -> Cell:
    """Overlay the map on the picture; a failure is white."""
    if isinstance(result, Attribution):
        return Cell(picture, display_map(result, 0, picture, smooth))
    return Cell(np.full_like(picture, 255))


def _draw_figure(results: Sequence[ExplainedImage], smooth: float) -> dict[str, Any]:
    """Return the arguments of `grid`: a row for each image."""
    _check_rows(len(results))
    columns = _columns(results)
    maps = [[_cell(each.picture, result, smooth) for each, result in zip(results, c, strict=True)] for c in columns]
    rows = [list(row) for row in zip([Cell(each.picture) for each in results], *maps, strict=True)]
    names = ["", *(display_name(column[0]) for column in columns)]
    text = "\n".join(filter(None, [_caption(results), smoothing_note(smooth)]))
    return {"rows": rows, "row_titles": _titles(results), "column_titles": names, "caption": text}


def _draw_strips(results: Sequence[ExplainedImage]) -> dict[str, Any]:
    """Return the arguments of `grid`: some frames of each clip in a row, followed by a row for each method."""
    _check_rows(sum(1 + len(each.attributions) for each in results))
    length = len(results[0].picture)
    frames = middle_indices(length, min(STRIP_FRAMES, length))
    rows, titles = [], []
    for each, title in zip(results, _titles(results), strict=True):
        rows += strip_rows(each.picture, [a.heatmap()[0] for a in each.attributions], frames)
        titles += [title, *map(display_name, each.attributions)]
    columns = [f"frame {frame}" for frame in frames]
    return {"rows": rows, "row_titles": titles, "column_titles": columns, "caption": _caption(results)}


def _save_clip(results: Sequence[ExplainedImage], path: Path) -> None:
    """Write each clip next to its overlays, at its rate, but not slower than MIN_RATE."""
    complete = [column for column in _columns(results) if all(isinstance(each, Attribution) for each in column)]
    if not complete:
        raise InvalidInput(
            "Every method failed for at least one clip: write a figure or an .npz file instead, or explain fewer clips."
        )
    by_clip: list[Any] = list(zip(*complete, strict=True))
    rows = [animate(maps, pictures=[each.picture]) for each, maps in zip(results, by_clip, strict=True)]
    rates = [each.clip.chosen_rate for each in results if each.clip and each.clip.chosen_rate]
    write_clip(tile_clips(rows, axis=1), path, max([MIN_RATE, *rates]))


def _check_rows(rows: int) -> None:
    if rows > MAX_ROWS:
        raise InvalidInput(
            f"A figure can have at most {MAX_ROWS} rows, got {rows}: explain fewer images, or write an .npz file."
        )


def _titles(results: Sequence[ExplainedImage]) -> list[str]:
    return [f"{each.label.split(',')[0]}\n{each.probability:.0%}" for each in results]


def _caption(results: Sequence[ExplainedImage]) -> str:
    return caption([a for each in results for a in each.attributions])


def _save_arrays(results: Sequence[ExplainedImage], path: Path) -> None:
    arrays: dict[str, Any] = {
        "image": np.array([each.image for each in results]),
        "target": np.array([each.index for each in results]),
        "label": np.array([each.label for each in results]),
        "probability": np.array([each.probability for each in results], dtype=np.float32),
    }
    if all(each.clip for each in results):
        arrays["frames"] = np.array([each.clip.frame_indices for each in results if each.clip])
    for column in _columns(results):
        name = column[0].method.name
        arrays[f"heatmap_{name}"] = _concatenate([a.heatmap() if isinstance(a, Attribution) else None for a in column])
        arrays[f"scores_{name}"] = _concatenate([a.scores if isinstance(a, Attribution) else None for a in column])
        arrays[f"method_{name}"] = np.array(repr(column[0].method))
    np.savez_compressed(path, **arrays)


def _concatenate(maps: Sequence[Tensor | None]) -> np.ndarray:
    """Concatenate the maps of single images, with NaN for the missing ones."""
    missing = torch.full_like(next(each for each in maps if each is not None), torch.nan)
    return torch.cat([missing if each is None else each for each in maps]).cpu().numpy()


def _save_report(results: Sequence[ExplainedImage], path: Path) -> None:
    from attribkit.report._content import ExplainedPicture, maps_content
    from attribkit.report._page import write_page
    from attribkit.report._pictures import PictureOptions

    names = _short_names({each.image for each in results})
    explained = (
        ExplainedPicture(
            names[each.image],
            each.label,
            f"predicted probability {each.probability:.1%}",
            each.picture,
            dict(zip(_method_labels(each.results), each.results, strict=True)),
        )
        for each in results
    )
    write_page(maps_content(explained, "Attribution maps", PictureOptions()), path)


def _short_names(paths: set[str]) -> dict[str, str]:
    """Return the name of each file without its folder, if no other file has this name."""
    names = [Path(path).name for path in paths]
    return {path: Path(path).name if names.count(Path(path).name) == 1 else path for path in paths}


def _method_labels(results: Sequence[Attribution | FailedAttribution]) -> list[str]:
    """Return the display names of the methods, with their options if two have the same name."""
    names = [display_name(each) for each in results]
    return [name if names.count(name) == 1 else repr(each.method) for name, each in zip(names, results, strict=True)]


WRITERS: dict[str, Callable[[Sequence[ExplainedImage], Path], None]] = {".npz": _save_arrays, ".html": _save_report}


def _device(explainer: Explainer) -> torch.device:
    return next(explainer.model.module.parameters()).device


def _probabilities(explainer: Explainer, x: Tensor) -> tuple[Tensor, bool]:
    """Return the class probabilities, (b, classes), and whether they are the two classes of a model with one output."""
    if explainer.model.spec.is_embedding_model:
        raise InvalidInput(
            "This model returns embeddings instead of class scores, and the command line does not support "
            "embeddings: in Python, use Explainer(model).attribute(x, target=Similarity(to)), or omit the target."
        )
    with frozen(explainer.model.module):
        probabilities = explainer.model.bind(x).probabilities(x)
    if probabilities.shape[1] == 1:
        return torch.cat([1 - probabilities, probabilities], 1), True
    return probabilities, False


def _classes(explainer: Explainer, probabilities: Tensor, binary: bool, target: str | int | None, top: int) -> Tensor:
    """Return the classes to explain, (b, number of classes)."""
    if target is None:
        if not 1 <= top <= probabilities.shape[1]:
            raise InvalidInput(f"top must be from 1 to the number of classes, {probabilities.shape[1]}, got {top}.")
        return probabilities.topk(top).indices
    resolved = as_target(target, explainer.model.spec.labels)
    index: int = resolved.named.index if isinstance(resolved, LabelOfTwo) else resolved.index  # type: ignore[attr-defined]
    if binary and isinstance(target, int):
        check_index(target, 1)
        index = 1  # the output is the score of the positive class
    check_index(index, probabilities.shape[1])
    return torch.full((len(probabilities), 1), index, device="cpu")


def _label(explainer: Explainer, index: int) -> str:
    labels = explainer.model.spec.labels
    names = labels() if callable(labels) else labels
    return names[index] if names is not None and index < len(names) else f"class {index}"
