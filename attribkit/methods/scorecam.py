"""Score-CAM."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from attribkit.core.attribution import resized
from attribkit.core.broadcast import extremes
from attribkit.core.layouts import Extent
from attribkit.core.method import Method
from attribkit.core.model import HookedModel
from attribkit.core.options import Name
from attribkit.core.shapes import Images, LayerMaps, Scores
from attribkit.core.targets.target import Target
from attribkit.methods.layer_maps import weighted
from attribkit.methods.unmoved import note_unmoved


@dataclass(frozen=True)
class ScoreCAM(Method):
    """A layer's channels, each weighted by the score of the image seen through it alone; no gradients."""

    name: ClassVar[str] = "scorecam"
    source: ClassVar[str] = "Wang et al., CVPR Workshops 2020, sec. 3"

    layer: Name | None = None  # dotted name; None is the last map of the image

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        activation = model.activation(x, self.layer, target)
        masked = _masked(x, activation, model.extent(self.layer))
        scores = model.scores(masked, target, total=activation.shape[1])  # (d, b)
        if len(scores) == 1:
            model.note("the layer has one channel: its weight is 1, whatever the score")
        note_unmoved(model, x, scores)
        return weighted(activation, scores.softmax(0).T).relu()


def _masked(x: Images, activation: LayerMaps, extent: Extent | None) -> Iterator[Images]:
    """The images, times each channel brought to their size and to the range 0 to 1."""
    for channel in activation.split(1, dim=1):
        mask = resized(channel, x.shape[2:], extent)
        low, high = extremes(mask)
        yield x * ((mask - low) / (high - low).clamp(min=1e-8)).to(x.dtype)
