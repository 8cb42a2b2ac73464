"""What the sequences of the sections are made of, by the names that they have there."""

from crosswalk.emu.matrix.bits import LEVEL_NAMES
from crosswalk.emu.matrix.tlb.changes import INVALIDATIONS, LEAF_CHANGES, PRIMES, access_of
from crosswalk.emu.matrix.tlb.fixture import OPEN, RAM, Scene
from crosswalk.emu.matrix.tlb.section import Named
from crosswalk.walker.entry import Entry
from crosswalk.walker.tlb import Sequence, Store

__all__ = ["LEVELS", "PAGES", "SIZES", "changed", "faulted", "late", "resized"]

PAGES = {"4k": 1, "2m": 2, "1g": 3}
LEVELS = {name: level for level, name in LEVEL_NAMES.items()}
"""Levels by the names of their leaves' sizes and of their entries."""


def changed(named: Named, levels: int) -> Sequence:
    """Return: an access, a change of one entry, what may invalidate, the access twice."""
    scene = Scene(PAGES[named["page"]], levels)
    level = LEVELS[named["level"]] if "level" in named else scene.leaf
    change = LEAF_CHANGES[named["change"]]
    shared = int(Entry.G) if named.get("g") == "1" else 0
    entries = scene.entries()
    entries[scene.place(level)] = scene.value(level, change.before | shared)
    after = scene.value(level, change.after | shared, other=change.other)
    access = access_of(scene.va, named["access"], named["cpl"])
    return Sequence(
        context=scene.context(),
        ram=RAM,
        entries=entries,
        steps=(
            *PRIMES[named["prime"]](scene, named["cpl"]),
            Store(scene.place(level), after),
            *INVALIDATIONS[named["invalidate"]](scene),
            access,
            access,
        ),
    )


SIZES = {
    "4k-2m": (1, 2, True),
    "2m-4k": (1, 2, False),
    "2m-1g": (2, 3, True),
    "1g-2m": (2, 3, False),
    "4k-1g": (1, 3, True),
    "1g-4k": (1, 3, False),
}
"""The smaller leaf's level, the larger one's, and whether the page grows."""


def resized(named: Named) -> Sequence:
    """Return: an access, an entry that becomes a leaf or ceases to be one, the access twice."""
    small, large, grows = SIZES[named["page"]]
    scene = Scene(small)
    flags = OPEN | (int(Entry.G) if named["g"] == "1" else 0)
    entries = scene.entries()
    entries[scene.place(small)] |= flags
    values = [scene.value(large), int(scene.page(9, large) | flags | Entry.PS)]
    before, after = values if grows else reversed(values)
    entries[scene.place(large)] = before
    va = scene.near if named["at"] == "near" else scene.va
    access = access_of(va, named["access"], named["cpl"])
    return Sequence(
        context=scene.context(),
        ram=RAM,
        entries=entries,
        steps=(
            *PRIMES[named["prime"]](scene, named["cpl"]),
            Store(scene.place(large), after),
            *INVALIDATIONS[named["invalidate"]](scene),
            access,
            access,
        ),
    )


def late(named: Named) -> Sequence:
    """Return: an access, a change of an upper entry, an invalidation, the leaf, the access.

    No translation of the page can be cached by then, only what leads to its absent leaf.
    """
    scene = Scene(PAGES[named["page"]])
    level = LEVELS[named["level"]]
    change = LEAF_CHANGES[named["change"]]
    access = access_of(scene.va, named["access"], "3")
    leaf = scene.place(scene.leaf)
    return Sequence(
        context=scene.context(),
        ram=RAM,
        entries=scene.entries() | {leaf: 0},
        steps=(
            *PRIMES[named["prime"]](scene, "3"),
            Store(scene.place(level), scene.value(level, change.after, other=change.other)),
            *INVALIDATIONS[named["invalidate"]](scene),
            Store(leaf, scene.value(scene.leaf)),
            access,
            access,
        ),
    )


def faulted(named: Named) -> Sequence:
    """Return: an access, a change of one entry, an access of another type, and one at `at`."""
    scene = Scene(PAGES[named["page"]])
    level = LEVELS[named["level"]]
    change = LEAF_CHANGES[named["change"]]
    entries = scene.entries()
    entries[scene.place(level)] = scene.value(level, change.before)
    va = scene.near if named["at"] == "near" else scene.va
    return Sequence(
        context=scene.context(),
        ram=RAM,
        entries=entries,
        steps=(
            *PRIMES[named["prime"]](scene, named["cpl"]),
            *((access_of(va, "read", named["cpl"]),) if named["at"] == "near" else ()),
            Store(scene.place(level), scene.value(level, change.after, other=change.other)),
            access_of(scene.va, named["fault"], named["faultcpl"]),
            access_of(va, named["access"], named["cpl"]),
        ),
    )
