"""Progress where nobody watches a terminal: a line now and then, with rate and time left."""

import time

from crosswalk.emu.cli.output import remark

__all__ = ["EVERY", "Pace"]

EVERY = 10.0
"""Seconds between two lines."""


class Pace:
    """Says how far something has come, when it is told that and it is time for a line."""

    def __init__(self, what: str, done: int) -> None:
        self._what, self._before = what, done
        self._began = self._said = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Take note that `done` of `total` are done."""
        now = time.monotonic()
        if now - self._said < EVERY:
            return
        self._said = now
        rate = (done - self._before) / (now - self._began)
        left = f", {(total - done) / rate:.0f} s left" if rate else ""
        remark(
            f"{done:,} of {total:,} {self._what} ({100 * done // total} %), "
            f"{rate:,.0f} a second{left}"
        )
