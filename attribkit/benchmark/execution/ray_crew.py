"""Ray actors that take one place of a list after the other, and are replaced where they are lost."""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any

from attribkit.benchmark.execution.ray_cluster import Share, told
from attribkit.core.errors import AttribkitError

_TRIES = 3  # of a place whose worker is lost, and of workers that end while they start
_TICK = 1.0  # seconds between two looks at what happens
_PATIENCE = 60.0  # seconds without a worker before a line in the log


class Crew:
    """Workers that start, and workers that are each at a place of the list.

    make: a new actor, with the methods `ready()` and `do(place)`. wanted: how many of them there may be now.
    """

    def __init__(
        self, ray: Any, make: Callable[[], Any], wanted: Callable[[], int], share: Share, start_timeout: float
    ) -> None:
        self._ray, self._make, self.wanted, self._share, self._timeout = ray, make, wanted, share, start_timeout
        self._starting: dict[Any, Any] = {}  # actors, by what they will answer
        self._busy: dict[Any, tuple[Any, int]] = {}  # actors and their places
        self._waiting: deque[int] = deque()
        self._losses: Counter[int] = Counter()  # of each place
        self._ended_early, self._why = 0, ""  # since a worker was last up; and the last reason
        self.done = 0
        self.given_up: dict[int, str] = {}  # places, and why

    @property
    def starting(self) -> int:
        """Workers that are waited for."""
        return len(self._starting)

    @property
    def up(self) -> int:
        """Workers that are at work."""
        return len(self._busy)

    def work(self, places: int) -> Iterator[None]:
        """Do all places; yields each second, and whenever something happens.

        Raises AttribkitError where no worker comes up, or where one raises.
        """
        self._waiting.extend(range(places))
        since, is_told = time.monotonic(), False
        while self._waiting or self._busy:
            self._hire()
            yield
            ready, _ = self._ray.wait([*self._starting, *self._busy], num_returns=1, timeout=_TICK)
            for answer in ready:
                self._settle(answer)
            waited = time.monotonic() - since
            if self._busy:
                since = time.monotonic()
            elif self._waiting and waited > self._timeout:
                raise AttribkitError(self._nobody(waited))
            elif self._waiting and waited > min(_PATIENCE, self._timeout / 2) and not is_told:
                logging.getLogger("attribkit").warning("%s", self._waits(waited))
                is_told = True
        yield

    def end(self) -> None:
        """End all workers that are left."""
        for actor in (*self._starting.values(), *(actor for actor, _ in self._busy.values())):
            self._ray.kill(actor)
        self._starting.clear()
        self._busy.clear()

    def _hire(self) -> None:
        """Start as many workers as are wanted and have something to do."""
        if self._ended_early >= _TRIES:
            if self._busy:
                return
            raise AttribkitError(f"Ray's workers end while they start: {self._why}")
        while len(self._starting) < len(self._waiting) and self.starting + self.up < self.wanted():
            actor = self._make()
            self._starting[actor.ready.remote()] = actor

    def _settle(self, answer: Any) -> None:
        """A worker has started, or is done with its place, or is lost."""
        actor, place = self._busy.pop(answer) if answer in self._busy else (self._starting.pop(answer), None)
        try:
            self._ray.get(answer)
        except self._ray.exceptions.RayTaskError as error:
            raise AttribkitError(f"A worker stopped: {_cause(error)}\n{_AGAIN}") from error
        except self._ray.exceptions.RayError as error:
            self._lost(actor, place, _line(error))
            return
        self._ended_early = 0
        self.done += place is not None
        self._give(actor)

    def _give(self, actor: Any) -> None:
        """The next place to a worker that is free; where there is none, what it holds goes back to the cluster."""
        if self._waiting:
            place = self._waiting.popleft()
            self._busy[actor.do.remote(place)] = actor, place
        else:
            self._ray.kill(actor)

    def _lost(self, actor: Any, place: int | None, why: str) -> None:
        self._ray.kill(actor)
        if place is None:
            self._ended_early, self._why = self._ended_early + 1, why
            return
        self._losses[place] += 1
        if self._losses[place] < _TRIES:
            self._waiting.appendleft(place)
        else:
            self.done += 1
            self.given_up[place] = f"{_TRIES} workers were lost at this shard, the last one so: {why}"

    def _waits(self, waited: float) -> str:
        return f"No Ray worker has come up within {waited:.0f} s: {self.starting} of {self._share} each are asked for."

    def _nobody(self, waited: float) -> str:
        free = self._ray.available_resources()
        unused = Share(float(free.get("CPU", 0)), float(free.get("GPU", 0)))
        return (
            f"{self._waits(waited)} The cluster has {told(self._ray.nodes())}, of which {unused} are free now. Free "
            "some, lower workers, cpus or gpus of [ray], or raise its start_timeout where the machines are only slow. "
            f"{_AGAIN}"
        )


_AGAIN = "Start the same run again; what is finished is kept."


def _cause(error: Any) -> str:
    cause = error.cause
    return str(cause) if isinstance(cause, AttribkitError) else f"{type(cause).__name__}: {cause}"


def _line(error: Exception) -> str:
    """The last line of what Ray says, which names the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
