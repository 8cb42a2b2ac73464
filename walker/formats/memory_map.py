"""Memory maps: where the parts of a raw image lie in physical memory.

An image without holes has the RAM above the hole below 4 GiB, where a PC has its devices, directly
behind that below it. How much lies below the hole depends on who made the machine.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from mmap import mmap
from types import MappingProxyType
from typing import Annotated, Literal

from msgspec import Meta

from crosswalk.walker.errors import BadInput, LimitExceeded
from crosswalk.walker.formats.documents import Document, Hex64, read_document
from crosswalk.walker.formats.files import map_file
from crosswalk.walker.formats.located_errors import errors_named, one_line
from crosswalk.walker.memory import FRAME, Segments

__all__ = [
    "MAX_PIECES",
    "PRESETS",
    "MemoryMapJson",
    "Piece",
    "around_hole",
    "pieces_of",
    "placed",
]

MAX_PIECES = 1 << 16
"""The most pieces that a memory map may have."""

_PHYSICAL_BITS = 52
_GIB, _MIB = 1 << 30, 1 << 20
_4GIB = 4 * _GIB
_LARGEST_FILE = 1 << 24
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_LONGEST = 200
_NUMBER = r"(?:0[xX][0-9a-fA-F]+(?:_[0-9a-fA-F]+)*|[0-9]+(?:_[0-9]+)*)[kKmMgGtT]?"
_is_piece = re.compile(rf"({_NUMBER}):({_NUMBER}):({_NUMBER})").fullmatch
_is_hole = re.compile(rf"pc:({_NUMBER})").fullmatch


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an image: `size` bytes from byte `offset` on lie at physical address `pa`.

    All three are multiples of 4096.
    """

    offset: int
    pa: int
    size: int

    def __str__(self) -> str:
        return f"{self.offset:#x}:{self.pa:#x}:{self.size:#x}"


class PieceJson(Document, frozen=True, kw_only=True):
    """A piece in a file: numbers are hex strings."""

    offset: Hex64
    pa: Hex64
    size: Hex64


class MemoryMapJson(Document, frozen=True, kw_only=True):
    """A memory map in a file."""

    format: Literal["crosswalk-memory-map/1"]
    pieces: Annotated[list[PieceJson], Meta(min_length=1)]


PRESETS: Mapping[str, Callable[[int], int]] = MappingProxyType(
    {
        # QEMU hw/i386/pc_piix.c, pc_init1: the hole begins at 3.5 GiB, or at 3 GiB if there is one.
        "qemu-pc": lambda ram: ram if ram < 3584 * _MIB else 3 * _GIB,
        # QEMU hw/i386/pc_q35.c, pc_q35_init.
        "qemu-q35": lambda ram: ram if ram < 2816 * _MIB else 2 * _GIB,
        # QEMU hw/i386/microvm.c, microvm_memory_init.
        "qemu-microvm": lambda ram: min(ram, 3 * _GIB),
        # A .vmem; regions in a .vmss say so of each machine.
        "vmware": lambda ram: min(ram, 3 * _GIB),
        # Firecracker src/vmm/src/arch/x86_64/layout.rs, MMIO_MEM_START; 3 GiB where it has PCI.
        "firecracker": lambda ram: min(ram, 3328 * _MIB),
        # Cloud Hypervisor arch/src/x86_64/layout.rs, MEM_32BIT_RESERVED_START.
        "cloud-hypervisor": lambda ram: min(ram, 3 * _GIB),
    }
)
"""The presets by name: each returns how much of so many bytes of RAM lies below the hole."""


def placed(data: mmap | bytes, memory_map: Sequence[str | Piece]) -> Segments:
    """Return the pieces of an image as physical memory, without a copy.

    `memory_map` as in `pieces_of`, which says what is `BadInput`.
    """
    view = memoryview(data)
    return Segments(
        (piece.pa, view[piece.offset : piece.offset + piece.size])
        for piece in pieces_of(memory_map, len(data))
    )


def pieces_of(memory_map: Sequence[str | Piece], size: int) -> tuple[Piece, ...]:
    """Return the pieces of an image of so many bytes, by address.

    `memory_map` has pieces, texts FILE_OFFSET:PA:SIZE of them, and names of files with more (after
    an @, or ending in .json), of the format crosswalk-memory-map/1. Or it is one text: "pc:SIZE",
    where SIZE is the RAM below the hole and the rest begins at 4 GiB, or the name of a preset.
    Numbers are hex with 0x or decimal, underscores may group digits, and K, M, G and T behind them
    are powers of 1,024.

    Pieces may have bytes of the image in common. Raises `BadInput` in one line for a text that is
    none of these, a file that can't be read, and pieces that aren't of whole frames, go beyond the
    image or 52 bits, or overlap in physical memory; `LimitExceeded` beyond `MAX_PIECES`.
    """
    if len(memory_map) == 1 and isinstance(memory_map[0], str):
        below = _below_hole(memory_map[0], size)
        if below is not None:
            return around_hole(below, size)
    pieces = [piece for each in memory_map for piece in _pieces(each)]
    if len(pieces) > MAX_PIECES:
        raise LimitExceeded(f"memory map: {len(pieces)} pieces; at most {MAX_PIECES} are read")
    pieces.sort(key=lambda piece: piece.pa)
    for piece in pieces:
        _check(piece, size)
    for one, other in pairwise(pieces):
        if other.pa < one.pa + one.size:
            raise BadInput(f"memory map: the pieces {one} and {other} overlap at {other.pa:#x}")
    return tuple(pieces)


def _below_hole(text: str, size: int) -> int | None:
    """Return how many bytes lie below the hole by a preset; None where it is none."""
    hole = _is_hole(text) if len(text) <= _LONGEST else None
    if hole is None:
        return PRESETS[text](size) if text in PRESETS else None
    below = _number(hole[1])
    if below % FRAME or not 0 < below <= _4GIB:
        raise BadInput(
            f"memory map {one_line(text)}: the RAM below the hole is a multiple of {FRAME} bytes, "
            "and at most 4G"
        )
    return min(below, size)


def around_hole(below: int, size: int) -> tuple[Piece, ...]:
    """Return the pieces of an image of `size` bytes, `below` of which lie below the hole."""
    if size % FRAME:
        raise BadInput(
            f"raw image: {size} bytes are not a multiple of {FRAME}; is the file truncated?"
        )
    low, high = Piece(0, 0, below), Piece(below, _4GIB, size - below)
    return (low, high) if high.size else (low,)


def _pieces(each: str | Piece) -> list[Piece]:
    if isinstance(each, Piece):
        return [each]
    found = _is_piece(each) if len(each) <= _LONGEST else None
    if found is not None:
        return [Piece(*(_number(part) for part in found.groups()))]
    if each.startswith("@") or each.endswith(".json"):
        return _read_map(each.removeprefix("@"))
    alone = each in PRESETS or (len(each) <= _LONGEST and _is_hole(each) is not None)
    raise BadInput(
        f"memory map {one_line(each)}: "
        + ("is a whole map; there are no pieces beside it" if alone else _NEITHER)
    )


_NEITHER = (
    "is neither FILE_OFFSET:PA:SIZE nor pc:SIZE, no file (@FILE, or FILE.json), and none of "
    f"{', '.join(PRESETS)}"
)


def _read_map(name: str) -> list[Piece]:
    file = map_file(name)
    with errors_named(name):
        document = read_document(file.data, MemoryMapJson, _LARGEST_FILE)
    return [
        Piece(int(each.offset, 16), int(each.pa, 16), int(each.size, 16))
        for each in document.pieces
    ]


def _number(text: str) -> int:
    digits = text.rstrip("kKmMgGtT")
    return int(digits, 0 if "x" in digits.lower() else 10) << _UNITS[text[len(digits) :].upper()]


def _check(piece: Piece, size: int) -> None:
    if (piece.offset | piece.pa | piece.size) % FRAME or not piece.size:
        raise BadInput(f"memory map: the piece {piece} isn't of whole frames of {FRAME} bytes")
    if piece.offset + piece.size > size:
        raise BadInput(
            f"memory map: the piece {piece} ends at byte {piece.offset + piece.size:,}, the file "
            f"at {size:,}"
        )
    if piece.pa + piece.size > 1 << _PHYSICAL_BITS:
        raise BadInput(f"memory map: the piece {piece} ends beyond {_PHYSICAL_BITS} bits")
