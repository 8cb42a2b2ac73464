"""Page tables drawn by Hypothesis: tables that refer to each other, to pages and to nowhere."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from hypothesis import strategies as st

from crosswalk.walker import Access, AccessType, PagingContext, SparseWords, Vendor
from tests.tables import (
    ADDRESS,
    KIB4,
    LEGACY,
    LONG,
    MODES,
    OPEN,
    PAT_LARGE,
    PCD,
    PS,
    PWT,
    RW,
    US,
    USED,
    XD,
    A,
    D,
    G,
    P,
    context,
    linear,
    segments_of,
    words_of,
)


@dataclass(frozen=True)
class RandomTables:
    """Entries in a few frames of RAM by physical address, and the context to read them under."""

    mode: str | int
    entries: dict[int, int]
    frames: tuple[int, ...]
    context: PagingContext

    @property
    def ram(self) -> Iterable[tuple[int, int]]:
        return [(frame, KIB4) for frame in self.frames]

    @cached_property
    def words(self):
        return words_of(self.entries, MODES[self.mode].entry_size)

    @cached_property
    def memory(self):
        return SparseWords(self.ram, self.words)

    @cached_property
    def segments(self):
        return segments_of(self.words, self.ram)

    @cached_property
    def _by_frame(self):
        found = {}
        for pa in sorted(pa for pa, entry in self.entries.items() if entry):
            found.setdefault(pa & -KIB4, []).append(pa)
        return found

    def in_use(self, table, level):
        """The indices of a table's entries that are not zero."""
        mode = MODES[self.mode]
        end = table + mode.entry_size * mode.count(level)
        inside = (pa for pa in self._by_frame.get(table & -KIB4, ()) if table <= pa < end)
        return [(pa - table) // mode.entry_size for pa in inside]

    def address(self, number):
        """A linear address chosen by `number`, that as a rule follows entries in use."""
        mode = MODES[self.mode]
        table, indices = self.context.root, []
        for level in mode.shifts:
            number, pick = divmod(number, 256)
            in_use = self.in_use(table, level)
            at = in_use[pick % len(in_use)] if in_use and pick < 240 else pick % mode.count(level)
            indices.append(at)
            entry = self.entries.get(table + mode.entry_size * at, 0)
            table = entry & ADDRESS & ~self.context.encryption_mask
        offset = number % 4 * 0x555
        if self.mode in LEGACY:
            return offset + sum(
                at << shift for at, shift in zip(indices, mode.shifts.values(), strict=True)
            )
        return linear(*indices, offset=offset) ^ (1 << 60 if number >> 2 & 15 == 7 else 0)


_FRAMES = (0x0, 0x1000, 0x2000, 0x5000, 0x8000_0000)
_STRAY = (0x3000, 0x20_0000, 0x40_0000, 0x4000_0000, 0x4020_0000, 0xFFFF_F000)
_LOW = (USED, OPEN, OPEN | D, USED, OPEN, USED | D, USED, OPEN, OPEN, OPEN)
_LOW += (P | RW | A, P | US, P | RW, P, USED, RW | A)
_LARGE = (PS, PS, PS, PS | PAT_LARGE, PS | 1 << 13, PS | 1 << 20, PS | 1 << 21, G, PWT | PCD)
_EXTRA = (0,) * 40 + _LARGE
_HIGH = (XD, XD, XD, *(1 << bit for bit in (32, 36, 39, 40, 51, 52, 58, 62)))
_KEYS = tuple(key << 59 for key in (0, 0, 0, 0, 1, 7, 8, 15))
_SOFTWARE = tuple(1 << bit for bit in (9, 11, 12, 13, 20, 21, 29))
_FLAGS = {
    "32-bit": (_LOW, (0,) * 20 + _LARGE),
    "PAE": (_LOW, (0,) * 20 + _LARGE, (0,) * 20 + _HIGH),
    4: (_LOW, _EXTRA + _HIGH + _SOFTWARE, _KEYS),
    5: (_LOW, _EXTRA + _HIGH + _SOFTWARE, _KEYS),
}
"""What an entry is the union of: one value of each."""
_PDPTES = ((0,) * 20 + (RW, US, A, PS, 1 << 3, 1 << 4, 1 << 9, 1 << 45, 1 << 55, XD),)
_MASK, _NUMBER = st.integers(1, 255), st.integers(0, 2**24 - 1)


def _entry(number, choices):
    """The entry made of the choices that `number` stands for; from 0, the plainest."""
    entry = 0
    for values in choices:
        number, pick = divmod(number, len(values))
        entry |= values[pick]
    return entry


def _indices(mode):
    """The indices in use: first and last ones, and those around the middle."""
    count = MODES[mode].count(1)
    return (0, 1, 2, count // 2 - 2, count // 2 - 1, count // 2, count // 2 + 1, count - 1)


def _contexts(mode, masks=(0,)):
    return st.builds(
        context,
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
        page1gb=st.booleans(),
        vendor=st.sampled_from(Vendor),
        encryption_mask=st.sampled_from(masks),
    )


LAM_SUP, LASS, PKS, UAIE = 1 << 28, 1 << 27, 1 << 24, 1 << 20
LAM_U48, LAM_U57 = 1 << 62, 1 << 61
MASKS = (0, 0, 1 << 47, 1 << 51, 1 << 39 | 1 << 40, 1 << 51 | 1 << 12, 1 << 13)


def extended(plain, user, uaie, cr4, mask):
    """A context with the features that change addresses, as far as the vendor has them."""
    amd = plain.vendor is Vendor.AMD
    return replace(
        plain,
        cr3=plain.cr3 | (0 if amd else user) | mask,
        cr4=plain.cr4 | (0 if amd else cr4),
        pkrs=~plain.pkru & 0xFFFF_FFFF,
        efer=plain.efer | (uaie if amd else 0),
        encryption_mask=mask,
    )


CONTEXTS = {mode: _contexts(mode) for mode in ("32-bit", *LONG)}
CONTEXTS["PAE"] = _contexts("PAE", MASKS)
EXTENDED = CONTEXTS | {
    mode: st.builds(
        extended,
        CONTEXTS[mode],
        st.sampled_from((0, LAM_U48, LAM_U57, LAM_U48 | LAM_U57)),
        st.sampled_from((0, UAIE)),
        st.sampled_from((0, LAM_SUP, LASS, LASS | LAM_SUP, PKS, PKS)),
        st.sampled_from(MASKS),
    )
    for mode in LONG
}
"""With LAM, LASS, UAI, PKS and encryption masks, in which no emulator here can be asked."""


@st.composite
def random_tables(draw, modes=LONG, *, most=4, contexts=CONTEXTS):
    """Draw tables of one of the modes, with at most `most` entries each, a PDPT's four aside.

    There are at most `most` ^ levels mappings. Entries refer to tables that are there (any of
    them, their own too), to pages, and to nowhere, and have reserved bits set here and there, so
    that whether a table is shared, recursive or reached on several levels is left to chance.
    """
    mode = draw(st.sampled_from(tuple(modes)))
    frames = _FRAMES[: draw(st.integers(2, len(_FRAMES)))]
    targets = (frames * 8 + _STRAY,)
    size, entries = MODES[mode].entry_size, {}
    for frame in frames:
        mask = draw(_MASK)
        chosen = [at for bit, at in enumerate(_indices(mode)) if mask >> bit & 1][:most]
        for at in chosen:
            entries[frame + size * at] = _entry(draw(_NUMBER), _FLAGS[mode] + targets)
    settings, root = draw(contexts[mode]), draw(st.sampled_from(frames))
    if mode == "PAE":
        root |= 32 * draw(st.sampled_from((0, 0, 1, 127)))
        for at in range(4):
            present = draw(st.sampled_from((P, P, P, 0)))
            entries[root + 8 * at] = _entry(draw(_NUMBER), _PDPTES + targets) | present
    if settings.encryption_mask and draw(st.booleans()):
        entries = {pa: entry | settings.encryption_mask for pa, entry in entries.items()}
    cr3 = settings.cr3 >> 32 << 32 | root
    return RandomTables(mode, entries, frames, replace(settings, cr3=cr3))


def extended_tables(modes=MODES, *, most=4):
    """Tables under contexts with every feature, as `random_tables` draws them."""
    return random_tables(modes, most=most, contexts=EXTENDED)


@st.composite
def address_spaces(draw, modes=tuple(MODES)):
    """Draw memory, and contexts of several modes; a root may be any table, and come twice."""
    drawn = draw(extended_tables(modes, most=3))
    others = [
        drawn.context,
        *(draw(EXTENDED[mode]) for mode in draw(st.sets(st.sampled_from(modes)))),
    ]
    found = []
    for paging in draw(st.lists(st.sampled_from(others), min_size=1, max_size=6)):
        frame = draw(st.sampled_from(drawn.frames)) | drawn.context.root % KIB4
        cr3 = paging.cr3 >> 32 << 32 | frame | draw(st.sampled_from((0, 0, 8)))
        found.append(replace(paging, cr3=cr3))
    return drawn.memory, found


CHOICES = st.lists(st.tuples(st.integers(0, 2**46 - 1), st.booleans()), min_size=6, max_size=12)


def accesses_of(tables, choices):
    """Accesses of all types at both CPL, at the addresses that numbers choose: (number, AC)."""
    return [
        Access(tables.address(number), access, cpl, ac)
        for number, ac in choices
        for access in AccessType
        for cpl in (0, 3)
    ]
