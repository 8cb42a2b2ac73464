"""Sections of composites in the default matrix, with the reasons for what they leave out."""

from dataclasses import replace
from itertools import product

from crosswalk.emu.matrix.crossing import adjacent_entries, canonical_borders
from crosswalk.emu.matrix.section import KEY, Section
from crosswalk.walker.access import AccessType
from crosswalk.walker.context import PagingMode

__all__ = ["COMPOSITE_SECTIONS"]

_OPEN = ("p", "rw", "us", "a")
_RIGHTS = ("rw", "us", "nx")
_SWITCHES = ("cr0.wp", "efer.nx", "cr4.smep", "cr4.smap")
_KEYS = ("cr0.wp", "cr4.smap", "cr4.pke", "pkru.ad", "pkru.wd")
_BOTH = (False, True)
_PKRUS = tuple(denied << 2 * KEY for denied in range(4))
_RMW = ("rmw:xadd", "rmw:cmpxchg")
_IMPLICIT = ("implicit:read", "implicit:write")
_NAMES = tuple(kind.name.lower() for kind in AccessType)
_CROSS = tuple(f"cross:{name}" for name in _NAMES)
_TWICE = tuple(f"twice:{one}+{two}" for one, two in product(_NAMES, repeat=2))
_DATA = tuple(f"twice:{one}+{two}" for one, two in product(("read", "write"), repeat=2))

_DATA_ONLY = "XD and SMEP are about fetches: the sections of single accesses cross them with data"
_ABOVE = "entries above are open: what they take away is crossed in full by single accesses"
_ONE_SPLIT = "four bytes on either side (a fetch: six and four): other splits make no difference"
_AC = "AC of CPL 3 is clear: it makes no difference to a user's access"


def _set(bits: tuple[str, ...], *levels: int) -> dict[int, tuple[str, ...]]:
    return dict.fromkeys(levels, bits)


def _absent_alone(level: int, names: frozenset[str]) -> bool:
    """Keep one entry that is absent, with all that may be set, and one reserved bit at a time."""
    if "p" not in names:
        return names - {"ps"} == {"rw", "us"}
    alone = {"bit51", "bit13", "pk"} | ({"ps"} if level == 4 else set())
    if names & alone:
        return {"rw", "us"} <= names and "nx" not in names
    return True


def _no_low_bit_of_a_table(level: int, names: frozenset[str]) -> bool:
    return _absent_alone(level, names) and ("bit13" not in names or "ps" in names)


_FEW = "of absent entries one, of reserved bits and keys one at a time, with all rights"

_RMW_4K = Section(
    name="rmw-4k",
    covers="locked read-modify-writes of a 4-KiB page: PTE bits, the PDE's rights, keys, SMAP, WP",
    free={4: (), 3: (), 2: ("rw", "us"), 1: ("p", "rw", "us", "a", "d", "pk", "bit51")},
    fixed=_set(_OPEN, 4, 3) | {2: ("p",)},
    controls=_KEYS,
    on=("efer.nx",),
    ac=_BOTH,
    accesses=_RMW,
    pruned=(_DATA_ONLY, _ABOVE),
)
_RMW_2M = replace(
    _RMW_4K,
    name="rmw-2m",
    covers="locked read-modify-writes of a 2-MiB page: PDE bits, the PDPTE's rights, keys",
    free={4: (), 3: ("rw", "us"), 2: ("p", "rw", "us", "a", "d", "pk", "bit51")},
    fixed=_set(_OPEN, 4) | {3: ("p", "a"), 2: ("ps",)},
)
_IMPLICIT_4K = replace(
    _RMW_4K,
    name="implicit-4k",
    covers="a descriptor in a 4-KiB page, read from CPL 0 and 3, and marked as accessed",
    accesses=_IMPLICIT,
)
_IMPLICIT_2M = replace(
    _RMW_2M,
    name="implicit-2m",
    covers="a descriptor in a 2-MiB page, read from CPL 0 and 3, and marked as accessed",
    accesses=_IMPLICIT,
)
_CROSS_4K = Section(
    name="cross-4k",
    covers="an access that goes on in the next page: every PTE next to every other",
    free={4: (), 3: (), 2: (), 1: ("p", *_RIGHTS, "pk", "bit51")},
    fixed=_set(_OPEN, 4, 3, 2),
    controls=("cr0.wp", "efer.nx", "cr4.smep", "cr4.smap", "cr4.pke", "pkru.ad", "pkru.wd"),
    ac=_BOTH,
    accesses=_CROSS,
    shapes=adjacent_entries,
    keep=_absent_alone,
    pruned=(_ABOVE, _ONE_SPLIT, _FEW),
)
_CROSS_UPPER = replace(
    _CROSS_4K,
    controls=_SWITCHES,
    keep=_no_low_bit_of_a_table,
    pruned=(_ABOVE, _ONE_SPLIT, _FEW, "keys: they meet in cross-4k"),
)
_CROSS_ENDS = replace(
    _CROSS_4K,
    name="cross-ends",
    covers="the ends of both halves: into what isn't canonical, out of it, and from top to bottom",
    free={4: (), 3: (), 2: (), 1: ("p", "rw", "us", "nx")},
    controls=("cr0.wp", "cr4.smap"),
    on=("efer.nx",),
    shapes=canonical_borders,
    pruned=(_ABOVE, _ONE_SPLIT, _FEW, "other switches: they meet in cross-4k"),
)
_TWICE_4K = Section(
    name="twice-4k",
    covers="every access after every other to one page, through the TLB; CPL and AC may change",
    free={4: (), 3: (), 2: ("rw", "us"), 1: ("rw", "us", "nx", "a", "d")},
    fixed=_set(_OPEN, 4, 3) | {2: ("p",), 1: ("p",)},
    controls=("cr0.wp", "cr4.smep", "cr4.smap"),
    on=("efer.nx",),
    accesses=_TWICE,
    pruned=(_ABOVE, _AC, "entries are present: a TLB holds nothing of absent ones"),
)

COMPOSITE_SECTIONS = (
    _RMW_4K,
    _RMW_2M,
    _IMPLICIT_4K,
    _IMPLICIT_2M,
    replace(
        _IMPLICIT_2M,
        name="implicit-1g",
        covers="a descriptor in a 1-GiB page, read from CPL 0 and 3, and marked as accessed",
        free={4: ("us",), 3: ("p", "rw", "us", "a", "d", "pk", "bit51")},
        fixed={4: ("p", "rw", "a"), 3: ("ps",)},
        controls=("cr0.wp", "cr4.smap"),
        on=("efer.nx", "cr4.pke", "pkru.wd"),
        pruned=(_DATA_ONLY, _ABOVE, "PKE and WD are set: implicit-2m has them clear"),
    ),
    replace(
        _IMPLICIT_4K,
        name="implicit-tables",
        covers="a descriptor behind each kind of entry on each level",
        free=_set(("p", "us", "bit51"), 4, 3, 2, 1),
        fixed=_set(("rw",), 4, 3, 2, 1),
        controls=("cr4.smap",),
        pruned=(_DATA_ONLY, "R/W is set, keys are off: implicit-4k has them"),
    ),
    _CROSS_4K,
    replace(
        _CROSS_UPPER,
        name="cross-2m",
        covers="the border of two PDEs: tables and 2-MiB pages in every order, each next to each",
        free={4: (), 3: (), 2: ("p", *_RIGHTS, "ps", "bit51", "bit13"), 1: ()},
        fixed=_set(_OPEN, 4, 3, 1),
    ),
    replace(
        _CROSS_UPPER,
        name="cross-1g",
        covers="the border of two PDPTEs: 2-MiB and 1-GiB pages in every order, each next to each",
        free={4: (), 3: ("p", *_RIGHTS, "ps", "bit51", "bit13"), 2: ()},
        fixed={4: _OPEN, 2: ("p", "rw", "us", "ps")},
    ),
    replace(
        _CROSS_UPPER,
        name="cross-512g",
        covers="the border of two PML4Es, each next to each",
        free={4: ("p", *_RIGHTS, "ps"), 3: (), 2: (), 1: ()},
        fixed=_set(_OPEN, 3, 2, 1),
    ),
    _CROSS_ENDS,
    replace(
        _CROSS_ENDS,
        name="cross-ends-5level",
        covers="the same with 57-bit linear addresses",
        free={5: (), **_CROSS_ENDS.free},
        fixed={5: _OPEN, **_CROSS_ENDS.fixed},
        controls=("cr4.smap",),
        on=("efer.nx", "cr0.wp"),
        mode=PagingMode.LEVEL5,
    ),
    _TWICE_4K,
    replace(
        _TWICE_4K,
        name="twice-2m",
        covers="the same to a 2-MiB page",
        free={4: (), 3: ("rw", "us"), 2: ("rw", "us", "nx", "d")},
        fixed={4: _OPEN, 3: ("p", "a"), 2: ("p", "ps")},
    ),
    replace(
        _TWICE_4K,
        name="twice-alias",
        covers="one 2-MiB page by way of two addresses, whose rights and D differ",
        free={4: (), 3: ("rw",), 2: ("rw", "us", "d")},
        fixed={4: _OPEN, 3: ("p", "us", "a"), 2: ("p", "ps", "a")},
        controls=("cr0.wp", "cr4.smep"),
        on=("efer.nx", "cr4.smap"),
        pages=1,
        aliases=True,
        pruned=(_ABOVE, _AC, "XD and SMAP's absence: twice-2m has them with one address"),
    ),
    replace(
        _TWICE_4K,
        name="twice-key",
        covers="two data accesses under one key, with PKRU written in between",
        free={4: (), 3: (), 2: (), 1: ("rw", "us", "pk", "d")},
        fixed=_set(_OPEN, 4, 3, 2) | {1: ("p",)},
        controls=("cr0.wp", "cr4.smap", "pkru.ad", "pkru.wd"),
        on=("efer.nx", "cr4.pke"),
        accesses=_DATA,
        then_pkrus=_PKRUS,
        pruned=(_ABOVE, _AC, "fetches: keys don't concern them (keys-4k)"),
    ),
)
