"""Which lines of shared modules the prediction runs, and which the observation, in any process."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from mmap import mmap
from pathlib import Path
from types import FrameType

from scripts.mutation.mutants import import_name
from scripts.mutation.shared import OBSERVES, PREDICTS

__all__ = ["traced"]

_PREDICTED, _OBSERVED, _BEFORE = 1, 2, 4
_GIVEN = "memory"
"""The module whose work is given to both sides: what it does for neither, it does before both."""
_LINES = 4096
"""The most lines of a module."""


@contextmanager
def traced(modules: Sequence[str]) -> Iterator[Callable[[], set[tuple[str, int]]]]:
    """Note lines while the body runs; yields a function that returns those that both sides ran.

    A line is run by a side if that is the nearest of the two on the stack. Where memory is made and
    filled, neither is; that counts as both, for both are given it. Processes forked within
    are noted, too: what was run is kept in memory that they share.
    """
    at = {_file(import_name(name)): place for place, name in enumerate(modules)}
    ran = mmap(-1, len(modules) * _LINES)
    sides = {_file(name): _PREDICTED for name in PREDICTS}
    rooms = tuple(f"{Path(_file(room)).parent}{os.sep}" for room in OBSERVES)

    def side(frame: FrameType | None) -> int:
        while frame is not None:
            name = frame.f_code.co_filename
            if name in sides:
                return sides[name]
            if name.startswith(rooms):
                return _OBSERVED
            frame = frame.f_back
        return _BEFORE

    def called(frame: FrameType, _event: str, _argument: object) -> Callable[..., object] | None:
        place = at.get(frame.f_code.co_filename)
        if place is None:
            return None
        who = side(frame.f_back)

        def noted(frame: FrameType, event: str, _argument: object) -> Callable[..., object]:
            if event == "line":
                ran[place * _LINES + frame.f_lineno] |= who
            return noted

        return noted

    def both() -> set[tuple[str, int]]:
        whole = bytes(ran)
        return {
            (modules[place // _LINES], place % _LINES)
            for place, who in enumerate(whole)
            if who & (_PREDICTED | _OBSERVED) == _PREDICTED | _OBSERVED
            or (who & _BEFORE and modules[place // _LINES] == _GIVEN)
        }

    sys.settrace(called)
    try:
        yield both
    finally:
        sys.settrace(None)


def _file(name: str) -> str:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise AssertionError(f"{name} has no file")
    return spec.origin
