"""The default matrix: its sections, and why they leave out what they leave out."""

from collections.abc import Iterable

from crosswalk.emu.matrix.bits import LEVEL_NAMES
from crosswalk.emu.matrix.legacy_sections import LEGACY_SECTIONS
from crosswalk.emu.matrix.section import Section

__all__ = ["SECTIONS"]

_RIGHTS = ("rw", "us", "nx")
_SWITCHES = ("cr0.wp", "efer.nx", "cr4.smep", "cr4.smap")
_KEYS = (*_SWITCHES, "cr4.pke", "pkru.ad", "pkru.wd")
_OPEN = ("p", "rw", "us", "a")
_LARGE = ("p", "ps")
_HIGH = tuple(f"bit{number}" for number in range(40, 52))
_LOW = {
    2: tuple(f"bit{number}" for number in range(13, 21)),
    3: tuple(f"bit{number}" for number in range(13, 30)),
}

_UPPER = (
    "entries above are open: how rights add up is crossed in full in rights-4k and rights-5level"
)
_ACCESSED = "A of a PDPTE is set: that each level's A is handled alike shows at the other levels"
_LEAF = "PS is clear above the leaf: junk and reserved cross it"
_PKRU = "PKRU has two bits for one key and opens all others: keys crosses them all"
_ONE = "one reserved bit an entry: any number of them gives the same code"
_SAME = "40 and 51 stand for the bits between: reserved-high has each of them"
_WHOLE = "RFLAGS.AC is clear: it matters with CR4.SMAP alone, which is clear here"


def _set(bits: tuple[str, ...], *levels: int) -> dict[int, tuple[str, ...]]:
    return dict.fromkeys(levels, bits)


def _low_bits_of_large(level: int, names: frozenset[str]) -> bool:
    """Leave out bits of the address: bit 13 of an entry that leads to a table is no flag."""
    return "ps" in names or "bit13" not in names or level not in _LOW


def _junk(levels: int, level: int) -> Section:
    others = [other for other in range(levels, 0, -1) if other != level]
    return Section(
        name=f"junk-{LEVEL_NAMES[level]}",
        covers=f"an absent {LEVEL_NAMES[level].upper()} with all else set, and a present one",
        free=_set((), *others) | {level: ("p", "rw", "us", "a", "d", "ps", "nx", "bit51")},
        fixed=_set(_OPEN, *others),
        controls=_SWITCHES,
        ac=(False, True),
        pruned=(_UPPER,),
    )


def _pkrus() -> Iterable[int]:
    yield 0
    yield 0xFFFF_FFFF
    for key in range(16):
        for denied in (1, 2, 3):
            yield denied << 2 * key
        yield 0xFFFF_FFFF & ~(3 << 2 * key)


SECTIONS = (
    Section(
        name="rights-4k",
        covers="R/W, U/S and XD at all four levels, A at three, D, WP, NXE, SMEP, SMAP, AC",
        free={4: (*_RIGHTS, "a"), 3: _RIGHTS, 2: (*_RIGHTS, "a"), 1: (*_RIGHTS, "a", "d")},
        fixed=_set(("p",), 4, 2, 1) | {3: ("p", "a")},
        controls=_SWITCHES,
        ac=(False, True),
        pruned=(_ACCESSED, _LEAF),
    ),
    Section(
        name="rights-5level",
        covers="R/W, U/S and XD at all five levels",
        free=_set(_RIGHTS, 5, 4, 3, 2, 1),
        fixed=_set(("p",), 5, 4, 3, 2, 1),
        controls=_SWITCHES,
        ac=(False, True),
        pruned=(_LEAF,),
    ),
    Section(
        name="kvm-access",
        covers="what kvm-unit-tests' access permutes: PTE and PDE bits, PKU, SMEP, NX, WP",
        free={
            4: (),
            3: (),
            2: ("p", "rw", "us", "a", "ps", "nx", "bit51", "bit13"),
            1: ("p", "rw", "us", "a", "d", "nx", "bit51", "pk"),
        },
        fixed=_set(_OPEN, 4, 3),
        controls=("cr0.wp", "efer.nx", "cr4.smep", "cr4.pke", "pkru.ad", "pkru.wd"),
        keep=_low_bits_of_large,
        pruned=(_UPPER, _PKRU, _WHOLE, "bit 13 of a PDE with PS clear is part of the address"),
    ),
    Section(
        name="keys-4k",
        covers="a key's two rights with a PTE's bits, the PDE's rights, and every switch",
        free={4: (), 3: (), 2: _RIGHTS, 1: (*_RIGHTS, "a", "d", "pk")},
        fixed=_set(_OPEN, 4, 3) | _set(("p",), 2, 1),
        controls=_KEYS,
        ac=(False, True),
        pruned=(_UPPER, _PKRU),
    ),
    Section(
        name="keys-16",
        covers="all sixteen keys, each alone denied and each alone allowed",
        free={4: (), 3: (), 2: ("us",), 1: (*_RIGHTS, "d")},
        fixed=_set(_OPEN, 4, 3) | _set(("p",), 2, 1),
        one_of={1: tuple(f"key{number}" for number in range(1, 16))},
        controls=("cr0.wp", "cr4.smap"),
        on=("cr4.pke", "efer.nx"),
        pkrus=tuple(_pkrus()),
        ac=(False, True),
        pruned=(_UPPER, "PKE and NXE are set: keys-4k has them clear"),
    ),
    Section(
        name="large-2m",
        covers="rights above and in a PDE that maps 2 MiB, its A, D and key, and every switch",
        free={4: _RIGHTS, 3: _RIGHTS, 2: (*_RIGHTS, "a", "d", "pk")},
        fixed=_set(("p", "a"), 4, 3) | {2: _LARGE},
        controls=_KEYS,
        ac=(False, True),
        pruned=(_PKRU, "A above is set: rights-4k has it clear"),
    ),
    Section(
        name="large-1g",
        covers="rights above and in a PDPTE that maps 1 GiB, its A, D and key, and every switch",
        free={4: (*_RIGHTS, "a"), 3: (*_RIGHTS, "a", "d", "pk")},
        fixed={4: ("p",), 3: _LARGE},
        controls=_KEYS,
        ac=(False, True),
        pruned=(_PKRU,),
    ),
    Section(
        name="reserved-high",
        covers="bits 40 to 51, each at each level with each at each other",
        free=_set((), 4, 3, 2, 1),
        fixed=_set(_OPEN, 4, 3, 2, 1),
        one_of=_set(_HIGH, 4, 3, 2, 1),
        controls=("efer.nx",),
        pruned=(_ONE,),
    ),
    Section(
        name="reserved-4k",
        covers="reserved bits with U/S and XD, which is reserved with NXE clear, on all levels",
        free=_set(("us", "nx"), 4, 3, 2, 1),
        fixed=_set(("p", "rw"), 4, 3, 2, 1),
        one_of={4: ("bit40", "bit51", "ps"), **_set(("bit40", "bit51"), 3, 2, 1)},
        controls=("cr0.wp", "efer.nx", "cr4.smep"),
        pruned=(_ONE, _SAME, _WHOLE),
    ),
    Section(
        name="reserved-5level",
        covers="reserved bits and XD on five levels, PS of PML5E and PML4E",
        free=_set(("nx",), 5, 4, 3, 2, 1),
        fixed=_set(_OPEN, 5, 4, 3, 2, 1),
        one_of={**_set(("bit40", "bit51", "ps"), 5, 4), **_set(("bit40", "bit51"), 3, 2, 1)},
        controls=("efer.nx", "cr4.smep"),
        pruned=(_ONE, _SAME, _WHOLE),
    ),
    Section(
        name="reserved-2m",
        covers="bits 13 to 20 and 40 to 51 of a PDE that maps 2 MiB, with PAT beside them",
        free={4: _RIGHTS, 3: _RIGHTS, 2: ("us", "nx", "pat")},
        fixed=_set(("p", "a"), 4, 3) | {2: (*_LARGE, "rw")},
        one_of={2: _LOW[2] + _HIGH},
        controls=("cr0.wp", "efer.nx", "cr4.smep"),
        pruned=(_ONE, _WHOLE),
    ),
    Section(
        name="reserved-1g",
        covers="bits 13 to 29 and 40 to 51 of a PDPTE that maps 1 GiB, with A and PAT beside them",
        free={4: _RIGHTS, 3: ("us", "nx", "a", "pat")},
        fixed={4: ("p", "a"), 3: (*_LARGE, "rw")},
        one_of={3: _LOW[3] + _HIGH},
        controls=("cr0.wp", "efer.nx", "cr4.smep"),
        pruned=(_ONE, _WHOLE),
    ),
    *(_junk(4, level) for level in (4, 3, 2, 1)),
    _junk(5, 5),
    Section(
        name="ignored",
        covers="PWT, PCD, G, D above leaves, PAT and software's bits: none of them matters",
        free={
            **_set(("pwt", "pcd", "sw", "d"), 4, 3, 2),
            1: ("pwt", "pcd", "sw", "g", "ps", "d"),
        },
        fixed=_set(_OPEN, 4, 3, 2, 1),
        controls=("cr4.pge",),
        on=("cr0.wp", "efer.nx"),
        pruned=("rights are open: an ignored bit that mattered would take one away, or fault",),
    ),
    *LEGACY_SECTIONS,
)
