"""Control registers whose bits are pinned: writes to them judged, and carried out.

Source: Intel SDM vol. 2B, "MOV—Move to/from Control Registers"; vol. 2D, "WRMSR—Write to Model
Specific Register"; vol. 3A, "Control Registers".
"""

from dataclasses import dataclass

from unicorn import x86_const as x86

from crosswalk.emu.cpu.cpu import GENERAL, Cpu
from crosswalk.emu.cpu.svm.exits import ExitCode
from crosswalk.emu.cpu.svm.host import Host

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

PINNED = {
    "cr0": {"PE": 1 << 0, "WP": 1 << 16, "PG": 1 << 31},
    "cr4": {"PAE": 1 << 5, "SMEP": 1 << 20, "SMAP": 1 << 21},
    "efer": {"LME": 1 << 8, "NXE": 1 << 11},
}
"""Bits by register: those of them that are set when protection begins stay so."""
INTERCEPTED = frozenset({0, 4})
"""The control registers whose writes have to be exits for that; EFER's have to be as well."""

_OPCODE, _WRMSR = b"\x0f\x22", b"\x0f\x30"
_REX, _REX_B, _REX_R = 0x40, 1, 4
LONGEST = 4
"""Bytes of the longest instruction that is understood."""

_EFER = 0xC000_0080
_NO_FLUSH = 1 << 63  # of a MOV to CR3, which doesn't keep it
_REGISTERS = {
    "cr0": x86.UC_X86_REG_CR0,
    "cr3": x86.UC_X86_REG_CR3,
    "cr4": x86.UC_X86_REG_CR4,
}
_RAX, _RCX, _RDX = (GENERAL.index(name) for name in ("rax", "rcx", "rdx"))
_LOW = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class CrWrite:
    """A MOV to control register `control` from general register `general`, of `size` bytes."""

    control: int
    general: int
    size: int


@dataclass(frozen=True, slots=True)
class RegisterWrite:
    """Register `name`, as `PINNED` has it or CR3, gets `value`, by `size` bytes of instruction."""

    name: str
    value: int
    size: int


class Pins:
    """The pinned registers of the guest of `host` on `cpu`; none before `begin`.

    `kept`, by register: of what is set in it, the bits of `PINNED` can't be cleared. What isn't
    in it is the guest's.
    """

    def __init__(self, cpu: Cpu, host: Host) -> None:
        self._cpu, self._host = cpu, host
        self.kept: dict[str, int] = {}

    def begin(self) -> None:
        """Pin the bits that are set now."""
        read = self._cpu.engine.reg_read
        self.kept = {name: read(number) for name, number in _REGISTERS.items() if name in PINNED}
        self.kept["efer"] = read(x86.UC_X86_REG_MSR, _EFER)

    @property
    def names(self) -> dict[str, list[str]]:
        """The names of the bits that are pinned, by register."""
        return {name: cleared(name, self.kept.get(name, 0), 0) for name in PINNED}

    def attempted(self, code: int, instruction: bytes) -> RegisterWrite | None:
        """Return what the instruction that an exit of this code stopped would write.

        `instruction` are the bytes at RIP, `LONGEST` where there are as many. None unless it is
        MOV to CR0, CR3 or CR4, or WRMSR to EFER.
        """
        general = self._cpu.general
        if code == ExitCode.MSR:
            at = _opcode_at(instruction)
            found = instruction[at : at + len(_WRMSR)] == _WRMSR
            if not found or general(_RCX) & _LOW != _EFER:
                return None
            value = (general(_RDX) & _LOW) << 32 | general(_RAX) & _LOW
            return RegisterWrite("efer", value, at + len(_WRMSR))
        written = parse_cr_write(instruction)
        if written is None or written.control != code - ExitCode.CR0_WRITE:
            return None
        name = f"cr{written.control}"
        if name not in _REGISTERS:
            return None
        return RegisterWrite(name, general(written.general), written.size)

    def lost(self, write: RegisterWrite) -> list[str]:
        """Return the pinned bits that a write would clear, by name: it is to be refused then."""
        return cleared(write.name, self.kept.get(write.name, 0), write.value)

    def carry_out(self, write: RegisterWrite) -> None:
        """Do what the instruction would have done, and go on behind it."""
        with self._cpu.changed():
            self._cpu.rip += write.size
        if write.name == "efer":
            self._host.write_efer(write.value)
            return
        value = write.value & ~_NO_FLUSH if write.name == "cr3" else write.value
        self._cpu.engine.reg_write(_REGISTERS[write.name], value)


def parse_cr_write(code: bytes) -> CrWrite | None:
    """Return what the instruction at the start of `code` writes; None for another one."""
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
    """Return the pinned bits of a register that a write would clear, by name."""
    bits = PINNED.get(name, {})
    return [bit for bit, mask in bits.items() if before & mask and not after & mask]


def _opcode_at(code: bytes) -> int:
    return 1 if code[:1] and code[0] & 0xF0 == _REX else 0
