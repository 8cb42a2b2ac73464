"""Hypothesis strategies: control states, accesses, whole address spaces.

What they draw is plain where nothing else is needed, so that a failing example shrinks to one
path with few entries, default registers and the bits that matter.
"""

from collections.abc import Sequence

from hypothesis import strategies as st

from crosswalk.emu.findings.layout import Layout
from crosswalk.emu.testing.paths import NO_TABLE, ROOT, TOP_PAGE, Path, address_of, layout_of
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import CR0, CR4, EFER, PagingContext
from crosswalk.walker.entry import LEVELS
from crosswalk.walker.memory import FRAME

__all__ = ["accesses", "contexts", "layouts"]

_OFTEN, _SELDOM = (False, True), (False, False, False, True)
_SWITCHES = (
    ("cr0", CR0.WP, _SELDOM),
    ("efer", EFER.NXE, _SELDOM),
    ("cr4", CR4.SMEP, _SELDOM),
    ("cr4", CR4.SMAP, _SELDOM),
    ("cr4", CR4.PKE, _OFTEN),
    ("cr4", CR4.PGE, _SELDOM),
    ("cr4", CR4.LA57, _SELDOM),
)
"""Control bits that differ from the default, and how often: most make more accesses fault."""
_INDICES = (0, 1, 511, 256, 255, 510, 2, 257)
# The plainest first: that is where Hypothesis shrinks to.
_RIGHTS = (1, 2, 63)
_BITS = (*4 * _RIGHTS, 5, 6, 3, 4, 8, 59, 60, 61, 62, 9, 11, 52, 58)
_NOTHING = -1
_BREAKING = (*12 * (_NOTHING,), 0, 7, 12, 13, 20, 21, 29, 40, 51)
_LEFT_OUT = (True, False, False, False, False)
_KEYS = (0, 1, 2, 4, 8, 15)
_OFFSETS = (0, 1, 8, 0xFF0, 0xFF8, 0xFFF, FRAME, -1, 511 * FRAME, 512 * FRAME)
_MASK = (1 << 64) - 1

# Strategies are made once: to make and look at one takes longer than to draw from it.
_OF_SWITCHES = st.tuples(*(st.sampled_from(often) for _, _, often in _SWITCHES))
_DENIED_KEYS = st.lists(
    st.tuples(st.sampled_from(_KEYS), st.sampled_from((2, 1, 3))), min_size=1, max_size=4
)
_INDEX = st.sampled_from(_INDICES)
_PATH_INDICES = _INDEX.map(lambda index: (index,) * 5) | st.tuples(*(_INDEX,) * 5)
_LEVEL, _PAGE = st.sampled_from((3, 2, 1, 1)), st.integers(0, TOP_PAGE)
_IS_LEFT_OUT = st.sampled_from(_LEFT_OUT)
_ABOVE = st.integers(0, 4)
_FLIPS = st.lists(st.tuples(_ABOVE, st.sampled_from(_BITS)), max_size=8)
_BREAKING_BIT = st.sampled_from(_BREAKING)
_LEADS = {
    levels: st.none()
    | st.none()
    | st.tuples(st.sampled_from(range(levels, 1, -1)), st.integers(0, NO_TABLE))
    for levels in (4, 5)
}
_WITHIN = {
    level: st.sampled_from((0, 0xFF0, 0xFFF)) | st.integers(0, LEVELS[level].span - 1)
    for level in (1, 2, 3)
}
_OFFSET = st.sampled_from(_OFFSETS) | st.integers(0, FRAME - 1)
_WRONG_BIT = {va_bits: st.none() | st.integers(va_bits - 1, 63) for va_bits in (48, 57)}
_TYPE, _CPL, _BOOLEAN = st.sampled_from(AccessType), st.sampled_from((0, 3)), st.booleans()


@st.composite
def contexts(draw: st.DrawFn, *, cr3: int = ROOT) -> PagingContext:
    """Return control states of the emulated CPU, the default one with WP and NXE the plainest."""
    default = PagingContext(cr3=cr3)
    registers = {name: getattr(default, name) for name in ("cr0", "cr4", "efer")}
    for (name, bit, _), differs in zip(_SWITCHES, draw(_OF_SWITCHES), strict=True):
        if differs:
            registers[name] ^= bit
    pkru = 0
    if registers["cr4"] & CR4.PKE:
        for key, denied in draw(_DENIED_KEYS):
            pkru |= denied << 2 * key
    return PagingContext(cr3=cr3, **registers, pkru=pkru)


def accesses(where: PagingContext | Layout) -> st.SearchStrategy[Access]:
    """Return accesses of any kind: under a control state anywhere, in a layout near its own."""
    if isinstance(where, Layout):
        pages = sorted({va & -FRAME for va in where.accesses.va.tolist()}) or [0]
        return st.sampled_from(pages).flatmap(lambda va: _accesses(where.context, [va]))
    return _PATH_INDICES.flatmap(
        lambda index: _accesses(where, [address_of(where, Path(index=index, level=1))])
    )


@st.composite
def layouts(
    draw: st.DrawFn, context: st.SearchStrategy[PagingContext] | None = None, *, paths: int = 8
) -> Layout:
    """Return small address spaces of at most so many paths, with accesses to them.

    Every path is accessed in all six ways, and besides there are a few accesses of any kind. What
    shrinks to no path has an empty root table. `context` has to have its CR3 at 0x1000, as
    `contexts` has. No outcome is intended.
    """
    chosen = draw(contexts() if context is None else context)
    drawn = draw(st.lists(_OF_PATHS[chosen.levels], min_size=(paths + 1) // 2, max_size=paths))
    ways = [way for way in drawn if way is not None]
    pages = [address_of(chosen, path) + within for path, within in ways] or [0]
    ac = draw(_BOOLEAN)
    asked = [
        Access(va, kind, cpl, ac)
        for va in dict.fromkeys(pages)
        for kind in AccessType
        for cpl in (0, 3)
    ]
    asked += draw(st.lists(_accesses(chosen, pages), max_size=4))
    return layout_of(chosen, [path for path, _ in ways], Accesses.of(dict.fromkeys(asked)))


@st.composite
def _paths(draw: st.DrawFn, levels: int) -> tuple[Path, int] | None:
    """Return paths, each with an offset in its page, or None.

    Hypothesis shrinks a path to None in one step; an element of a list it removes in many.
    """
    if draw(_IS_LEFT_OUT):
        return None
    indices, level, page = draw(_PATH_INDICES), draw(_LEVEL), draw(_PAGE)
    flips = draw(_FLIPS)
    breaking = draw(_BREAKING_BIT)
    if breaking != _NOTHING:  # Seldom: it ends a walk.
        flips.append((draw(_ABOVE), breaking))
    path = Path(indices, level, page, tuple(dict.fromkeys(flips)), draw(_LEADS[levels]))
    return path, draw(_WITHIN[level])


_OF_PATHS = {levels: _paths(levels) for levels in (4, 5)}


@st.composite
def _accesses(draw: st.DrawFn, context: PagingContext, pages: Sequence[int]) -> Access:
    """Return accesses to these pages, to their neighbours, and to no canonical address."""
    va = draw(st.sampled_from(pages)) + draw(_OFFSET)
    wrong = draw(_WRONG_BIT[context.va_bits])
    return Access(
        va & _MASK ^ (0 if wrong is None else 1 << wrong),
        draw(_TYPE),
        draw(_CPL),
        draw(_BOOLEAN),
    )
