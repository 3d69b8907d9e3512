"""Occlusion."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from skimage.segmentation import slic
from torch import Tensor

from attribkit.contracts.method import Method
from attribkit.core.axes import PerAxis, capped_sizes, format_sizes, per_axis
from attribkit.core.errors import InvalidInput
from attribkit.core.options import PositiveInt, Seed
from attribkit.core.pictures import broadcast_to_spatial, extremes
from attribkit.core.shapes import Images, Scores
from attribkit.core.substrates import GivenImages, Imputer, Substrate, filling
from attribkit.engine.model import HookedModel
from attribkit.methods.flat_scores import note_flat_scores
from attribkit.targets.target import Target

_PATCH, _STRIDE = 32, 16  # pixels
_SHARE = 4  # the patch is at most one in so many of an axis of clips and volumes


@dataclass(frozen=True)
class Occlusion(Method):
    """How much the score falls when a region is covered, averaged over the regions that cover a pixel.

    Regions are overlapping patches, or the superpixels of each image. With ``target=Probability(c)`` it is the
    probability that falls.
    """

    name: ClassVar[str] = "occlusion"
    source: ClassVar[str] = "Zeiler and Fergus, ECCV 2014, sec. 4.2"

    patch: PerAxis | None = None  # pixels; None is 32, of clips and volumes at most a quarter of each axis
    stride: PerAxis | None = None  # pixels; None is 16, of clips and volumes at most an eighth, and never above patch
    superpixels: PositiveInt | None = None  # about so many regions (SLIC, Achanta et al., TPAMI 2012); None is patches
    baseline: Substrate | Literal["inpaint"] | GivenImages | Imputer | Tensor = "zero"
    seed: Seed = 0  # of noise

    def __post_init__(self) -> None:
        if isinstance(self.baseline, Tensor):
            object.__setattr__(self, "baseline", GivenImages(self.baseline))

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        count, region = self._regions(model, x)
        cover = filling(x, self.baseline, self.seed)
        score = model.score(x, target)
        scores = model.scores((cover(region(k)) for k in range(count)), target, count)  # (k, b)
        note_flat_scores(model, x, torch.cat([scores, score[None]]))
        if count == 1:
            model.note(f"one region covers all of the {format_sizes(x.shape[2:])} image: choose smaller ones")
        falls = score - scores
        total = torch.zeros(len(x), 1, *x.shape[2:], dtype=falls.dtype, device=x.device)
        covered = torch.zeros_like(total)
        for k, fall in enumerate(falls):
            total += region(k) * broadcast_to_spatial(fall, x)
            covered += region(k)
        return total / covered.clamp(min=1)

    def _regions(self, model: HookedModel, x: Images) -> tuple[int, Callable[[int], Tensor]]:
        """How many regions there are, and each of them as a mask, (1 or b, 1, *space)."""
        if self.superpixels is not None:
            labels = _superpixels(x, self.superpixels)
            _note_long_superpixels(model, labels)
            return int(labels.max()), lambda k: labels == k + 1
        windows = list(self._windows(tuple(x.shape[2:])))
        self._note_sizes(model, tuple(x.shape[2:]))

        def region(k: int) -> Tensor:
            mask = torch.zeros(1, 1, *x.shape[2:], dtype=torch.bool, device=x.device)
            mask[windows[k]] = True
            return mask

        return len(windows), region

    def _sizes(self, space: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Patch and stride along each axis, in pixels."""
        patch = capped_sizes(_PATCH, _SHARE, space) if self.patch is None else per_axis("patch", self.patch, space)
        if self.stride is None:
            usual = capped_sizes(_STRIDE, 2 * _SHARE, space)
            return patch, tuple(min(pair) for pair in zip(usual, patch, strict=True))
        stride = per_axis("stride", self.stride, space)
        if any(step > side for step, side in zip(stride, patch, strict=True)):
            told = patch if self.patch is None else self.patch
            raise InvalidInput(f"stride={self.stride} must be from 1 to patch={told}, to leave no pixel out.")
        return patch, stride

    def _note_sizes(self, model: HookedModel, space: tuple[int, ...]) -> None:
        """Tell sizes that were chosen, and axes along which nothing is told apart."""
        patch, stride = self._sizes(space)
        if len(space) > 2 and None in (self.patch, self.stride):
            model.note(f"patch={patch} and stride={stride} were chosen for {format_sizes(space)} pixels")
        whole = [axis for axis, (side, length) in enumerate(zip(patch, space, strict=True)) if side >= length > 1]
        if whole and len(whole) < len(space):
            model.note(
                f"the {format_sizes(patch)} patch covers all of axes {whole} of space: the map is constant along them"
            )

    def _windows(self, space: tuple[int, ...]) -> Iterator[Any]:
        """Indices of the patches; the last along each axis is cut off at the border."""
        patch, stride = self._sizes(space)
        sizes = zip(space, patch, stride, strict=True)
        axes = [range(math.ceil(max(length - side, 0) / step) + 1) for length, side, step in sizes]
        for steps in itertools.product(*axes):
            corner = zip(steps, patch, stride, strict=True)
            yield (..., *(slice(step * i, step * i + side) for i, side, step in corner))


def _superpixels(x: Images, count: int) -> Tensor:
    """The number of each pixel's superpixel, from 1, (b, 1, *space); every image has its own, of values 0 to 1."""
    low, high = extremes(x)
    images = ((x - low) / (high - low).clamp(min=1e-12)).double().cpu().numpy()
    # Colours as they are: the conversion to Lab is for photographs of three channels alone.
    labels = [slic(image, count, channel_axis=0, convert2lab=x.shape[1] == 3, start_label=1) for image in images]
    return torch.from_numpy(np.stack(labels))[:, None].to(x.device)


def _note_long_superpixels(model: HookedModel, labels: Tensor) -> None:
    """Tell axes that every superpixel runs along: SLIC seeds none behind another along an axis that is short."""
    axes = [axis for axis in range(2, labels.ndim) if labels.shape[axis] > 1]
    long = [axis - 2 for axis in axes if torch.equal(labels.narrow(axis, 0, 1).expand_as(labels), labels)]
    if long and len(long) < len(axes):
        model.note(
            f"superpixels run along all of axes {long} of space: the map is constant there; ask for more, or patch"
        )
