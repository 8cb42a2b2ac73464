"""Boot images of the monitor, as multiboot loads them.

base               pages of fixed places (`places.py`)
base + FIXED       commands: those of the image, or room for those that come
behind them        the answers
"""

import struct
from collections.abc import Mapping, Sequence
from enum import IntEnum
from functools import cache
from importlib import resources

from crosswalk.guest.assembler import assemble
from crosswalk.guest.errors import AssemblyError
from crosswalk.guest.monitor import places
from crosswalk.guest.monitor.commands import (
    FORMAT,
    REGISTERS,
    SUM_START,
    Flag,
    Op,
    Refusal,
    RunFlag,
    Status,
)
from crosswalk.guest.monitor.places import PAGE
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import U64

__all__ = [
    "ANSWERS_SECTOR",
    "BUFFER",
    "COMMANDS_SECTOR",
    "DISK_SECTORS",
    "MARK",
    "RING",
    "SECTOR",
    "SOURCES",
    "WAITING",
    "Transport",
    "monitor_image",
    "size_of",
    "symbols",
]

SOURCES = (
    "monitor.s",
    "monitor_commands.s",
    "monitor_vmx.s",
    "monitor_svm.s",
    "monitor_disk.s",
    "monitor_traps.s",
)
"""The sources of the monitor's 64-bit code, put together in this order."""

_ENTRY_SOURCE = "monitor_entry.s"

SECTOR = 512
BUFFER = 4 << 20
"""Bytes of room for commands, and for answers, where a disk is the mailbox."""

COMMANDS_SECTOR = 8
ANSWERS_SECTOR = COMMANDS_SECTOR + BUFFER // SECTOR
_CYLINDER = 16 * 63
DISK_SECTORS = -(-(ANSWERS_SECTOR + BUFFER // SECTOR) // _CYLINDER) * _CYLINDER
"""The size of the mailbox: whole cylinders, of 16 heads with 63 sectors."""

MARK = int.from_bytes(b"monitor\x01", "little")
"""The first word of the doorbell."""

RING, WAITING = 0xFE, 0xFD
"""What port 0xE9 says when the answers are there, and before a look for a batch: in no text."""

_TOP = 3 << 30
_KEPT_WORDS = 64
"""Words that an answer leaves: those of a failure, and heads."""

_MULTIBOOT, _MULTIBOOT_FLAGS = 0x1BADB002, 0x10002
_SAYS, _TITLE = 0x40, b"crosswalk-monitor/1"
_ENTRY = 0xC0

_LEAF, _TABLE = 0xE3, 0x23  # Present, writable, accessed; of a leaf dirty, page.


class Transport(IntEnum):
    """Where commands come from, and answers go to."""

    MEMORY = 0
    """Commands in the image; answers in memory."""
    PRINTED = 1
    """The same; answers by port 0xE9, too, when the last one is there."""
    DISK = 2
    """A mailbox on the first disk of the second ATA channel: see monitor_disk.s."""


def size_of(commands: U64 | None, answers: int = BUFFER) -> int:
    """Return how many bytes such an image occupies from its base on, in whole pages."""
    room = BUFFER if commands is None else 8 * len(commands)
    return places.FIXED + _up(room) + _up(answers)


def monitor_image(
    base: int,
    transport: Transport = Transport.DISK,
    commands: U64 | None = None,
    answers: int = BUFFER,
) -> bytes:
    """Return an image for multiboot 1 that loads at `base`, a multiple of 2 MiB.

    `commands` uint64[n], as `encoded` for batch 0, are those that it carries out, unless the
    transport is the disk; `answers` is the room for the answers, in bytes.

    Raises `BadInput` for no such place: within 1 MiB to 3 GiB.
    """
    size = size_of(commands, answers)
    if base % (2 << 20) or not 1 << 20 <= base <= _TOP - size:
        raise BadInput(f"{base:#x} is no place of the monitor: 2 MiB to 3 GiB, by 2 MiB")
    image = bytearray(places.FIXED)
    _put(image, places.CODE, _assembled(SOURCES, places.CODE), places.CODE_PAGES * PAGE)
    _put(image, places.DATA, _data(base, transport, commands, answers), PAGE)
    _put(image, places.GDT, _GDT, places.TSS - places.GDT)
    _put(image, places.TSS, bytes(102) + struct.pack("<H", 104), 104)
    for at, entry in _tables(base).items():
        image[at : at + 8] = entry.to_bytes(8, "little")
    loaded = places.FIXED + (0 if commands is None else 8 * len(commands))
    _put(image, places.HEAD, _head(base, loaded, size), PAGE)
    if commands is not None:
        image += commands.astype("<u8").tobytes()
    return bytes(image)


def _up(size: int) -> int:
    return -(-size // PAGE) * PAGE


def _put(image: bytearray, at: int, data: bytes, room: int) -> None:
    if len(data) > room:
        raise AssemblyError(f"{len(data)} bytes of the monitor don't fit into {room}")
    image[at : at + len(data)] = data


def _head(base: int, loaded: int, size: int) -> bytes:
    """Return the first page: header, what the image says of itself, where execution begins."""
    header = (_MULTIBOOT, _MULTIBOOT_FLAGS, -(_MULTIBOOT + _MULTIBOOT_FLAGS) & 0xFFFF_FFFF)
    head = bytearray(_ENTRY + 10)
    struct.pack_into("<8I", head, 0, *header, base, base, base + loaded, base + size, base + _ENTRY)
    head[_SAYS : _SAYS + len(_TITLE)] = _TITLE
    # mov ebp, base; jmp ENTRY
    struct.pack_into("<BIBi", head, _ENTRY, 0xBD, base, 0xE9, places.ENTRY - (_ENTRY + 10))
    entry = _assembled((_ENTRY_SOURCE,), places.ENTRY, bits=32)
    return bytes(head).ljust(places.ENTRY, b"\0") + entry


def _data(base: int, transport: Transport, commands: U64 | None, answers: int) -> bytes:
    """Return the variables' first values; the assembly has their places as symbols."""
    size = size_of(commands, answers)
    first = base + size - _up(answers)
    values = {
        "D_TRANSPORT": int(transport),
        "D_COMMANDS": base + places.FIXED,
        "D_COMMAND_WORDS": 0 if commands is None else len(commands),
        "D_ANSWERS": first,
        "D_ANSWERS_END": first + answers,
        "D_OUT": first,
        "D_WRITTEN": first,
        "D_END": base + size,
        "D_GDTR": 0xFF | base + places.GDT << 16,
    }
    data = bytearray(8 * len(_NAMES))
    for name, value in values.items():
        width = 16 if name == "D_GDTR" else 8
        data[_VARIABLES[name] : _VARIABLES[name] + width] = value.to_bytes(width, "little")
    return bytes(data)


_REGISTER_NAMES = tuple(
    f"D_{'GUEST_' if name in {'rsp', 'cr2'} else ''}{name.upper()}" for name in REGISTERS
)
_NAMES = (
    "D_INFO",
    "D_TRANSPORT",
    "D_COMMANDS",
    "D_COMMAND_WORDS",
    "D_ANSWERS",
    "D_ANSWERS_END",
    "D_OUT",
    "D_WRITTEN",
    "D_END",
    "D_GDTR",
    "D_GDTR_REST",
    "D_IDTR",
    "D_IDTR_REST",
    "D_RAM_COUNT",
    "D_BATCH",
    "D_BATCH_END",
    "D_SEQUENCE",
    "D_COMMAND",
    "D_NEXT",
    "D_RECORD",
    "D_RESUME",
    "D_RSP",
    "D_VECTOR",
    "D_ERROR",
    "D_RIP",
    "D_CR2",
    *_REGISTER_NAMES,
    "D_HANDLED",
    "D_ROWS",
    "D_COUNT",
    "D_LAUNCHED",
    "D_REGION",
    "D_NO_EPT",
    "D_NO_EPT_REST",
)
_VARIABLES: Mapping[str, int] = {name: 8 * at for at, name in enumerate(_NAMES)}
"""Offsets in the page of variables, 8 bytes each."""

_GDT = struct.pack(
    "<4Q",
    0,
    0x00CF9B000000FFFF,  # 0x08: code of 32 bits
    0x00AF9B000000FFFF,  # 0x10: code of 64 bits
    0x00CF93000000FFFF,  # 0x18: data
)
"""Behind them, at 0x30, the TSS of 16 bytes; Accessed is set, against writes."""


def _tables(base: int) -> dict[int, int]:
    """Return the identity map of the first 4 GiB, entries by their offset; the rest is added."""
    entries = {places.PML4 + 8 * at: base + places.PDPT + PAGE * at | _TABLE for at in range(2)}
    for gib in range(4):
        table = places.PD + gib * PAGE
        entries[places.PDPT + 8 * gib] = base + table | _TABLE
        entries |= {table + 8 * at: (gib << 30) + (at << 21) | _LEAF for at in range(512)}
    return entries


def symbols() -> dict[str, int]:
    """Return the constants that the monitor's sources use, by name."""
    return {
        **{f"P_{name}": getattr(places, name) for name in places.__all__},
        **{name: places.DATA + at for name, at in _VARIABLES.items()},
        **{f"OP_{op.name}": op.value for op in Op},
        **{f"STATUS_{status.name}": status.value for status in Status},
        **{f"REFUSAL_{refusal.name}": refusal.value for refusal in Refusal},
        **{f"FLAG_{flag.name}": flag.value for flag in Flag},
        **{f"RUN_{flag.name}": flag.value for flag in RunFlag},
        **{f"TRANSPORT_{each.name}": each.value for each in Transport},
        "FORMAT": FORMAT,
        "SUM_START": SUM_START,
        "REGISTERS": len(REGISTERS),
        "KEPT_WORDS": _KEPT_WORDS,
        "MARK": MARK,
        "RING": RING,
        "WAITING": WAITING,
        "COMMANDS_SECTOR": COMMANDS_SECTOR,
        "ANSWERS_SECTOR": ANSWERS_SECTOR,
        "UNEXPECTED_HEAD": Op.GREETING | Status.FAULT << 8,
    }


@cache
def _assembled(sources: Sequence[str], offset: int, *, bits: int = 64) -> bytes:
    folder = resources.files("crosswalk.guest").joinpath("asm")
    text = "\n".join(folder.joinpath(source).read_text(encoding="utf-8") for source in sources)
    return assemble(sources[0], text, bits=bits, address=offset, symbols=symbols())
