import mmap
import struct
from dataclasses import dataclass, field

import pytest

HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
HEADER_32 = struct.Struct("<16sHHIIIIIHHHHHH")
PROGRAM_HEADER_32 = struct.Struct("<IIIIIIII")
LONG_CODE = 0x00AF9B00
FLAT_CODE = 0x00CF9B00


def cpu_state(
    *,
    cr0=0x80050033,
    cr3=0x1000,
    cr4=0x20,
    rflags=0x2,
    cs_flags=LONG_CODE,
    gdt=0,
    rip=0x1111_0010,
    version=1,
):
    """A QEMU note's contents; the registers that nobody reads have telling values."""
    general = [*(0x1111_0000 + at for at in range(16)), rip]
    segments = [(0x10 + at, 0xFFFF, 0, 0, 0x2222_0000 + at) for at in range(10)]
    segments[0] = (0x10, 0xFFFF_FFFF, cs_flags, 0, 0)
    segments[8] = (0, 0x7F, 0, 0, gdt)
    return (
        struct.pack("<II18Q", version, 440, *general, rflags)
        + b"".join(struct.pack("<IIIIQ", *segment) for segment in segments)
        + struct.pack("<6Q", cr0, 0x3333, 0x4444, cr3, cr4, 0x5555)
    )


def note(name, kind, content):
    padded = name + bytes(-len(name) % 4), content + bytes(-len(content) % 4)
    return struct.pack("<III", len(name), len(content), kind) + padded[0] + padded[1]


def qemu_notes(*states):
    """The notes of as many CPUs, in QEMU's order: the PRSTATUS ones first."""
    status = b"".join(note(b"CORE\0", 1, bytes(336)) for _ in states)
    return status + b"".join(note(b"QEMU\0", 0, state) for state in states)


@dataclass
class Core:
    """An ELF core to write: `loads` are (physical address, bytes), `parts` raw headers.

    A third value of a load is its p_memsz, where that isn't the number of bytes.
    `many` is the number of program headers that section header 0 states, behind all else.
    """

    loads: list = field(default_factory=lambda: [(0, bytes(0x3000))])
    notes: bytes = field(default_factory=lambda: qemu_notes(cpu_state()))
    ident: bytes = b"\x7fELF\x02\x01\x01"
    type: int = 4
    machine: int = 62
    stride: int | None = None
    count: int | None = None
    parts: list = field(default_factory=list)
    many: int | None = None

    def build(self):
        bodies = [(4, 0, self.notes, len(self.notes))] if self.notes else []
        bodies += [(1, pa, body, *(size or [len(body)])) for pa, body, *size in self.loads]
        count = len(bodies) + len(self.parts)
        narrow = self.ident[4] == 1
        header = HEADER_32 if narrow else HEADER
        program = PROGRAM_HEADER_32 if narrow else PROGRAM_HEADER
        offset = header.size + count * program.size
        headers = []
        for kind, pa, body, size in bodies:
            sizes = (len(body), size)
            if narrow:
                headers.append(program.pack(kind, offset, 0, pa, *sizes, 0, 0))
            else:
                headers.append(program.pack(kind, 0, offset, 0, pa, *sizes, 0))
            offset += len(body)
        section = b""
        if self.many is not None:
            section = struct.pack("<10I" if narrow else "<IIQQQQIIQQ", *[0] * 7, self.many, 0, 0)
        headers += [program.pack(*part) for part in self.parts]
        first = header.pack(
            self.ident,
            self.type,
            self.machine,
            1,
            0,
            header.size if count else 0,
            offset if section else 0,
            0,
            header.size,
            program.size if self.stride is None else self.stride,
            (0xFFFF if section else count) if self.count is None else self.count,
            0,
            1 if section else 0,
            0,
        )
        return first + b"".join(headers) + b"".join(body for _, _, body, _ in bodies) + section


class CoreParts:
    """What tests of cores build them of."""

    Core = Core
    cpu_state = staticmethod(cpu_state)
    note = staticmethod(note)
    qemu_notes = staticmethod(qemu_notes)
    flat_code = FLAT_CODE

    @staticmethod
    def mapped(data):
        """The bytes as a mapping of no file."""
        area = mmap.mmap(-1, len(data))
        area[:] = data
        area.seek(0)
        return area


@pytest.fixture(scope="session")
def elf():
    return CoreParts
