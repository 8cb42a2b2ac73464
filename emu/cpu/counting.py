"""Counts of what a run did that Unicorn doesn't report: instructions begun, and loads of CR3.

Given a bound on instructions, Unicorn counts them in a word of its own state, next to the bound.
Where, depends on the build: it is found with known bounds and counts.
"""

import ctypes
import functools
import struct
from collections.abc import Callable

import unicorn

from crosswalk.emu.cpu.engine import handle_of, open_engine
from crosswalk.emu.cpu.ram import Ram
from crosswalk.walker.errors import CrosswalkError

__all__ = ["Cr3Loads", "ended_by_bound", "instructions_begun"]

_SEARCHED = 2048
_PAIR = struct.Struct("<QQ")
# Instructions up to the HLT, that included, and a bound that isn't reached.
_KNOWN = ((778, 123_457), (1_235, 98_765))
_NOP, _HLT = b"\x90", b"\xf4"


def instructions_begun(engine: unicorn.Uc, bound: int) -> int:
    """Return the number of instructions begun in the last run, which had a `bound` on them.

    One that raised an exception counts, and once more when it is tried again.

    Raises `CrosswalkError` if this build of Unicorn keeps the number some other way.
    """
    return min(bound, _counted(engine))


def ended_by_bound(engine: unicorn.Uc, bound: int) -> bool:
    """Return whether it was a `bound` that ended the last run, and nothing that happened by then.

    Errors as in `instructions_begun`.
    """
    return _counted(engine) > bound  # The instruction behind the bound has been counted.


def _counted(engine: unicorn.Uc) -> int:
    begun: int = _PAIR.unpack(_state(engine, _place(), _PAIR.size))[0]
    return begun


@functools.cache
def _place() -> int:
    found: set[int] | None = None
    for count, bound in _KNOWN:
        ram = Ram(0, 0x1000)
        ram.write(0, _NOP * (count - 1) + _HLT)
        engine = open_engine(ram)
        engine.emu_start(0, 0x1000, count=bound)
        state = _state(engine, 0, _SEARCHED)
        pair = _PAIR.pack(count, bound)
        here = {at for at in range(0, _SEARCHED - 8, 8) if state[at : at + 16] == pair}
        found = here if found is None else found & here
    if found is None or len(found) != 1:
        raise CrosswalkError("this Unicorn doesn't show how many instructions it has begun")
    return found.pop()


def _state(engine: unicorn.Uc, at: int, size: int) -> bytes:
    return ctypes.string_at((handle_of(engine).value or 0) + at, size)


class Cr3Loads:
    """The loads of CR3 by MOV from now on, as `ControlWrites.follow_roots` reports them.

    `count` are those made. `wanted` is the number after which `reached` is called, the load done;
    it may be changed at any time.
    """

    def __init__(self, reached: Callable[[], None]) -> None:
        self.count = 0
        self.wanted: int | None = None
        self._reached = reached

    def made(self) -> None:
        """Count a load that has been made."""
        self.count += 1
        if self.count == self.wanted:
            self._reached()
