"""Instructions that have to be seen before they are executed: VMRUN, and a guest's port accesses.

Unicorn has no hook for VMRUN, and checks no port of a guest's against its host's intercepts. But
each block of code is looked at when it is translated, before it runs; where it has such an
instruction, the run is interrupted, that one instruction gets a hook, and the run goes on.
"""

from collections.abc import Callable
from functools import partial

import unicorn
from capstone import x86_const as operands

from crosswalk.emu.cpu.cpu import Cpu
from crosswalk.emu.cpu.decoding import decoder
from crosswalk.emu.cpu.engine import hook_blocks

__all__ = ["PORT_INSTRUCTIONS", "STRINGS", "VMRUN", "WatchedCode"]

VMRUN = bytes.fromhex("0f01d8")
"""The instruction's bytes."""

STRINGS = frozenset(
    (
        *(operands.X86_INS_INSB, operands.X86_INS_INSW, operands.X86_INS_INSD),
        *(operands.X86_INS_OUTSB, operands.X86_INS_OUTSW, operands.X86_INS_OUTSD),
    )
)
"""INS and OUTS, by Capstone's numbers."""

PORT_INSTRUCTIONS = STRINGS | {operands.X86_INS_IN, operands.X86_INS_OUT}
"""All that reach a port, by Capstone's numbers."""

_PORT_OPCODES = {0x6C, 0x6D, 0x6E, 0x6F, *range(0xE4, 0xE8), *range(0xEC, 0xF0)}
_SIZES = (16, 32, 64)


class WatchedCode:
    """The code that `cpu` runs.

    `on_vmrun` is called with the linear address of each VMRUN that is about to be executed,
    `on_port` of each IN, OUT, INS and OUTS of a guest under SVM. `code` returns up to so many bytes
    of code at a linear address, and whether a guest under SVM runs. `interrupt` ends the run before
    the next instruction, has its argument called, and goes on.
    """

    def __init__(
        self,
        cpu: Cpu,
        code: Callable[[int, int], tuple[bytes, bool]],
        interrupt: Callable[[Callable[[], None]], None],
        on_vmrun: Callable[[int], None],
        on_port: Callable[[int], None],
    ) -> None:
        self._cpu, self._code, self._interrupt = cpu, code, interrupt
        self._on_vmrun, self._on_port = on_vmrun, on_port
        self._vmruns: set[int] = set()
        self._ports: set[int] = set()
        self._entered: set[int] = set()
        self._decoders = {bits: decoder(bits) for bits in _SIZES}
        self._kept = hook_blocks(cpu.engine, self._look)

    def entering(self, va: int) -> None:
        """Look at the block at `va`, where a run, a guest or a handler is about to start."""
        if va not in self._entered:
            self._entered.add(va)
            self._cpu.engine.hook_add(unicorn.UC_HOOK_BLOCK, self._on_block, None, va, va)

    def _on_block(self, _uc: unicorn.Uc, va: int, size: int, _data: object) -> None:
        self._look(va, size)

    def _look(self, va: int, size: int) -> None:
        self._cpu.load()
        code, guest = self._code(va, size)
        last = va + size - len(VMRUN)
        if code.endswith(VMRUN) and len(code) == size and last not in self._vmruns:
            self._vmruns.add(last)
            self._interrupt(partial(self._hook, last, self._at_vmrun))
        if guest and not _PORT_OPCODES.isdisjoint(code):
            found = self._decoders[self._cpu.bits].disasm(code, va)
            for at in {
                each.address for each in found if each.id in PORT_INSTRUCTIONS
            } - self._ports:
                self._ports.add(at)
                self._interrupt(partial(self._hook, at, self._at_port))

    def _hook(self, va: int, called: Callable[[unicorn.Uc, int, int, object], None]) -> None:
        self._cpu.engine.hook_add(unicorn.UC_HOOK_CODE, called, None, va, va)
        self._cpu.engine.ctl_flush_tb()

    def _at_vmrun(self, _uc: unicorn.Uc, va: int, _size: int, _data: object) -> None:
        self._on_vmrun(va)

    def _at_port(self, _uc: unicorn.Uc, va: int, _size: int, _data: object) -> None:
        self._on_port(va)
