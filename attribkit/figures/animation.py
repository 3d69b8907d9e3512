"""Overlays of a clip as a clip: MP4 by OpenCV, GIF by Pillow."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from attribkit.contracts.attribution import Attribution
from attribkit.core.errors import InvalidInput, UnreadableFile
from attribkit.core.pictures import overlay, sections
from attribkit.core.shapes import Pictures
from attribkit.figures.figure import check_attributions, shown

Frames = UInt8[np.ndarray, "frames tall wide 3"]  # red, green, blue

_RATE = 8.0  # frames a second
_SIDE = 224  # pixels, about the larger side of a frame: small ones are enlarged, each pixel to a square
_GAP, _PAPER = 4, 255


def animate(attributions: Attribution | Sequence[Attribution], *, pictures: Sequence[Pictures] | None = None) -> Frames:
    """A row for each clip: its frames, and beside them the frames under each attribution; (t, tall, wide, 3).

    attributions: of the same clips (b, c, t, h, w); a map has one scale for all its frames. pictures: (t, h, w, 3)
    bytes each; None stretches x itself.
    """
    told = check_attributions(attributions, axes=5)
    heatmaps = [each.heatmap() for each in told]
    rows = []
    for i, clip in enumerate(shown(told[0], pictures)):
        maps = [each[i] for each in heatmaps]
        overlaid = [[overlay(s.picture, s.heatmap, whole=m) for s in sections(clip, m, range(len(clip)))] for m in maps]
        rows.append(tile_clips([_enlarged(part) for part in (clip, *map(np.stack, overlaid))]))
    return tile_clips(rows, axis=1)


def write_clip(frames: Pictures, path: str | Path, rate: float = _RATE) -> None:
    """Write frames (t, h, w, 3) as the ending says, .mp4 or .gif; the MP4 is read back to see that it is whole.

    rate: frames a second. MP4 keeps colours approximately and has even sides: a white line is added to an odd one.
    Raises UnreadableFile where it cannot be written.
    """
    write = CLIP_WRITERS.get(Path(path).suffix.lower())
    if write is None or rate <= 0:
        raise InvalidInput(f"{str(path)!r} at {rate} frames a second: write {' or '.join(CLIP_WRITERS)}, at above 0.")
    try:
        write(frames, str(path), rate)
    except OSError as error:
        raise UnreadableFile(f"{str(path)!r} cannot be written ({error}): look at the folder.") from error


def _write_gif(frames: Pictures, path: str, rate: float) -> None:
    first, *others = map(Image.fromarray, frames)
    first.save(path, save_all=True, append_images=others, duration=round(1000 / rate), loop=0)


def _write_mp4(frames: Pictures, path: str, rate: float) -> None:
    import cv2  # here, since few calls need it

    height, width = frames.shape[1:3]
    even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), constant_values=_PAPER)
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"mp4v"), rate, even.shape[2:0:-1])
    if not writer.isOpened():
        raise OSError("OpenCV opens no encoder for it; a .gif needs none")
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
    """Clips beside each other (axis 2) or below each other (axis 1), with white between them."""
    shape = list(clips[0].shape)
    shape[axis] = _GAP
    gap = np.full(shape, _PAPER, np.uint8)
    return np.concatenate([part for clip in clips for part in (gap, clip)][1:], axis)


def _enlarged(clip: Pictures) -> Frames:
    scale = max(1, _SIDE // max(clip.shape[1:3]))
    return clip.repeat(scale, 1).repeat(scale, 2)
