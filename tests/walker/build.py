"""Paging structures to try the walker on: small ones built by hand, and hostile soups.

The bits are written out here once more, from the manual: what the walker calls them and what
it makes of them is under test.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from operator import or_

from hypothesis import strategies as st

from crosswalk.walker import (
    Access,
    AccessType,
    PagingContext,
    Segments,
    SparseWords,
    Vendor,
    translate,
)

P, RW, US, PWT, PCD, A, D, PS, G = (1 << bit for bit in range(9))
PAT_LARGE = 1 << 12
XD = 1 << 63
OPEN = P | RW | US
USED = OPEN | A

READ, WRITE, EXECUTE = AccessType.READ, AccessType.WRITE, AccessType.EXECUTE

KIB4, MIB2, GIB1 = 1 << 12, 1 << 21, 1 << 30
SIZES = {1: KIB4, 2: MIB2, 3: GIB1}
ROOT = 0x1000
TOP = 1 << 64


def context(
    *,
    levels=4,
    root=ROOT,
    wp=True,
    nxe=True,
    smep=False,
    smap=False,
    pke=False,
    ac=False,
    **others,
):
    """The context that has these switches; `others` are its own fields."""
    return PagingContext(
        cr3=root,
        cr0=0x80000001 | wp << 16,
        cr4=0x20 | (levels == 5) << 12 | smep << 20 | smap << 21 | pke << 22,
        efer=0x500 | nxe << 11,
        rflags_ac=ac,
        **others,
    )


class Builder:
    """Paging structures that grow as pages are mapped, each table in the next free frame."""

    def __init__(self, levels=4, ram=((0, 1 << 24),)):
        self.levels = levels
        self.ram = ram
        self.words = {}
        self._free = ROOT + KIB4

    def map(self, va, pa, flags=OPEN, *, level=1, upper=OPEN):
        """Map the page of this level; missing tables are made with the flags `upper`."""
        for above in range(self.levels, level, -1):
            place = self.place(va, above)
            if place not in self.words:
                self.words[place] = self._free | upper
                self._free += KIB4
        self.words[self.place(va, level)] = pa | flags
        return self

    def place(self, va, level):
        """The physical address of the entry of this level that `va` selects."""
        table = ROOT
        for above in range(self.levels, level, -1):
            table = self.words[table + 8 * index(va, above)] & 0x000F_FFFF_FFFF_F000
        return table + 8 * index(va, level)

    def change(self, va, level, *, add=0, drop=0):
        """Set and clear bits of the entry of this level that `va` selects."""
        place = self.place(va, level)
        self.words[place] = self.words[place] & ~drop | add
        return self

    @property
    def memory(self):
        return SparseWords(self.ram, self.words)

    def ask(self, va, access=READ, cpl=0, ac=None, **switches):
        """Translate one access under `context(**switches)`."""
        switches.setdefault("levels", self.levels)
        return translate(self.memory, context(**switches), Access(va, access, cpl, ac))


def index(va, level):
    return va >> 3 + 9 * level & 511


def linear(*indices, offset=0):
    """The canonical address that selects these indices, the root's first."""
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


@dataclass(frozen=True)
class Soup:
    """A few frames of entries that point among themselves and elsewhere, and how to read them."""

    words: dict[int, int]
    frames: tuple[int, ...]
    context: PagingContext

    @property
    def ram(self) -> Iterable[tuple[int, int]]:
        return [(frame, KIB4) for frame in self.frames]

    @cached_property
    def memory(self):
        return SparseWords(self.ram, self.words)

    @cached_property
    def segments(self):
        return segments_of(self.words, self.ram)

    @cached_property
    def in_use(self):
        found = {}
        for pa in sorted(self.words):
            found.setdefault(pa // KIB4 * KIB4, []).append(pa % KIB4 // 8)
        return found

    def address(self, number):
        """A linear address chosen by `number`, that as a rule follows entries in use."""
        table, indices = self.context.root, []
        for _ in range(self.context.levels):
            number, pick = divmod(number, 256)
            in_use = self.in_use.get(table, ())
            at = in_use[pick % len(in_use)] if in_use and pick < 240 else pick
            indices.append(at)
            entry = self.words.get(table + 8 * at, 0)
            table = entry & 0x000F_FFFF_FFFF_F000 & ~self.context.encryption_mask
        va = linear(*indices, offset=(number & 3) * 0x555)
        return va ^ (1 << 60 if number >> 2 & 15 == 7 else 0)


_FRAMES = (0x0, 0x1000, 0x2000, 0x5000, 0x8000_0000)
_STRAY = (0x3000, 0x20_0000, 0x40_0000, 0x4000_0000, 0x4020_0000, 0xFFFF_F000)
_INDICES = (0, 1, 2, 254, 255, 256, 257, 511)
_LOW = (USED, OPEN, OPEN | D, USED, OPEN, USED | D, USED, OPEN, OPEN, OPEN)
_LOW += (P | RW | A, P | US, P | RW, P, USED, RW | A)
_EXTRA = (0,) * 40
_EXTRA += (PS, PS, PS, PS | PAT_LARGE, PS | 1 << 21, G, XD, XD, XD, PWT | PCD, 1 << 9, 1 << 11)
_EXTRA += tuple(1 << bit for bit in (12, 13, 20, 21, 29, 32, 39, 40, 51, 52, 58, 62))
_KEYS = (0, 0, 0, 0, 1, 7, 8, 15)
_MASK, _NUMBER = st.integers(1, 255), st.integers(0, 2**20 - 1)


def _entry(number, targets):
    """An entry made of the choices that `number` stands for; from 0, the plainest."""
    for choices in (_LOW, _EXTRA, _KEYS, targets):
        number, pick = divmod(number, len(choices))
        yield choices[pick] << (59 if choices is _KEYS else 0)


CONTEXTS = st.builds(
    context,
    levels=st.sampled_from((4, 5)),
    wp=st.booleans(),
    nxe=st.sampled_from((True, True, False)),
    smep=st.booleans(),
    smap=st.booleans(),
    pke=st.booleans(),
    ac=st.booleans(),
    pkru=st.integers(0, 2**32 - 1),
    maxphyaddr=st.integers(32, 52),
    page1gb=st.booleans(),
    vendor=st.sampled_from(Vendor),
)

LAM_SUP, LASS, UAIE = 1 << 28, 1 << 27, 1 << 20
LAM_U48, LAM_U57 = 1 << 62, 1 << 61
MASKS = (0, 0, 1 << 47, 1 << 51, 1 << 39 | 1 << 40, 1 << 51 | 1 << 12, 1 << 13)


def extended(plain, user, uaie, cr4, mask):
    """A context with the features that change addresses, as far as the vendor has them."""
    amd = plain.vendor is Vendor.AMD
    return replace(
        plain,
        cr3=plain.cr3 | (0 if amd else user) | mask,
        cr4=plain.cr4 | (0 if amd else cr4),
        efer=plain.efer | (uaie if amd else 0),
        encryption_mask=mask,
    )


EXTENDED = st.builds(
    extended,
    CONTEXTS,
    st.sampled_from((0, LAM_U48, LAM_U57, LAM_U48 | LAM_U57)),
    st.sampled_from((0, UAIE)),
    st.sampled_from((0, LAM_SUP, LASS, LASS | LAM_SUP)),
    st.sampled_from(MASKS),
)
"""With LAM, LASS, UAI and encryption masks, in which no emulator here can be asked."""


@st.composite
def soups(draw, most=4, contexts=CONTEXTS):
    """Draw a soup of at most `most` entries a table: at most `most` ^ levels mappings.

    Entries refer to tables of the soup (any of them, itself too), to pages, and to nowhere,
    and have reserved bits set here and there, so that whether a table is shared, recursive or
    reached on several levels is left to chance.
    """
    frames = _FRAMES[: draw(st.integers(2, len(_FRAMES)))]
    targets = frames * 8 + _STRAY
    words = {}
    for frame in frames:
        mask = draw(_MASK)
        chosen = [at for bit, at in enumerate(_INDICES) if mask >> bit & 1][:most]
        for at in chosen:
            words[frame + 8 * at] = reduce(or_, _entry(draw(_NUMBER), targets))
    settings = draw(contexts)
    if settings.encryption_mask and draw(st.booleans()):
        words = {pa: word | settings.encryption_mask for pa, word in words.items()}
    root = draw(st.sampled_from(frames))
    return Soup(words, frames, _with_root(settings, root))


def extended_soups(most=4):
    """Soups under contexts with every feature, as `soups` draws them."""
    return soups(most, EXTENDED)


def _with_root(settings, root):
    fields = {name: getattr(settings, name) for name in PagingContext.__dataclass_fields__}
    return PagingContext(**fields | {"cr3": settings.cr3 >> 32 << 32 | root})
