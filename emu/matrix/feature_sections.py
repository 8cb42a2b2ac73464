"""Sections of what the emulated CPU lacks, or does as another vendor's.

Accesses that LAM, UAI or LASS change are predicted and counted apart; the prediction is compared
with the outcome observed without the feature at the address that the feature leads to
(`crosswalk.emu.matrix.unit`); that of accesses that PKS denies with the second walk's.
"""

from dataclasses import replace

from crosswalk.emu.matrix.bits import LEVEL_NAMES
from crosswalk.emu.matrix.section import Section
from crosswalk.emu.matrix.sections import (
    LARGE,
    LEGACY_SECTIONS,
    LONG,
    OPEN,
    RIGHTS,
    at_levels,
    key_rights,
)
from crosswalk.walker.context import PagingMode, Vendor

__all__ = ["FEATURE_SECTIONS"]

_AMD = ({"vendor": Vendor.AMD},)
_C_BIT = 47
_C = f"bit{_C_BIT}"
_PKRS = "PKRS has two bits for one key and opens all others: pks-16 crosses them all"
_PKS_SET = "PKS is set: pks-4k has it clear"
_ABOVE = "entries above are open: how rights add up is crossed in full in rights"
_TAGS = "each bit by itself, and the runs that a feature ignores: a mask of bits has no more cases"
_ONE_MASK = "one bit: a mask of several is taken off like one"


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
    free = at_levels((), *upper) | {1: ("p", "rw", "us", "nx")}
    return (
        Section(
            name=f"lam-{levels}level",
            covers="LAM of user and supervisor pointers: bits 47 to 63 flipped, in both halves",
            free=free,
            fixed=at_levels(OPEN, *upper),
            controls=("cr3.lam_u48", "cr3.lam_u57", "cr4.lam_sup", "cr0.wp"),
            on=("efer.nx",),
            flips=_metadata(levels),
            halves=True,
            mode=LONG[levels],
            pruned=(_ABOVE, _TAGS),
        ),
        Section(
            name=f"uai-{levels}level",
            covers="UAI: bits 47 to 63 flipped, in both halves",
            free=free,
            fixed=at_levels(OPEN, *upper),
            controls=("efer.uaie", "cr0.wp"),
            on=("efer.nx",),
            processors=_AMD,
            flips=_metadata(levels),
            halves=True,
            mode=LONG[levels],
            pruned=(_ABOVE, _TAGS),
        ),
        Section(
            name=f"lass-{levels}level",
            covers="LASS with SMAP, SMEP and AC, in both halves, with LAM and without",
            free=free,
            fixed=at_levels(OPEN, *upper),
            controls=("cr4.lass", "cr4.smap", "cr4.smep", "cr3.lam_u48", "cr4.lam_sup"),
            on=("cr0.wp", "efer.nx"),
            flips=(1 << 47, 1 << 57, 1 << 63),
            halves=True,
            ac=(False, True),
            mode=LONG[levels],
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
        fixed=at_levels(OPEN, 4, 3, 2) | {1: ("p",)},
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
        free=at_levels((), 4, 3) | {2: ("p", "us"), 1: ("p", "us", "nx")},
        fixed=at_levels(OPEN, 4, 3),
        controls=("efer.nx", "cr4.smep"),
        processors=tuple({"vendor": vendor} for vendor in Vendor),
        accesses=("read", "execute"),
        pruned=(_ABOVE,),
    ),
    _pae_of_amd(),
    Section(
        name="pks-4k",
        covers="a key's two rights in PKRS with a PTE's bits, U/S above, and every switch",
        free={4: (), 3: (), 2: ("us",), 1: (*RIGHTS, "d", "pk")},
        fixed=at_levels(OPEN, 4, 3) | {2: ("p", "rw", "a"), 1: ("p",)},
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
                **at_levels((), *range(4, level + 1, -1)),
                level + 1: ("us",),
                level: ("rw", "us", "pk"),
            },
            fixed=at_levels(OPEN, *range(4, level + 1, -1))
            | {level + 1: ("p", "rw", "a"), level: LARGE},
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
        fixed=at_levels(OPEN, 3, 2) | {4: ("p", "rw", "a"), 1: ("p",)},
        one_of={1: tuple(f"key{number}" for number in range(1, 16))},
        controls=("cr0.wp",),
        on=("cr4.pks", "efer.nx"),
        pkrs=tuple(key_rights()),
        pruned=(_ABOVE, _PKS_SET),
    ),
    Section(
        name="pks-5level",
        covers="a key's two rights in PKRS under U/S of each level, with 5-level paging",
        free=at_levels(("us",), 5, 4, 3, 2) | {1: ("rw", "us", "pk")},
        fixed=at_levels(("p", "rw", "a"), 5, 4, 3, 2) | {1: ("p",)},
        controls=("cr0.wp", "pkrs.ad", "pkrs.wd"),
        on=("cr4.pks", "efer.nx"),
        mode=PagingMode.LEVEL5,
        pruned=(_PKRS, _PKS_SET),
    ),
)
"""Sections of what the emulated CPU lacks, or does as another vendor's, in order."""
