"""Figures that notebooks show and that papers can embed: fonts, metadata and the same bytes each time."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from attribkit import __version__
from attribkit._core.errors import InvalidInput, UnreadableFile

_NOTEBOOK_DPI = 150


class PaperFigure(Figure):
    """A matplotlib figure that notebooks show, and that is written with TrueType fonts, without a date."""

    def save(self, path: str | Path) -> None:
        """Write the figure to a file; the same figure gives the same bytes.

        Fonts are embedded as TrueType (type 42). The metadata of PNG, PDF and SVG files are the version of attribkit
        and the caption.

        Args:
            path: The file; its suffix selects the format, such as .png, .pdf or .svg.

        Raises:
            InvalidInput: If the suffix is not that of a figure.
            UnreadableFile: If the file cannot be written.
        """
        check_ending(path)
        try:
            self.savefig(path)
        except OSError as error:
            raise UnreadableFile(f"{str(path)!r} cannot be written ({error}): check the folder.") from error

    def savefig(self, fname: Any, **options: Any) -> None:
        """Write the figure like `save`, with the options of `matplotlib.figure.Figure.savefig`."""
        ending = options.get("format") or Path(str(fname)).suffix.removeprefix(".")
        with paper_style():
            super().savefig(fname, **{"metadata": self._metadata(str(ending).lower()), **options})

    def _metadata(self, ending: str) -> dict[str, Any] | None:
        """Return what a file states about its origin: the version and the caption, without a date."""
        version, text = f"attribkit {__version__}", self.get_supxlabel()
        known: dict[str, dict[str, Any]] = {
            "png": {"Software": version, "Description": text},
            "pdf": {"Creator": version, "Subject": text, "CreationDate": None},
            "svg": {"Creator": version, "Description": text, "Date": None},
        }
        return known.get(ending)

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.savefig(buffer, format="png", dpi=_NOTEBOOK_DPI)
        return buffer.getvalue()


def check_ending(path: str | Path, others: Sequence[str] = ()) -> None:
    """Raise InvalidInput if a file name does not end in a suffix of a figure.

    Args:
        path: The file name.
        others: Further accepted suffixes, without the dot.
    """
    suffixes = dict.fromkeys([*sorted(FigureCanvasAgg.filetypes), *others])
    if Path(path).suffix.lower().removeprefix(".") not in suffixes:
        raise InvalidInput(f"{str(path)!r} does not have a supported file extension: use one of {', '.join(suffixes)}.")


def paper_style() -> AbstractContextManager[None]:
    """Return a context with the settings of figures for papers."""
    return style.context(str(files("attribkit.figures") / "paper.mplstyle"))
