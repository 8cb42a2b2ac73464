"""Sections of single accesses in the default matrix, with the reasons for what they leave out.

All paging modes, and the limits of physical and linear addresses and of a processor's features.
What the emulated CPU lacks is in `crosswalk.emu.matrix.feature_sections`.
"""

from collections.abc import Iterable

from crosswalk.emu.matrix.bits import LEVEL_NAMES
from crosswalk.emu.matrix.section import Section
from crosswalk.walker.context import PagingMode, Vendor

__all__ = [
    "BOUNDARY_SECTIONS",
    "LARGE",
    "LEGACY_SECTIONS",
    "LONG",
    "OPEN",
    "RIGHTS",
    "SECTIONS",
    "at_levels",
    "key_rights",
]

RIGHTS = ("rw", "us", "nx")
LONG = {4: PagingMode.LEVEL4, 5: PagingMode.LEVEL5}
_SWITCHES = ("cr0.wp", "efer.nx", "cr4.smep", "cr4.smap")
_KEYS = (*_SWITCHES, "cr4.pke", "pkru.ad", "pkru.wd")
OPEN = ("p", "rw", "us", "a")
LARGE = ("p", "ps")
_HIGH = tuple(f"bit{number}" for number in range(40, 52))
_LOW = {
    2: tuple(f"bit{number}" for number in range(13, 21)),
    3: tuple(f"bit{number}" for number in range(13, 30)),
}

_LEGACY_SWITCHES = tuple(name for name in _SWITCHES if name != "efer.nx")
_HIGH_PAE = tuple(f"bit{number}" for number in range(40, 63))
_WIDTHS = ("bit36", "bit39", "bit40", "bit41", "bit46", "bit51")

_UPPER = (
    "entries above are open: how rights add up is crossed in full in rights-4k and rights-5level"
)
_ACCESSED = "A of a PDPTE is set: the other levels show that all A bits are handled alike"
_LEAF = "PS is clear above the leaf: junk and reserved cross it"
_PKRU = "PKRU has two bits for one key and opens all others: keys crosses them all"
_ONE = "one reserved bit an entry: any number of them gives the same code"
_SAME = "40 and 51 stand for the bits between: reserved-high has each of them"
_WHOLE = "RFLAGS.AC is clear: it matters with CR4.SMAP alone, which is clear here"

_IGNORED = "rights are open: an ignored bit that mattered would withhold one, or fault"
_OTHER = "the other level is open: how rights add up is crossed in full in rights"
_NO_KEYS = "PKRU denies nothing or all: no key may make a difference"
_PSE = "CR4.PSE counts for 32-bit paging alone: large has it both ways"
_NO_XD = "EFER.NXE gives no bit a meaning here: rights and large have it both ways"
_PDPT = "each entry has a PDPT of its own, next to one well-formed entry"
_ONE_BIT = "one address bit an entry: which of several is reserved makes no difference"
_KNOWN = "rights are open: known divergences here depend on the entry, not on rights"
_EMULATED = (
    "one level of rights: the emulated CPU has 40 bits, and the differences are known divergences"
)


def at_levels(bits: tuple[str, ...], *levels: int) -> dict[int, tuple[str, ...]]:
    """Return the same bits, by name, for each of these levels."""
    return dict.fromkeys(levels, bits)


def _low_bits_of_large(level: int, names: frozenset[str]) -> bool:
    """Leave out bits of the address: bit 13 of an entry that leads to a table is no flag."""
    return "ps" in names or "bit13" not in names or level not in _LOW


def _junk(mode: PagingMode, level: int) -> Section:
    """Return the section of absent and present entries of one level with all else set."""
    prefix = {PagingMode.BIT32: "32bit-", PagingMode.PAE: "pae-"}.get(mode, "")
    top = {PagingMode.BIT32: 2, PagingMode.PAE: 3, PagingMode.LEVEL5: 5}.get(mode, 4)
    others = [other for other in range(top, 0, -1) if other != level]
    narrow = mode is PagingMode.BIT32
    special = ("g",) if narrow else ("nx", "bit51")
    controls = tuple(name for name in _SWITCHES if not narrow or name != "efer.nx")
    return Section(
        name=f"{prefix}junk-{LEVEL_NAMES[level]}",
        covers=f"an absent {LEVEL_NAMES[level].upper()} with all else set, and a present one",
        free=at_levels((), *others) | {level: ("p", "rw", "us", "a", "d", "ps", *special)},
        fixed=at_levels(OPEN, *others) | ({3: ("p",)} if mode is PagingMode.PAE else {}),
        controls=(*controls, "cr4.pse") if narrow and level == 2 else controls,
        ac=(False, True),
        mode=mode,
        pruned=(_UPPER,) if mode.long else (_OTHER, _NO_XD if narrow else _PSE),
    )


def _no_keys(mode: PagingMode) -> Section:
    """Return the section of protection keys in a mode that has none."""
    upper: dict[int, tuple[str, ...]] = {3: ()} if mode is PagingMode.PAE else {}
    return Section(
        name="pae-keys" if upper else "32bit-keys",
        covers="PKE, PKS and their registers, which mean nothing outside IA-32e mode",
        free=upper | {2: ("us",), 1: ("rw", "us")},
        fixed=at_levels(("p",), *upper) | {2: ("p", "rw"), 1: ("p",)},
        controls=("cr0.wp", "cr4.pke", "cr4.pks"),
        pkrus=(0, 0xFFFF_FFFF),
        pkrs=(0xFFFF_FFFF,),
        mode=mode,
        pruned=(_NO_KEYS,),
    )


def key_rights() -> Iterable[int]:
    """Yield rights of keys: nothing denied, all, of each key each, and of each all others'."""
    yield 0
    yield 0xFFFF_FFFF
    for key in range(16):
        for denied in (1, 2, 3):
            yield denied << 2 * key
        yield 0xFFFF_FFFF & ~(3 << 2 * key)


_BIT32 = (
    Section(
        name="32bit-rights",
        covers="R/W, U/S and A of PDE and PTE, D, and every switch, PSE and NXE among them",
        free={2: ("rw", "us", "a"), 1: ("rw", "us", "a", "d")},
        fixed={2: ("p",), 1: ("p",)},
        controls=(*_SWITCHES, "cr4.pse"),
        ac=(False, True),
        mode=PagingMode.BIT32,
        pruned=(_LEAF,),
    ),
    Section(
        name="32bit-large",
        covers="all bits of a PDE that maps 4 MiB but those of the address",
        free={2: ("rw", "us", "a", "d", "g", "pat"), 1: ()},
        fixed={2: LARGE, 1: OPEN},
        controls=_SWITCHES,
        on=("cr4.pse",),
        ac=(False, True),
        mode=PagingMode.BIT32,
        pruned=("no PTE is reached: a 4-MiB page has none",),
    ),
    Section(
        name="32bit-reserved",
        covers="bits 13 to 21 of a PDE with PS, of which PSE-36 gives all but the last a meaning",
        free={2: ("rw", "us", "a", "pat"), 1: ()},
        fixed={2: LARGE, 1: OPEN},
        one_of={2: (*_LOW[2], "bit21")},
        controls=("cr0.wp", "cr4.smep", "cr4.pse"),
        mode=PagingMode.BIT32,
        pruned=(_ONE, _WHOLE, _NO_XD),
    ),
    Section(
        name="32bit-pse-off",
        covers="PS of a PDE that leads to a table, since PSE is clear",
        free={2: ("ps", "rw", "us", "a"), 1: ("rw", "us", "d")},
        fixed={2: ("p",), 1: ("p",)},
        controls=_LEGACY_SWITCHES,
        ac=(False, True),
        mode=PagingMode.BIT32,
        pruned=(_NO_XD,),
    ),
    *(_junk(PagingMode.BIT32, level) for level in (2, 1)),
    Section(
        name="32bit-ignored",
        covers="PWT, PCD, G, D above the leaf, PAT and software's bits: none of them matters",
        free={2: ("pwt", "pcd", "avl", "g", "d"), 1: ("pwt", "pcd", "avl", "g", "ps", "d")},
        fixed={2: OPEN, 1: OPEN},
        controls=("cr4.pge",),
        on=("cr0.wp",),
        mode=PagingMode.BIT32,
        pruned=(_IGNORED,),
    ),
    _no_keys(PagingMode.BIT32),
)

_PAE = (
    Section(
        name="pae-rights",
        covers="R/W, U/S, XD and A of PDE and PTE, D, WP, NXE, SMEP, SMAP, AC",
        free={3: (), 2: ("rw", "us", "nx", "a"), 1: ("rw", "us", "nx", "a", "d")},
        fixed={3: ("p",), 2: ("p",), 1: ("p",)},
        controls=_SWITCHES,
        ac=(False, True),
        mode=PagingMode.PAE,
        pruned=(_LEAF, _PSE),
    ),
    Section(
        name="pae-large",
        covers="all bits of a PDE that maps 2 MiB but those of the address, and PSE",
        free={3: (), 2: ("rw", "us", "nx", "a", "d", "g", "pat"), 1: ()},
        fixed={3: ("p",), 2: LARGE, 1: OPEN},
        controls=(*_SWITCHES, "cr4.pse"),
        ac=(False, True),
        mode=PagingMode.PAE,
        pruned=("no PTE is reached: a 2-MiB page has none",),
    ),
    Section(
        name="pae-reserved",
        covers="bits 40 to 62 of PDE and PTE, each with each, and U/S and XD",
        free={3: (), 2: ("us", "nx"), 1: ("us", "nx")},
        fixed={3: ("p",), 2: ("p", "rw", "a"), 1: ("p", "rw", "a")},
        one_of={2: _HIGH_PAE, 1: _HIGH_PAE},
        controls=("efer.nx", "cr4.smep"),
        mode=PagingMode.PAE,
        pruned=(_ONE, _WHOLE, _PSE),
    ),
    Section(
        name="pae-reserved-2m",
        covers="bits 13 to 20 and 40 to 62 of a PDE that maps 2 MiB, and PAT",
        free={3: (), 2: ("us", "nx", "pat"), 1: ()},
        fixed={3: ("p",), 2: (*LARGE, "rw"), 1: OPEN},
        one_of={2: _LOW[2] + _HIGH_PAE},
        controls=("cr0.wp", "efer.nx", "cr4.smep"),
        mode=PagingMode.PAE,
        pruned=(_ONE, _WHOLE, _PSE),
    ),
    *(_junk(PagingMode.PAE, level) for level in (2, 1)),
    Section(
        name="pae-pdpte",
        covers="every bit of a PDPTE, present and absent, through it and through its neighbour",
        free={3: ("p",), 2: (), 1: ()},
        fixed={2: OPEN, 1: OPEN},
        one_of={3: ("pwt", "pcd", "avl", "rw", "us", "a", "d", "ps", "g", *_HIGH_PAE, "nx")},
        controls=("efer.nx", "cr4.smep"),
        mode=PagingMode.PAE,
        pruned=(_ONE, _PDPT),
    ),
    Section(
        name="pae-ignored",
        covers="PWT, PCD, D above the leaf, G, PAT and software's bits: none of them matters",
        free={3: (), 2: ("pwt", "pcd", "avl", "d"), 1: ("pwt", "pcd", "avl", "g", "ps", "d")},
        fixed={3: ("p", "pwt", "pcd", "avl"), 2: OPEN, 1: OPEN},
        controls=("cr4.pge",),
        on=("cr0.wp", "efer.nx"),
        mode=PagingMode.PAE,
        pruned=(_IGNORED,),
    ),
    _no_keys(PagingMode.PAE),
)

LEGACY_SECTIONS = (*_BIT32, *_PAE)
"""Sections of 32-bit and PAE paging."""

SECTIONS = (
    Section(
        name="rights-4k",
        covers="R/W, U/S and XD at all four levels, A at three, D, WP, NXE, SMEP, SMAP, AC",
        free={4: (*RIGHTS, "a"), 3: RIGHTS, 2: (*RIGHTS, "a"), 1: (*RIGHTS, "a", "d")},
        fixed=at_levels(("p",), 4, 2, 1) | {3: ("p", "a")},
        controls=_SWITCHES,
        ac=(False, True),
        pruned=(_ACCESSED, _LEAF),
    ),
    Section(
        name="rights-5level",
        covers="R/W, U/S and XD at all five levels",
        free=at_levels(RIGHTS, 5, 4, 3, 2, 1),
        fixed=at_levels(("p",), 5, 4, 3, 2, 1),
        controls=_SWITCHES,
        ac=(False, True),
        mode=PagingMode.LEVEL5,
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
        fixed=at_levels(OPEN, 4, 3),
        controls=("cr0.wp", "efer.nx", "cr4.smep", "cr4.pke", "pkru.ad", "pkru.wd"),
        keep=_low_bits_of_large,
        pruned=(_UPPER, _PKRU, _WHOLE, "bit 13 of a PDE with PS clear is part of the address"),
    ),
    Section(
        name="keys-4k",
        covers="a key's two rights with a PTE's bits, the PDE's rights, and every switch",
        free={4: (), 3: (), 2: RIGHTS, 1: (*RIGHTS, "a", "d", "pk")},
        fixed=at_levels(OPEN, 4, 3) | at_levels(("p",), 2, 1),
        controls=_KEYS,
        ac=(False, True),
        pruned=(_UPPER, _PKRU),
    ),
    Section(
        name="keys-16",
        covers="all sixteen keys, each alone denied and each alone allowed",
        free={4: (), 3: (), 2: ("us",), 1: (*RIGHTS, "d")},
        fixed=at_levels(OPEN, 4, 3) | at_levels(("p",), 2, 1),
        one_of={1: tuple(f"key{number}" for number in range(1, 16))},
        controls=("cr0.wp", "cr4.smap"),
        on=("cr4.pke", "efer.nx"),
        pkrus=tuple(key_rights()),
        ac=(False, True),
        pruned=(_UPPER, "PKE and NXE are set: keys-4k has them clear"),
    ),
    Section(
        name="large-2m",
        covers="rights above and in a PDE that maps 2 MiB, its A, D and key, and every switch",
        free={4: RIGHTS, 3: RIGHTS, 2: (*RIGHTS, "a", "d", "pk")},
        fixed=at_levels(("p", "a"), 4, 3) | {2: LARGE},
        controls=_KEYS,
        ac=(False, True),
        pruned=(_PKRU, "A above is set: rights-4k has it clear"),
    ),
    Section(
        name="large-1g",
        covers="rights above and in a PDPTE that maps 1 GiB, its A, D and key, and every switch",
        free={4: (*RIGHTS, "a"), 3: (*RIGHTS, "a", "d", "pk")},
        fixed={4: ("p",), 3: LARGE},
        controls=_KEYS,
        ac=(False, True),
        pruned=(_PKRU,),
    ),
    Section(
        name="reserved-high",
        covers="bits 40 to 51, each at each level with each at each other",
        free=at_levels((), 4, 3, 2, 1),
        fixed=at_levels(OPEN, 4, 3, 2, 1),
        one_of=at_levels(_HIGH, 4, 3, 2, 1),
        controls=("efer.nx",),
        pruned=(_ONE,),
    ),
    Section(
        name="reserved-4k",
        covers="reserved bits with U/S and XD, which is reserved with NXE clear, on all levels",
        free=at_levels(("us", "nx"), 4, 3, 2, 1),
        fixed=at_levels(("p", "rw"), 4, 3, 2, 1),
        one_of={4: ("bit40", "bit51", "ps"), **at_levels(("bit40", "bit51"), 3, 2, 1)},
        controls=("cr0.wp", "efer.nx", "cr4.smep"),
        pruned=(_ONE, _SAME, _WHOLE),
    ),
    Section(
        name="reserved-5level",
        covers="reserved bits and XD on five levels, PS of PML5E and PML4E",
        free=at_levels(("nx",), 5, 4, 3, 2, 1),
        fixed=at_levels(OPEN, 5, 4, 3, 2, 1),
        one_of={
            **at_levels(("bit40", "bit51", "ps"), 5, 4),
            **at_levels(("bit40", "bit51"), 3, 2, 1),
        },
        controls=("efer.nx", "cr4.smep"),
        mode=PagingMode.LEVEL5,
        pruned=(_ONE, _SAME, _WHOLE),
    ),
    Section(
        name="reserved-2m",
        covers="bits 13 to 20 and 40 to 51 of a PDE that maps 2 MiB, and PAT",
        free={4: RIGHTS, 3: RIGHTS, 2: ("us", "nx", "pat")},
        fixed=at_levels(("p", "a"), 4, 3) | {2: (*LARGE, "rw")},
        one_of={2: _LOW[2] + _HIGH},
        controls=("cr0.wp", "efer.nx", "cr4.smep"),
        pruned=(_ONE, _WHOLE),
    ),
    Section(
        name="reserved-1g",
        covers="bits 13 to 29 and 40 to 51 of a PDPTE that maps 1 GiB, A and PAT",
        free={4: RIGHTS, 3: ("us", "nx", "a", "pat")},
        fixed={4: ("p", "a"), 3: (*LARGE, "rw")},
        one_of={3: _LOW[3] + _HIGH},
        controls=("cr0.wp", "efer.nx", "cr4.smep"),
        pruned=(_ONE, _WHOLE),
    ),
    *(_junk(PagingMode.LEVEL4, level) for level in (4, 3, 2, 1)),
    _junk(PagingMode.LEVEL5, 5),
    Section(
        name="ignored",
        covers="PWT, PCD, G, D above leaves, PAT and software's bits: none of them matters",
        free={
            **at_levels(("pwt", "pcd", "sw", "d"), 4, 3, 2),
            1: ("pwt", "pcd", "sw", "g", "ps", "d"),
        },
        fixed=at_levels(OPEN, 4, 3, 2, 1),
        controls=("cr4.pge",),
        on=("cr0.wp", "efer.nx"),
        pruned=(_IGNORED,),
    ),
    *LEGACY_SECTIONS,
)
"""Sections of all paging modes, in the order of the matrix."""

BOUNDARY_SECTIONS = (
    Section(
        name="highest-4k",
        covers="the highest address bit, 39, and the first reserved one, 40, on all levels",
        free={4: ("us",), 3: ("us",), 2: ("us",), 1: ("rw", "us", "nx")},
        fixed=at_levels(("p", "rw"), 4, 3, 2) | {1: ("p",)},
        one_of=at_levels(("bit39", "bit40"), 4, 3, 2, 1),
        controls=("cr0.wp", "efer.nx", "cr4.smap"),
        highest=True,
        ac=(False, True),
        pruned=(_ONE_BIT, "RAM lies at both addresses: tables and pages are found at each"),
    ),
    Section(
        name="highest-large",
        covers="the same of pages of 2 MiB and 1 GiB",
        free={4: ("us",), 3: ("us", "ps"), 2: ("us", "nx")},
        fixed={4: ("p", "rw"), 3: ("p", "rw", "a"), 2: (*LARGE, "rw")},
        one_of=at_levels(("bit39", "bit40"), 4, 3, 2),
        controls=("cr0.wp", "efer.nx", "cr4.smap"),
        highest=True,
        ac=(False, True),
        pruned=(_ONE_BIT,),
    ),
    Section(
        name="maxphyaddr",
        covers="widths of 36, 39, 40, 41, 46 and 52 bits with address bits at their edges",
        free={4: (), 3: ("ps",), 2: ("ps",), 1: ()},
        fixed=at_levels(OPEN, 4, 3, 2, 1),
        one_of=at_levels(_WIDTHS, 4, 3, 2, 1),
        controls=("efer.nx",),
        processors=tuple({"maxphyaddr": width} for width in (36, 39, 40, 41, 46, 52)),
        pruned=(_ONE_BIT, _KNOWN, _EMULATED),
    ),
    Section(
        name="vendor",
        covers="bit 8 and PS of PML4E and PML5E, PS of a PDPTE: Intel and AMD, 1-GiB pages or none",
        free={5: ("g", "ps", "nx"), 4: ("g", "ps", "nx"), 3: ("ps", "g"), 2: ("g",), 1: ("g",)},
        fixed=at_levels(OPEN, 5, 4, 3, 2, 1),
        controls=("efer.nx",),
        processors=tuple(
            {"vendor": vendor, "page1gb": large} for vendor in Vendor for large in (True, False)
        ),
        mode=PagingMode.LEVEL5,
        pruned=(_KNOWN,),
    ),
    *(
        Section(
            name=f"canonical-{levels}level",
            covers=f"every bit from {11 + 9 * levels} to 63 flipped: none is canonical",
            free=at_levels((), *range(levels, 1, -1)) | {1: ("p", "rw", "us", "nx")},
            fixed=at_levels(OPEN, *range(levels, 1, -1)),
            controls=("cr0.wp", "cr4.smep", "cr4.smap"),
            on=("efer.nx",),
            beyond=True,
            ac=(False, True),
            mode=LONG[levels],
            pruned=(
                "one bit at a time; addresses next to the borders are in cross-ends",
                "entries above are open: none is read of an address that isn't canonical",
            ),
        )
        for levels in (4, 5)
    ),
    Section(
        name="ignored-keys",
        covers="bits 62:59 of entries that map nothing, under a PKRU that denies that key",
        free={**at_levels(("us", "key15"), 4, 3, 2), 1: ("rw", "us", "key15")},
        fixed=at_levels(("p", "rw"), 4, 3, 2) | {1: ("p",)},
        controls=("cr0.wp", "cr4.smap", "cr4.pke"),
        on=("efer.nx",),
        pkrus=(0, 0x4000_0000, 0x8000_0000, 0xC000_0000),
        ac=(False, True),
        pruned=("one key: keys-16 has all of them where they mean something",),
    ),
)
"""Sections at the limits of addresses and of a processor's features, in order."""
