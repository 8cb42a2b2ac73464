"""A plan of paths through tables, made before the tables are built."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.fuzz.generate.formats import TableFormat, format_of
from crosswalk.emu.fuzz.target import BITS, CoverageTarget, End
from crosswalk.walker.context import PagingContext, Vendor
from crosswalk.walker.memory import U64

__all__ = ["LEVELS", "PathPlan", "plan_paths"]

LEVELS = 6
"""Columns are numbered by level, 1 to 5; column 0 isn't used."""

P, RW, US, A, PS, G, XD = (np.uint64(1 << bit) for bit in (0, 1, 2, 5, 7, 8, 63))
_EDGES = {512: (0, 1, 255, 256, 510, 511), 1024: (0, 1, 511, 512, 1022, 1023)}
"""The first and last entries, and those in the middle, by the number of entries in a table."""
# Probabilities of bits that don't decide anything by themselves.
_IDLE = {3: 0.35, 4: 0.35, 5: 0.6, 6: 0.4, 8: 0.35, 9: 0.25, 10: 0.25, 11: 0.25, 52: 0.25,
         55: 0.25, 58: 0.25}  # fmt: skip
_KEYED = 0.6
_MALFORMED_PDPTE = 0.08
"""Probability that a PDPTE of PAE paging has a reserved bit, in a layout."""
_CORNERS = 0.03
"""Probability that a path lies at an end of a canonical half."""


@dataclass(frozen=True, slots=True)
class PathPlan:
    """A plan of n paths: `index` uint16[n, 6] and `flags` uint64[n, 6] by level, P and PS left out.

    `level` uint8[n] is that of the last entry, `end` uint8[n] how the path ends (`End`), `broken`
    int16[n] the reserved bit that is set there, -1 for none. `targets` are those of the first
    paths.
    """

    index: NDArray[np.uint16]
    flags: U64
    level: NDArray[np.uint8]
    end: NDArray[np.uint8]
    broken: NDArray[np.int16]
    targets: tuple[CoverageTarget, ...]

    def __len__(self) -> int:
        return len(self.level)


def plan_paths(
    chance: np.random.Generator,
    context: PagingContext,
    count: int,
    targets: Sequence[CoverageTarget],
) -> PathPlan:
    """Plan `count` paths, the first of them for targets."""
    form = format_of(context)
    strict = float(chance.choice([0.0, 0.1, 0.3]))
    index = chance.integers(0, form.width, (count, LEVELS)).astype(np.uint16)
    special = chance.random((count, LEVELS)) < chance.choice([0.3, 0.7])
    edges = np.array(_EDGES[form.width], np.uint16)
    index[special] = chance.choice(edges, int(special.sum()))
    # Few upper tables, so that paths share entries and lie side by side.
    for above, most in ((5, 3), (4, 5), (3, 4), (2, 6 if form.levels > 2 else 24)):
        pool = chance.choice(index[:, above], most)
        index[:, above] = chance.choice(pool, count)
    for above, entries in form.counts.items():
        index[:, above] %= entries
    _to_corners(chance, form, index)
    flags = _flags(chance, context, form, (count, LEVELS), strict)
    level = chance.choice(np.array([1, 2, 3], np.uint8), count, p=[0.6, 0.25, 0.15])
    level[~np.isin(level, [1, *form.large])] = max([1, *form.large])
    ends = [1 - strict, strict * 0.4, strict * 0.4, strict * 0.2]
    end = chance.choice(np.arange(4, dtype=np.uint8), count, p=ends)
    anywhere = end != End.LEAF
    level[anywhere] = chance.integers(1, form.levels + 1, int(anywhere.sum()))
    level[(end == End.OUTSIDE) & (level == 1)] = 2
    if form.plain:
        # With one such PDPTE nothing can be accessed. The first path has its entries to itself.
        level[(end == End.RESERVED) & np.isin(level, form.plain)] = 2
        if chance.random() < _MALFORMED_PDPTE:
            level[0], end[0] = form.plain[0], End.RESERVED
    plan = PathPlan(index, flags, level, end, np.full(count, -1, np.int16), tuple(targets))
    for row, target in enumerate(targets):
        _apply_target(plan, row, target, context)
    for row in np.flatnonzero(plan.end == End.RESERVED).tolist():
        _choose_reserved_bit(chance, context, plan, row)
    return plan


def _to_corners(chance: np.random.Generator, form: TableFormat, index: NDArray[np.uint16]) -> None:
    """Move some paths to the first and last page of either half."""
    rows = np.flatnonzero(chance.random(len(index)) < _CORNERS)
    which = chance.integers(0, 4, len(rows))
    for level, entries in form.counts.items():
        index[rows, level] = np.where(which % 2 == 1, entries - 1, 0)
    top = form.counts[form.levels]
    index[rows, form.levels] = np.array([0, top // 2 - 1, top // 2, top - 1])[which]


def _flags(
    chance: np.random.Generator,
    context: PagingContext,
    form: TableFormat,
    shape: tuple[int, int],
    strict: float,
) -> U64:
    """Return flags that mostly allow everything, with ignored bits at random."""
    draws = chance.random((len(_IDLE), *shape))
    flags = np.zeros(shape, np.uint64)
    for draw, (bit, often) in zip(draws, _IDLE.items(), strict=True):
        flags |= (draw < often).astype(np.uint64) << np.uint64(bit)
    keys = chance.integers(0, 16, shape) * (chance.random(shape) < _KEYED)
    flags |= keys.astype(np.uint64) << np.uint64(59)
    open_ = chance.random((3, *shape))
    withheld = float(chance.choice([0.05, 0.15, 0.3]))
    flags |= np.where(open_[0] > withheld, RW, np.uint64(0))
    flags |= np.where(open_[1] > withheld, US, np.uint64(0))
    # With NXE clear, XD is reserved and ends the walk.
    never = withheld if form.nxe else strict * 0.1
    flags |= np.where(open_[2] < never, XD, np.uint64(0))
    # In a PTE bit 7 is PAT; above, it decides where the walk ends.
    flags[:, 1] |= np.where(chance.random(shape[0]) < 0.15, PS, np.uint64(0))
    if context.vendor is Vendor.AMD:
        flags[:, 4:] &= ~G
    if not form.large:
        # Without CR4.PSE a PDE's bit 7 is ignored.
        flags[:, 2] |= np.where(chance.random(shape[0]) < 0.3, PS, np.uint64(0))
    for level, allowed in form.flags.items():
        flags[:, level] &= np.uint64(allowed)
    return flags


def _apply_target(plan: PathPlan, row: int, target: CoverageTarget, context: PagingContext) -> None:
    """Change a path to what a target asks for; all else allows everything."""
    flags = plan.flags
    if row % 4 or target.index:
        flags[row] |= RW | US
        flags[row] &= ~XD
    elif not context.nxe:
        flags[row] &= ~XD
    plan.end[row] = End.LEAF if target.end is None else target.end
    if target.level is not None:
        plan.level[row] = target.level
    elif plan.end[row] == End.LEAF:
        plan.level[row] = (1, 1, 2, 3)[row % 4]
    _set_bits(flags, row, target)
    for level, at in target.index:
        plan.index[row, level] = at
    if target.key is not None:
        level = int(plan.level[row])
        flags[row, level] &= ~np.uint64(15 << 59)
        flags[row, level] |= np.uint64(target.key << 59)
    if target.reserved is not None:
        plan.broken[row] = target.reserved


def _set_bits(flags: U64, row: int, target: CoverageTarget) -> None:
    for level, name, value in target.bits:
        mask = np.uint64(sum(1 << bit for bit in BITS[name]))
        if name in {"p", "pat"} or (name == "ps" and level > 1):
            continue  # The end of the path decides these.
        flags[row, level] &= ~mask
        if value:
            flags[row, level] |= np.uint64(1 << BITS[name][row % len(BITS[name])])


def _choose_reserved_bit(
    chance: np.random.Generator, context: PagingContext, plan: PathPlan, row: int
) -> None:
    """Choose the reserved bit at which a path ends, unless there is one already."""
    form, level = format_of(context), int(plan.level[row])
    reserved = range(context.maxphyaddr, 52)
    bits = [bit for bit in reserved if not context.encryption_mask >> bit & 1]
    if not form.nxe:
        bits += [63, 63, 63]
    if not form.long:
        bits += range(52, 63)
    if level > 3:
        bits += [7, 7, 7]
    if level in form.plain:
        bits += [1, 2, 5, 6, 7, 8, 63] * 2
    large = level in form.large and chance.random() < 0.6
    if large and (level == 2 or context.page1gb):
        bits = [*range(13, 12 + 9 * (level - 1))]
    if form.entry_bytes == 4:
        # Bits 20:13 of a 4-MiB page are address bits 39:32, as far as there are such.
        bits = [*range(min(context.maxphyaddr, 40) - 19, 22)] if level in form.large else []
    if plan.broken[row] < 0:
        if not bits:
            plan.end[row] = End.ABSENT
            return
        plan.broken[row] = bits[int(chance.integers(len(bits)))]
