"""The words that sequences are made of: changes of an entry, invalidations, accesses."""

from collections.abc import Callable
from dataclasses import dataclass

from crosswalk.emu.matrix.tlb.fixture import FAR, KEY, OPEN, OTHER_ROOT, Scene
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.context import CR0, CR4
from crosswalk.walker.entry import Entry
from crosswalk.walker.tlb import Invlpg, MovCr0, MovCr3, MovCr4, Step

__all__ = ["CHANGES", "INVALIDATIONS", "LEAF_CHANGES", "PRIMES", "Change", "access_of"]

_RESERVED = 1 << 51


@dataclass(frozen=True, slots=True)
class Change:
    """The flags of an entry before and after; `other`: it leads another way as well."""

    before: int = OPEN
    after: int = OPEN
    other: bool = False


def _both(name: str, bits: int) -> dict[str, Change]:
    """Return the two changes of bits that the open entry has set or clear."""
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
"""Changes that mean something at every level."""

LEAF_CHANGES = {
    **CHANGES,
    "d-0": Change(after=OPEN & ~Entry.D),
    "target-d-0": Change(before=OPEN & ~Entry.D, after=OPEN & ~Entry.D, other=True),
    **_both("pk", KEY),
    "g-0": Change(before=OPEN | Entry.G, other=True),
    "g-1": Change(after=OPEN | Entry.G, other=True),
}


def _toggled(register: type[MovCr0 | MovCr4], bit: int, scene: Scene) -> tuple[Step, ...]:
    context = scene.context()
    value = context.cr0 if register is MovCr0 else context.cr4
    return register(value ^ bit), register(value)


INVALIDATIONS: dict[str, Callable[[Scene], tuple[Step, ...]]] = {
    "none": lambda _: (),
    "invlpg": lambda scene: (Invlpg(scene.va),),
    "invlpg-near": lambda scene: (Invlpg(scene.near),),
    "invlpg-far": lambda _: (Invlpg(FAR),),
    "cr3": lambda scene: (MovCr3(scene.root),),
    "cr3-and-back": lambda scene: (MovCr3(OTHER_ROOT), MovCr3(scene.root)),
    "pge": lambda scene: _toggled(MovCr4, CR4.PGE, scene),
    "smep": lambda scene: (MovCr4(scene.context().cr4 | CR4.SMEP),),
    "smap": lambda scene: _toggled(MovCr4, CR4.SMAP, scene),
    "wp": lambda scene: _toggled(MovCr0, CR0.WP, scene),
}
"""What comes between the change and the access; some of it invalidates nothing."""

_TYPES = {
    "read": AccessType.READ,
    "write": AccessType.WRITE,
    "execute": AccessType.EXECUTE,
}


def access_of(va: int, name: str, cpl: str, *, ac: bool = False) -> Access:
    """Return an access by its names."""
    return Access(va, _TYPES[name], int(cpl), ac)


PRIMES: dict[str, Callable[[Scene, str], tuple[Step, ...]]] = {
    "none": lambda _scene, _cpl: (),
    "read": lambda scene, cpl: (access_of(scene.va, "read", cpl),),
    "write": lambda scene, cpl: (access_of(scene.va, "write", cpl),),
    "execute": lambda scene, cpl: (access_of(scene.va, "execute", cpl),),
    "near": lambda scene, cpl: (access_of(scene.near, "read", cpl),),
}
"""The access before the change, at some CPL: its translation may be kept."""
