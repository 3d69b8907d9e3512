"""Blur integrated gradients for attribkit."""

from dataclasses import dataclass

import torch
from torch import Tensor

from attribkit import HookedModel, Method, PositiveFloat, PositiveInt, Target, hookimpl


@dataclass(frozen=True)
class BlurIG(Method):
    """Gradients integrated along a path of decreasing blur; the scores sum to f(x) - f(blurred x).

    Args:
        max_sigma: Standard deviation of the blur at the start of the path, in pixels.
        steps: Number of steps, equal in the square root of sigma; each costs one forward and one backward pass.

    Reference:
        Xu et al., Attribution in Scale and Space, CVPR 2020.
    """

    name = "blurig"
    source = "Xu et al., Attribution in Scale and Space, CVPR 2020"
    max_sigma: PositiveFloat = 50.0
    steps: PositiveInt = 20

    def __call__(self, model: HookedModel, x: Tensor, target: Target) -> Tensor:
        def blur(step: float) -> Tensor:
            sigma = max(self.max_sigma * (1 - step / self.steps) ** 2, 1e-3)
            positions = (x.new_tensor(range(n)) / sigma for n in x.shape[-2:])
            rows, columns = ((-((i[:, None] - i) ** 2) / 2).softmax(1) for i in positions)
            return rows @ x @ columns.mT

        slices = ((blur(i + 1) - blur(i)) * model.gradient(blur(i + 0.5), target) for i in range(self.steps))
        return sum(slices, torch.zeros_like(x))


@hookimpl
def attribkit_methods() -> list[type[Method]]:
    return [BlurIG]
