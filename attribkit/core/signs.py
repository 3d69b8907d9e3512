"""Signs that an answer is not sound, gathered while a model runs, without waiting for the device, and read once."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from attribkit.core.errors import AttribkitError
from attribkit.core.randomness import other_threads


class Signs:
    """What the forwards of one explanation let see in passing."""

    def __init__(self) -> None:
        self._draws = False  # whether a forward drew from torch's global random numbers
        self._finite: Tensor | None = None  # whether every score was, so far

    @contextmanager
    def of_forward(self, device: torch.device) -> Iterator[None]:
        """Watch one forward on a device."""
        others = other_threads()
        before = _random_state(device)
        yield
        changed = not torch.equal(before, _random_state(device))
        self._draws = self._draws or (changed and others == other_threads())  # else they may be numbers of others

    def of_scores(self, finite: Tensor) -> None:
        """Take note of whether the scores of a forward are all finite."""
        self._finite = finite if self._finite is None else self._finite & finite

    def check(self, method: object) -> None:
        """Refuse an answer about scores that are not finite."""
        if self._finite is not None and not bool(self._finite):
            raise AttribkitError(
                f"The target's score is not finite for some of these images, or of what {method!r} made of them: the "
                "model overflows. Look at its outputs; a model of half precision may need float32 or bfloat16."
            )

    def notes(self) -> list[str]:
        """What a careful reader should know."""
        random = "the model draws random numbers in evaluation mode (functional dropout?): other numbers, other scores"
        return [random] if self._draws else []


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
