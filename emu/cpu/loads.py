"""Counting the loads of CR3, of which Unicorn has no hook.

MOV to CR3 ends a block of translated code. Each block is looked at when it is translated, before
it runs; where it ends in such a MOV, the run is interrupted, that one instruction gets a hook,
and the run goes on.
"""

from collections.abc import Callable

import unicorn
from unicorn import x86_const as x86

from crosswalk.emu.cpu.cpu import Cpu

__all__ = ["Cr3Loads"]

_SIZE = 3
_OPCODE, _CR3, _REGISTER, _REX_B = b"\x0f\x22", 0xD8, 0x07, 0x41
_NO_FLUSH = 1 << 63  # With PCIDs it is no bit of CR3.


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
        self._cpu.engine.reg_write(x86.UC_X86_REG_CR3, value & ~_NO_FLUSH)
        self._reached()
