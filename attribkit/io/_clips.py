"""Reading clips from video files with OpenCV."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from attribkit._core.errors import InvalidInput, UnreadableFile
from attribkit._core.pictures import middle_indices
from attribkit._core.shapes import Pictures
from attribkit._display.representations import short_repr

if TYPE_CHECKING:
    import cv2

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
_INDEXED = (".mp4", ".mov", ".m4v", ".avi")  # formats that store their number of frames; others estimate it
_READABLE = 0.9  # fraction of the stored number of frames that must be readable


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames of a clip, and their indices in the file.

    Args:
        frames: The frames, (t, h, w, 3).
        frame_indices: Index of each frame in the file, from 0.
        length: Number of frames in the file.
        rate: Frames per second of the file; None if it is not known.
    """

    frames: Pictures
    frame_indices: tuple[int, ...]
    length: int
    rate: float | None = None

    __repr__ = short_repr

    @property
    def chosen_rate(self) -> float | None:
        """Return the frames per second of the chosen frames; None if the rate of the file is not known."""
        return self.rate and self.rate * len(self.frame_indices) / self.length


def read_clip(path: str | Path, frames: int) -> Clip:
    """Read frames that are evenly distributed over a video file or an animated GIF.

    Args:
        path: Path of the file.
        frames: Number of frames; if the file has fewer, some frames are repeated.

    Returns:
        The frames.

    Raises:
        UnreadableFile: If the file does not exist, is not a clip or is damaged.
        InvalidInput: If the file is a photograph.
    """
    if not Path(path).is_file():
        raise UnreadableFile(f"Clip {str(path)!r} does not exist: check the path.")
    length, stated, rate = _count_frames(path)
    if Path(path).suffix.lower() in _INDEXED and length < _READABLE * stated:
        raise UnreadableFile(
            f"Only {length} of the {stated:.0f} frames of {str(path)!r} can be read: the file is damaged; replace it."
        )
    if length < 2:
        raise InvalidInput(
            f"{str(path)!r} has a single frame, but the model expects clips: pass a clip, such as an .mp4 file, or "
            "use an image model, such as torchvision:resnet50."
        )
    indices = middle_indices(length, frames)
    return Clip(_read_frames(path, indices), tuple(indices), length, rate if rate > 0 else None)


def _count_frames(path: str | Path) -> tuple[int, float, float]:
    """Return the number of readable frames, the number that the file states, and the frames per second."""
    import cv2

    with _open_capture(path) as capture:
        stated, rate = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
        length = 0
        while capture.grab():
            length += 1
    if length == 0:
        raise UnreadableFile(f"{str(path)!r} cannot be read as a clip: check it in a video player.")
    return length, stated, rate


def _read_frames(path: str | Path, indices: list[int]) -> Pictures:
    """Return the frames at ascending indices in RGB; they are decoded in order, since seeking is not exact."""
    frames: dict[int, Pictures] = {}
    with _open_capture(path) as capture:
        for index in range(indices[-1] + 1):
            capture.grab()
            if index in indices:
                _, frame = capture.retrieve()
                frames[index] = frame[..., ::-1]
    if len({frame.shape for frame in frames.values()}) > 1:
        raise UnreadableFile(
            f"The frames of {str(path)!r} must all have the same size: re-encode the clip at one size."
        )
    return np.stack([frames[index] for index in indices])


@contextmanager
def _open_capture(path: str | Path) -> Iterator["cv2.VideoCapture"]:
    import cv2  # imported here, since few calls need it

    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise UnreadableFile(f"{str(path)!r} cannot be read as a clip: check it in a video player.")
        yield capture
    finally:
        capture.release()
