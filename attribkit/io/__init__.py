"""Models by name, image and clip files, and preprocessing."""

from attribkit.io._clips import Clip, read_clip
from attribkit.io._loading import LoadedModel, load_model
from attribkit.io._preprocessing import ClipPreprocessing, Preprocessing, read_image

__all__ = ["Clip", "ClipPreprocessing", "LoadedModel", "Preprocessing", "load_model", "read_clip", "read_image"]
