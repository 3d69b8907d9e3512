"""Figures of clips and volumes: strips of frames, mosaics of slices, and MP4 (OpenCV) and GIF (Pillow) files."""

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from attribkit._contracts.attribution import Attribution
from attribkit._core.errors import InvalidInput, UnreadableFile
from attribkit._core.pictures import middle_indices, overlay, sections
from attribkit._core.shapes import Pictures
from attribkit.figures._figure import as_attribution_list, caption, display_name, displayed_pictures
from attribkit.figures._files import PaperFigure
from attribkit.figures._grid import Cell, check_count, grid

_FRAMES, _SLICES = 8, 12


def frames(
    attributions: Attribution | Sequence[Attribution],
    *,
    pictures: Sequence[Pictures] | None = None,
    frames: int = _FRAMES,
    titles: Sequence[str] = (),
    width: float | str | None = None,
) -> PaperFigure:
    """Draw rows for each clip: some of its frames, then the same frames overlaid with each attribution.

    Args:
        attributions: Attributions of the same clips (b, c, t, h, w), or of volumes, whose slices along the first axis
            are drawn. Each map has one scale for all its frames.
        pictures: Frames to draw, (t, h, w, 3) bytes for each clip; None uses x, with its values scaled to 0 to 255.
        frames: Number of evenly spaced frames.
        titles: Title of each clip.
        width: Width of the figure, as in `figure`.

    Returns:
        The figure; write it with its method ``save``.
    """
    attributions = as_attribution_list(attributions, axes=5)
    length = attributions[0].x.shape[2]
    indices = middle_indices(length, _section_count("frames", frames, length))
    heatmaps = [each.heatmap() for each in attributions]
    rows = [
        row
        for i, clip in enumerate(displayed_pictures(attributions[0], pictures))
        for row in strip_rows(clip, [maps[i] for maps in heatmaps], indices)
    ]
    names = list(map(display_name, attributions))
    row_titles = [title for i in range(len(attributions[0])) for title in (dict(enumerate(titles)).get(i, ""), *names)]
    columns = [f"{i}" for i in indices]
    return grid(rows, row_titles=row_titles, column_titles=columns, caption=caption(attributions), width=width)


def strip_rows(clip: Pictures, heatmaps: Sequence[Float[Tensor, "t h w"]], indices: Sequence[int]) -> list[list[Cell]]:
    """Return a row with the frames at these indices, and for each map a row of the frames overlaid with it."""
    rows = [[Cell(clip[index]) for index in indices]]
    for heatmap in heatmaps:
        rows.append([Cell(s.picture, s.heatmap, whole=heatmap) for s in sections(clip, heatmap, indices)])
    return rows


def mosaic(
    attribution: Attribution,
    *,
    axis: int = 0,
    slices: int = _SLICES,
    columns: int | None = None,
    pictures: Sequence[Pictures] | None = None,
    width: float | str | None = None,
) -> PaperFigure:
    """Draw slices of a volume along an axis in rows, in grey and overlaid with the map; all slices share its scale.

    Args:
        attribution: Attribution of one volume (1, c, d, h, w) or clip; use attribution[i] for one of several.
        axis: Spatial axis along which the slices are taken, 0 to 2.
        slices: Number of evenly spaced slices.
        columns: Number of slices in a row; None makes about as many columns as rows.
        pictures: One array of (d, h, w, 3) bytes to draw; None uses x, with its values scaled to 0 to 255.
        width: Width of the figure, as in `figure`.

    Returns:
        The figure; write it with its method ``save``.
    """
    (attribution,) = as_attribution_list(attribution, axes=5)
    if len(attribution) != 1 or axis not in (0, 1, 2):
        raise InvalidInput(
            f"A mosaic needs one volume and an axis of 0, 1 or 2, got {len(attribution)} volumes and axis={axis}: "
            "select one with attribution[i]."
        )
    length = attribution.x.shape[2 + axis]
    indices = middle_indices(length, _section_count("slices", slices, length))
    heatmap, (volume,) = attribution.heatmap()[0], displayed_pictures(attribution, pictures)
    cells = [
        Cell(s.picture, s.heatmap, whole=heatmap, title=f"{s.place}") for s in sections(volume, heatmap, indices, axis)
    ]
    if columns is not None:
        check_count("columns", columns)
    wide = columns or math.ceil(math.sqrt(len(cells)))
    cells += [Cell(np.full_like(cells[0].picture, 255))] * (-len(cells) % wide)
    rows = [cells[start : start + wide] for start in range(0, len(cells), wide)]
    return grid(rows, caption=f"slices along axis {axis} of {length}\n{caption([attribution])}", width=width)


def _section_count(option: str, count: int, length: int) -> int:
    """Check the number of sections, and limit it to the length of the axis."""
    check_count(option, count)
    return min(count, length)


Frames = UInt8[np.ndarray, "frames tall wide 3"]  # red, green, blue

_RATE = 8.0  # frames per second
_SIDE = 224  # pixels, approximate larger side of a frame; smaller frames are enlarged by an integer factor
_GAP, _WHITE = 4, 255  # pixels between clips, and their value


def animate(attributions: Attribution | Sequence[Attribution], *, pictures: Sequence[Pictures] | None = None) -> Frames:
    """Draw a row for each clip: its frames, and to their right the frames overlaid with each attribution.

    Args:
        attributions: Attributions of the same clips (b, c, t, h, w); each map has one scale for all its frames.
        pictures: Frames to draw, (t, h, w, 3) bytes for each clip; None uses x, with its values scaled to 0 to 255.

    Returns:
        The frames, (t, height, width, 3), for `write_clip`.
    """
    attributions = as_attribution_list(attributions, axes=5)
    heatmaps = [each.heatmap() for each in attributions]
    rows = []
    for i, clip in enumerate(displayed_pictures(attributions[0], pictures)):
        maps = [each[i] for each in heatmaps]
        overlaid = [[overlay(s.picture, s.heatmap, whole=m) for s in sections(clip, m, range(len(clip)))] for m in maps]
        rows.append(tile_clips([_enlarge(part) for part in (clip, *map(np.stack, overlaid))]))
    return tile_clips(rows, axis=1)


def write_clip(frames: Pictures, path: str | Path, rate: float = _RATE) -> None:
    """Write frames to an MP4 or GIF file.

    MP4 keeps colours approximately and needs even sides: a white line is added to an odd side. An MP4 file is read back
    to check that it has all frames.

    Args:
        frames: The frames, (t, h, w, 3).
        path: The file; its suffix, .mp4 or .gif, selects the format.
        rate: Frames per second.

    Raises:
        InvalidInput: If the suffix is unknown, or the rate is not positive.
        UnreadableFile: If the file cannot be written.
    """
    write = CLIP_WRITERS.get(Path(path).suffix.lower())
    if write is None or rate <= 0:
        raise InvalidInput(
            f"A clip needs a file name ending in {' or '.join(CLIP_WRITERS)} and a positive frame rate, got "
            f"{str(path)!r} and {rate}."
        )
    try:
        write(frames, str(path), rate)
    except OSError as error:
        raise UnreadableFile(f"{str(path)!r} cannot be written ({error}): check the folder.") from error


def _write_gif(frames: Pictures, path: str, rate: float) -> None:
    first, *others = map(Image.fromarray, frames)
    first.save(path, save_all=True, append_images=others, duration=round(1000 / rate), loop=0)


def _write_mp4(frames: Pictures, path: str, rate: float) -> None:
    import cv2  # imported here since few calls need it

    height, width = frames.shape[1:3]
    even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), constant_values=_WHITE)
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"mp4v"), rate, even.shape[2:0:-1])
    if not writer.isOpened():
        raise OSError("OpenCV cannot open an encoder for it; write a .gif file instead")
    for frame in even:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    capture = cv2.VideoCapture(path)
    count = sum(1 for _ in itertools.takewhile(bool, (capture.grab() for _ in range(len(frames) + 1))))
    capture.release()
    if count != len(frames):
        raise OSError(f"only {count} of {len(frames)} frames can be read back")


CLIP_WRITERS: dict[str, Callable[[Pictures, str, float], None]] = {".mp4": _write_mp4, ".gif": _write_gif}


def tile_clips(clips: Sequence[Pictures], axis: int = 2) -> Frames:
    """Arrange clips side by side (axis 2) or one below the other (axis 1), with white gaps between them."""
    shape = list(clips[0].shape)
    shape[axis] = _GAP
    gap = np.full(shape, _WHITE, np.uint8)
    return np.concatenate([part for clip in clips for part in (gap, clip)][1:], axis)


def _enlarge(clip: Pictures) -> Frames:
    scale = max(1, _SIDE // max(clip.shape[1:3]))
    return clip.repeat(scale, 1).repeat(scale, 2)
