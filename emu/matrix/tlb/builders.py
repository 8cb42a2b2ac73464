"""Sequences of the matrix, built from the names of their dimensions' values."""

from collections.abc import Callable
from dataclasses import dataclass

from crosswalk.emu.matrix.bits import ACCESSES, LEVEL_NAMES
from crosswalk.emu.matrix.section import Combination
from crosswalk.emu.matrix.tlb.fixture import FAR, KEY, OPEN, OTHER_ROOT, RAM, Fixture
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.context import CR0, CR4, PagingContext
from crosswalk.walker.entry import Entry
from crosswalk.walker.tlb import (
    Invlpg,
    Invpcid,
    MovCr0,
    MovCr3,
    MovCr4,
    Sequence,
    Step,
    Store,
    Wrpkru,
)
from crosswalk.walker.tlb.steps import NO_FLUSH, PCIDE

__all__ = [
    "BETWEEN",
    "CHANGES",
    "FLAGS",
    "INVALIDATIONS",
    "LEAF_CHANGES",
    "LEVELS",
    "PAGES",
    "SIZES",
    "SWITCHES",
    "change_sequence",
    "fault_sequence",
    "late_leaf_sequence",
    "pcid_sequence",
    "resize_sequence",
    "switch_sequence",
]

PAGES = {"4k": 1, "2m": 2, "1g": 3}
LEVELS = {name: level for level, name in LEVEL_NAMES.items()}
"""Levels by the names of their leaves' sizes and of their entries."""

Steps = Callable[[Fixture], tuple[Step, ...]]

_RESERVED = 1 << 51


@dataclass(frozen=True, slots=True)
class Change:
    """The flags of an entry before and after; `other`: it leads elsewhere as well."""

    before: int = OPEN
    after: int = OPEN
    other: bool = False


def _both(name: str, bits: int) -> dict[str, Change]:
    """Return the changes to and from the value that bits have in the open entry."""
    return {
        f"{name}-{int(not OPEN & bits)}": Change(after=OPEN ^ bits),
        f"{name}-{int(bool(OPEN & bits))}": Change(before=OPEN ^ bits),
    }


CHANGES = {
    "target": Change(other=True),
    **_both("p", Entry.P),
    **_both("rw", Entry.RW),
    **_both("us", Entry.US),
    **_both("nx", Entry.XD),
    **_both("bit51", _RESERVED),
    "a-0": Change(after=OPEN & ~Entry.A),
    "target-a-0": Change(before=OPEN & ~Entry.A, after=OPEN & ~Entry.A, other=True),
}
"""Changes that have a meaning at every level."""

LEAF_CHANGES = {
    **CHANGES,
    "d-0": Change(after=OPEN & ~Entry.D),
    "target-d-0": Change(before=OPEN & ~Entry.D, after=OPEN & ~Entry.D, other=True),
    **_both("pk", KEY),
    "g-0": Change(before=OPEN | Entry.G, other=True),
    "g-1": Change(after=OPEN | Entry.G, other=True),
}


def _toggled(register: type[MovCr0 | MovCr4], bit: int, fixture: Fixture) -> tuple[Step, ...]:
    context = fixture.context()
    value = context.cr0 if register is MovCr0 else context.cr4
    return register(value ^ bit), register(value)


INVALIDATIONS: dict[str, Steps] = {
    "none": lambda _: (),
    "invlpg": lambda fixture: (Invlpg(fixture.va),),
    "invlpg-near": lambda fixture: (Invlpg(fixture.near),),
    "invlpg-far": lambda _: (Invlpg(FAR),),
    "cr3": lambda fixture: (MovCr3(fixture.root),),
    "cr3-and-back": lambda fixture: (MovCr3(OTHER_ROOT), MovCr3(fixture.root)),
    "pge": lambda fixture: _toggled(MovCr4, CR4.PGE, fixture),
    "smep": lambda fixture: (MovCr4(fixture.context().cr4 | CR4.SMEP),),
    "smap": lambda fixture: _toggled(MovCr4, CR4.SMAP, fixture),
    "wp": lambda fixture: _toggled(MovCr0, CR0.WP, fixture),
}
"""Steps between the change and the access; some of them invalidate nothing."""


def _access(
    va: int, named: Combination, name: str = "access", cpl: str = "cpl", *, ac: bool = False
) -> Access:
    """Return the access that two dimensions of a combination name; CPL 3 by default."""
    return Access(va, ACCESSES[named[name]], int(named.get(cpl, "3")), ac)


def _read(va: int, cpl: int, kind: AccessType = AccessType.READ) -> tuple[Step, ...]:
    return (Access(va, kind, cpl, ac=False),)


PRIMES: dict[str, Callable[[Fixture, int], tuple[Step, ...]]] = {
    "none": lambda _fixture, _cpl: (),
    "read": lambda fixture, cpl: _read(fixture.va, cpl),
    "write": lambda fixture, cpl: _read(fixture.va, cpl, AccessType.WRITE),
    "execute": lambda fixture, cpl: _read(fixture.va, cpl, AccessType.EXECUTE),
    "near": lambda fixture, cpl: _read(fixture.near, cpl),
    "read-0": lambda fixture, _cpl: (Access(fixture.va, AccessType.READ, 0, ac=True),),
}
"""The access before the change, at some CPL: its translation may be cached."""


def _sequence(
    fixture: Fixture,
    named: Combination,
    entries: dict[int, int],
    *steps: Step,
    context: PagingContext | None = None,
) -> Sequence:
    """Return the sequence of a combination's prime and these steps."""
    prime = PRIMES[named["prime"]](fixture, int(named.get("cpl", "3")))
    context = fixture.context() if context is None else context
    return Sequence(context=context, ram=RAM, entries=entries, steps=(*prime, *steps))


def _global(named: Combination) -> int:
    return int(Entry.G) if named.get("g") == "1" else 0


def change_sequence(named: Combination, levels: int) -> Sequence:
    """Return: an access, a change of one entry, what may invalidate, the access twice."""
    fixture = Fixture(PAGES[named["page"]], levels)
    level = LEVELS[named["level"]] if "level" in named else fixture.leaf
    change, shared = LEAF_CHANGES[named["change"]], _global(named)
    at = fixture.entry_pa(level)
    entries = fixture.entries() | {at: fixture.entry(level, change.before | shared)}
    after = fixture.entry(level, change.after | shared, other=change.other)
    access = _access(fixture.va, named)
    invalidation = INVALIDATIONS[named["invalidate"]](fixture)
    return _sequence(fixture, named, entries, Store(at, after), *invalidation, access, access)


SIZES = {
    "4k-2m": (1, 2, True),
    "2m-4k": (1, 2, False),
    "2m-1g": (2, 3, True),
    "1g-2m": (2, 3, False),
    "4k-1g": (1, 3, True),
    "1g-4k": (1, 3, False),
}
"""The smaller leaf's level, the larger one's, and whether the page grows."""


def resize_sequence(named: Combination) -> Sequence:
    """Return: an access, an entry that becomes a leaf or ceases to be one, the access twice."""
    small, large, grows = SIZES[named["page"]]
    fixture = Fixture(small)
    flags = OPEN | _global(named)
    entries = fixture.entries()
    entries[fixture.entry_pa(small)] |= flags
    values = [fixture.entry(large), int(fixture.page(9, large) | flags | Entry.PS)]
    before, after = values if grows else reversed(values)
    at = fixture.entry_pa(large)
    entries[at] = before
    access = _access(fixture.near if named["at"] == "near" else fixture.va, named)
    invalidation = INVALIDATIONS[named["invalidate"]](fixture)
    return _sequence(fixture, named, entries, Store(at, after), *invalidation, access, access)


def late_leaf_sequence(named: Combination) -> Sequence:
    """Return: an access, a change of an upper entry, an invalidation, the leaf, the access twice.

    Until the leaf is stored no translation of the page can be cached, only the entries that lead
    to the absent leaf.
    """
    fixture = Fixture(PAGES[named["page"]])
    level = LEVELS[named["level"]]
    change = LEAF_CHANGES[named["change"]]
    access, leaf = _access(fixture.va, named), fixture.entry_pa(fixture.leaf)
    return _sequence(
        fixture,
        named,
        fixture.entries() | {leaf: 0},
        Store(fixture.entry_pa(level), fixture.entry(level, change.after, other=change.other)),
        *INVALIDATIONS[named["invalidate"]](fixture),
        Store(leaf, fixture.entry(fixture.leaf)),
        access,
        access,
    )


def fault_sequence(named: Combination) -> Sequence:
    """Return: an access, a change of one entry, an access of another type, and one at `at`."""
    fixture = Fixture(PAGES[named["page"]])
    level = LEVELS[named["level"]]
    change = LEAF_CHANGES[named["change"]]
    at = fixture.entry_pa(level)
    near = named["at"] == "near"
    va = fixture.near if near else fixture.va
    return _sequence(
        fixture,
        named,
        fixture.entries() | {at: fixture.entry(level, change.before)},
        *(_read(va, int(named["cpl"])) if near else ()),
        Store(at, fixture.entry(level, change.after, other=change.other)),
        _access(fixture.va, named, "fault", "faultcpl"),
        _access(va, named),
    )


FLAGS = {
    "open": OPEN,
    "rw-0": OPEN ^ Entry.RW,
    "us-0": OPEN ^ Entry.US,
    "nx-1": OPEN | Entry.XD,
    "pk-1": OPEN | KEY,
}
"""Flags of the leaf while a control bit is changed."""

_SWITCHED = {"smep": CR4.SMEP, "smap": CR4.SMAP, "pke": CR4.PKE}
SWITCHES = tuple(f"{name}-{to}" for name in ("wp", *_SWITCHED, "pkru") for to in (0, 1))
"""Control bits and their new values; of PKRU, the two bits of key 1."""


def switch_sequence(named: Combination) -> Sequence:
    """Return: an access, perhaps a change, a change of a control bit, the access twice."""
    fixture = Fixture(1)
    name, _, to = named["switch"].partition("-")
    flags = int(FLAGS[named["leaf"]])
    at = fixture.entry_pa(1)
    context, step = _switch(fixture, name, on=to == "1")
    store = Store(at, fixture.entry(1, flags, other=True))
    access = _access(fixture.va, named, ac=named["ac"] == "1")
    return _sequence(
        fixture,
        named,
        fixture.entries() | {at: fixture.entry(1, flags)},
        *((store,) if named["change"] == "target" else ()),
        step,
        access,
        access,
        context=context,
    )


def _switch(fixture: Fixture, name: str, *, on: bool) -> tuple[PagingContext, Step]:
    """Return the control state before the change of a control bit, and the step that makes it."""
    if name == "wp":
        context = fixture.context(wp=not on)
        return context, MovCr0(context.cr0 ^ CR0.WP)
    if name == "pkru":
        context = fixture.context(pkru=0 if on else 0b1100)
        return context, Wrpkru(0b1100 if on else 0)
    bit = int(_SWITCHED[name])
    context = fixture.context(clear=bit) if on else fixture.context(cr4=bit)
    return context, MovCr4(context.cr4 ^ bit)


def _load(fixture: Fixture, pcid: int, keep: int = 0) -> MovCr3:
    return MovCr3(fixture.root | pcid | keep)


BETWEEN: dict[str, Steps] = {
    "none": lambda _: (),
    "same": lambda fixture: (_load(fixture, 1),),
    "same-keep": lambda fixture: (_load(fixture, 1, NO_FLUSH),),
    "other": lambda fixture: (_load(fixture, 2),),
    "other-keep": lambda fixture: (_load(fixture, 2, NO_FLUSH),),
    "other-and-back": lambda fixture: (_load(fixture, 2), _load(fixture, 1)),
    "other-and-back-keep": lambda fixture: (_load(fixture, 2), _load(fixture, 1, NO_FLUSH)),
    "empty-and-back-keep": lambda fixture: (MovCr3(OTHER_ROOT | 2), _load(fixture, 1, NO_FLUSH)),
    "invlpg": lambda fixture: (Invlpg(fixture.va),),
    "invlpg-in-other": lambda fixture: (
        _load(fixture, 2),
        Invlpg(fixture.va),
        _load(fixture, 1, NO_FLUSH),
    ),
    "pge": lambda fixture: (
        MovCr4(fixture.context(cr4=PCIDE, clear=int(CR4.PGE)).cr4),
        MovCr4(fixture.context(cr4=PCIDE).cr4),
    ),
    "pcide": lambda fixture: (MovCr4(fixture.context().cr4),),
    "invpcid-0": lambda fixture: (Invpcid(0, 1, fixture.va),),
    "invpcid-0-other": lambda fixture: (Invpcid(0, 2, fixture.va),),
    "invpcid-1": lambda _: (Invpcid(1, 1),),
    "invpcid-1-other": lambda _: (Invpcid(1, 2),),
    "invpcid-2": lambda _: (Invpcid(2),),
    "invpcid-3": lambda _: (Invpcid(3),),
}
"""Steps between a change in PCID 1 and the access, with CR4.PCIDE set."""


def pcid_sequence(named: Combination) -> Sequence:
    """Return: an access in PCID 1, a change, loads of CR3 and more, the access twice."""
    fixture = Fixture(PAGES[named["page"]])
    level = fixture.leaf + int(named["level"])
    change, shared = LEAF_CHANGES[named["change"]], _global(named)
    at, flags = fixture.entry_pa(level), shared if level == fixture.leaf else 0
    entries = fixture.entries()
    entries[fixture.entry_pa(fixture.leaf)] = fixture.entry(fixture.leaf, OPEN | shared)
    entries[at] = fixture.entry(level, change.before | flags)
    access = _access(fixture.va, named)
    return _sequence(
        fixture,
        named,
        entries,
        Store(at, fixture.entry(level, change.after | flags, other=change.other)),
        *BETWEEN[named["between"]](fixture),
        access,
        access,
        context=fixture.context(cr4=PCIDE, pcid=1),
    )
