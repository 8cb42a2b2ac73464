"""Sections of single accesses in the default matrix, with the reasons for what they leave out.

All paging modes; the limits of physical and linear addresses and of a processor's features; and
what the emulated CPU lacks. Accesses that LAM, UAI or LASS change are predicted and counted apart;
the prediction is compared with the outcome observed without the feature at the address that the
feature leads to (`crosswalk.emu.matrix.unit`); that of accesses that PKS denies with the second
walk's.
"""

from collections.abc import Iterable
from dataclasses import replace

from crosswalk.emu.matrix.bits import LEVEL_NAMES
from crosswalk.emu.matrix.section import Section
from crosswalk.walker.context import PagingMode, Vendor

__all__ = ["BOUNDARY_SECTIONS", "FEATURE_SECTIONS", "LEGACY_SECTIONS", "SECTIONS"]

_RIGHTS = ("rw", "us", "nx")
_LONG = {4: PagingMode.LEVEL4, 5: PagingMode.LEVEL5}
_SWITCHES = ("cr0.wp", "efer.nx", "cr4.smep", "cr4.smap")
_KEYS = (*_SWITCHES, "cr4.pke", "pkru.ad", "pkru.wd")
_OPEN = ("p", "rw", "us", "a")
_LARGE = ("p", "ps")
_HIGH = tuple(f"bit{number}" for number in range(40, 52))
_LOW = {
    2: tuple(f"bit{number}" for number in range(13, 21)),
    3: tuple(f"bit{number}" for number in range(13, 30)),
}

_LEGACY_SWITCHES = tuple(name for name in _SWITCHES if name != "efer.nx")
_HIGH_PAE = tuple(f"bit{number}" for number in range(40, 63))
_WIDTHS = ("bit36", "bit39", "bit40", "bit41", "bit46", "bit51")
_AMD = ({"vendor": Vendor.AMD},)
_C_BIT = 47
_C = f"bit{_C_BIT}"

_UPPER = (
    "entries above are open: how rights add up is crossed in full in rights-4k and rights-5level"
)
_ACCESSED = "A of a PDPTE is set: the other levels show that all A bits are handled alike"
_LEAF = "PS is clear above the leaf: junk and reserved cross it"
_PKRU = "PKRU has two bits for one key and opens all others: keys crosses them all"
_PKRS = "PKRS has two bits for one key and opens all others: pks-16 crosses them all"
_PKS_SET = "PKS is set: pks-4k has it clear"
_ONE = "one reserved bit an entry: any number of them gives the same code"
_SAME = "40 and 51 stand for the bits between: reserved-high has each of them"
_WHOLE = "RFLAGS.AC is clear: it matters with CR4.SMAP alone, which is clear here"

_IGNORED = "rights are open: an ignored bit that mattered would withhold one, or fault"
_OTHER = "the other level is open: how rights add up is crossed in full in rights"
_ABOVE = "entries above are open: how rights add up is crossed in full in rights"
_NO_KEYS = "PKRU denies nothing or all: no key may make a difference"
_PSE = "CR4.PSE counts for 32-bit paging alone: large has it both ways"
_NO_XD = "EFER.NXE gives no bit a meaning here: rights and large have it both ways"
_PDPT = "each entry has a PDPT of its own, next to one well-formed entry"
_ONE_BIT = "one address bit an entry: which of several is reserved makes no difference"
_KNOWN = "rights are open: known divergences here depend on the entry, not on rights"
_EMULATED = (
    "one level of rights: the emulated CPU has 40 bits, and the differences are known divergences"
)
_TAGS = "each bit by itself, and the runs that a feature ignores: a mask of bits has no more cases"
_ONE_MASK = "one bit: a mask of several is taken off like one"


def _set(bits: tuple[str, ...], *levels: int) -> dict[int, tuple[str, ...]]:
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
        free=_set((), *others) | {level: ("p", "rw", "us", "a", "d", "ps", *special)},
        fixed=_set(_OPEN, *others) | ({3: ("p",)} if mode is PagingMode.PAE else {}),
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
        fixed=_set(("p",), *upper) | {2: ("p", "rw"), 1: ("p",)},
        controls=("cr0.wp", "cr4.pke", "cr4.pks"),
        pkrus=(0, 0xFFFF_FFFF),
        pkrs=(0xFFFF_FFFF,),
        mode=mode,
        pruned=(_NO_KEYS,),
    )


def _key_rights() -> Iterable[int]:
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
        fixed={2: _LARGE, 1: _OPEN},
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
        fixed={2: _LARGE, 1: _OPEN},
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
        fixed={2: _OPEN, 1: _OPEN},
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
        fixed={3: ("p",), 2: _LARGE, 1: _OPEN},
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
        fixed={3: ("p",), 2: (*_LARGE, "rw"), 1: _OPEN},
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
        fixed={2: _OPEN, 1: _OPEN},
        one_of={3: ("pwt", "pcd", "avl", "rw", "us", "a", "d", "ps", "g", *_HIGH_PAE, "nx")},
        controls=("efer.nx", "cr4.smep"),
        mode=PagingMode.PAE,
        pruned=(_ONE, _PDPT),
    ),
    Section(
        name="pae-ignored",
        covers="PWT, PCD, D above the leaf, G, PAT and software's bits: none of them matters",
        free={3: (), 2: ("pwt", "pcd", "avl", "d"), 1: ("pwt", "pcd", "avl", "g", "ps", "d")},
        fixed={3: ("p", "pwt", "pcd", "avl"), 2: _OPEN, 1: _OPEN},
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
        pkrus=tuple(_key_rights()),
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
        mode=PagingMode.LEVEL5,
        pruned=(_ONE, _SAME, _WHOLE),
    ),
    Section(
        name="reserved-2m",
        covers="bits 13 to 20 and 40 to 51 of a PDE that maps 2 MiB, and PAT",
        free={4: _RIGHTS, 3: _RIGHTS, 2: ("us", "nx", "pat")},
        fixed=_set(("p", "a"), 4, 3) | {2: (*_LARGE, "rw")},
        one_of={2: _LOW[2] + _HIGH},
        controls=("cr0.wp", "efer.nx", "cr4.smep"),
        pruned=(_ONE, _WHOLE),
    ),
    Section(
        name="reserved-1g",
        covers="bits 13 to 29 and 40 to 51 of a PDPTE that maps 1 GiB, A and PAT",
        free={4: _RIGHTS, 3: ("us", "nx", "a", "pat")},
        fixed={4: ("p", "a"), 3: (*_LARGE, "rw")},
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
            **_set(("pwt", "pcd", "sw", "d"), 4, 3, 2),
            1: ("pwt", "pcd", "sw", "g", "ps", "d"),
        },
        fixed=_set(_OPEN, 4, 3, 2, 1),
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
        fixed=_set(("p", "rw"), 4, 3, 2) | {1: ("p",)},
        one_of=_set(("bit39", "bit40"), 4, 3, 2, 1),
        controls=("cr0.wp", "efer.nx", "cr4.smap"),
        highest=True,
        ac=(False, True),
        pruned=(_ONE_BIT, "RAM lies at both addresses: tables and pages are found at each"),
    ),
    Section(
        name="highest-large",
        covers="the same of pages of 2 MiB and 1 GiB",
        free={4: ("us",), 3: ("us", "ps"), 2: ("us", "nx")},
        fixed={4: ("p", "rw"), 3: ("p", "rw", "a"), 2: (*_LARGE, "rw")},
        one_of=_set(("bit39", "bit40"), 4, 3, 2),
        controls=("cr0.wp", "efer.nx", "cr4.smap"),
        highest=True,
        ac=(False, True),
        pruned=(_ONE_BIT,),
    ),
    Section(
        name="maxphyaddr",
        covers="widths of 36, 39, 40, 41, 46 and 52 bits with address bits at their edges",
        free={4: (), 3: ("ps",), 2: ("ps",), 1: ()},
        fixed=_set(_OPEN, 4, 3, 2, 1),
        one_of=_set(_WIDTHS, 4, 3, 2, 1),
        controls=("efer.nx",),
        processors=tuple({"maxphyaddr": width} for width in (36, 39, 40, 41, 46, 52)),
        pruned=(_ONE_BIT, _KNOWN, _EMULATED),
    ),
    Section(
        name="vendor",
        covers="bit 8 and PS of PML4E and PML5E, PS of a PDPTE: Intel and AMD, 1-GiB pages or none",
        free={5: ("g", "ps", "nx"), 4: ("g", "ps", "nx"), 3: ("ps", "g"), 2: ("g",), 1: ("g",)},
        fixed=_set(_OPEN, 5, 4, 3, 2, 1),
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
            free=_set((), *range(levels, 1, -1)) | {1: ("p", "rw", "us", "nx")},
            fixed=_set(_OPEN, *range(levels, 1, -1)),
            controls=("cr0.wp", "cr4.smep", "cr4.smap"),
            on=("efer.nx",),
            beyond=True,
            ac=(False, True),
            mode=_LONG[levels],
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
        free={**_set(("us", "key15"), 4, 3, 2), 1: ("rw", "us", "key15")},
        fixed=_set(("p", "rw"), 4, 3, 2) | {1: ("p",)},
        controls=("cr0.wp", "cr4.smap", "cr4.pke"),
        on=("efer.nx",),
        pkrus=(0, 0x4000_0000, 0x8000_0000, 0xC000_0000),
        ac=(False, True),
        pruned=("one key: keys-16 has all of them where they mean something",),
    ),
)
"""Sections at the limits of addresses and of a processor's features, in order."""


def _run(first: int, last: int) -> int:
    return (1 << last + 1) - (1 << first)


_RUNS = ((48, 62), (47, 62), (48, 56), (57, 62), (56, 62), (57, 63), (56, 63))


def _metadata(levels: int) -> tuple[int, ...]:
    """Return bits 47 to 63 each, and runs of them, but none that turns one half into the other."""
    top = 11 + 9 * levels
    runs = (_run(*each) for each in _RUNS if each not in ((top, 62), (top, 63)))
    return (*(1 << bit for bit in range(47, 64)), *runs)


def _pointers(levels: int) -> tuple[Section, ...]:
    upper = tuple(range(levels, 1, -1))
    free = _set((), *upper) | {1: ("p", "rw", "us", "nx")}
    return (
        Section(
            name=f"lam-{levels}level",
            covers="LAM of user and supervisor pointers: bits 47 to 63 flipped, in both halves",
            free=free,
            fixed=_set(_OPEN, *upper),
            controls=("cr3.lam_u48", "cr3.lam_u57", "cr4.lam_sup", "cr0.wp"),
            on=("efer.nx",),
            flips=_metadata(levels),
            halves=True,
            mode=_LONG[levels],
            pruned=(_ABOVE, _TAGS),
        ),
        Section(
            name=f"uai-{levels}level",
            covers="UAI: bits 47 to 63 flipped, in both halves",
            free=free,
            fixed=_set(_OPEN, *upper),
            controls=("efer.uaie", "cr0.wp"),
            on=("efer.nx",),
            processors=_AMD,
            flips=_metadata(levels),
            halves=True,
            mode=_LONG[levels],
            pruned=(_ABOVE, _TAGS),
        ),
        Section(
            name=f"lass-{levels}level",
            covers="LASS with SMAP, SMEP and AC, in both halves, with LAM and without",
            free=free,
            fixed=_set(_OPEN, *upper),
            controls=("cr4.lass", "cr4.smap", "cr4.smep", "cr3.lam_u48", "cr4.lam_sup"),
            on=("cr0.wp", "efer.nx"),
            flips=(1 << 47, 1 << 57, 1 << 63),
            halves=True,
            ac=(False, True),
            mode=_LONG[levels],
            pruned=(_ABOVE, "three bits flipped: lam has all of them"),
        ),
    )


def _pae_of_amd() -> Section:
    (section,) = (each for each in LEGACY_SECTIONS if each.name == "pae-pdpte")
    covers = "the same on an AMD processor, which reads each PDPTE when it is used"
    return replace(section, name="pae-pdpte-amd", covers=covers, processors=_AMD)


FEATURE_SECTIONS = (
    *_pointers(4),
    *_pointers(5),
    Section(
        name="encryption",
        covers="a C-bit, below MAXPHYADDR and above: set and clear in each entry",
        free={
            4: (f"bit{_C_BIT}",),
            3: (f"bit{_C_BIT}",),
            2: (f"bit{_C_BIT}", "ps"),
            1: ("rw", "us"),
        },
        fixed=_set(_OPEN, 4, 3, 2) | {1: ("p",)},
        one_of={1: (_C, "bit40")},
        controls=("efer.nx", "cr0.wp"),
        processors=tuple(
            {"vendor": Vendor.AMD, "encryption_mask": 1 << _C_BIT, "maxphyaddr": width}
            for width in (40, 52)
        ),
        pruned=(_ABOVE, _ONE_MASK),
    ),
    Section(
        name="vendor-fetch",
        covers="I/D of a fetch's error code: AMD sets it with NXE alone, Intel with SMEP, too",
        free=_set((), 4, 3) | {2: ("p", "us"), 1: ("p", "us", "nx")},
        fixed=_set(_OPEN, 4, 3),
        controls=("efer.nx", "cr4.smep"),
        processors=tuple({"vendor": vendor} for vendor in Vendor),
        accesses=("read", "execute"),
        pruned=(_ABOVE,),
    ),
    _pae_of_amd(),
    Section(
        name="pks-4k",
        covers="a key's two rights in PKRS with a PTE's bits, U/S above, and every switch",
        free={4: (), 3: (), 2: ("us",), 1: (*_RIGHTS, "d", "pk")},
        fixed=_set(_OPEN, 4, 3) | {2: ("p", "rw", "a"), 1: ("p",)},
        controls=("cr0.wp", "cr4.smap", "cr4.pks", "pkrs.ad", "pkrs.wd", "cr4.pke", "pkru.ad"),
        on=("efer.nx", "cr4.smep"),
        ac=(False, True),
        pruned=(_ABOVE, _PKRS),
    ),
    *(
        Section(
            name=f"pks-{'2m' if level == 2 else '1g'}",
            covers=f"the same with a {LEVEL_NAMES[level].upper()} that maps a page",
            free={
                **_set((), *range(4, level + 1, -1)),
                level + 1: ("us",),
                level: ("rw", "us", "pk"),
            },
            fixed=_set(_OPEN, *range(4, level + 1, -1))
            | {level + 1: ("p", "rw", "a"), level: _LARGE},
            controls=("cr0.wp", "pkrs.ad", "pkrs.wd"),
            on=("cr4.pks", "efer.nx"),
            pruned=(_ABOVE, _PKRS, _PKS_SET),
        )
        for level in (2, 3)
    ),
    Section(
        name="pks-16",
        covers="all sixteen keys in PKRS, each alone denied and each alone allowed",
        free={4: ("us",), 3: (), 2: (), 1: ("rw", "us")},
        fixed=_set(_OPEN, 3, 2) | {4: ("p", "rw", "a"), 1: ("p",)},
        one_of={1: tuple(f"key{number}" for number in range(1, 16))},
        controls=("cr0.wp",),
        on=("cr4.pks", "efer.nx"),
        pkrs=tuple(_key_rights()),
        pruned=(_ABOVE, _PKS_SET),
    ),
    Section(
        name="pks-5level",
        covers="a key's two rights in PKRS under U/S of each level, with 5-level paging",
        free=_set(("us",), 5, 4, 3, 2) | {1: ("rw", "us", "pk")},
        fixed=_set(("p", "rw", "a"), 5, 4, 3, 2) | {1: ("p",)},
        controls=("cr0.wp", "pkrs.ad", "pkrs.wd"),
        on=("cr4.pks", "efer.nx"),
        mode=PagingMode.LEVEL5,
        pruned=(_PKRS, _PKS_SET),
    ),
)
"""Sections of what the emulated CPU lacks, or does as another vendor's, in order."""
