"""Instructions that have to be seen before they are executed: VMRUN, and a guest's port accesses.

Unicorn has no hook for VMRUN, and checks no port of a guest's against its host's intercepts. But
each block of code is looked at when it is translated, before it runs; where it has such an
instruction, the run is interrupted, that one instruction gets a hook, and the run goes on.
"""

import functools
from collections.abc import Callable
from functools import partial

import unicorn
from capstone import CS_GRP_CALL, CS_GRP_INT, CS_GRP_IRET, CS_GRP_JUMP, CS_GRP_RET
from capstone import x86_const as operands

from crosswalk.emu.cpu.cpu import Cpu
from crosswalk.emu.cpu.decoding import decoder
from crosswalk.emu.cpu.engine import hook_blocks
from crosswalk.walker.architecture import PAGE_BYTES

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
_ENDING = (CS_GRP_JUMP, CS_GRP_CALL, CS_GRP_RET, CS_GRP_INT, CS_GRP_IRET)


class WatchedCode:
    """The code that `cpu` runs.

    `on_vmrun` is called with the linear address of each VMRUN that is about to be executed,
    `on_port` of each IN, OUT, INS and OUTS of a guest under SVM. `code` returns up to so many bytes
    of code at a linear address, and whether a guest under SVM runs. `interrupt` ends the run before
    the next instruction, has its argument called, and goes on; where nothing runs it calls it at
    once.
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
        self._kept = hook_blocks(cpu.engine, self._look)

    def entering(self, va: int) -> None:
        """Look at the code at `va`, where a run, a guest or a handler is about to start.

        Its block isn't reported as translated. All straight code is looked at that begins there.
        """
        self._cpu.load()
        size = PAGE_BYTES - va % PAGE_BYTES
        code, guest = self._code(va, size)
        if len(code) == size and code.endswith((VMRUN[:1], VMRUN[:2])):
            # Only then is there a reason to touch the page behind it.
            code += self._code(va + size, len(VMRUN) - 1)[0]
        self._watch(code, va, guest=guest)

    def _look(self, va: int, size: int) -> None:
        self._cpu.load()
        code, guest = self._code(va, size)
        self._watch(code, va, guest=guest)

    def _watch(self, code: bytes, va: int, *, guest: bool) -> None:
        """Have those instructions hooked that are in this straight code; `guest` is under SVM."""
        ports = guest and not _PORT_OPCODES.isdisjoint(code)
        if VMRUN not in code and not ports:
            return
        for at, instruction in _watched(code, self._cpu.bits):
            if instruction == operands.X86_INS_VMRUN:
                known, called = self._vmruns, self._at_vmrun
            elif ports:
                known, called = self._ports, self._at_port
            else:
                continue
            if va + at not in known:
                known.add(va + at)
                self._interrupt(partial(self._hook, va + at, called))

    def _hook(self, va: int, called: Callable[[unicorn.Uc, int, int, object], None]) -> None:
        self._cpu.engine.hook_add(unicorn.UC_HOOK_CODE, called, None, va, va)
        self._cpu.engine.ctl_flush_tb()

    def _at_vmrun(self, _uc: unicorn.Uc, va: int, _size: int, _data: object) -> None:
        self._on_vmrun(va)

    def _at_port(self, _uc: unicorn.Uc, va: int, _size: int, _data: object) -> None:
        self._on_port(va)


@functools.lru_cache(maxsize=256)
def _watched(code: bytes, bits: int) -> tuple[tuple[int, int], ...]:
    """Return offset and kind of each watched instruction in code, up to the first one that jumps.

    Kinds are Capstone's numbers.
    """
    found = []
    for each in decoder(bits).disasm(code, 0):
        if each.id == operands.X86_INS_VMRUN or each.id in PORT_INSTRUCTIONS:
            found.append((each.address, each.id))
        if each.id == operands.X86_INS_VMRUN or any(map(each.group, _ENDING)):
            break
    return tuple(found)
