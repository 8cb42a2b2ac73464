"""Random sequences, each from its number."""

import random

from crosswalk.emu.matrix.section import Combination
from crosswalk.emu.matrix.tlb.builders import LEAF_CHANGES
from crosswalk.emu.matrix.tlb.fixture import FAR, KEY, OPEN, OTHER_ROOT, RAM, Fixture
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.context import CR0, CR4, PagingContext
from crosswalk.walker.entry import Entry
from crosswalk.walker.tlb import Invlpg, MovCr0, MovCr3, MovCr4, Sequence, Step, Store, Wrpkru
from crosswalk.walker.tlb.steps import NO_FLUSH, PCIDE, after

__all__ = ["random_sequence"]

_BITS = (
    *(int(bit) for bit in (Entry.P, Entry.RW, Entry.US, Entry.A, Entry.D, Entry.G, Entry.XD)),
    KEY,
    1 << 51,
)
# One in so many sequences may change PKE or PCIDE, or load CR3 with bit 63 under five levels:
# known departures end the sequence that they are in.
_RARE = 8


def random_sequence(named: Combination) -> Sequence:
    """Return the sequence with this number: the same one for ever."""
    chance = random.Random(f"tlb {named['number']}")
    fixture = Fixture(chance.choice((1, 1, 2, 2, 3)), chance.choice((4, 4, 5)))
    pcids = chance.random() < 0.4
    cr4 = sum(int(bit) for bit in (CR4.SMEP, CR4.SMAP) if chance.random() < 0.3)
    clear = sum(int(bit) for bit in (CR4.PGE, CR4.PKE) if chance.random() < 0.3)
    context = fixture.context(cr4=cr4 | (PCIDE if pcids else 0), clear=clear, pcid=int(pcids))
    entries = fixture.entries()
    for level in range(fixture.leaf, fixture.levels + 1):
        if chance.random() < 0.4:
            entries[fixture.entry_pa(level)] = _value(chance, fixture, level)
    rare = chance.randrange(_RARE) == 0
    now, steps = context, []
    for _ in range(chance.randrange(6, 15)):
        step = _step(chance, fixture, now, rare=rare)
        now = after(now, step)
        steps.append(step)
    steps.append(_access(chance, fixture))
    return Sequence(context=context, ram=RAM, entries=entries, steps=tuple(steps))


def _step(chance: random.Random, fixture: Fixture, now: PagingContext, *, rare: bool) -> Step:
    roll = chance.random()
    if roll < 0.45:
        return _access(chance, fixture)
    if roll < 0.72:
        level = chance.randrange(fixture.leaf, fixture.levels + 1)
        return Store(fixture.entry_pa(level), _value(chance, fixture, level))
    if roll < 0.84:
        return Invlpg(chance.choice((fixture.va, fixture.near, FAR)))
    if roll < 0.92:
        return _load(chance, fixture, now, rare=rare)
    return _switch(chance, now, rare=rare)


def _access(chance: random.Random, fixture: Fixture) -> Access:
    va = chance.choice((fixture.va, fixture.va, fixture.near))
    return Access(
        va, chance.choice(list(AccessType)), chance.choice((0, 3)), ac=chance.random() < 0.3
    )


def _value(chance: random.Random, fixture: Fixture, level: int) -> int:
    """Return an entry of the level: mostly one of `LEAF_CHANGES`, sometimes of another size."""
    if chance.random() < 0.6:
        change = chance.choice(list(LEAF_CHANGES.values()))
        flags = change.after if chance.random() < 0.7 else change.before
    else:
        flags = OPEN
        for bit in chance.sample(_BITS, 2):
            flags ^= bit
    if level in (2, 3) and level > fixture.leaf and chance.random() < 0.2:
        return int(fixture.page(9 + level, level) | flags | Entry.PS)
    return fixture.entry(level, flags, other=chance.random() < 0.5)


def _load(chance: random.Random, fixture: Fixture, now: PagingContext, *, rare: bool) -> MovCr3:
    root = chance.choice((fixture.root, fixture.root, fixture.root, OTHER_ROOT))
    if not now.cr4 & PCIDE:
        return MovCr3(root)
    keep = chance.choice((0, NO_FLUSH)) if rare or fixture.levels == 4 else 0
    return MovCr3(root | chance.choice((1, 2)) | keep)


def _switch(chance: random.Random, now: PagingContext, *, rare: bool) -> Step:
    if rare:
        if now.cr4 & PCIDE or not now.cr3 & 0xFFF:
            return MovCr4(now.cr4 ^ chance.choice((PCIDE, int(CR4.PKE))))
        return MovCr4(now.cr4 ^ CR4.PKE)
    if now.pke and chance.random() < 0.3:
        return Wrpkru(chance.choice((0, 0b0100, 0b1000, 0b1100)))
    if chance.random() < 0.3:
        return MovCr0(now.cr0 ^ CR0.WP)
    return MovCr4(now.cr4 ^ chance.choice((CR4.PGE, CR4.SMEP, CR4.SMAP)))
