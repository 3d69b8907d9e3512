"""Image and clip files, and preprocessing."""

from attribkit.io._clips import Clip, read_clip
from attribkit.io._preprocessing import ClipPreprocessing, Preprocessing, read_image

__all__ = ["Clip", "ClipPreprocessing", "Preprocessing", "read_clip", "read_image"]
