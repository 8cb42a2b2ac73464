"""The default sections of sequences."""

from crosswalk.emu.matrix.section import Combination, SequenceSection
from crosswalk.emu.matrix.tlb.builders import (
    BETWEEN,
    CHANGES,
    FLAGS,
    INVALIDATIONS,
    LEAF_CHANGES,
    LEVELS,
    PAGES,
    SIZES,
    SWITCHES,
    change_sequence,
    fault_sequence,
    late_leaf_sequence,
    pcid_sequence,
    resize_sequence,
    switch_sequence,
)
from crosswalk.emu.matrix.tlb.random import random_sequence

__all__ = ["RANDOM_SEQUENCES", "SEQUENCE_SECTIONS"]

RANDOM_SEQUENCES = 4000
"""How many random sequences the default matrix has."""

_ACCESS = {"access": ("read", "write", "execute"), "cpl": ("0", "3")}
_UNCACHED = "without an access before the change: three invalidations, for what is prefetched"
_CPL = "the access before the change is at the CPL of the one after it; tlb-fault mixes them"
_TWICE = "each access is made twice: what a page fault invalidates shows in the second"


def _distinct(named: Combination) -> bool:
    """Leave out sequences that differ from another one in nothing that can matter."""
    if named["prime"] == "none" and named["invalidate"] not in ("none", "invlpg", "cr3"):
        return False
    return named.get("g", "0") == "0" or (
        not named["change"].startswith("g-")
        and named["invalidate"] in ("none", "invlpg", "cr3", "cr3-and-back", "pge")
    )


def _above(named: Combination) -> bool:
    return LEVELS[named["level"]] > PAGES[named["page"]] and _distinct(named)


SEQUENCE_SECTIONS: tuple[SequenceSection, ...] = (
    SequenceSection(
        name="tlb-leaf",
        covers="a leaf of each size changed in every way, invalidated in every way",
        dimensions={
            "page": tuple(PAGES),
            "change": tuple(LEAF_CHANGES),
            "g": ("0", "1"),
            "prime": ("none", "read", "write", "execute", "near"),
            "invalidate": tuple(INVALIDATIONS),
            **_ACCESS,
        },
        make=lambda named: change_sequence(named, 4),
        keep=_distinct,
        pruned=(
            "G is clear for what global pages have no part in",
            _UNCACHED,
            _CPL,
            "SMEP, SMAP, WP: each is toggled here; what depends on them is tlb-control's",
            _TWICE,
        ),
    ),
    SequenceSection(
        name="tlb-upper",
        covers="an entry above the leaf changed in every way, invalidated in every way",
        dimensions={
            "page": tuple(PAGES),
            "level": ("pde", "pdpte", "pml4e"),
            "change": tuple(CHANGES),
            "prime": ("none", "read", "write", "near"),
            "invalidate": (
                "none",
                "invlpg",
                "invlpg-near",
                "invlpg-far",
                "cr3",
                "cr3-and-back",
                "pge",
            ),
            **_ACCESS,
        },
        make=lambda named: change_sequence(named, 4),
        keep=_above,
        pruned=("fetches before the change: tlb-leaf has them", _UNCACHED, _TWICE),
    ),
    SequenceSection(
        name="tlb-late",
        covers="an upper entry changes while the leaf is absent, which comes after invalidating",
        dimensions={
            "page": tuple(PAGES),
            "level": ("pde", "pdpte", "pml4e"),
            "change": ("target", "p-0", "rw-0", "us-0", "nx-1", "bit51-1"),
            "prime": ("none", "read", "near"),
            "invalidate": ("none", "invlpg", "invlpg-near", "invlpg-far", "cr3", "pge"),
            "access": _ACCESS["access"],
        },
        make=late_leaf_sequence,
        keep=_above,
        pruned=("CPL 3 alone: what is cached of upper levels belongs to neither", _UNCACHED),
    ),
    SequenceSection(
        name="tlb-5level",
        covers="a PML5E or a PML4E under five levels, changed and invalidated",
        dimensions={
            "page": ("4k", "2m"),
            "level": ("pml4e", "pml5e"),
            "change": tuple(CHANGES),
            "prime": ("read", "near"),
            "invalidate": ("none", "invlpg", "invlpg-near", "cr3", "pge"),
            **_ACCESS,
        },
        make=lambda named: change_sequence(named, 5),
        pruned=("entries below: four levels have them", _TWICE),
    ),
    SequenceSection(
        name="tlb-fault",
        covers="a translation is cached, its entry changes, one access faults, another follows",
        dimensions={
            "page": tuple(PAGES),
            "level": ("pte", "pde", "pdpte", "pml4e"),
            "change": ("p-0", "rw-0", "us-0", "nx-1", "bit51-1", "target-d-0"),
            "prime": ("read", "write", "execute", "near"),
            "fault": ("read", "write", "execute"),
            "faultcpl": ("0", "3"),
            "at": ("va", "near"),
            **_ACCESS,
        },
        make=fault_sequence,
        keep=lambda named: (
            LEVELS[named["level"]] in {PAGES[named["page"]], 4}
            and (named["page"], named["at"]) != ("4k", "near")
        ),
        pruned=(
            "the leaf's level and the root's: what lies between is like the latter",
            "another page than the one that faults: nothing has to happen to it",
        ),
    ),
    SequenceSection(
        name="tlb-size",
        covers="an entry that led to a table maps a large page, or the other way round",
        dimensions={
            "page": tuple(SIZES),
            "g": ("0", "1"),
            "prime": ("none", "read", "write", "near"),
            "invalidate": ("none", "invlpg", "invlpg-near", "invlpg-far", "cr3", "pge"),
            "at": ("va", "near"),
            **_ACCESS,
        },
        make=resize_sequence,
        pruned=("rights are open: tlb-leaf and tlb-upper change them", _TWICE),
    ),
    SequenceSection(
        name="tlb-control",
        covers="WP, SMEP, SMAP, PKE and PKRU changed, with a leaf's rights, after its change",
        dimensions={
            "leaf": tuple(FLAGS),
            "switch": SWITCHES,
            "change": ("none", "target"),
            "prime": ("none", "read", "write", "execute", "read-0"),
            "ac": ("0", "1"),
            **_ACCESS,
        },
        make=switch_sequence,
        keep=lambda named: named["ac"] == "0" or named["switch"].startswith("smap"),
        pruned=("4-KiB pages: rights of larger ones are no others", "AC is clear but for SMAP"),
    ),
    SequenceSection(
        name="tlb-pcid",
        covers="CR4.PCIDE: loads of CR3 with and without bit 63, INVLPG, INVPCID, in PCID 1 and 2",
        dimensions={
            "page": ("4k", "2m"),
            "level": ("0", "1"),
            "change": ("target", "p-0", "p-1", "rw-0"),
            "g": ("0", "1"),
            "prime": ("none", "read", "write"),
            "between": tuple(BETWEEN),
            **_ACCESS,
        },
        make=pcid_sequence,
        keep=lambda named: named["access"] != "execute" or named["change"] != "rw-0",
        pruned=("level is counted from the leaf: above it, levels are alike in tlb-upper", _TWICE),
    ),
    SequenceSection(
        name="tlb-random",
        covers="random steps, each sequence from its number",
        dimensions={"number": tuple(str(number) for number in range(RANDOM_SEQUENCES))},
        make=random_sequence,
        pruned=("PKE, PCIDE, bit 63 under LA57 in one of eight: known departures end a sequence",),
    ),
)
