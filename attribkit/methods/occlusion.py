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

from attribkit.core.errors import InvalidInput
from attribkit.core.method import Method
from attribkit.core.model import HookedModel
from attribkit.core.shapes import Images, Scores
from attribkit.core.targets import Target
from attribkit.methods.substrates import Given, Substrate, inpainted, substrate
from attribkit.methods.unmoved import note_unmoved


@dataclass(frozen=True)
class Occlusion(Method):
    """How much the score falls when a region is covered, averaged over the regions that cover a pixel.

    Regions are overlapping patches, or the superpixels of each image. With ``target=Probability(c)`` it is the
    probability that falls.
    """

    name: ClassVar[str] = "occlusion"
    source: ClassVar[str] = "Zeiler and Fergus, ECCV 2014, sec. 4.2"

    patch: int = 32  # pixels, along every axis
    stride: int = 16  # pixels
    superpixels: int | None = None  # about so many regions (SLIC, Achanta et al., TPAMI 2012); None is patches
    baseline: Substrate | Literal["inpaint"] | Given | Tensor = "zero"
    seed: int = 0  # of noise

    def __post_init__(self) -> None:
        if isinstance(self.baseline, Tensor):
            object.__setattr__(self, "baseline", Given(self.baseline))

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        count, region = self._regions(x)
        cover = self._cover(x)
        score = model.score(x, target)
        scores = model.scores((cover(region(k)) for k in range(count)), target, count)  # (k, b)
        note_unmoved(model, x, torch.cat([scores, score[None]]))
        if count == 1:
            model.note(f"one region covers all of the {'x'.join(map(str, x.shape[2:]))} image: choose smaller ones")
        falls = score - scores
        total = torch.zeros(len(x), 1, *x.shape[2:], dtype=falls.dtype, device=x.device)
        covered = torch.zeros_like(total)
        for k, fall in enumerate(falls):
            total += region(k) * fall[(...,) + (None,) * (x.ndim - 1)]
            covered += region(k)
        return total / covered.clamp(min=1)

    def _cover(self, x: Images) -> Callable[[Tensor], Images]:
        """What makes the images with a region covered."""
        if self.baseline == "inpaint":
            return lambda region: inpainted(x, region)
        instead = substrate(x, self.baseline, self.seed)  # type: ignore[arg-type]
        return lambda region: torch.where(region, instead, x)

    def _regions(self, x: Images) -> tuple[int, Callable[[int], Tensor]]:
        """How many regions there are, and each of them as a mask, (1 or b, 1, *space)."""
        if self.superpixels is not None:
            labels = _superpixels(x, self.superpixels)
            return int(labels.max()), lambda k: labels == k + 1
        windows = list(self._windows(tuple(x.shape[2:])))

        def region(k: int) -> Tensor:
            mask = torch.zeros(1, 1, *x.shape[2:], dtype=torch.bool, device=x.device)
            mask[windows[k]] = True
            return mask

        return len(windows), region

    def _windows(self, space: tuple[int, ...]) -> Iterator[Any]:
        """Indices of the patches; the last along each axis is cut off at the border."""
        if not 1 <= self.stride <= self.patch:
            raise InvalidInput(f"stride={self.stride} must be from 1 to patch={self.patch}, to leave no pixel out.")
        axes = [range(math.ceil(max(side - self.patch, 0) / self.stride) + 1) for side in space]
        for steps in itertools.product(*axes):
            yield (..., *(slice(self.stride * i, self.stride * i + self.patch) for i in steps))


def _superpixels(x: Images, count: int) -> Tensor:
    """The number of each pixel's superpixel, from 1, (b, 1, *space); every image has its own, of values 0 to 1."""
    if count < 1:
        raise InvalidInput(f"superpixels={count} must be a number of regions from 1, or None for patches.")
    low, high = (extreme[(...,) + (None,) * (x.ndim - 1)] for extreme in x.flatten(1).aminmax(dim=1))
    images = ((x - low) / (high - low).clamp(min=1e-12)).double().cpu().numpy()
    # Colours as they are: the conversion to Lab is for photographs of three channels alone.
    labels = [slic(image, count, channel_axis=0, convert2lab=x.shape[1] == 3, start_label=1) for image in images]
    return torch.from_numpy(np.stack(labels))[:, None].to(x.device)
