"""Sequences about control registers: switches of the MMU, and PCIDs."""

from collections.abc import Callable

from crosswalk.emu.matrix.tlb.changes import LEAF_CHANGES, PRIMES, access_of
from crosswalk.emu.matrix.tlb.fixture import KEY, OPEN, OTHER_ROOT, RAM, Scene
from crosswalk.emu.matrix.tlb.section import Named
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

__all__ = ["BETWEEN", "FLAGS", "SWITCHES", "pcid_sequence", "switched"]

FLAGS = {
    "open": OPEN,
    "rw-0": OPEN ^ Entry.RW,
    "us-0": OPEN ^ Entry.US,
    "nx-1": OPEN | Entry.XD,
    "pk-1": OPEN | KEY,
}
"""What the leaf allows, while a switch is thrown."""

_SWITCHED = {"smep": CR4.SMEP, "smap": CR4.SMAP, "pke": CR4.PKE}
SWITCHES = tuple(f"{name}-{to}" for name in ("wp", *_SWITCHED, "pkru") for to in (0, 1))
"""What is thrown: a switch, and what it becomes; of PKRU, the two bits of key 1."""

_PRIMES = PRIMES | {
    "read-0": lambda scene, _cpl: (Access(scene.va, AccessType.READ, 0, ac=True),),
}


def switched(named: Named) -> Sequence:
    """Return: an access, perhaps a change, a switch of the MMU thrown, the access twice."""
    scene = Scene(1)
    name, _, to = named["switch"].partition("-")
    flags = int(FLAGS[named["leaf"]])
    entries = scene.entries()
    entries[scene.place(1)] = scene.value(1, flags)
    context, step = _switch(scene, name, on=to == "1")
    store = Store(scene.place(1), scene.value(1, flags, other=True))
    access = access_of(scene.va, named["access"], named["cpl"], ac=named["ac"] == "1")
    return Sequence(
        context=context,
        ram=RAM,
        entries=entries,
        steps=(
            *_PRIMES[named["prime"]](scene, named["cpl"]),
            *((store,) if named["change"] == "target" else ()),
            step,
            access,
            access,
        ),
    )


def _switch(scene: Scene, name: str, *, on: bool) -> tuple[PagingContext, Step]:
    """Return the control state in which a switch is thrown, and the step that does it."""
    if name == "wp":
        context = scene.context(wp=not on)
        return context, MovCr0(context.cr0 ^ CR0.WP)
    if name == "pkru":
        context = scene.context(pkru=0 if on else 0b1100)
        return context, Wrpkru(0b1100 if on else 0)
    bit = int(_SWITCHED[name])
    context = scene.context(clear=bit) if on else scene.context(cr4=bit)
    return context, MovCr4(context.cr4 ^ bit)


def _load(scene: Scene, pcid: int, keep: int = 0) -> MovCr3:
    return MovCr3(scene.root | pcid | keep)


BETWEEN: dict[str, Callable[[Scene], tuple[Step, ...]]] = {
    "none": lambda _: (),
    "same": lambda scene: (_load(scene, 1),),
    "same-keep": lambda scene: (_load(scene, 1, NO_FLUSH),),
    "other": lambda scene: (_load(scene, 2),),
    "other-keep": lambda scene: (_load(scene, 2, NO_FLUSH),),
    "other-and-back": lambda scene: (_load(scene, 2), _load(scene, 1)),
    "other-and-back-keep": lambda scene: (_load(scene, 2), _load(scene, 1, NO_FLUSH)),
    "empty-and-back-keep": lambda scene: (MovCr3(OTHER_ROOT | 2), _load(scene, 1, NO_FLUSH)),
    "invlpg": lambda scene: (Invlpg(scene.va),),
    "invlpg-in-other": lambda scene: (
        _load(scene, 2),
        Invlpg(scene.va),
        _load(scene, 1, NO_FLUSH),
    ),
    "pge": lambda scene: (
        MovCr4(scene.context(cr4=PCIDE, clear=int(CR4.PGE)).cr4),
        MovCr4(scene.context(cr4=PCIDE).cr4),
    ),
    "pcide": lambda scene: (MovCr4(scene.context().cr4),),
    "invpcid-0": lambda scene: (Invpcid(0, 1, scene.va),),
    "invpcid-0-other": lambda scene: (Invpcid(0, 2, scene.va),),
    "invpcid-1": lambda _: (Invpcid(1, 1),),
    "invpcid-1-other": lambda _: (Invpcid(1, 2),),
    "invpcid-2": lambda _: (Invpcid(2),),
    "invpcid-3": lambda _: (Invpcid(3),),
}
"""What comes between a change made in PCID 1 and the access, with CR4.PCIDE set."""


def pcid_sequence(named: Named) -> Sequence:
    """Return: an access in PCID 1, a change, loads of CR3 and more, the access twice."""
    scene = Scene({"4k": 1, "2m": 2}[named["page"]])
    level = scene.leaf + int(named["level"])
    change = LEAF_CHANGES[named["change"]]
    shared = int(Entry.G) if named["g"] == "1" else 0
    entries = scene.entries()
    entries[scene.place(scene.leaf)] = scene.value(scene.leaf, OPEN | shared)
    at = scene.place(level)
    flags = shared if level == scene.leaf else 0
    entries[at] = scene.value(level, change.before | flags)
    after = scene.value(level, change.after | flags, other=change.other)
    access = access_of(scene.va, named["access"], named["cpl"])
    return Sequence(
        context=scene.context(cr4=PCIDE, pcid=1),
        ram=RAM,
        entries=entries,
        steps=(
            *PRIMES[named["prime"]](scene, named["cpl"]),
            Store(at, after),
            *BETWEEN[named["between"]](scene),
            access,
            access,
        ),
    )
