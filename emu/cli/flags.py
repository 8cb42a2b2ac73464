"""`--flags`: bits of the entries that map pages, by the names of `crosswalk matrix --list`."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.matrix.bits import ENTRY_BITS, LEVEL_NAMES
from crosswalk.walker.context import PagingContext, PagingMode
from crosswalk.walker.entry import Entry, maps_large
from crosswalk.walker.errors import BadInput
from crosswalk.walker.pages import Pages

__all__ = ["FlagChoice", "parse_flags"]

_KEY_SHIFT, _KEYS = 59, 16
_FIRST_HIGH = 52
_LARGEST = 3
_LEVELS = {name: level for level, name in LEVEL_NAMES.items()}
_NAMES = ENTRY_BITS.keys() - {"p"}
_LISTED = "rw, us, pwt, pcd, a, d, ps, pat, g, nx, pk, key1 to key15, sw, avl, bit52 to bit62"


@dataclass(frozen=True, slots=True)
class FlagChoice:
    """Leaves of which the flag of this name has one of some values, of one level or of any.

    `values` are 0 and 1, of `pk` protection keys. Names are those of the matrix, with the PAT bit
    where the size of the page puts it: `pat` is bit 7 of a PTE and bit 12 of others, and no PTE
    has `ps`. `text` is the choice as it was given.
    """

    name: str
    level: int | None
    values: frozenset[int]
    text: str

    def chosen(self, pages: Pages, context: PagingContext) -> NDArray[np.bool_]:
        """Return which of n mappings are chosen, bool[n]; none where the flag has no meaning."""
        kept = np.full(len(pages), self.meaningless(context) is None)
        if self.level is not None:
            kept &= pages.level == self.level
        found = _values(self.name, pages)
        kept &= np.isin(found, sorted(self.values))
        return kept

    def meaningless(self, context: PagingContext) -> str | None:
        """Return why the choice has no meaning in an address space; None where it has one."""
        mode = context.mode
        if self.level is not None and self.level > 1 and not maps_large(context, self.level):
            return f"no {LEVEL_NAMES[self.level]} maps a page in {mode} paging here"
        if self.name.startswith("bit"):
            bit = ENTRY_BITS[self.name]
            free = mode.long and bit >> _FIRST_HIGH
            return None if free or bit & context.encryption_mask else _ADDRESS
        if self.name.startswith(("pk", "key")):
            return _without_keys(context)
        if self.name == "sw" and not mode.long:
            return f"entries of {mode} paging have the bits of avl alone"
        return _without_nx(context) if self.name == "nx" else None


_ADDRESS = "it is part of the address, or reserved"


def _without_keys(context: PagingContext) -> str | None:
    if not context.mode.long:
        return f"{context.mode} paging has no protection keys"
    if not (context.pke or context.pks):
        return "CR4.PKE and CR4.PKS are clear, so that bits 62:59 are no key"
    return None


def _without_nx(context: PagingContext) -> str | None:
    if context.mode is PagingMode.BIT32:
        return f"entries of {context.mode} paging have none"
    return None if context.nxe else "EFER.NXE is clear"


def parse_flags(text: str) -> tuple[FlagChoice, ...]:
    """Return the choices in a text such as "pwt=1,pk=3" or "pde.g=0"; all have to hold.

    A name given twice allows either value. `BadInput` in one line for what isn't one.
    """
    found: dict[str, FlagChoice] = {}
    levels: dict[int, str] = {}
    for item in (part.strip() for part in text.split(",")):
        name, equals, value = item.partition("=")
        if not equals:
            raise BadInput(f"{item!r} is not NAME=VALUE")
        level, bit = _named(name)
        if level is not None:
            levels[level] = LEVEL_NAMES[level]
        most = _KEYS - 1 if bit == "pk" else 1
        if not value.isdecimal() or len(value) > 2 or int(value) > most:  # Two digits.
            raise BadInput(f"{name} is 0 to {most}, not {value!r}")
        before = found.get(name)
        values = (before.values if before else frozenset()) | {int(value)}
        given = f"{before.text},{item}" if before else item
        found[name] = FlagChoice(bit, level, values, given)
    if len(levels) > 1:
        names = " and ".join(levels[level] for level in sorted(levels))
        raise BadInput(f"a page has a leaf of one level, not of {names}")
    return tuple(found.values())


def _named(name: str) -> tuple[int | None, str]:
    """Return the level, or None, and the bit that a name stands for."""
    where, dot, bit = name.rpartition(".")
    if bit not in _NAMES or (dot and where not in _LEVELS):
        why = "every leaf has p=1; " if bit == "p" else ""
        raise BadInput(
            f"no {name!r}: {why}the flags of a leaf are {_LISTED}, "
            "of one level with pte., pde. or pdpte. before them"
        )
    level = _LEVELS[where] if dot else None
    if level is not None and level > _LARGEST:
        raise BadInput(f"{name}: no {where} maps a page; flags are those of the leaf")
    if level == 1 and bit == "ps":
        raise BadInput(f"{name}: bit 7 of a PTE is pat")
    return level, bit


def _values(name: str, pages: Pages) -> NDArray[np.uint8]:
    """Return the value of a flag in each leaf, uint8[n]."""
    keys = (pages.flags >> np.uint64(_KEY_SHIFT) & np.uint64(_KEYS - 1)).astype(np.uint8)
    if name == "pk":
        return keys
    small = pages.level == 1
    if name == "ps":
        found: NDArray[np.bool_] = ~small
    elif name.startswith("key"):
        found = keys == ENTRY_BITS[name] >> _KEY_SHIFT
    else:
        places = np.full(len(pages), ENTRY_BITS[name], np.uint64)
        if name == "pat":
            places[small] = Entry.PS
        found = (pages.flags & places) != 0
    return found.astype(np.uint8)
