"""The model-specific registers that the emulated CPU doesn't have.

Unicorn reads 0 from them and ignores what is written, where a processor without them raises #GP(0).
The same is done here, and noted. Two belong to the machine: its time-stamp counter, and the base of
the local APIC, which stays where it is and may be switched off.

Source: Intel SDM vol. 3A, "Local APIC"; vol. 2D, "WRMSR—Write to Model Specific Register".
"""

from collections.abc import Callable

from capstone import x86_const as instructions

from crosswalk.emu.cpu.cpu import GENERAL, Cpu
from crosswalk.emu.cpu.decoding import instruction_at
from crosswalk.emu.cpu.events import Fault, NotEmulated
from crosswalk.emu.cpu.intercepts import Intercepts
from crosswalk.emu.cpu.svm.exits import ExitCode
from crosswalk.emu.pc.addresses import LAPIC_BASE
from crosswalk.emu.pc.board import Board
from crosswalk.walker.architecture import Vector

__all__ = ["KNOWN_MSRS", "Msrs"]

KNOWN_MSRS = frozenset(
    (
        *(0x8B, 0xFE, *range(0x174, 0x177), *range(0x179, 0x17C), 0x198, 0x1A0),
        *(*range(0x200, 0x210), 0x250, 0x258, 0x259, *range(0x268, 0x270), 0x277, 0x2FF),
        *(*range(0x400, 0x428), 0xD90, *range(0xC000_0080, 0xC000_0085)),
        *(*range(0xC000_0100, 0xC000_0104), 0xC001_0117),
    )
)
"""Numbers of those that Unicorn has."""

TIME_STAMP_COUNTER, APIC_BASE = 0x10, 0x1B

_RAX, _RCX, _RDX = (GENERAL.index(name) for name in ("rax", "rcx", "rdx"))
_LOW = 0xFFFF_FFFF
_BOOTSTRAP, _APIC_ENABLED, _APIC_RESERVED = 0x100, 0x800, 0x6FF


class Msrs:
    """RDMSR and WRMSR of MSRs that Unicorn doesn't have, intercepted.

    `asked` is called with the number of an MSR that nobody has, and whether it is written.
    """

    def __init__(
        self, cpu: Cpu, intercepts: Intercepts, board: Board, asked: Callable[[int, bool], None]
    ) -> None:
        self._cpu, self._board, self._asked = cpu, board, asked
        intercepts.intercept_msrs_but(KNOWN_MSRS)

    def carry_out(self, code: int) -> bool:
        """Do the RDMSR or WRMSR at RIP that was intercepted with this exit code, if it is one.

        Returns whether it was one. The CPU's state is loaded before; afterwards RIP is behind the
        instruction.

        Raises `Fault` where a processor refuses it, with the CPU as it was, and `NotEmulated`
        where the local APIC is to be moved.
        """
        cpu = self._cpu
        found = instruction_at(cpu) if code == ExitCode.MSR else None
        if found is None or found.id not in (
            instructions.X86_INS_RDMSR,
            instructions.X86_INS_WRMSR,
        ):
            return False
        number = cpu.general(_RCX) & _LOW
        try:
            if found.id == instructions.X86_INS_WRMSR:
                self._write(number, (cpu.general(_RDX) & _LOW) << 32 | cpu.general(_RAX) & _LOW)
            else:
                value = self._read(number)
                cpu.set_general(_RAX, value & _LOW)
                cpu.set_general(_RDX, value >> 32)
        except Fault:
            cpu.store()
            raise
        cpu.skip(int(found.size))
        cpu.store()
        return True

    def _read(self, number: int) -> int:
        if number == TIME_STAMP_COUNTER:
            return self._board.stamp()
        if number == APIC_BASE:
            enabled = _APIC_ENABLED if self._board.apic_enabled else 0
            return LAPIC_BASE | _BOOTSTRAP | enabled
        self._asked(number, False)
        return 0

    def _write(self, number: int, value: int) -> None:
        if number == TIME_STAMP_COUNTER:
            self._board.clock.set_counter(value)
        elif number == APIC_BASE:
            self._set_apic_base(value)
        else:
            self._asked(number, True)

    def _set_apic_base(self, value: int) -> None:
        if value & _APIC_RESERVED:  # x2APIC mode's bit is one of them, for CPUID has no x2APIC.
            raise Fault(Vector.GP, 0)
        if value & ~(_BOOTSTRAP | _APIC_ENABLED) != LAPIC_BASE:
            raise NotEmulated(f"the local APIC moved to {value & ~0xFFF:#x}")
        self._board.apic_enabled = bool(value & _APIC_ENABLED)
