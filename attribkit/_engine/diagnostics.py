"""Signs of unreliable results, recorded during forward passes without synchronising with the device."""

import random
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from attribkit._core.errors import AttribkitError
from attribkit._state.randomness import other_threads


class FirstScore(NamedTuple):
    """The score of the first image of a forward, and the number of images of that forward."""

    image: int  # data pointer of the image tensor
    target: Any
    score: Tensor
    images: int


class Diagnostics:
    """The observations recorded during the forwards of one attribution.

    Args:
        generators: Names of the global random generators to watch; each costs some microseconds per forward.
    """

    def __init__(self, generators: Sequence[str] = ("torch",)) -> None:
        self._generators = generators
        self.ran = False  # whether a forward has run
        self.drawn: set[str] = set()  # generators that forwards drew from
        self.drawn_anew: set[str] = set()  # generators whose state differed after two successive forwards
        self.first_scores: list[FirstScore] = []
        self._left: dict[str, Hashable] | None = None  # the states of the generators after the last forward
        self._finite: Tensor | None = None  # whether all scores so far are finite

    @contextmanager
    def watch_forward(self, device: torch.device) -> Iterator[None]:
        """Record which generators a forward on a device draws from."""
        others = other_threads()
        before = self._states(device)
        yield
        after = self._states(device)
        self.ran = True
        if others == other_threads():  # otherwise other threads may have drawn the numbers
            changed = _changed(before, after)
            self.drawn |= changed
            self.drawn_anew |= changed & _changed(self._left or after, after)
        self._left = after

    def _states(self, device: torch.device) -> dict[str, Hashable]:
        return {name: _GENERATORS[name](device) for name in self._generators}

    def add_finite(self, finite: Tensor) -> None:
        """Record whether all scores of a forward are finite, a bool tensor of one element."""
        self._finite = finite if self._finite is None else self._finite & finite

    def check(self, method: object) -> None:
        """Raise AttribkitError if a score was not finite."""
        if self._finite is not None and not bool(self._finite):
            raise AttribkitError(
                "The score of the target is not finite for some of these images, or for versions of them that "
                f"{method!r} made, because the model overflows. Check its outputs; a half-precision model may need "
                "float32 or bfloat16."
            )


def _torch_state(device: torch.device) -> Hashable:
    with torch._C.DisableTorchFunction():  # hides the call from function modes that track a forward
        state = torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
        return state.numpy().tobytes()


def _numpy_state(_device: torch.device) -> Hashable:
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002  # the global state is watched
    return str(kind), np.asarray(keys).tobytes(), *rest


_GENERATORS: dict[str, Callable[[torch.device], Hashable]] = {  # readers of the state of each global random generator
    "torch": _torch_state,
    "numpy": _numpy_state,
    "python": lambda _device: random.getstate(),
}
ALL_GENERATORS = tuple(_GENERATORS)


def _changed(before: dict[str, Hashable], after: dict[str, Hashable]) -> set[str]:
    """Return the generators whose state has changed."""
    return {name for name, state in before.items() if state != after[name]}
