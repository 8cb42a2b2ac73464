"""Pinned bits of control registers: writes to these registers checked, and carried out.

Source: Intel SDM vol. 2A, "CLTS—Clear Task-Switched Flag in CR0"; vol. 2B, "MOV—Move to/from
Control Registers"; vol. 2D, "WRMSR—Write to Model Specific Register"; vol. 3A, "Control Registers".
"""

from dataclasses import dataclass

from unicorn import x86_const as x86

from crosswalk.emu.cpu.cpu import GENERAL, Cpu
from crosswalk.emu.cpu.svm.exits import ExitCode
from crosswalk.emu.cpu.svm.host import Host
from crosswalk.walker.architecture import CR0, CR3, CR4, EFER, MSR

__all__ = [
    "INTERCEPTED",
    "LONGEST",
    "PINNED",
    "CrWrite",
    "Pins",
    "RegisterWrite",
    "cleared",
    "parse_cr_write",
]

PINNED: dict[str, dict[str, int]] = {
    register: {bit.name: bit for bit in bits}
    for register, bits in (
        ("cr0", (CR0.PE, CR0.WP, CR0.PG)),
        ("cr4", (CR4.PAE, CR4.SMEP, CR4.SMAP)),
        ("efer", (EFER.LME, EFER.NXE)),
    )
}
"""The pinned bits by register: those that are set when protection begins can't be cleared."""
INTERCEPTED = frozenset({0, 4})
"""The control registers whose writes have to be intercepted for that; EFER's, too."""

_OPCODE, _WRMSR, _CLTS = b"\x0f\x22", b"\x0f\x30", b"\x0f\x06"
_REX, _REX_B, _REX_R = 0x40, 1, 4
_TASK_SWITCHED = 1 << 3
"""CR0.TS."""
LONGEST = 4
"""The size of the longest instruction that is decoded here."""

_REGISTERS = {
    "cr0": x86.UC_X86_REG_CR0,
    "cr3": x86.UC_X86_REG_CR3,
    "cr4": x86.UC_X86_REG_CR4,
}
_RAX, _RCX, _RDX = (GENERAL.index(name) for name in ("rax", "rcx", "rdx"))
_LOW, _TOP = 0xFFFF_FFFF, (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class CrWrite:
    """A MOV of `size` bytes to control register `control` from general register `general`."""

    control: int
    general: int
    size: int


@dataclass(frozen=True, slots=True)
class RegisterWrite:
    """An instruction of `size` bytes that writes `value` to a register of `PINNED`, or CR3."""

    name: str
    value: int
    size: int


class Pins:
    """The pinned registers of the guest of `host` on `cpu`; none before `begin`.

    `kept` has a value by register: of the bits set in it, those of `PINNED` can't be cleared. Other
    registers and bits are the guest's.
    """

    def __init__(self, cpu: Cpu, host: Host) -> None:
        self._cpu, self._host = cpu, host
        self.kept: dict[str, int] = {}

    def begin(self) -> None:
        """Pin the bits that are set now."""
        read = self._cpu.engine.reg_read
        self.kept = {name: read(number) for name, number in _REGISTERS.items() if name in PINNED}
        self.kept["efer"] = read(x86.UC_X86_REG_MSR, MSR.EFER)

    @property
    def names(self) -> dict[str, list[str]]:
        """The names of the bits that are pinned, by register."""
        return {name: cleared(name, self.kept.get(name, 0), 0) for name in PINNED}

    def handle(self, code: int, instruction: bytes) -> str:
        """Carry out the register write that an exit of this code intercepted.

        `instruction` are the bytes at RIP, up to `LONGEST`. Returns why the write is refused, or
        nothing; it is refused where it would clear a pinned bit, or isn't decoded.
        """
        write = self.attempted(code, instruction)
        if write is None:
            return "a write to a control register that isn't MOV, CLTS or WRMSR"
        if lost := self.lost(write):
            return f"it would clear {write.name.upper()}.{', '.join(lost)} by {write.value:#x}"
        self.carry_out(write)
        return ""

    def attempted(self, code: int, instruction: bytes) -> RegisterWrite | None:
        """Return the register write that an exit of this code intercepted.

        `instruction` are the bytes at RIP, up to `LONGEST`. None unless it is MOV to CR0, CR3 or
        CR4, CLTS, or WRMSR to EFER.
        """
        general = self._cpu.general
        if code == ExitCode.MSR:
            at = _opcode_at(instruction)
            found = instruction[at : at + len(_WRMSR)] == _WRMSR
            if not found or general(_RCX) & _LOW != MSR.EFER:
                return None
            value = (general(_RDX) & _LOW) << 32 | general(_RAX) & _LOW
            return RegisterWrite("efer", value, at + len(_WRMSR))
        if code == ExitCode.CR0_WRITE and instruction.startswith(_CLTS):
            return RegisterWrite("cr0", self._cpu.cr0 & ~_TASK_SWITCHED, len(_CLTS))
        written = parse_cr_write(instruction)
        if written is None or written.control != code - ExitCode.CR0_WRITE:
            return None
        name = f"cr{written.control}"
        if name not in _REGISTERS:
            return None
        value = general(written.general) & (_TOP if self._cpu.bits == 64 else _LOW)
        return RegisterWrite(name, value, written.size)

    def lost(self, write: RegisterWrite) -> list[str]:
        """Return the names of the pinned bits that a write would clear; it is refused for any."""
        return cleared(write.name, self.kept.get(write.name, 0), write.value)

    def carry_out(self, write: RegisterWrite) -> None:
        """Do the write, and advance RIP past the instruction."""
        with self._cpu.changed():
            self._cpu.rip += write.size
        if write.name == "efer":
            self._host.write_efer(write.value)
            return
        value = write.value & ~CR3.NO_FLUSH if write.name == "cr3" else write.value
        self._cpu.engine.reg_write(_REGISTERS[write.name], value)


def parse_cr_write(code: bytes) -> CrWrite | None:
    """Decode a MOV to a control register at the start of `code`; None for anything else."""
    at = _opcode_at(code)
    rex = code[0] if at else 0
    if code[at : at + 2] != _OPCODE or len(code) < at + 3:
        return None
    operands = code[at + 2]
    return CrWrite(
        control=operands >> 3 & 7 | (8 if rex & _REX_R else 0),
        general=operands & 7 | (8 if rex & _REX_B else 0),
        size=at + 3,
    )


def cleared(name: str, before: int, after: int) -> list[str]:
    """Return the names of the bits of `PINNED` that a change of a register clears."""
    bits = PINNED.get(name, {})
    return [bit for bit, mask in bits.items() if before & mask and not after & mask]


def _opcode_at(code: bytes) -> int:
    return 1 if code[:1] and code[0] & 0xF0 == _REX else 0
