"""One builder of page tables for all paging modes, and the contexts they are read under.

Formats and bits are written out here once more, from the manual: what the walker calls them and
what it makes of them is under test. Nothing of the walker's decides here.
"""

from dataclasses import dataclass

from crosswalk.walker import (
    Access,
    AccessType,
    PagingContext,
    Segments,
    SparseWords,
    translate,
)
from crosswalk.walker.nested import NestedContext, translate_nested, walk_nested

P, RW, US, PWT, PCD, A, D, PS, G = (1 << bit for bit in range(9))
PAT_LARGE = 1 << 12
XD = 1 << 63
OPEN = P | RW | US
USED = OPEN | A
ADDRESS = 0x000F_FFFF_FFFF_F000

READ, WRITE, EXECUTE = AccessType.READ, AccessType.WRITE, AccessType.EXECUTE

KIB4, MIB2, MIB4, GIB1 = 1 << 12, 1 << 21, 1 << 22, 1 << 30
SIZES = {1: KIB4, 2: MIB2, 3: GIB1}
ROOT = 0x1000
NCR3 = 0x80_0000
TOP = 1 << 64


@dataclass(frozen=True)
class Mode:
    """A paging mode: the width of an address, the shift of each level, the root's first."""

    va_bits: int
    shifts: dict[int, int]
    entry_size: int = 8

    def count(self, level):
        """The number of entries in a table of this level."""
        return 1 << self.shifts.get(level + 1, self.va_bits) - self.shifts[level]

    def index(self, va, level):
        return va >> self.shifts[level] & self.count(level) - 1


MODES = {
    "32-bit": Mode(32, {2: 22, 1: 12}, entry_size=4),
    "PAE": Mode(32, {3: 30, 2: 21, 1: 12}),
    4: Mode(48, {4: 39, 3: 30, 2: 21, 1: 12}),
    5: Mode(57, {5: 48, 4: 39, 3: 30, 2: 21, 1: 12}),
}
"""IA-32e mode is named by its number of levels."""

LONG, LEGACY = (4, 5), ("32-bit", "PAE")


def context(
    mode=4,
    *,
    root=ROOT,
    wp=True,
    pse=None,
    nxe=True,
    smep=False,
    smap=False,
    pke=False,
    pks=False,
    ac=False,
    **others,
):
    """The context of a mode that has these switches; `others` are its own fields.

    PSE, which IA-32e mode doesn't ask, is set in the two others unless it is given.
    """
    pse = mode in LEGACY if pse is None else pse
    pae, la57 = mode != "32-bit", mode == 5
    return PagingContext(
        cr3=root,
        cr0=0x80000001 | wp << 16,
        cr4=pse << 4 | pae << 5 | la57 << 12 | smep << 20 | smap << 21 | pke << 22 | pks << 24,
        efer=(0x500 if mode in LONG else 0) | nxe << 11,
        rflags_ac=ac,
        **others,
    )


class PageTables:
    """Page tables that grow as pages are mapped, each table in the next free frame.

    `entries` are those that were written, by physical address.
    """

    def __init__(self, mode=4, *, root=ROOT, ram=((0, 1 << 24),)):
        self.mode, self.root, self.ram = mode, root, ram
        self.entries = {}
        self._format = MODES[mode]
        self._free = (root & -KIB4) + KIB4

    def map(self, va, pa, flags=OPEN, *, level=1, upper=OPEN):
        """Map the page of this level; missing tables are made with the flags `upper`.

        A PDPTE of PAE paging, which has no rights, gets P alone.
        """
        for above in (each for each in self._format.shifts if each > level):
            entry = self.entry_pa(va, above)
            if entry not in self.entries:
                pdpte = self.mode == "PAE" and above == 3
                self.entries[entry] = self._free | (P if pdpte else upper)
                self._free += KIB4
        self.entries[self.entry_pa(va, level)] = pa | flags
        return self

    def entry_pa(self, va, level=1):
        """The physical address of the entry of this level that `va` selects."""
        table = self.root
        for above in self._format.shifts:
            entry = table + self._format.entry_size * self._format.index(va, above)
            if above == level:
                return entry
            table = self.entries[entry] & ADDRESS
        raise AssertionError(level)

    def change(self, va, level=1, *, add=0, drop=0):
        """Set and clear bits of the entry of this level that `va` selects."""
        entry = self.entry_pa(va, level)
        self.entries[entry] = self.entries[entry] & ~drop | add
        return self

    @property
    def words(self):
        """The 8-byte words of memory that hold the entries."""
        return words_of(self.entries, self._format.entry_size)

    @property
    def memory(self):
        return SparseWords(self.ram, self.words)

    def ask(self, va, access=READ, cpl=0, ac=None, **switches):
        """Translate one access under `context(**switches)`."""
        asked = context(**{"mode": self.mode, "root": self.root} | switches)
        return translate(self.memory, asked, Access(va, access, cpl, ac))


class NestedPageTables:
    """A guest's tables and the nested ones beneath them, `host`, in one memory of the host's.

    Addresses in `guest` are guest-physical. Guest-physical memory lies `shift` bytes further up
    in system-physical memory, where its words are put.
    """

    def __init__(self, guest=None, *, shift=0x40_0000):
        self.guest = guest if guest is not None else PageTables()
        self.host = PageTables(root=NCR3)
        self.shift = shift

    def map_all(self, frames):
        """Map these guest-physical frames where they lie."""
        for gpa in frames:
            self.host.map(gpa, gpa + self.shift)
        return self

    @property
    def words(self):
        shifted = {pa + self.shift: word for pa, word in self.guest.words.items()}
        return shifted | self.host.words

    @property
    def memory(self):
        return SparseWords(self.host.ram, self.words)

    def context(self, *, host=None, **switches):
        guest = context(**{"mode": self.guest.mode} | switches)
        return NestedContext(guest, host or context(root=NCR3))

    def ask(self, va, access=READ, cpl=0, **switches):
        """Translate one access of the guest's."""
        return translate_nested(self.memory, self.context(**switches), Access(va, access, cpl))

    def walk(self, va, **switches):
        return walk_nested(self.memory, self.context(**switches), va)


def words_of(entries, entry_size=4):
    """The 8-byte words of memory that hold these entries: they themselves, if they have 8."""
    if entry_size == 8:
        return entries
    words = {}
    for pa, entry in entries.items():
        words[pa & -8] = words.get(pa & -8, 0) | entry << pa % 8 * 8
    return words


def linear(*indices, offset=0):
    """The canonical address in IA-32e mode that selects these indices, the root's first."""
    va = 0
    for at in indices:
        va = va << 9 | at
    va = va << 12 | offset
    width = 12 + 9 * len(indices)
    return va | (TOP - (1 << width) if va >> width - 1 else 0)


def segments_of(words, ranges):
    """The same memory as `SparseWords(ranges, words)`, as bytes."""
    parts = []
    for start, size in ranges:
        data = bytearray(size)
        for pa, value in words.items():
            if start <= pa < start + size:
                data[pa - start : pa - start + 8] = value.to_bytes(8, "little")
        parts.append((start, bytes(data)))
    return Segments(parts)


class CountingMemory:
    """Counts the tables that are read from another memory."""

    def __init__(self, memory):
        self.memory = memory
        self.read_tables = 0

    def __getattr__(self, name):
        return getattr(self.memory, name)

    def tables(self, frames):
        self.read_tables += len(frames)
        return self.memory.tables(frames)


def chain(levels, leaf, *, root=ROOT):
    """As many tables as levels; all 512 entries of each are the next, of the last the leaf."""
    frames = [root + at * KIB4 for at in range(levels)]
    entries = [frame | USED for frame in frames[1:]] + [leaf]
    words = {
        frame + 8 * at: entry
        for frame, entry in zip(frames, entries, strict=True)
        for at in range(512)
    }
    return SparseWords([(root, levels * KIB4)], words)
