"""Writing an ELF core, as QEMU's `dump-guest-memory` does, of a machine with one CPU.

Source: QEMU target/i386/arch_dump.c, for the first two notes: Linux' own elf_prstatus, and QEMU's
dump of its CPU state. What these leave out is in a third one, `crosswalk.walker.formats.elfnotes`.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.elfnotes import OWN_NAME, OWN_TYPE, own_content
from crosswalk.walker.memory import PhysicalMemory

__all__ = ["CORE_REGISTERS", "CORE_SEGMENTS", "CoreState", "SegmentState", "core_parts"]

CORE_REGISTERS = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip", "rflags"),
)
CORE_SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "ldt", "tr", "gdt", "idt")
"""The registers and segments of a core, in the order of QEMU's note."""

_CONTROL = ("cr0", "cr1", "cr2", "cr3", "cr4")
_USER_REGISTERS = (
    *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8"),
    *("rax", "rcx", "rdx", "rsi", "rdi", "rax", "rip"),
)
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM = struct.Struct("<IIQQQQQQ")
_STATE = struct.Struct("<II18Q" + "IIIIQ" * 10 + "6Q")
_STATUS_SIZE, _STATUS_PID_AT, _STATUS_REGISTERS_AT = 336, 32, 112
_CORE, _386, _X86_64, _LOAD, _NOTE, _PRSTATUS = 4, 3, 62, 1, 4, 1
_CHUNK = 1 << 24
_MAX_RANGES = 1024


@dataclass(frozen=True, slots=True)
class SegmentState:
    """A segment or table register; `flags` are the upper half of its descriptor, as QEMU's."""

    selector: int = 0
    limit: int = 0
    flags: int = 0
    base: int = 0


@dataclass(frozen=True, slots=True)
class CoreState:
    """A CPU: `registers` by the names of `CORE_REGISTERS`, `segments` of `CORE_SEGMENTS`.

    `control` are CR0 to CR4 by name; what is left out is 0. `paging` has what they don't tell of
    the paging mode: EFER, PKRU, PKRS, MAXPHYADDR and the features.
    """

    registers: Mapping[str, int] = field(default_factory=dict)
    segments: Mapping[str, SegmentState] = field(default_factory=dict)
    control: Mapping[str, int] = field(default_factory=dict)
    kernel_gs_base: int = 0
    paging: PagingContext | None = None


def core_parts(memory: PhysicalMemory, state: CoreState) -> Iterator[bytes]:
    """Yield the bytes of a core of `memory` and `state`, part by part.

    Raises `BadInput` for memory of more than 1,024 ranges.
    """
    ranges = list(memory.ranges)
    if len(ranges) > _MAX_RANGES:
        raise BadInput(f"memory of {len(ranges):,} ranges; a core is written of {_MAX_RANGES}")
    notes = _note(b"CORE\0", _PRSTATUS, _status(state)) + _note(b"QEMU\0", 0, _state(state))
    machine = _X86_64
    if state.paging is not None:
        notes += _note(OWN_NAME.encode() + b"\0", OWN_TYPE, own_content(state.paging))
        # As QEMU has it, and who reads QEMU's notes.
        machine = _X86_64 if state.paging.mode.long else _386
    count = 1 + len(ranges)
    offset = _HEADER.size + count * _PROGRAM.size
    yield _HEADER.pack(
        b"\x7fELF\x02\x01\x01",
        *(_CORE, machine, 1, 0, _HEADER.size, 0, 0, _HEADER.size, _PROGRAM.size, count, 0, 0, 0),
    )
    yield _PROGRAM.pack(_NOTE, 0, offset, 0, 0, len(notes), len(notes), 0)
    offset += len(notes)
    for start, size in ranges:
        yield _PROGRAM.pack(_LOAD, 0, offset, 0, start, size, size, 0)
        offset += size
    yield notes
    for start, size in ranges:
        for at in range(start, start + size, _CHUNK):
            yield memory.read(at, min(_CHUNK, start + size - at))


def _note(name: bytes, kind: int, content: bytes) -> bytes:
    padded = name + bytes(-len(name) % 4)
    return struct.pack("<III", len(name), len(content), kind) + padded + content


def _state(state: CoreState) -> bytes:
    segments: list[int] = []
    for name in CORE_SEGMENTS:
        each = state.segments.get(name, SegmentState())
        segments += (each.selector, each.limit, each.flags, 0, each.base)
    return _STATE.pack(
        1,
        _STATE.size,
        *(state.registers.get(name, 0) for name in CORE_REGISTERS),
        *segments,
        *(state.control.get(name, 0) for name in _CONTROL),
        state.kernel_gs_base,
    )


def _status(state: CoreState) -> bytes:
    segments = {name: state.segments.get(name, SegmentState()) for name in CORE_SEGMENTS}
    values = [state.registers.get(name, 0) for name in _USER_REGISTERS]
    values += [
        segments["cs"].selector,
        state.registers.get("rflags", 0),
        state.registers.get("rsp", 0),
        segments["ss"].selector,
        segments["fs"].base,
        segments["gs"].base,
        *(segments[name].selector for name in ("ds", "es", "fs", "gs")),
    ]
    status = bytearray(_STATUS_SIZE)
    struct.pack_into("<I", status, _STATUS_PID_AT, 1)
    struct.pack_into(f"<{len(values)}Q", status, _STATUS_REGISTERS_AT, *values)
    return bytes(status)
