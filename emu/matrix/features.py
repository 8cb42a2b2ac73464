"""Sections of what the emulated CPU lacks, or takes another vendor's way: predicted only, or not.

Accesses that LAM, UAI or LASS change are predicted, and counted so; the prediction is held against
what is observed without the feature where the feature leads to (`crosswalk.emu.matrix.intended`).
"""

from dataclasses import replace

from crosswalk.emu.matrix.legacy_sections import LEGACY_SECTIONS
from crosswalk.emu.matrix.section import Section
from crosswalk.walker.context import Vendor

__all__ = ["FEATURE_SECTIONS"]

_OPEN = ("p", "rw", "us", "a")
_AMD = ({"vendor": Vendor.AMD},)
_C_BIT = 47
_C = f"bit{_C_BIT}"
_UPPER = "entries above are open: how rights add up is crossed in full in rights"
_TAGS = "each bit by itself, and the runs that a feature ignores: a mask of bits has no more cases"
_ONE_MASK = "one bit: a mask of several is taken off like one"


def _run(first: int, last: int) -> int:
    return (1 << last + 1) - (1 << first)


_RUNS = ((48, 62), (47, 62), (48, 56), (57, 62), (56, 62), (57, 63), (56, 63))


def _metadata(levels: int) -> tuple[int, ...]:
    """Return bits 47 to 63 each, and runs of them; not all that tells a half from the other."""
    top = 11 + 9 * levels
    runs = (_run(*each) for each in _RUNS if each not in ((top, 62), (top, 63)))
    return (*(1 << bit for bit in range(47, 64)), *runs)


def _set(bits: tuple[str, ...], *levels: int) -> dict[int, tuple[str, ...]]:
    return dict.fromkeys(levels, bits)


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
            pruned=(_UPPER, _TAGS),
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
            pruned=(_UPPER, _TAGS),
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
            pruned=(_UPPER, "three bits flipped: lam has all of them"),
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
        pruned=(_UPPER, _ONE_MASK),
    ),
    Section(
        name="vendor-fetch",
        covers="I/D of a fetch's error code: AMD tells it with NXE alone, Intel with SMEP, too",
        free=_set((), 4, 3) | {2: ("p", "us"), 1: ("p", "us", "nx")},
        fixed=_set(_OPEN, 4, 3),
        controls=("efer.nx", "cr4.smep"),
        processors=tuple({"vendor": vendor} for vendor in Vendor),
        accesses=("read", "execute"),
        pruned=(_UPPER,),
    ),
    _pae_of_amd(),
)
"""Their order is that of the matrix."""
