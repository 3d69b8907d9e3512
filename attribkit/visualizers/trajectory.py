"""What an ascent has come through: when to stop it, and which images it never moved."""

from collections.abc import Sequence

import torch
from torch import Tensor

from attribkit.core.shapes import Images, PerImage
from attribkit.core.visualizer import Responses


class Trajectory:
    """The responses and objectives of n images, step by step; asks the device for an answer once in a while only."""

    def __init__(self) -> None:
        self._responses: list[Tensor] = []
        self._objectives: list[Tensor] = []
        self._climbed: Tensor | None = None  # whether a gradient led anywhere

    def add(self, response: PerImage, objective: PerImage, gradient: Images) -> None:
        """Take a step down in the record; gradient: of the response, by the pixels."""
        self._responses.append(response)
        self._objectives.append(objective)
        climbs = gradient.flatten(1).any(1)
        self._climbed = climbs if self._climbed is None else self._climbed | climbs

    def responses(self, last: PerImage) -> Responses:
        """All of them, and one more."""
        return torch.stack([*self._responses, last])

    def is_flat(self, tolerance: float, patience: int) -> bool:
        """Whether every image's mean objective of the last steps is, relatively, about that of as many before.

        Looks each time that so many steps have passed; an image that no gradient has moved yet is not flat.
        """
        steps = len(self._objectives)
        if not tolerance or steps % patience or steps < 2 * patience or self.unmoved():
            return False
        before, now = (torch.stack(part).mean(0) for part in _halves(self._objectives[-2 * patience :]))
        return bool(((now - before).abs() <= tolerance * now.abs()).all())

    def unmoved(self) -> list[int]:
        """The images for which the gradient was zero at every step."""
        if self._climbed is None:
            return []
        images: list[int] = (~self._climbed).nonzero().flatten().tolist()
        return images


def _halves(steps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    middle = len(steps) // 2
    return list(steps[:middle]), list(steps[middle:])
