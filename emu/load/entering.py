"""The CPU's state at the first instruction of guests that aren't Linux."""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from unicorn import x86_const as x86

from crosswalk.emu.cpu.cpu import GENERAL, Segment
from crosswalk.emu.load.boot_tables import BootTables, Span
from crosswalk.emu.load.surroundings import CODE32, CODE64, DATA, Surroundings
from crosswalk.emu.pc.pc import Machine
from crosswalk.walker.architecture import CR0, CR4, EFER, PAGE_BYTES

__all__ = [
    "Entry",
    "LongEntry",
    "add_real_mode",
    "add_stack",
    "enter_flat",
    "enter_long",
    "enter_real",
    "prepare_tables",
]

_STACK_BYTES = 16 << 10
_SEGMENT_BYTES = 1 << 16  # Of real mode, as the following.
_FIRST_FREE, _REAL_STACK_TOP, _REAL_STACK_BYTES = 0x1000, 0x7C00, 0x1000
_HALT = b"\xfa\xf4\xeb\xfd"  # CLI, HLT, and the same once more.
_TASK = Segment(0, 0, 0x67, 0x8B00)  # A busy 32-bit task: PVH wants one, and others don't care.
_VECTORS = 256


@dataclass(frozen=True, slots=True)
class Entry:
    """Where code without paging is entered, and general registers by name: the others are 0."""

    address: int
    around: Surroundings
    registers: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class LongEntry:
    """Where 64-bit code is entered, general registers by name, and the paging of the entry."""

    address: int
    around: Surroundings
    registers: Mapping[str, int]
    root: int
    levels: int


def add_stack(around: Surroundings) -> int:
    """Give away a stack of 16 KiB, and return the address of its end."""
    return around.placement.allocate(_STACK_BYTES, "a stack") + _STACK_BYTES


def add_real_mode(around: Surroundings) -> int:
    """Give away a stack for real mode, and have each vector halt; return the stack pointer.

    There are no services of a BIOS: a guest that calls one halts for good, and the interrupt is the
    last one in its history.
    """
    placement = around.placement
    halt = placement.allocate(len(_HALT), "vectors' code", floor=_FIRST_FREE, below=_REAL_STACK_TOP)
    placement.fill(halt, _HALT)
    placement.fill(0, struct.pack("<HH", halt, 0) * _VECTORS)
    size = _REAL_STACK_BYTES
    return size + placement.allocate(
        size, "a stack", align=size, floor=_FIRST_FREE, below=_REAL_STACK_TOP
    )


def prepare_tables(around: Surroundings, levels: int, spans: Iterable[Span]) -> int:
    """Give away boot tables that map these spans, the later ones before others; return the root."""

    def new_frame() -> int:
        return around.placement.allocate(PAGE_BYTES, "boot tables", align=PAGE_BYTES)

    tables = BootTables(levels, new_frame)
    tables.map(spans)
    for at, content in tables.frames().items():
        around.placement.fill(at, content)
    return tables.root


def enter_flat(machine: Machine, entry: Entry) -> None:
    """Bring the CPU to 32-bit code in flat segments, without paging."""
    machine.cpu.set_mode(32, cr0=CR0.PE | CR0.ET, code=CODE32, data=DATA)
    _enter(machine, entry.around, entry.registers, entry.address)


def enter_long(machine: Machine, entry: LongEntry) -> None:
    """Bring the CPU to 64-bit code, in long mode with 4 or 5 levels."""
    machine.cpu.set_mode(
        64,
        cr0=CR0.PG | CR0.PE | CR0.ET,
        cr3=entry.root,
        cr4=CR4.PAE | (CR4.LA57 if entry.levels == 5 else 0),
        efer=EFER.LME,
        code=CODE64,
        data=DATA,
    )
    _enter(machine, entry.around, entry.registers, entry.address)


def enter_real(machine: Machine, entry: Entry) -> None:
    """Bring the CPU to 16-bit code in real mode."""
    segment = 0 if entry.address < _SEGMENT_BYTES else entry.address // 16
    machine.cpu.set_mode(16, cr0=CR0.ET, code=segment, data=0)
    machine.engine.reg_write(x86.UC_X86_REG_IDTR, (0, 0, 4 * _VECTORS - 1, 0))
    _registers(machine, entry.registers, entry.address - segment * 16)


def _enter(
    machine: Machine, around: Surroundings, registers: Mapping[str, int], address: int
) -> None:
    machine.engine.reg_write(x86.UC_X86_REG_GDTR, (0, around.gdt, around.gdt_limit, 0))
    with machine.cpu.changed():
        machine.cpu.set_segment("tr", _TASK)
    _registers(machine, registers, address)


def _registers(machine: Machine, registers: Mapping[str, int], address: int) -> None:
    cpu = machine.cpu
    with cpu.changed():
        for number, name in enumerate(GENERAL):
            cpu.set_general(number, registers.get(name, 0))
        cpu.rip = address
