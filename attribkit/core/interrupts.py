"""Signals that arrive while something must not be left half done."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any]

_NAMES = ("SIGTERM", "SIGHUP", "SIGQUIT", "SIGBREAK", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGUSR1", "SIGUSR2", "SIGINT")
_SIGNALS = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]


class Deferral:
    """Keeps the handlers of signals waiting between `begin` and `end`, so that none raises in between.

    Python runs these handlers in the main thread alone; in other threads both methods do nothing. Handlers that a user
    installed are put back, and then called for what has arrived. Both methods may be called again, which completes what
    an exception cut short.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Handler] = {}
        self._arrived: list[tuple[Handler, int, FrameType | None]] = []

    def begin(self) -> None:
        """From now on signals wait."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            if callable(handler) and number not in self._handlers:  # what is not callable raises nothing
                self._handlers[number] = handler
                signal.signal(number, self._keep)

    def end(self) -> None:
        """Put the handlers back, and call those whose signals have arrived; what they raise comes out."""
        while self._handlers:  # the interrupt of the keyboard last, so that it cannot cost the others
            number = next(iter(self._handlers))
            signal.signal(number, self._handlers[number])
            del self._handlers[number]
        while self._arrived:
            handler, number, frame = self._arrived.pop(0)
            handler(number, frame)

    def _keep(self, number: int, frame: FrameType | None) -> None:
        self._arrived.append((self._handlers[number], number, frame))
