"""Where a running engine keeps its CPU's state: to look at and change a little of it in place.

To save the whole state and to restore it takes longer than a fault itself. Where it lies, depends
on the build: it is found by experiment, with values that only the engine under test has, and
every engine has to pass the same test. Nothing is followed blindly: memory is read by way of the
system, which answers with an error where there is none.
"""

import functools
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from unicorn import x86_const as x86

from crosswalk.emu.cpu.registers import register_offsets
from crosswalk.emu.probe.engine import Engine, Saved, State

__all__ = ["live_state"]

_MARKED = tuple(f"r{number}" for number in range(8, 16))
_MARKS = struct.Struct(f"<{len(_MARKED)}Q")
_ENGINE = 4096  # Of what lies behind an engine's handle, where a pointer is looked for.
_REACH = 1 << 16  # How far behind a pointer the state may lie.
_ENGINES = 3


def live_state(engine: Engine) -> State | None:
    """Return the engine's own state, laid out as a saved one, or None where it isn't found.

    It is good as long as the engine is.
    """
    place = _place()
    if place is None:
        return None
    before = Saved(engine)
    at, behind = place
    with _memory() as memory:
        (pointer,) = struct.unpack("<Q", _read(memory, engine.address + at, 8).ljust(8, b"\0"))
        found = _is_live(memory, engine, pointer + behind)
    engine.restore(before)
    return State(pointer + behind, len(before.bytes)) if found else None


@functools.cache
def _place() -> tuple[int, int] | None:
    """Return where an engine has the pointer that leads to the state, and how far behind it.

    The same in several engines that are there at once: a pointer to something else may lead to the
    state of one of them, if that happens to lie behind it.
    """
    engines = [Engine() for _ in range(_ENGINES)]
    with _memory() as memory:
        found = [_candidates(memory, engine) for engine in engines]
    return min(set.intersection(*found), default=None)


def _candidates(memory: int | None, engine: Engine) -> set[tuple[int, int]]:
    """Return the pointers, by their places, that lead to this engine's state; how far behind."""
    offset = register_offsets()[_MARKED[0]]
    pattern = _mark(engine, 0x5157_A7E0_0000_0001)
    pointers = _read(memory, engine.address, _ENGINE)
    places = []
    for at in range(0, len(pointers) - 7, 8):
        (pointer,) = struct.unpack_from("<Q", pointers, at)
        content = _read(memory, pointer, _REACH)
        behind = content.find(pattern)
        while behind >= 0:  # What an engine left that is gone may come first.
            places.append((at, pointer, behind - offset))
            behind = content.find(pattern, behind + 1)
    return {(at, b) for at, pointer, b in places if _is_live(memory, engine, pointer + b)}


def _is_live(memory: int | None, engine: Engine, address: int) -> bool:
    """Return whether what the engine's registers get is seen at this address, twice."""
    offset = register_offsets()[_MARKED[0]]
    for seed in (0x1E57_0000_0000_0003, 0x2B1D_0000_0000_0005):
        pattern = _mark(engine, seed)
        now = Saved(engine)
        # All of it, but for what a saved state has in front of the CPU's.
        first = register_offsets()["rax"]
        seen = _read(memory, address + first, len(now.bytes) - first)
        if seen != bytes(now.bytes[first:]) or seen[offset - first :][: _MARKS.size] != pattern:
            return False
    return True


def _mark(engine: Engine, seed: int) -> bytes:
    values = [seed + (number << 32) for number in range(len(_MARKED))]
    for name, value in zip(_MARKED, values, strict=True):
        engine.uc.reg_write(getattr(x86, f"UC_X86_REG_{name.upper()}"), value)
    return _MARKS.pack(*values)


@contextmanager
def _memory() -> Iterator[int | None]:
    """Yield what this process's memory can be read by, None where the system offers nothing."""
    try:
        memory = os.open("/proc/self/mem", os.O_RDONLY)
    except OSError:
        yield None
        return
    try:
        yield memory
    finally:
        os.close(memory)


def _read(memory: int | None, address: int, size: int) -> bytes:
    """Return what lies there, as far as there is anything."""
    if memory is None:
        return b""
    try:
        return os.pread(memory, size, address)
    except (OSError, OverflowError):
        return b""
