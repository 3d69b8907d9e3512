"""Clips from files, read by OpenCV."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from attribkit.core.errors import InvalidInput, UnreadableFile
from attribkit.core.pictures import evenly
from attribkit.core.shapes import Pictures

if TYPE_CHECKING:
    import cv2

ENDINGS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")  # what is surely no photograph
_INDEXED = (".mp4", ".mov", ".m4v", ".avi")  # what counts its frames; elsewhere the number is an estimate
_WHOLE = 0.9  # share of them that must be readable


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames of a clip, and where in the file they were."""

    frames: Pictures  # (t, h, w, 3)
    places: tuple[int, ...]  # of each frame in the file, from 0
    length: int  # frames of the file
    rate: float | None = None  # frames a second of the file; None where it does not say

    @property
    def chosen_rate(self) -> float | None:
        """Frames a second of those that were chosen."""
        return self.rate and self.rate * len(self.places) / self.length


def read_clip(path: str | Path, frames: int) -> Clip:
    """So many frames of a file, chosen evenly over its length; some twice where it has fewer.

    frames: in all. Animated GIFs are read too. Raises UnreadableFile for what is no clip or is broken, InvalidInput for
    a photograph.
    """
    if not Path(path).is_file():
        raise UnreadableFile(f"There is no clip {str(path)!r}: look at the path.")
    length, told, rate = _counted(path)
    if Path(path).suffix.lower() in _INDEXED and length < _WHOLE * told:
        raise UnreadableFile(f"Only {length} of the {told:.0f} frames of {str(path)!r} can be read: it is broken.")
    if length < 2:
        raise InvalidInput(
            f"{str(path)!r} holds a single frame, and this model explains clips: give a clip, such as an .mp4, or a "
            "model of photographs, such as torchvision:resnet50."
        )
    places = evenly(length, frames)
    return Clip(_frames_at(path, places), tuple(places), length, rate if rate > 0 else None)


def _counted(path: str | Path) -> tuple[int, float, float]:
    """The frames that can be read, those that the file says it has, and how many a second."""
    import cv2

    with _opened(path) as capture:
        told, rate = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
        length = 0
        while capture.grab():
            length += 1
    if length == 0:
        raise UnreadableFile(f"{str(path)!r} is no clip that can be read: open it in a player.")
    return length, told, rate


def _frames_at(path: str | Path, places: list[int]) -> Pictures:
    """The frames at ascending places, red, green and blue; decoded one after the other, since seeking is not exact."""
    found: dict[int, Pictures] = {}
    with _opened(path) as capture:
        for place in range(places[-1] + 1):
            capture.grab()
            if place in places:
                _, frame = capture.retrieve()
                found[place] = frame[..., ::-1]
    if len({frame.shape for frame in found.values()}) > 1:
        raise UnreadableFile(f"The frames of {str(path)!r} are of several sizes: save it with one.")
    return np.stack([found[place] for place in places])


@contextmanager
def _opened(path: str | Path) -> Iterator["cv2.VideoCapture"]:
    import cv2  # here, since few calls need it

    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise UnreadableFile(f"{str(path)!r} is no clip that can be read: open it in a player.")
        yield capture
    finally:
        capture.release()
