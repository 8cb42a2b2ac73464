"""Types that describe a guest's memory, and their packing.

A description is data: regions with intended rights, raw entries that map nothing, one recursive
slot. Two sides use it independently. Packed into records, it tells the guest's assembly which
entries to write. Its rights, stated by hand beside the flags, are compared with what the walker
predicts and the processor does.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from crosswalk.guest.errors import LayoutError
from crosswalk.walker.architecture import PAGE_BYTES

__all__ = [
    "PAGE",
    "Bit",
    "MemoryMap",
    "Raw",
    "Region",
    "Upper",
    "index_of",
    "key",
    "pack_records",
    "sign_extended",
    "span_of",
]

PAGE = PAGE_BYTES

RECORD = struct.Struct("<10Q")
HEADER = struct.Struct("<QQ")
# What a record's entry is relative to.
ABSOLUTE = 0
FROM_ROOT = 1


class Bit:
    """Bits of a paging-structure entry (Intel SDM vol. 3A, "4-Level Paging and 5-Level Paging")."""

    P = 1 << 0
    RW = 1 << 1
    US = 1 << 2
    PWT = 1 << 3
    PCD = 1 << 4
    A = 1 << 5
    D = 1 << 6
    PS = 1 << 7
    PAT_4K = 1 << 7
    G = 1 << 8
    PAT_LARGE = 1 << 12
    NX = 1 << 63
    # Ignored in every present entry, but that CR4.PKE makes 59..62 the key of a leaf.
    SOFTWARE = 0x7 << 9 | 0x7F << 52


def key(number: int) -> int:
    """Return the bits of a leaf that give it protection key `number`.

    Source: Intel SDM vol. 3A, "Protection Keys".
    """
    return number << 59


def span_of(level: int) -> int:
    """Return how many bytes of the address space one entry at `level` covers."""
    return 1 << (3 + 9 * level)


def index_of(va: int, level: int) -> int:
    """Return which of the 512 entries of its table at `level` a walk to `va` goes through."""
    return va >> (3 + 9 * level) & 511


def sign_extended(va: int, levels: int) -> int:
    """Return `va` with the bits above the linear address width made copies of its top bit."""
    bits = 12 + 9 * levels
    va &= (1 << bits) - 1
    return va | (1 << 64) - (1 << bits) if va >> (bits - 1) else va


@dataclass(frozen=True, slots=True)
class Upper:
    """The flags of entries that lead to a table, by the level of the entry: 2 to 5."""

    changed: tuple[tuple[int, int], ...] = ()

    def flags(self, level: int) -> int:
        """Return the flags of the entry at `level`: all rights, unless it is said otherwise."""
        return dict(self.changed).get(level, Bit.P | Bit.RW | Bit.US)

    @property
    def words(self) -> tuple[int, ...]:
        """The flags at levels 2 to 5."""
        return tuple(self.flags(level) for level in range(2, 6))


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """Neighbouring leaves of one size, and the rights they are intended to give.

    `va` and `pa` are where the first leaf begins, `level` is 1, 2 or 3 (4 KiB, 2 MiB, 1 GiB),
    `flags` everything in the leaf's entry but the address. `supervisor` and `user` are rights as
    "rwx" with dashes, under CR0.WP, EFER.NXE, CR4.SMEP and CR4.SMAP with RFLAGS.AC clear, and
    without PKRU. `upper` are the flags of the entries above, where no region described before has
    made those entries.
    """

    name: str
    va: int
    pa: int
    level: int = 1
    count: int = 1
    flags: int
    supervisor: str
    user: str = "---"
    upper: Upper = field(default_factory=Upper)

    @property
    def entry(self) -> int:
        """The first leaf's entry as it is planted."""
        return self.pa | self.flags | (Bit.PS if self.level > 1 else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """An entry that maps nothing: without P, with a reserved bit, or with no table where it leads.

    An access through it faults; with RSVD in the error code where `reserved`.
    """

    name: str
    va: int
    level: int
    entry: int
    reserved: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryMap:
    """All of a guest's memory: what is mapped, and what is not.

    `ram_size` is in bytes from physical address 0. `recursive_slot` is the index of the root's
    entry that points to the root, `recursive_flags` its flags. `holes` are (name, va, size) of
    ranges without any entry. `symbols` are the constants that the assembly uses.
    """

    levels: int
    ram_size: int
    regions: tuple[Region, ...]
    raws: tuple[Raw, ...]
    holes: tuple[tuple[str, int, int], ...]
    recursive_slot: int
    recursive_flags: int
    symbols: dict[str, int]

    @property
    def recursive_va(self) -> int:
        """The first address below the recursive slot."""
        return sign_extended(self.recursive_slot * span_of(self.levels), self.levels)


def pack_records(memory_map: MemoryMap) -> bytes:
    """Return the description as the guest's assembly reads it: a header and 80-byte records.

    The header is the number of records and a zero, each a 64-bit word. A record is ten: va,
    entry, step, count, level, base (1: the root's address is added to the entry), and the flags
    of upper entries at levels 2 to 5.

    Raises `LayoutError` for a region that isn't aligned to its page size, isn't canonical, or
    has a level that the paging mode lacks.
    """
    records = list(_records(memory_map))
    return HEADER.pack(len(records), 0) + b"".join(RECORD.pack(*record) for record in records)


def _records(memory_map: MemoryMap) -> Iterator[Sequence[int]]:
    levels = memory_map.levels
    for region in memory_map.regions:
        span = span_of(region.level)
        _check_place(region.name, region.va, region.level, levels)
        if region.pa % span or region.count < 1 or region.level > 3:
            raise LayoutError(f"{region.name}: no {region.count} leaves at {region.pa:#x}")
        upper = region.upper.words
        yield region.va, region.entry, span, region.count, region.level, ABSOLUTE, *upper
    for raw in memory_map.raws:
        _check_place(raw.name, raw.va, raw.level, levels)
        yield raw.va, raw.entry, 0, 1, raw.level, ABSOLUTE, *Upper().words
    flags = memory_map.recursive_flags
    yield memory_map.recursive_va, flags, 0, 1, levels, FROM_ROOT, *Upper().words


def _check_place(name: str, va: int, level: int, levels: int) -> None:
    if va != sign_extended(va, levels) or va % span_of(level):
        raise LayoutError(f"{name}: no entry at level {level} begins at {va:#x}")
    if not 1 <= level <= levels:
        raise LayoutError(f"{name}: there is no level {level}")
