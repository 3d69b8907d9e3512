"""Pictures of results, drawn by `attribkit.figures`, which is imported on demand, since it is above this package."""

from importlib import import_module
from pathlib import Path
from typing import Any

PICTURES = (".png", ".jpg", ".jpeg", ".pdf", ".svg", ".eps", ".tif", ".tiff", ".webp")


def save_picture(path: str | Path, function: str, *arguments: Any) -> None:
    """Write what a function of `attribkit.figures` draws of the arguments.

    Args:
        path: Path of the picture.
        function: Name of the function.
        *arguments: Its arguments.

    Raises:
        InvalidInput: If the suffix is not that of a figure, or the arguments cannot be drawn.
        UnreadableFile: If the file cannot be written.
    """
    figures = import_module("attribkit.figures")
    figures.check_ending(path)
    getattr(figures, function)(*arguments).save(path)
