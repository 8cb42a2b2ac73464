"""The matrix of 32-bit and PAE paging, and why its sections leave out what they leave out."""

from dataclasses import replace

from crosswalk.emu.matrix.section import LEGACY_RAM, Section
from crosswalk.walker.context import PagingMode

__all__ = ["LEGACY_SECTIONS"]

_SWITCHES = ("cr0.wp", "cr4.smep", "cr4.smap")
_NXE = ("cr0.wp", "efer.nx", "cr4.smep", "cr4.smap")
_OPEN = ("p", "rw", "us", "a")
_LARGE = ("p", "ps")
_LOW = tuple(f"bit{number}" for number in range(13, 21))
_HIGH = tuple(f"bit{number}" for number in range(40, 63))

_LEAF = "PS is clear above the leaf: junk and reserved cross it"
_UPPER = "the other level is open: how rights add up is crossed in full in rights"
_ONE = "one reserved bit an entry: any number of them gives the same code"
_WHOLE = "RFLAGS.AC is clear: it matters with CR4.SMAP alone, which is clear here"
_IGNORED = "rights are open: an ignored bit that mattered would take one away, or fault"
_KEYS = "PKRU denies nothing or all: no key may make a difference"
_PSE = "CR4.PSE counts for 32-bit paging alone: large has it both ways"
_NO_XD = "EFER.NXE gives no bit a meaning here: rights and large have it both ways"
_SAME = "each entry has a PDPT of its own, beside one other entry that is as it should be"


def _in(mode: PagingMode, *sections: Section) -> tuple[Section, ...]:
    return tuple(replace(section, older=mode, ram=LEGACY_RAM) for section in sections)


_BIT32 = _in(
    PagingMode.BIT32,
    Section(
        name="32bit-rights",
        covers="R/W, U/S and A of PDE and PTE, D, and every switch, PSE and NXE among them",
        free={2: ("rw", "us", "a"), 1: ("rw", "us", "a", "d")},
        fixed={2: ("p",), 1: ("p",)},
        controls=(*_NXE, "cr4.pse"),
        ac=(False, True),
        pruned=(_LEAF,),
    ),
    Section(
        name="32bit-large",
        covers="all bits of a PDE that maps 4 MiB but those of the address",
        free={2: ("rw", "us", "a", "d", "g", "pat"), 1: ()},
        fixed={2: _LARGE, 1: _OPEN},
        controls=_NXE,
        on=("cr4.pse",),
        ac=(False, True),
        pruned=("no PTE is reached: a 4-MiB page has none",),
    ),
    Section(
        name="32bit-reserved",
        covers="bits 13 to 21 of a PDE with PS, of which PSE-36 gives all but the last a meaning",
        free={2: ("rw", "us", "a", "pat"), 1: ()},
        fixed={2: _LARGE, 1: _OPEN},
        one_of={2: (*_LOW, "bit21")},
        controls=("cr0.wp", "cr4.smep", "cr4.pse"),
        pruned=(_ONE, _WHOLE, _NO_XD),
    ),
    Section(
        name="32bit-pse-off",
        covers="PS of a PDE that leads to a table, since PSE is clear",
        free={2: ("ps", "rw", "us", "a"), 1: ("rw", "us", "d")},
        fixed={2: ("p",), 1: ("p",)},
        controls=_SWITCHES,
        ac=(False, True),
        pruned=(_NO_XD,),
    ),
    Section(
        name="32bit-junk-pde",
        covers="an absent PDE with all else set, and a present one",
        free={2: ("p", "rw", "us", "a", "d", "ps", "g"), 1: ()},
        fixed={1: _OPEN},
        controls=(*_SWITCHES, "cr4.pse"),
        ac=(False, True),
        pruned=(_UPPER, _NO_XD),
    ),
    Section(
        name="32bit-junk-pte",
        covers="an absent PTE with all else set, and a present one",
        free={2: (), 1: ("p", "rw", "us", "a", "d", "ps", "g")},
        fixed={2: _OPEN},
        controls=_SWITCHES,
        ac=(False, True),
        pruned=(_UPPER, _NO_XD),
    ),
    Section(
        name="32bit-ignored",
        covers="PWT, PCD, G, D above the leaf, PAT and software's bits: none of them matters",
        free={2: ("pwt", "pcd", "avl", "g", "d"), 1: ("pwt", "pcd", "avl", "g", "ps", "d")},
        fixed={2: _OPEN, 1: _OPEN},
        controls=("cr4.pge",),
        on=("cr0.wp",),
        pruned=(_IGNORED,),
    ),
    Section(
        name="32bit-keys",
        covers="CR4.PKE and PKRU, which mean nothing outside IA-32e mode",
        free={2: ("us",), 1: ("rw", "us")},
        fixed={2: ("p", "rw"), 1: ("p",)},
        controls=("cr0.wp", "cr4.pke"),
        pkrus=(0, 0xFFFF_FFFF),
        pruned=(_KEYS,),
    ),
)

_PAE = _in(
    PagingMode.PAE,
    Section(
        name="pae-rights",
        covers="R/W, U/S, XD and A of PDE and PTE, D, WP, NXE, SMEP, SMAP, AC",
        free={3: (), 2: ("rw", "us", "nx", "a"), 1: ("rw", "us", "nx", "a", "d")},
        fixed={3: ("p",), 2: ("p",), 1: ("p",)},
        controls=_NXE,
        ac=(False, True),
        pruned=(_LEAF, _PSE),
    ),
    Section(
        name="pae-large",
        covers="all bits of a PDE that maps 2 MiB but those of the address, and PSE",
        free={3: (), 2: ("rw", "us", "nx", "a", "d", "g", "pat"), 1: ()},
        fixed={3: ("p",), 2: _LARGE, 1: _OPEN},
        controls=(*_NXE, "cr4.pse"),
        ac=(False, True),
        pruned=("no PTE is reached: a 2-MiB page has none",),
    ),
    Section(
        name="pae-reserved",
        covers="bits 40 to 62 of PDE and PTE, each with each, and U/S and XD",
        free={3: (), 2: ("us", "nx"), 1: ("us", "nx")},
        fixed={3: ("p",), 2: ("p", "rw", "a"), 1: ("p", "rw", "a")},
        one_of={2: _HIGH, 1: _HIGH},
        controls=("efer.nx", "cr4.smep"),
        pruned=(_ONE, _WHOLE, _PSE),
    ),
    Section(
        name="pae-reserved-2m",
        covers="bits 13 to 20 and 40 to 62 of a PDE that maps 2 MiB, with PAT beside them",
        free={3: (), 2: ("us", "nx", "pat"), 1: ()},
        fixed={3: ("p",), 2: (*_LARGE, "rw"), 1: _OPEN},
        one_of={2: _LOW + _HIGH},
        controls=("cr0.wp", "efer.nx", "cr4.smep"),
        pruned=(_ONE, _WHOLE, _PSE),
    ),
    Section(
        name="pae-junk-pde",
        covers="an absent PDE with all else set, and a present one",
        free={3: (), 2: ("p", "rw", "us", "a", "d", "ps", "nx", "bit51"), 1: ()},
        fixed={3: ("p",), 1: _OPEN},
        controls=_NXE,
        ac=(False, True),
        pruned=(_UPPER, _PSE),
    ),
    Section(
        name="pae-junk-pte",
        covers="an absent PTE with all else set, and a present one",
        free={3: (), 2: (), 1: ("p", "rw", "us", "a", "d", "ps", "nx", "bit51")},
        fixed={3: ("p",), 2: _OPEN},
        controls=_NXE,
        ac=(False, True),
        pruned=(_UPPER, _PSE),
    ),
    Section(
        name="pae-pdpte",
        covers="every bit of a PDPTE, present and absent, through it and through its neighbour",
        free={3: ("p",), 2: (), 1: ()},
        fixed={2: _OPEN, 1: _OPEN},
        one_of={3: ("pwt", "pcd", "avl", "rw", "us", "a", "d", "ps", "g", *_HIGH, "nx")},
        controls=("efer.nx", "cr4.smep"),
        pruned=(_ONE, _SAME),
    ),
    Section(
        name="pae-ignored",
        covers="PWT, PCD, D above the leaf, G, PAT and software's bits: none of them matters",
        free={3: (), 2: ("pwt", "pcd", "avl", "d"), 1: ("pwt", "pcd", "avl", "g", "ps", "d")},
        fixed={3: ("p", "pwt", "pcd", "avl"), 2: _OPEN, 1: _OPEN},
        controls=("cr4.pge",),
        on=("cr0.wp", "efer.nx"),
        pruned=(_IGNORED,),
    ),
    Section(
        name="pae-keys",
        covers="CR4.PKE and PKRU, which mean nothing outside IA-32e mode",
        free={3: (), 2: ("us",), 1: ("rw", "us")},
        fixed={3: ("p",), 2: ("p", "rw"), 1: ("p",)},
        controls=("cr0.wp", "cr4.pke"),
        pkrus=(0, 0xFFFF_FFFF),
        pruned=(_KEYS,),
    ),
)

LEGACY_SECTIONS = (*_BIT32, *_PAE)
