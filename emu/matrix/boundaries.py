"""Sections at the limits: of physical and linear addresses, and of what a processor has."""

from crosswalk.emu.matrix.section import HIGH_RAM, Section
from crosswalk.walker.context import Vendor

__all__ = ["LIMITS"]

_OPEN = ("p", "rw", "us", "a")
_LARGE = ("p", "ps")
_WIDTHS = ("bit36", "bit39", "bit40", "bit41", "bit46", "bit51")

_ONE = "one address bit an entry: which of several is reserved makes no difference"
_KNOWN = "rights are open: what is known to diverge here is told by the entry, not by rights"
_EMULATED = "one level of rights: the emulated CPU has 40 bits, and the registry names what differs"


def _set(bits: tuple[str, ...], *levels: int) -> dict[int, tuple[str, ...]]:
    return dict.fromkeys(levels, bits)


LIMITS = (
    Section(
        name="highest-4k",
        covers="the highest address bit, 39, and the first reserved one, 40, on all levels",
        free={4: ("us",), 3: ("us",), 2: ("us",), 1: ("rw", "us", "nx")},
        fixed=_set(("p", "rw"), 4, 3, 2) | {1: ("p",)},
        one_of=_set(("bit39", "bit40"), 4, 3, 2, 1),
        controls=("cr0.wp", "efer.nx", "cr4.smap"),
        ram=HIGH_RAM,
        ac=(False, True),
        pruned=(_ONE, "RAM lies at both addresses: tables and pages are found at each"),
    ),
    Section(
        name="highest-large",
        covers="the same of pages of 2 MiB and 1 GiB",
        free={4: ("us",), 3: ("us", "ps"), 2: ("us", "nx")},
        fixed={4: ("p", "rw"), 3: ("p", "rw", "a"), 2: (*_LARGE, "rw")},
        one_of=_set(("bit39", "bit40"), 4, 3, 2),
        controls=("cr0.wp", "efer.nx", "cr4.smap"),
        ram=HIGH_RAM,
        ac=(False, True),
        pruned=(_ONE,),
    ),
    Section(
        name="maxphyaddr",
        covers="widths of 36, 39, 40, 41, 46 and 52 bits with address bits at their edges",
        free={4: (), 3: ("ps",), 2: ("ps",), 1: ()},
        fixed=_set(_OPEN, 4, 3, 2, 1),
        one_of=_set(_WIDTHS, 4, 3, 2, 1),
        controls=("efer.nx",),
        processors=tuple({"maxphyaddr": width} for width in (36, 39, 40, 41, 46, 52)),
        pruned=(_ONE, _KNOWN, _EMULATED),
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
"""Their order is that of the matrix."""
