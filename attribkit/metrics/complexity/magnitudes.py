"""The magnitudes of a map, for what asks how they are spread."""

from jaxtyping import Float
from torch import Tensor

from attribkit.core.shapes import Heatmaps


def relative_magnitudes(heatmap: Heatmaps) -> Float[Tensor, "b n"]:
    """The pixels' magnitudes by the largest of the image, in float64; NaN throughout an image that is zero."""
    magnitudes = heatmap.double().abs().flatten(1)
    return magnitudes / magnitudes.amax(1, keepdim=True)
