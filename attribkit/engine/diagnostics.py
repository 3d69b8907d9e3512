"""Signs that an answer is not sound, gathered while a model runs, without waiting for the device, and read once."""

import random
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from attribkit.core.errors import AttribkitError
from attribkit.state.randomness import other_threads


class FirstScore(NamedTuple):
    """The score of the first of some images, in a forward of so many of them."""

    image: int  # where the memory of the image begins
    target: Any
    score: Tensor
    images: int


class Signs:
    """What the forwards of one explanation let see in passing.

    generators: names of the global random generators that are watched; each costs some microseconds a forward.
    """

    def __init__(self, generators: Sequence[str] = ("torch",)) -> None:
        self._generators = generators
        self.ran = False  # whether there was a forward
        self.drawn: set[str] = set()  # the watched generators that forwards drew from
        self.drawn_anew: set[str] = set()  # those of them that two forwards in turn left in different states
        self.first_scores: list[FirstScore] = []
        self._left: dict[str, Hashable] | None = None  # the states of the generators after the last forward
        self._finite: Tensor | None = None  # whether every score was, so far

    @contextmanager
    def of_forward(self, device: torch.device) -> Iterator[None]:
        """Watch one forward on a device."""
        others = other_threads()
        before = self._states(device)
        yield
        after = self._states(device)
        self.ran = True
        if others == other_threads():  # else they may be numbers of others
            moved = _moved(before, after)
            self.drawn |= moved
            self.drawn_anew |= moved & _moved(self._left or after, after)
        self._left = after

    def _states(self, device: torch.device) -> dict[str, Hashable]:
        return {name: _GENERATORS[name](device) for name in self._generators}

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


def _state_of_torch(device: torch.device) -> Hashable:
    with torch._C.DisableTorchFunction():  # a forward that is followed does not see this
        state = torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
        return state.numpy().tobytes()


def _state_of_numpy(_device: torch.device) -> Hashable:
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002  # the global state is what is watched
    return str(kind), np.asarray(keys).tobytes(), *rest


_GENERATORS: dict[str, Callable[[torch.device], Hashable]] = {  # the global random generators, by their names
    "torch": _state_of_torch,
    "numpy": _state_of_numpy,
    "python": lambda _device: random.getstate(),
}
ALL_GENERATORS = tuple(_GENERATORS)


def _moved(before: dict[str, Hashable], after: dict[str, Hashable]) -> set[str]:
    """Those whose state is another."""
    return {name for name, state in before.items() if state != after[name]}
