"""SmoothGrad and its relatives."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from attribkit.core.broadcast import extremes
from attribkit.core.errors import InvalidInput
from attribkit.core.method import Method
from attribkit.core.model import HookedModel
from attribkit.core.options import Count, NotNegative, Seed
from attribkit.core.shapes import Images, Scores
from attribkit.core.targets.target import Target


@dataclass(frozen=True)
class SmoothGrad(Method):
    """The gradient under noise: its mean, the mean of its square (SmoothGrad-squared) or its variance (VarGrad).

    Every image gets the same noise, drawn from the seed, so that its scores do not depend on the images beside it.
    """

    name: ClassVar[str] = "smoothgrad"
    source: ClassVar[str] = "Smilkov et al., 2017, arXiv:1706.03825, sec. 3; Hooker et al., NeurIPS 2019"

    samples: Count = 25  # one forward and backward each
    sigma: NotNegative = 0.15  # standard deviation of the noise, as a share of each image's range of values
    average: Literal["mean", "square", "variance"] = "mean"
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.average == "variance" and (self.samples == 1 or self.sigma == 0):
            raise InvalidInput(
                f"average='variance' with samples={self.samples} and sigma={self.sigma} is zero everywhere: give "
                "samples from 2 and sigma above 0."
            )

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        low, high = extremes(x)
        scale = self.sigma * (high - low)
        flat = (low == high).flatten().nonzero().flatten().tolist()
        if flat and self.sigma:
            model.note(f"images {flat} are of one value, and noise is a share of their range: it is none for them")
        random = torch.Generator().manual_seed(self.seed)
        noises = (
            torch.randn(x.shape[1:], generator=random, dtype=torch.float32, device="cpu").to(x)
            for _ in range(self.samples)
        )
        total, squares = torch.zeros_like(x), torch.zeros_like(x)
        for gradient in model.gradients((x + scale * noise for noise in noises), target):
            total += gradient / self.samples
            squares += gradient**2 / self.samples
        return {"mean": total, "square": squares, "variance": squares - total**2}[self.average]
