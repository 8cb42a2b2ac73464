"""Hypothesis strategies: control states, accesses, whole address spaces.

What they draw is plain where nothing else is needed, so that a failing example shrinks to one
path with few entries, default registers and the bits that matter.
"""

from collections.abc import Sequence
from functools import cache
from itertools import product

from hypothesis import strategies as st

from crosswalk.emu.findings.layout import Layout
from crosswalk.emu.fuzz.generate.formats import TableFormat, format_of
from crosswalk.emu.testing.paths import NO_TABLE, ROOT, TOP_PAGE, Path, address_of, layout_of
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import CR0, CR4, EFER, PagingContext, PagingMode
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import FRAME

__all__ = ["accesses", "contexts", "layouts"]

_OFTEN, _SELDOM = (False, True), (False, False, False, True)
Mode = PagingMode | str
"""A paging mode, or its name: 32bit, pae, 4level, 5level."""

_Switches = tuple[tuple[str, int, tuple[bool, ...]], ...]
_SWITCHES: _Switches = (
    ("cr0", CR0.WP, _SELDOM),
    ("efer", EFER.NXE, _SELDOM),
    ("cr4", CR4.SMEP, _SELDOM),
    ("cr4", CR4.SMAP, _SELDOM),
    ("cr4", CR4.PKE, _OFTEN),
    ("cr4", CR4.PGE, _SELDOM),
    ("cr4", CR4.LA57, _SELDOM),
)
"""Control bits that differ from the default, and how often: most make more accesses fault."""
_REGISTERS: dict[PagingMode, dict[str, int]] = {
    PagingMode.LEVEL4: {},
    PagingMode.LEVEL5: {"cr4": CR4.PAE | CR4.LA57},
    PagingMode.PAE: {"cr4": CR4.PAE | CR4.PSE, "efer": EFER.NXE},
    PagingMode.BIT32: {"cr4": CR4.PSE, "efer": 0},
}
"""Registers that aren't the default ones, by mode, the plainest mode first."""
_CHOSEN = _SWITCHES[:-1]  # The mode decides LA57.
_OF_MODE: dict[PagingMode, _Switches] = {
    **dict.fromkeys(_REGISTERS, _CHOSEN),
    PagingMode.BIT32: (*_CHOSEN, ("cr4", CR4.PSE, _SELDOM)),
}
_INDICES = {512: (0, 1, 511, 256, 255, 510, 2, 257), 1024: (0, 1, 1023, 512, 511, 1022, 2, 768)}
"""Of the tables above a page, by the number of entries in a frame."""
# The plainest first: that is where Hypothesis shrinks to.
_RIGHTS = (1, 2, 63)
_BITS = (*4 * _RIGHTS, 5, 6, 3, 4, 8, 59, 60, 61, 62, 9, 11, 52, 58)
_NOTHING = -1
_BREAKING = (*12 * (_NOTHING,), 0, 7, 12, 13, 20, 21, 29, 40, 51)
_MALFORMED_PDPTES = (*9 * (False,), True)
_LEFT_OUT = (True, False, False, False, False)
_KEYS = (0, 1, 2, 4, 8, 15)
_OFFSETS = (0, 1, 8, 0xFF0, 0xFF8, 0xFFF, FRAME, -1, 511 * FRAME, 512 * FRAME)
_MASK = (1 << 64) - 1


# Strategies are made once: to make and look at one takes longer than to draw from it.
@cache
def _differences(switches: _Switches) -> st.SearchStrategy[tuple[bool, ...]]:
    return st.tuples(*(st.sampled_from(often) for _, _, often in switches))


_DENIED_KEYS = st.lists(
    st.tuples(st.sampled_from(_KEYS), st.sampled_from((2, 1, 3))), min_size=1, max_size=4
)
_IS_LEFT_OUT = st.sampled_from(_LEFT_OUT)
_ABOVE = range(5)
_ANY_ABOVE = st.sampled_from(_ABOVE)
_IS_MALFORMED = st.sampled_from(_MALFORMED_PDPTES)
_OFFSET = st.sampled_from(_OFFSETS) | st.integers(0, FRAME - 1)
_WRONG_BIT = {va_bits: st.none() | st.integers(va_bits - 1, 63) for va_bits in (48, 57)}
_WAY = st.sampled_from([*product(AccessType, (0, 3), (False, True))])
_BOOLEAN = st.booleans()


class _Drawn:
    """Strategies for the parts of a path in one paging mode."""

    def __init__(self, form: TableFormat) -> None:
        index = st.sampled_from(_INDICES[form.width])
        self.indices = index.map(lambda at: (at,) * 5) | st.tuples(*(index,) * 5)
        levels = (*sorted(form.large, reverse=True), 1, 1)
        # One choice in place of two: each takes Hypothesis longer than all that is made of it.
        self.level_and_page = st.sampled_from([*product(levels, range(TOP_PAGE + 1))])
        bits = [bit for bit in _BITS if bit < 8 * form.entry_bytes]
        self.flips = st.lists(st.sampled_from([*product(_ABOVE, bits)]), max_size=8)
        self.breaking = st.sampled_from([bit for bit in _BREAKING if bit < 8 * form.entry_bytes])
        leads = [*product(range(form.levels, 1, -1), range(NO_TABLE + 1))]
        self.lead = st.sampled_from([*2 * len(leads) * [None], *leads])
        self.within = {
            level: st.sampled_from((0, 0xFF0, 0xFFF)) | st.integers(0, (1 << shift) - 1)
            for level, shift in form.shifts.items()
        }
        self.paths = _paths(self)


_DRAWN: dict[tuple[int, bool], _Drawn] = {}


def _drawn(context: PagingContext) -> _Drawn:
    """Return the strategies of a mode; in 32-bit paging of those with large pages, or without."""
    form = format_of(context)
    key = form.levels, bool(form.large)
    if key not in _DRAWN:
        _DRAWN[key] = _Drawn(form)
    return _DRAWN[key]


@st.composite
def contexts(
    draw: st.DrawFn, *, cr3: int = ROOT, modes: Sequence[Mode] | None = None
) -> PagingContext:
    """Return control states of the emulated CPU, the default one with WP and NXE the plainest.

    In 4- and 5-level paging, or in these `modes`; `BadInput` for an unknown name of one.
    """
    default = PagingContext(cr3=cr3)
    registers = {name: getattr(default, name) for name in ("cr0", "cr4", "efer")}
    switches = _SWITCHES
    if modes is not None:
        mode = draw(st.sampled_from(_plainest_first(modes)))
        registers |= {name: int(value) for name, value in _REGISTERS[mode].items()}
        switches = _OF_MODE[mode]
    for (name, bit, _), differs in zip(switches, draw(_differences(switches)), strict=True):
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
    return _drawn(where).indices.flatmap(
        lambda index: _accesses(where, [address_of(where, Path(index=index, level=1))])
    )


@st.composite
def layouts(
    draw: st.DrawFn,
    context: st.SearchStrategy[PagingContext] | None = None,
    *,
    paths: int = 8,
    modes: Sequence[Mode] | None = None,
) -> Layout:
    """Return small address spaces of at most so many paths, with accesses to them.

    Every path is accessed in all six ways, and besides there are a few accesses of any kind. What
    shrinks to no path has an empty root table. `context` has to have its CR3 at 0x1000, as
    `contexts` has; without it the layouts are in 4- and 5-level paging, or in these `modes`, as
    `contexts` takes them. No outcome is intended.
    """
    if context is not None and modes is not None:
        raise BadInput("layouts takes a context or modes, not both")
    chosen = draw(contexts(modes=modes) if context is None else context)
    one = _drawn(chosen).paths
    drawn = draw(st.lists(one, min_size=(paths + 1) // 2, max_size=paths))
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
    return layout_of(
        chosen,
        [path for path, _ in ways],
        Accesses.of(dict.fromkeys(asked)),
        malformed_pdptes=chosen.mode is PagingMode.PAE and draw(_IS_MALFORMED),
    )


def _plainest_first(modes: Sequence[Mode]) -> list[PagingMode]:
    """Return the modes, those first that Hypothesis is to shrink to."""
    named = {mode.slug: mode for mode in PagingMode}
    chosen = []
    for each in modes:
        name = each.slug if isinstance(each, PagingMode) else each
        if name not in named:
            raise BadInput(f"modes: {name!r} is none of {', '.join(named)}")
        chosen.append(named[name])
    if not chosen:
        raise BadInput(f"modes: none is given of {', '.join(named)}")
    return [mode for mode in _REGISTERS if mode in chosen]


@st.composite
def _paths(draw: st.DrawFn, drawn: _Drawn) -> tuple[Path, int] | None:
    """Return paths, each with an offset in its page, or None.

    Hypothesis shrinks a path to None in one step; an element of a list it removes in many.
    """
    if draw(_IS_LEFT_OUT):
        return None
    indices = draw(drawn.indices)
    level, page = draw(drawn.level_and_page)
    flips = draw(drawn.flips)
    breaking = draw(drawn.breaking)
    if breaking != _NOTHING:  # Seldom: it ends a walk.
        flips.append((draw(_ANY_ABOVE), breaking))
    path = Path(indices, level, page, tuple(dict.fromkeys(flips)), draw(drawn.lead))
    return path, draw(drawn.within[level])


@st.composite
def _accesses(draw: st.DrawFn, context: PagingContext, pages: Sequence[int]) -> Access:
    """Return accesses to these pages, to their neighbours, and to no canonical address."""
    va = draw(st.sampled_from(pages)) + draw(_OFFSET)
    # Outside IA-32e mode addresses have 32 bits, and none of them is wrong.
    wrong = draw(_WRONG_BIT[context.va_bits]) if context.mode.long else None
    mask = _MASK if context.mode.long else (1 << context.va_bits) - 1
    kind, cpl, ac = draw(_WAY)
    return Access(va & mask ^ (0 if wrong is None else 1 << wrong), kind, cpl, ac)
