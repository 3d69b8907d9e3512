"""The target of methods that need none."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attribkit.core.errors import InvalidInput
from attribkit.core.shapes import PerImage
from attribkit.core.targets.outputs import every_output, precise
from attribkit.core.targets.target import Target


@dataclass(frozen=True)
class NoTarget(Target):
    """No target: what a result holds whose method needs none, where none was given.

    Its score is a fixed combination of all outputs, which only shows what the outputs depend on: the layers on the way
    from the images to them, and the tokens that are read.
    """

    @property
    def kind(self) -> str:
        return "none"

    def __call__(self, outputs: Any) -> PerImage:
        tensors = every_output(outputs)
        images = min((len(each) for each in tensors), default=0)
        scores = [_combined(each) for each in tensors if len(each) == images]
        if not scores:
            raise InvalidInput(
                f"The model returned {type(outputs).__name__}, which holds no tensor of floats with a row for each "
                "image: pass target=function, which turns it into one score per image."
            )
        return torch.stack(scores).sum(0)

    def repeated(self, times: int) -> "Target":
        return self


def _combined(output: Tensor) -> PerImage:
    """A sum of each image's numbers with fixed weights, which no normalisation makes constant."""
    flat = precise(output.reshape(len(output), -1))
    return flat @ torch.arange(flat.shape[1], device=flat.device, dtype=torch.float32).add(1).cos().to(flat)
