"""Photographs and maps in the compact form in which a page contains them."""

import base64
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from attribkit._contracts.attribution import resize_map
from attribkit._core.errors import InvalidInput
from attribkit._core.layouts import Extent
from attribkit._core.pictures import SCORES, display_maximum, is_signed
from attribkit._core.shapes import Picture
from attribkit.figures._files import paper_style

_QUALITY = 82  # of WebP
_HEADROOM = 3.0  # values are stored up to this multiple of the magnitude that is shown at full strength
_SIGNED_LEVELS, _UNSIGNED_LEVELS = 127, 255


@dataclass(frozen=True)
class PictureOptions:
    """How a page stores photographs and maps.

    Args:
        picture: Longer side of a photograph, in pixels.
        map: Longer side of a map, in grid cells; finer maps are averaged.
        photographs: Whether the page contains photographs.
    """

    picture: int = 288
    map: int = 90
    photographs: bool = True

    def __post_init__(self) -> None:
        for name, side in (("picture_size", self.picture), ("map_size", self.map)):
            if isinstance(side, bool) or not isinstance(side, int) or side < 1:
                raise InvalidInput(f"{name} must be a positive integer, got {side!r}: omit it for the default.")

    def encode(self, photograph: Picture) -> str | None:
        """Return a photograph as a data URL; None if the page does not contain photographs."""
        return encode_picture(photograph, self.picture) if self.photographs else None


def encode_picture(picture: Picture, longest: int) -> str:
    """Return a picture, reduced to this longer side, as a data URL."""
    image = Image.fromarray(picture)
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)  # never enlarges
    return _data_url("image/webp", _saved(lambda buffer: image.save(buffer, "webp", quality=_QUALITY)))


def encode_svg(figure: Figure) -> str:
    """Return a figure as a data URL of an SVG file without fonts; the same figure gives the same URL."""
    options: dict[str, Any] = {"format": "svg", "metadata": {"Date": None}, "transparent": True}
    with paper_style(), rc_context({"svg.fonttype": "path"}):
        return _data_url("image/svg+xml", _saved(lambda buffer: Figure.savefig(figure, buffer, **options)))


def encode_map(
    scores: Float[Tensor, "rows columns"], size: tuple[int, int], longest: int, extent: Extent | None = None
) -> dict[str, Any]:
    """Return a map with values of 8 bits, at its own resolution unless that is finer than `longest`.

    The page multiplies the values by `scale`. Values beyond a multiple of the magnitude that is shown at full strength
    are stored as that multiple, so that outliers do not coarsen the others.

    Args:
        scores: The map.
        size: Height and width of the explained image, at which the strength of the colours is determined, in pixels.
        longest: Longer side of what is stored, in grid cells.
        extent: The part of the image that the map covers, as in `Attribution`.

    Returns:
        A record for JSON; `data` holds the values as compressed bytes in base64, row by row.

    Raises:
        InvalidInput: If a value of the map is not finite.
    """
    scores = scores.detach()
    if not bool(scores.isfinite().all()):
        raise InvalidInput("The map has NaN or infinite values.")
    heatmap = resize_map(scores.double()[None, None], size, extent)[0, 0]
    values = _averaged(scores.double(), longest).cpu().numpy()
    signed = is_signed(heatmap) or bool((values < 0).any())  # interpolation can hide a small negative value
    shown, levels = display_maximum(heatmap), _SIGNED_LEVELS if signed else _UNSIGNED_LEVELS
    limit = min(float(np.abs(values).max()), _HEADROOM * shown)
    scale = limit / levels
    codes = np.round(np.clip(values / scale, -levels, levels)) if scale else np.zeros_like(values)
    data, differences = _compressed(codes.astype(np.int16).astype(np.uint8))
    return {
        "rows": values.shape[0],
        "columns": values.shape[1],
        "signed": signed,
        "scale": scale,
        "shown": shown,
        "least": float(scores.min()),
        "most": float(scores.max()),
        "extent": extent,
        "differences": differences,
        "data": data,
    }


def colour_table() -> str:
    """Return the 256 colours of scores from -1 to 1: red, green and blue bytes in base64."""
    return _base64(SCORES(np.linspace(0, 1, 256), bytes=True)[:, :3].tobytes())


def _averaged(scores: Float[Tensor, "rows columns"], longest: int) -> Float[Tensor, "fewer_rows fewer_columns"]:
    """Average a map over areas such that its longer side is at most `longest`."""
    factor = longest / max(scores.shape)
    if factor >= 1:
        return scores
    size = [max(1, round(factor * side)) for side in scores.shape]
    return interpolate(scores[None, None], size, mode="area")[0, 0]


def _compressed(codes: UInt8[np.ndarray, "rows columns"]) -> tuple[str, bool]:
    """Return the shorter of the values and of their differences along the rows, and whether it is the differences."""
    differences = np.diff(codes, axis=1, prepend=np.uint8(0))
    plain, changes = (zlib.compress(each.tobytes(), 6) for each in (codes, differences))
    return _base64(min(plain, changes, key=len)), len(changes) < len(plain)


def _saved(save: Callable[[BytesIO], Any]) -> bytes:
    buffer = BytesIO()
    save(buffer)
    return buffer.getvalue()


def _data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{_base64(content)}"


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
