"""Attributions as images: the only conversion to bytes, which all loggers share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from numpy import ndarray

from attribkit import Attribution, Comparison, InvalidInput
from attribkit._core.pictures import overlay
from attribkit.figures._figure import displayed_pictures

from ._captions import caption, unique_names

Reduction = Literal["sum", "sum_of_magnitudes", "largest_magnitude"]


@dataclass(frozen=True, eq=False)
class LoggedImage:
    """One image of an attribution with its heat map.

    Args:
        key: The index of the image; in a comparison followed by the method, as in "0/gradcam". Unique.
        picture: The image in grey with the coloured heat map over it, (h, w, 3) bytes.
        caption: The method with its options, the target and the layer.
    """

    key: str
    picture: ndarray
    caption: str


def attribution_images(
    attribution: Attribution | Comparison,
    *,
    pictures: Sequence[ndarray] | None = None,
    labels: Sequence[str] = (),
    reduce: Reduction = "sum",
) -> list[LoggedImage]:
    """Draw the heat maps of an attribution over its images, as `attribkit.figure` does.

    Each heat map has its own scale: its colours are strongest at the 99.5th percentile of its magnitudes.

    Args:
        attribution: Attribution of b images (b, c, h, w), or a comparison of several of the same images.
        pictures: Photographs to draw the maps over, one (h, w, 3) array of bytes for each image, of the region of x in
            any resolution; None uses x, with the values of each image scaled to 0 to 255.
        labels: Names of the classes by their index, for the captions.
        reduce: How several channels of scores become one, as in `Attribution.heatmap`.

    Returns:
        The images, image by image; those of a comparison in its order for each image.

    Raises:
        InvalidInput: If there is nothing to draw, the inputs are not images, or the pictures do not fit them.
    """
    attributions = _channels_first(attribution)
    shown = displayed_pictures(attributions[0], pictures)
    names = unique_names([each.method.name for each in attributions])
    is_comparison = not isinstance(attribution, Attribution)
    return [
        LoggedImage(
            f"{index}/{name}" if is_comparison else f"{index}",
            overlay(picture, each[index].heatmap(reduce, picture.shape[:2])[0]),
            caption(each[index], labels),
        )
        for index, picture in enumerate(shown)
        for each, name in zip(attributions, names, strict=True)
    ]


def _channels_first(attribution: Attribution | Comparison) -> list[Attribution]:
    """Return the attributions, channels first; raise InvalidInput unless they are of the same images (b, c, h, w)."""
    attributions = [attribution] if isinstance(attribution, Attribution) else list(_checked(attribution))
    attributions = [each.channels_first() for each in attributions]
    shapes = list(dict.fromkeys(tuple(each.x.shape) for each in attributions))
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise InvalidInput(
            "Images (b, c, h, w) can be logged, the same ones for all attributions of a comparison; got "
            f"{len(attributions)} attributions of inputs of shapes {shapes}. Draw clips and volumes with "
            "attribkit.figures.frames, and log the figure."
        )
    return attributions


def _checked(comparison: object) -> Comparison:
    if not isinstance(comparison, Comparison):
        raise InvalidInput(
            f"attribution must be an Attribution or a Comparison, got {type(comparison).__name__}: pass the result of "
            "Explainer.attribute or Explainer.compare."
        )
    return comparison
