"""The end of a run's time: another thread, asleep until then, stops the engine.

Unicorn's own timer is a thread that wakes up every few microseconds, for as long as the engine
runs: a quarter of the CPU time of a boot.
"""

import threading
from types import TracebackType
from typing import Self

import unicorn

__all__ = ["Watchdog"]

_AGAIN = 0.05


class Watchdog:
    """Stops `engine` when `seconds` have passed, and whenever it runs after that, in a `with`.

    The engine's calls let other threads run. A stop between two of its runs is lost: so there are
    more, until the `with` is left.
    """

    def __init__(self, engine: unicorn.Uc, seconds: float) -> None:
        self._engine = engine
        self._seconds = min(seconds, threading.TIMEOUT_MAX)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        wait = self._seconds
        while not self._over.wait(wait):
            self._engine.emu_stop()
            wait = _AGAIN
