"""Images of more than 8 bits a channel: which of their values become black and white."""

import numpy as np
from PIL import Image

from attribkit.core.errors import InvalidInput

Window = tuple[int | float, int | float]  # the values that become 0 and 255; what lies outside is clipped

_DEEP = 2**16 - 1
_SHALLOW = 2**14  # a file of 16 bits whose values all lie below holds 14 bits or fewer
_ADVICE = "give the values that are black and white, read_image(path, window=(low, high)) or --window low,high"


def check_window(window: Window | None) -> None:
    """Refuse a window that is no pair of values, the lower one first."""
    if window is not None and not (len(window) == 2 and np.isfinite(window).all() and window[0] < window[1]):
        raise InvalidInput(f"window={window!r} is no pair of values (low, high), the lower one first.")


def eight_bits(image: Image.Image, stored: str, path: str, window: Window | None) -> Image.Image:
    """An image in 8 bits a channel.

    stored: how the file holds its pixels, as Pillow's decoders name it. Of 16 bits the whole range is 0 to 255, unless
    none of the values needs more than 14 of them. Raises InvalidInput where the range is not known and none is given.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and "16" in stored):
        return _scaled(_finite(image, path), window or _whole_range(image, path))
    if image.mode in ("I", "F"):
        if window is None:
            raise InvalidInput(f"{path!r} holds {image.mode!r} values of unknown range: {_ADVICE}.")
        return _scaled(_finite(image, path), window)
    if ";16" in stored:  # of which Pillow keeps the upper 8 bits alone
        _refuse_few_bits(image, path)
    if window is not None:
        raise InvalidInput(f"{path!r} is read in 8 bits a channel: a window is for images of one channel of more.")
    return image


def _whole_range(image: Image.Image, path: str) -> Window:
    """All of 16 bits, where the values use them."""
    most = int(np.asarray(image).max(initial=0))
    if 0 < most < _SHALLOW:
        raise InvalidInput(
            f"{path!r} holds values up to {most} in 16 bits, so it is of 14 bits or fewer, or very dark: {_ADVICE}, "
            f"such as 0,{2 ** most.bit_length() - 1}; 0,{_DEEP} takes it as it is."
        )
    return 0, _DEEP


def _refuse_few_bits(image: Image.Image, path: str) -> None:
    """Colours of 16 bits that use few of them would be nearly black."""
    colours = np.asarray(image)[..., : 1 if image.mode == "LA" else 3]
    most = int(colours.max(initial=0))
    if 0 < most < _SHALLOW >> 8:
        raise InvalidInput(
            f"{path!r} holds colours of 16 bits whose values lie below {_SHALLOW}, which would be nearly black: "
            "convert it to 8 bits a channel by the range that it has."
        )


def _finite(image: Image.Image, path: str) -> np.ndarray:
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise InvalidInput(f"{path!r} holds NaN or infinite values: replace them first.")
    return values


def _scaled(values: np.ndarray, window: Window) -> Image.Image:
    low, high = window
    share = ((values - low) / (high - low)).clip(0, 1)
    return Image.fromarray((255 * share + 1e-9).astype(np.uint8))  # rounded down, as 65535 // 257 is
