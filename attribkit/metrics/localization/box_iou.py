"""Overlap of boxes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from attribkit.core.attribution import Attribution
from attribkit.core.broadcast import extremes
from attribkit.core.metric import Localization
from attribkit.core.options import ShareAboveZero
from attribkit.core.shapes import Heatmaps, Masks, PerImage
from attribkit.core.truth import Truth
from attribkit.metrics.localization.boxes import Places, boxes_of, boxes_of_objects, overlaps

Chosen = Literal["largest", "every"]


@dataclass(frozen=True)
class BoxIoU(Localization):
    """How well a box around what is bright in the heatmap fits a box of the object: intersection over union, 0 to 1.

    The object's boxes are those that the truth holds, or else those around the connected parts of its mask; the best
    pair counts. NaN where there is no object, or where the heatmap is constant. Boxes are found on the CPU.
    """

    name: ClassVar[str] = "box_iou"
    source: ClassVar[str] = (
        "Zhou et al., CVPR 2016, sec. 3.2; best pairs of boxes: Choe et al., TPAMI 2022, MaxBoxAccV2"
    )
    higher_is_better: ClassVar[bool | None] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "cam": {"boxes": "largest"},
        "maxboxaccv2": {"boxes": "every"},
    }

    threshold: ShareAboveZero = 0.2  # share of the heatmap's range from which on a pixel is bright
    boxes: Chosen = "largest"  # of the bright parts: the box of the largest, or of every one

    def __call__(self, attribution: Attribution, truth: Truth) -> PerImage:
        heatmap = self.heatmap_on(attribution, truth)
        pairs = zip(self._bright(heatmap).cpu().numpy(), boxes_of_objects(truth), strict=True)
        values = [self._best(bright, wanted) for bright, wanted in pairs]
        return torch.tensor(values, dtype=heatmap.dtype, device=heatmap.device)

    def _bright(self, heatmap: Heatmaps) -> Masks:
        """The pixels from the threshold on; none of a constant heatmap."""
        low, high = extremes(heatmap)
        return ((heatmap - low) >= self.threshold * (high - low)) & (high > low)

    def _best(self, bright: np.ndarray, wanted: Places) -> float:
        """The overlap of the best pair; NaN where there is none."""
        found = boxes_of(bright)
        places = found.places
        if self.boxes == "largest" and len(places):
            places = places[found.sizes.argmax()][None]
        return float(overlaps(places, wanted).max()) if len(places) and len(wanted) else float("nan")
