"""Occlusion: the drop in the score when patches or superpixels of the image are covered."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from attribkit._contracts.method import Method
from attribkit._core.annotations import describe
from attribkit._core.axes import PerAxis, capped_sizes, format_sizes, per_axis
from attribkit._core.errors import InvalidInput
from attribkit._core.options import Seed
from attribkit._core.pictures import broadcast_to_spatial
from attribkit._core.segments import GivenSegments, Segments, segment, spanned_axes
from attribkit._core.shapes import Images, Scores
from attribkit._core.substrates import GivenImages, Imputer, Substrate, make_filling
from attribkit._engine.model import HookedModel
from attribkit._targets.target import Target
from attribkit.methods._flat_scores import note_flat_scores

_PATCH, _STRIDE = 32, 16  # pixels
_MIN_PATCHES = 4  # along each axis of clips and volumes, where the patch is chosen


@dataclass(frozen=True)
class Occlusion(Method):
    """Drop in the score when a region is covered, averaged over the regions that contain a pixel.

    Regions are overlapping patches, or the superpixels of each image. Use ``target=Probability(c)`` for the drop in a
    probability.

    Args:
        patch: Side of a patch in pixels, one for all axes or one for each; None means 32, and at most a quarter of each
            axis of clips and volumes.
        stride: Step between patches in pixels, at most the patch; None means 16, and at most an eighth of each axis of
            clips and volumes and at most the patch.
        superpixels: Approximate number of superpixels of each image (SLIC, Achanta et al., TPAMI 2012), covered in
            place of patches; or the labels of segments, integers (*space) or (b, *space). None covers patches.
        baseline: What covers a region: a substrate by name, "inpaint", images of the shape of x, or an imputer.
        seed: Seed of the baseline "noise".
    """

    name: ClassVar[str] = "occlusion"
    display_name: ClassVar[str] = "Occlusion"
    source: ClassVar[str] = "Zeiler and Fergus, ECCV 2014, sec. 4.2"

    patch: PerAxis | None = None
    stride: PerAxis | None = None
    superpixels: Segments | None = None
    baseline: Substrate | Literal["inpaint"] | GivenImages | Imputer | Tensor = "zero"
    seed: Seed = 0

    def __post_init__(self) -> None:
        if isinstance(self.baseline, Tensor):
            object.__setattr__(self, "baseline", GivenImages(self.baseline))
        if isinstance(self.superpixels, Tensor):
            object.__setattr__(self, "superpixels", self._labels(self.superpixels))

    def _labels(self, labels: Tensor) -> GivenSegments:
        try:
            return GivenSegments(labels)
        except InvalidInput as error:
            raise InvalidInput(
                "superpixels must be a number, or integer labels (*space) or (b, *space), got "
                f"{describe(labels)} (an option of {self.name!r})."
            ) from error

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        count, region = self._regions(model, x)
        cover = make_filling(x, self.baseline, self.seed)
        score = model.score(x, target)
        scores = model.scores((cover(region(k)) for k in range(count)), target, count)  # (k, b)
        note_flat_scores(model, x, torch.cat([scores, score[None]]))
        if count == 1:
            model.note(f"one region covers the whole {format_sizes(x.shape[2:])} image: choose smaller regions")
        drops = score - scores
        total = torch.zeros(len(x), 1, *x.shape[2:], dtype=drops.dtype, device=x.device)
        count_per_pixel = torch.zeros_like(total)
        for k, drop in enumerate(drops):
            total += region(k) * broadcast_to_spatial(drop, x)
            count_per_pixel += region(k)
        return total / count_per_pixel.clamp(min=1)

    def _regions(self, model: HookedModel, x: Images) -> tuple[int, Callable[[int], Tensor]]:
        """Return the number of regions, and a function that makes the mask (1 or b, 1, *space) of each."""
        if self.superpixels is not None:
            labels = segment(x, self.superpixels)
            if spanned := spanned_axes(labels):
                model.note(
                    f"superpixels span all of spatial axes {spanned}: the map is constant along them; increase "
                    "superpixels, or use patch"
                )
            return int(labels.max()) + 1, lambda k: labels == k
        windows = list(self._windows(tuple(x.shape[2:])))
        self._note_sizes(model, tuple(x.shape[2:]))

        def region(k: int) -> Tensor:
            mask = torch.zeros(1, 1, *x.shape[2:], dtype=torch.bool, device=x.device)
            mask[windows[k]] = True
            return mask

        return len(windows), region

    def _sizes(self, space: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the patch and the stride along each axis, in pixels."""
        patch = (
            capped_sizes(_PATCH, _MIN_PATCHES, space) if self.patch is None else per_axis("patch", self.patch, space)
        )
        if self.stride is None:
            default = capped_sizes(_STRIDE, 2 * _MIN_PATCHES, space)
            return patch, tuple(min(pair) for pair in zip(default, patch, strict=True))
        stride = per_axis("stride", self.stride, space)
        if any(step > side for step, side in zip(stride, patch, strict=True)):
            largest = patch if self.patch is None else self.patch
            raise InvalidInput(
                f"stride={self.stride} must be at most patch={largest}: a larger stride leaves pixels uncovered."
            )
        return patch, stride

    def _note_sizes(self, model: HookedModel, space: tuple[int, ...]) -> None:
        """Note sizes that were chosen automatically, and axes along which the map is constant."""
        patch, stride = self._sizes(space)
        if len(space) > 2 and None in (self.patch, self.stride):
            model.note(f"patch={patch} and stride={stride} were chosen for {format_sizes(space)} pixels")
        whole = [axis for axis, (side, length) in enumerate(zip(patch, space, strict=True)) if side >= length > 1]
        if whole and len(whole) < len(space):
            model.note(
                f"the {format_sizes(patch)} patch covers all of spatial axes {whole}: the map is constant along them"
            )

    def _windows(self, space: tuple[int, ...]) -> Iterator[Any]:
        """Yield the indices of the patches; the last patch along each axis is cut off at the border."""
        patch, stride = self._sizes(space)
        sizes = zip(space, patch, stride, strict=True)
        axes = [range(math.ceil(max(length - side, 0) / step) + 1) for length, side, step in sizes]
        for steps in itertools.product(*axes):
            corner = zip(steps, patch, stride, strict=True)
            yield (..., *(slice(step * i, step * i + side) for i, side, step in corner))
