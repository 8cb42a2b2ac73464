"""Counts of what a run did that Unicorn doesn't report: instructions begun, and loads of CR3.

Given a bound on instructions, Unicorn counts them in a word of its own state, next to the bound.
Where, depends on the build: it is found with known bounds and counts.

There is no hook for a load of CR3. But MOV to CR3 ends a block of translated code. Each block is
looked at when it is translated, before it runs; where it ends in such a MOV, the run is
interrupted, that one instruction gets a hook, and the run goes on.
"""

import ctypes
import functools
import struct
from collections.abc import Callable

import unicorn
from unicorn import x86_const as x86

from crosswalk.emu.cpu.cpu import Cpu
from crosswalk.emu.cpu.engine import handle_of, open_engine
from crosswalk.emu.cpu.ram import Ram
from crosswalk.walker.architecture import CR3
from crosswalk.walker.errors import CrosswalkError

__all__ = ["Cr3Loads", "ended_by_bound", "instructions_begun"]

_SEARCHED = 2048
_PAIR = struct.Struct("<QQ")
# Instructions up to the HLT, that included, and a bound that isn't reached.
_KNOWN = ((778, 123_457), (1_235, 98_765))
_NOP, _HLT = b"\x90", b"\xf4"

_SIZE = 3
_OPCODE, _CR3, _REGISTER, _REX_B = b"\x0f\x22", 0xD8, 0x07, 0x41


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
    """The loads of CR3 by MOV from now on.

    `count` are those made or being made. `wanted` is the number after which `reached` is called,
    the load done; it may be changed at any time. `interrupt` has the run end before the next
    instruction, its argument be called, and the run go on.
    """

    def __init__(
        self,
        cpu: Cpu,
        reached: Callable[[], None],
        interrupt: Callable[[Callable[[], None]], None],
    ) -> None:
        self.count = 0
        self.wanted: int | None = None
        self._cpu = cpu
        self._reached = reached
        self._interrupt = interrupt
        self._hooked: set[int] = set()
        self._entered: set[int] = set()
        cpu.engine.hook_add(unicorn.UC_HOOK_EDGE_GENERATED, self._on_block)

    def entering(self, rip: int) -> None:
        """Look at the block at `rip`, where a run or a handler is about to start, when it runs.

        Unicorn reports translated blocks as edges between two. The first one of a run is none,
        and neither is a handler's, where it was the first one that raised the exception.
        """
        if rip not in self._entered:
            self._entered.add(rip)
            self._cpu.engine.hook_add(
                unicorn.UC_HOOK_BLOCK, self._on_entry, None, begin=rip, end=rip
            )

    def _on_entry(self, _uc: unicorn.Uc, address: int, size: int, _data: object) -> None:
        self._look(address + size - _SIZE)

    def _on_block(self, _uc: unicorn.Uc, block: object, _before: object, _data: object) -> None:
        self._look(block.pc + block.size - _SIZE)  # type: ignore[attr-defined]  # a C structure

    def _look(self, va: int) -> None:
        if va in self._hooked:
            return
        code = self._cpu.read(va, _SIZE)
        if code is None or code[:2] != _OPCODE or code[2] & ~_REGISTER != _CR3:
            return
        self._hooked.add(va)
        self._interrupt(lambda: self._hook(va))

    def _hook(self, va: int) -> None:
        # An instruction with a REX prefix begins one byte earlier.
        for begin in (va, va - 1):
            self._cpu.engine.hook_add(
                unicorn.UC_HOOK_CODE, self._on_instruction, va, begin=begin, end=begin
            )
        self._cpu.engine.ctl_flush_tb()

    def _on_instruction(self, _uc: unicorn.Uc, address: int, size: int, va: object) -> None:
        if not isinstance(va, int) or address + size != va + _SIZE:
            return
        self.count += 1
        if self.count == self.wanted:
            self._interrupt(lambda: self._finish(address, size))

    def _finish(self, address: int, size: int) -> None:
        """Do the load, before which the run was interrupted: it would be counted once more."""
        code = self._cpu.read(address, size) or b""
        number = code[-1] & _REGISTER | (8 if code[0] & _REX_B == _REX_B else 0)
        with self._cpu.changed():
            value = self._cpu.general(number)
            self._cpu.rip = address + size
        self._cpu.engine.reg_write(x86.UC_X86_REG_CR3, value & ~CR3.NO_FLUSH)
        self._reached()
