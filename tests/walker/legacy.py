"""32-bit and PAE paging structures to try the walker on, and the walk as anybody would write it.

Nothing of the walker's is used: formats and bits are written out here once more, from the manual.
"""

from dataclasses import dataclass
from functools import cached_property, reduce
from operator import or_

from hypothesis import strategies as st

from crosswalk.walker import PagingContext, SparseWords, Vendor
from tests.walker.build import OPEN, PAT_LARGE, PS, RW, US, USED, XD, A, D, G, P, segments_of
from tests.walker.naive import Page, address, any_bit

FRAME, MIB4 = 0x1000, 1 << 22
SHIFTS = {"32-bit": {2: 22, 1: 12}, "PAE": {3: 30, 2: 21, 1: 12}}
SIZES = {"32-bit": 4, "PAE": 8}


def legacy(
    mode="32-bit",
    *,
    root=0x1000,
    wp=True,
    pse=True,
    nxe=True,
    smep=False,
    smap=False,
    pke=False,
    ac=False,
    **others,
):
    """The context of this mode that has these switches; `others` are its own fields."""
    return PagingContext(
        cr3=root,
        cr0=0x80000001 | wp << 16,
        cr4=(mode == "PAE") << 5 | pse << 4 | smep << 20 | smap << 21 | pke << 22,
        efer=nxe << 11,
        rflags_ac=ac,
        **others,
    )


class Tables:
    """Paging structures of either mode that grow as pages are mapped, in the next free frame."""

    def __init__(self, mode="32-bit", root=0x1000, ram=((0, 1 << 24),)):
        self.mode, self.root, self.ram = mode, root, ram
        self.entries = {}
        self._free = (root & -FRAME) + FRAME

    def map(self, va, pa, flags=OPEN, *, level=1, upper=OPEN):
        """Map the page of this level; missing tables are made with the flags `upper`."""
        for above in [each for each in SHIFTS[self.mode] if each > level]:
            place = self.place(va, above)
            if place not in self.entries:
                loaded = self.mode == "PAE" and above == 3
                self.entries[place] = self._free | (P if loaded else upper)
                self._free += FRAME
        self.entries[self.place(va, level)] = pa | flags
        return self

    def place(self, va, level):
        """The physical address of the entry of this level that `va` selects."""
        table = self.root
        for number, shift in SHIFTS[self.mode].items():
            place = table + SIZES[self.mode] * (va >> shift & _last(self.mode, number))
            if number == level:
                return place
            table = self.entries[place] & 0x000F_FFFF_FFFF_F000
        raise AssertionError(level)

    def change(self, va, level, *, add=0, drop=0):
        """Set and clear bits of the entry of this level that `va` selects."""
        place = self.place(va, level)
        self.entries[place] = self.entries[place] & ~drop | add
        return self

    @property
    def words(self):
        return words_of(self.entries)

    @property
    def memory(self):
        return SparseWords(self.ram, self.words)


def _last(mode, level):
    return {"32-bit": 1023, "PAE": 3 if level == 3 else 511}[mode]


def words_of(entries):
    """The 8-byte words of memory that hold these entries."""
    words = {}
    for pa, entry in entries.items():
        words[pa & -8] = words.get(pa & -8, 0) | entry << pa % 8 * 8
    return words


@dataclass(frozen=True)
class LegacySoup:
    """A few frames of entries that point among themselves and elsewhere, and how to read them."""

    mode: str
    entries: dict[int, int]
    frames: tuple[int, ...]
    context: PagingContext

    @cached_property
    def words(self):
        return words_of(self.entries)

    @cached_property
    def memory(self):
        return SparseWords([(frame, FRAME) for frame in self.frames], self.words)

    @cached_property
    def segments(self):
        return segments_of(self.words, [(frame, FRAME) for frame in self.frames])

    def in_use(self, table, level):
        """The indices of a table's entries that are not zero."""
        size = SIZES[self.mode]
        count = _last(self.mode, level) + 1
        return [at for at in range(count) if self.entries.get(table + size * at)]

    def address(self, number):
        """A linear address chosen by `number`, that as a rule follows entries in use."""
        table, va = _root(self), 0
        for level, shift in SHIFTS[self.mode].items():
            number, pick = divmod(number, 256)
            used = self.in_use(table, level)
            at = used[pick % len(used)] if used and pick < 240 else pick & _last(self.mode, level)
            va |= at << shift
            entry = self.entries.get(table + SIZES[self.mode] * at, 0)
            table = address(self.context, entry)
        return va | number % 4 * 0x555


def _root(soup):
    mask = 0xFFFF_F000 if soup.mode == "32-bit" else 0xFFFF_FFE0
    return soup.context.cr3 & mask & ~soup.context.encryption_mask


_FRAMES = (0x0, 0x1000, 0x2000, 0x5000, 0x8000_0000)
_STRAY = (0x3000, 0x20_0000, 0x40_0000, 0x4000_0000, 0xFFFF_F000)
_LOW = (USED, OPEN, OPEN | D, USED, OPEN, USED | D, USED, P | RW | A, P | US, P, RW | A)
_EXTRA = (0,) * 20 + (PS, PS, PS, PS | PAT_LARGE, PS | 1 << 13, PS | 1 << 20, PS | 1 << 21, G)
_HIGH = (0,) * 20 + (XD, XD, XD, *(1 << bit for bit in (32, 36, 39, 40, 51, 52, 59, 62)))
_ROOTS = (0,) * 20 + (RW, US, A, PS, 1 << 3, 1 << 4, 1 << 9, 1 << 45, 1 << 55, XD)
_MASKS = (0, 0, 0, 1 << 51, 1 << 39 | 1 << 40, 1 << 13)
_NUMBER = st.integers(0, 2**24 - 1)


def contexts(mode):
    """Control states of a mode."""
    return st.builds(
        legacy,
        st.just(mode),
        wp=st.booleans(),
        pse=st.sampled_from((True, True, False)),
        nxe=st.sampled_from((True, True, False)),
        smep=st.booleans(),
        smap=st.booleans(),
        pke=st.booleans(),
        ac=st.booleans(),
        pkru=st.integers(0, 2**32 - 1),
        maxphyaddr=st.integers(32, 52),
        vendor=st.sampled_from(Vendor),
        encryption_mask=st.sampled_from(_MASKS if mode == "PAE" else (0,)),
    )


def _chosen(number, *choices):
    for values in choices:
        number, pick = divmod(number, len(values))
        yield values[pick]


@st.composite
def legacy_soups(draw, mode=None, most=5):
    """Draw a soup of at most `most` entries a table, the PDPT aside, which has four."""
    mode = draw(st.sampled_from(("32-bit", "PAE"))) if mode is None else mode
    frames = _FRAMES[: draw(st.integers(2, len(_FRAMES)))]
    targets = frames * 8 + _STRAY
    last = _last(mode, 1)
    places = (0, 1, 2, 3, 4, 7, last // 2, last // 2 + 1, last - 1, last)
    high = _HIGH if mode == "PAE" else (0,)
    entries = {}
    for frame in frames:
        for at in draw(st.lists(st.sampled_from(places), max_size=most, unique=True)):
            bits = _chosen(draw(_NUMBER), _LOW, _EXTRA, high, targets)
            entries[frame + SIZES[mode] * at] = reduce(or_, bits)
    root = draw(st.sampled_from(frames))
    if mode == "PAE":
        root |= 32 * draw(st.sampled_from((0, 0, 1, 127)))
        for at in range(4):
            present = draw(st.sampled_from((P, P, P, 0)))
            entry = reduce(or_, _chosen(draw(_NUMBER), _ROOTS, targets), present)
            entries[root + 8 * at] = entry
    fields = {
        name: getattr(settings, name)
        for settings in [draw(contexts(mode))]
        for name in PagingContext.__dataclass_fields__
    }
    return LegacySoup(mode, entries, frames, PagingContext(**fields | {"cr3": root}))


def is_page(soup, level, entry):
    if level == 1:
        return True
    large = soup.mode == "PAE" or soup.context.cr4 >> 4 & 1 == 1
    return level == 2 and large and entry >> 7 & 1 == 1


def is_reserved(soup, level, entry):
    width = soup.context.maxphyaddr
    page = is_page(soup, level, entry)
    entry &= ~soup.context.encryption_mask
    if soup.mode == "32-bit":
        return level == 2 and page and any_bit(entry, min(width, 40) - 19, 22)
    if any_bit(entry, width, 63):
        return True
    if level == 3:
        return any_bit(entry, 1, 3) or any_bit(entry, 5, 9) or any_bit(entry, 63, 64)
    if any_bit(entry, 63, 64) and not soup.context.efer >> 11 & 1:
        return True
    return level == 2 and page and any_bit(entry, 13, 21)


def spoiled(soup):
    """Whether a PDPTE keeps the address space from being loaded: AMD loads none."""
    if soup.mode != "PAE" or soup.context.vendor == "amd":
        return False
    root = [soup.entries.get(_root(soup) + 8 * at, 0) for at in range(4)]
    return any(entry & 1 and is_reserved(soup, 3, entry) for entry in root)


def physical(soup, level, entry):
    if soup.mode == "32-bit" and level == 2:
        high = sum((entry >> bit & 1) << bit + 19 for bit in range(13, 21))
        return entry & 0xFFC0_0000 | high
    return address(soup.context, entry) & -(1 << SHIFTS[soup.mode][level])


def pages(soup):
    """Return (page, physical address) of all pages of a soup, in address order."""
    if spoiled(soup):
        return []
    top = max(SHIFTS[soup.mode])
    return sorted(_visit(soup, _root(soup), top, 0, (True, True, True)))


def _visit(soup, table, level, va, rights):
    shift = SHIFTS[soup.mode][level]
    for at in soup.in_use(table, level):
        entry = soup.entries[table + SIZES[soup.mode] * at]
        if not entry & 1 or is_reserved(soup, level, entry):
            continue
        here = (entry >> 1 & 1 == 1, entry >> 2 & 1 == 1, entry >> 63 == 0)
        if level == 3:
            here = (True, True, True)
        both = tuple(a and b for a, b in zip(rights, here, strict=True))
        found = va + (at << shift)
        if is_page(soup, level, entry):
            page = Page(found, 1 << shift, level, entry, *both, soup.context.encryption_mask)
            yield page, physical(soup, level, entry)
        else:
            yield from _visit(soup, address(soup.context, entry), level - 1, found, both)
