"""How many instructions a run has begun, which Unicorn counts and doesn't tell.

Given a bound on instructions, Unicorn counts them in a word of its own state, beside the bound.
Where, depends on the build: bounds and counts that are known tell.
"""

import ctypes
import functools
import struct

import unicorn

from crosswalk.emu.cpu.engine import handle_of, open_engine
from crosswalk.emu.cpu.ram import Ram
from crosswalk.walker.errors import CrosswalkError

__all__ = ["instructions_begun"]

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
    begun: int = _PAIR.unpack(_state(engine, _place(), _PAIR.size))[0]
    return min(bound, begun)


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
