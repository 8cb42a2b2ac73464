"""Memory-type range registers: which memory type they give each physical address.

What several registers say together is worked out once, for the stretches between their bounds.

Source: Intel SDM vol. 3A, "Memory Type Range Registers (MTRRs)", above all "MTRR Precedences";
AMD APM vol. 2, "Memory-Type Range Registers", "System Configuration Register (SYSCFG)".
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import U64

__all__ = [
    "FIXED_RANGES",
    "MSR_DEF_TYPE",
    "MTRR_TYPES",
    "MemoryType",
    "Mtrrs",
    "VariableRange",
    "mtrrs_of_msrs",
    "named_type",
]


class MemoryType(IntEnum):
    """A memory type, by the number that the registers have for it.

    The first six are those of IA32_PAT, all of them but UC- those of the MTRRs, too. CD and WC+
    are AMD's: uncached and write-combining, where caches are looked into all the same. MIXED is
    the type of a page in parts of which different types apply; UNDEFINED that of addresses whose
    MTRRs contradict each other.
    """

    UC = 0
    WC = 1
    WT = 4
    WP = 5
    WB = 6
    UC_MINUS = 7
    CD = 8
    WC_PLUS = 9
    MIXED = 10
    UNDEFINED = 11

    @property
    def text(self) -> str:
        """The name for people and in JSON: uc, wc, wt, wp, wb, uc-, cd, wc+, mixed, undefined."""
        return self.name.lower().replace("_minus", "-").replace("_plus", "+")


MTRR_TYPES = (MemoryType.UC, MemoryType.WC, MemoryType.WT, MemoryType.WP, MemoryType.WB)
"""The types that an MTRR can have."""

_PHYSICAL_BITS = 52
_FRAME = 1 << 12
_MOST_RANGES = 256
_4GIB = 1 << 32

FIXED_RANGES: Mapping[int, tuple[int, int]] = {
    0x250: (0x00000, 0x10000),
    0x258: (0x80000, 0x4000),
    0x259: (0xA0000, 0x4000),
    **{0x268 + at: (0xC0000 + at * 0x8000, 0x1000) for at in range(8)},
}
"""By the number of a fixed-range MSR: where the first of its eight ranges begins, and their size.

In bytes. Source: Intel SDM vol. 3A, "Fixed Range MTRRs".
"""

_MOST_FIXED = 8 * len(FIXED_RANGES)
MSR_DEF_TYPE = 0x2FF
_PHYSBASE, _PHYSMASK_END = 0x200, 0x220
_DEF_FIXED, _DEF_ENABLE = 1 << 10, 1 << 11
_VALID = 1 << 11


@dataclass(frozen=True, slots=True)
class VariableRange:
    """The range of one variable MTRR: `size` bytes from `base`, a power of two and aligned to it.

    Raises `BadInput` for other ranges, for one that ends beyond 52 bits, and for UC-, which no
    MTRR can have.
    """

    base: int
    size: int
    type: MemoryType

    def __post_init__(self) -> None:
        if self.type not in MTRR_TYPES:
            raise BadInput(f"MTRR {self}: no MTRR has this type")
        if self.size < _FRAME or self.size & self.size - 1 or self.base & self.size - 1:
            raise BadInput(
                f"MTRR {self}: a range is a power of two of at least 4K, and aligned to its size"
            )
        if self.base + self.size > 1 << _PHYSICAL_BITS:
            raise BadInput(f"MTRR {self}: ends beyond {_PHYSICAL_BITS} bits")

    def __str__(self) -> str:
        return f"{self.base:#x}:{self.size:#x}:{self.type.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mtrrs:
    """What all MTRRs of a CPU say: the default type, the variable ranges, the fixed ones.

    `fixed` has the type of each fixed range, (start, size in bytes, type), all of them or none;
    they go before the variable ranges. With `enabled` false everything is UC. `tom2` is AMD's
    TOP_MEM2, where SYSCFG.Tom2ForceMemTypeWB is set: what no range covers is WB there, from 4 GiB
    up to it. Raises `BadInput` for more than 256 variable ranges (processors have some ten), and
    for more fixed ones than there are.
    """

    default: MemoryType = MemoryType.UC
    variable: tuple[VariableRange, ...] = ()
    fixed: tuple[tuple[int, int, MemoryType], ...] = ()
    enabled: bool = True
    tom2: int = 0

    def __post_init__(self) -> None:
        if len(self.variable) > _MOST_RANGES:
            raise BadInput(f"{len(self.variable):,} MTRRs; at most {_MOST_RANGES} are read")
        if len(self.fixed) > _MOST_FIXED:
            raise BadInput(f"{len(self.fixed):,} fixed MTRR ranges; there are {_MOST_FIXED}")

    def stretches(self) -> tuple[U64, NDArray[np.uint8]]:
        """Return where each stretch of one type begins, uint64[n], the first at 0, and its type.

        The types are uint8[n], of `MemoryType`: UNDEFINED where overlapping ranges contradict
        each other. A stretch ends where the next one begins.
        """
        if not self.enabled:
            return np.zeros(1, np.uint64), np.full(1, MemoryType.UC, np.uint8)
        bounds = {0, *([_4GIB, self.tom2] if self.tom2 > _4GIB else [])}
        for each in self.variable:
            bounds |= {each.base, each.base + each.size}
        for start, size, _ in self.fixed:
            bounds |= {start, start + size}
        starts = sorted(bounds)
        types = [self.type_at(start) for start in starts]
        first = [at for at in range(len(starts)) if not at or types[at] is not types[at - 1]]
        return (
            np.array([starts[at] for at in first], np.uint64),
            np.array([types[at] for at in first], np.uint8),
        )

    def type_at(self, pa: int) -> MemoryType:
        """Return the type of the byte at this physical address.

        By the rules of "MTRR Precedences": a fixed range goes first; among variable ones UC goes
        first, then WT before WB; other types together are UNDEFINED; where there is none, the
        default applies.
        """
        if not self.enabled:
            return MemoryType.UC
        for start, size, kind in self.fixed:
            if start <= pa < start + size:
                return kind
        kinds = {each.type for each in self.variable if each.base <= pa < each.base + each.size}
        if not kinds:
            return MemoryType.WB if _4GIB <= pa < self.tom2 else self.default
        if MemoryType.UC in kinds:
            return MemoryType.UC
        if kinds == {MemoryType.WT, MemoryType.WB}:
            return MemoryType.WT
        return kinds.pop() if len(kinds) == 1 else MemoryType.UNDEFINED


_NAMES = {each.text: each for each in MTRR_TYPES} | {
    "uncachable": MemoryType.UC,
    "uncacheable": MemoryType.UC,
    "write-combining": MemoryType.WC,
    "write-through": MemoryType.WT,
    "write-protect": MemoryType.WP,
    "write-back": MemoryType.WB,
}


def named_type(name: str) -> MemoryType:
    """Return the type that an MTRR can have by its name, as `uc` or as Linux writes it.

    Raises `BadInput` for another name.
    """
    found = _NAMES.get(name.strip().lower())
    if found is None:
        names = ", ".join(each.text for each in MTRR_TYPES)
        raise BadInput(f"{name.strip()[:40]!r} is no memory type of an MTRR ({names})")
    return found


def mtrrs_of_msrs(values: Mapping[int, int]) -> Mtrrs:
    """Return the MTRRs that MSRs with these numbers and values are.

    IA32_MTRR_DEF_TYPE has to be there; where it enables the fixed ranges, all of their MSRs; and
    of each variable range both MSRs. Raises `BadInput` else, for other MSRs, and for values that
    no WRMSR writes: reserved types, a mask that isn't of one contiguous range.

    Source: Intel SDM vol. 3A, "IA32_MTRR_DEF_TYPE MSR", "Fixed Range MTRRs", "Variable Range
    MTRRs".
    """
    if MSR_DEF_TYPE not in values:
        raise BadInput("MTRRs: MSR 0x2ff (IA32_MTRR_DEF_TYPE) is not given")
    known = {MSR_DEF_TYPE, *FIXED_RANGES, *range(_PHYSBASE, _PHYSMASK_END)}
    for number in values:
        if number not in known:
            raise BadInput(f"MTRRs: MSR {number:#x} is none of theirs")
    whole = values[MSR_DEF_TYPE]
    if not whole & _DEF_ENABLE:
        return Mtrrs(enabled=False)
    return Mtrrs(
        default=_type_of(whole & 0xFF, MSR_DEF_TYPE),
        variable=tuple(_variable(values)),
        fixed=tuple(_fixed(values)) if whole & _DEF_FIXED else (),
    )


def _type_of(number: int, msr: int) -> MemoryType:
    if number not in MTRR_TYPES:
        raise BadInput(f"MTRRs: MSR {msr:#x} has memory type {number:#x}, which is reserved")
    return MemoryType(number)


def _fixed(values: Mapping[int, int]) -> Iterable[tuple[int, int, MemoryType]]:
    for msr, (start, size) in FIXED_RANGES.items():
        if msr not in values:
            raise BadInput(f"MTRRs: fixed ranges are enabled, and MSR {msr:#x} is not given")
        for at in range(8):
            kind = _type_of(values[msr] >> 8 * at & 0xFF, msr)
            yield start + at * size, size, kind


def _variable(values: Mapping[int, int]) -> Iterable[VariableRange]:
    for msr in range(_PHYSBASE, _PHYSMASK_END, 2):
        if (msr in values) != (msr + 1 in values):
            lacking = msr if msr + 1 in values else msr + 1
            raise BadInput(f"MTRRs: MSR {lacking:#x}, the other half of a pair, is not given")
        mask = values.get(msr + 1, 0)
        if not mask & _VALID:
            continue
        mask &= -_FRAME
        size = mask & -mask
        # The mask's bits go up to MAXPHYADDR, which tells nothing else here.
        if not mask or mask + size & mask + size - 1:
            raise BadInput(f"MTRRs: MSR {msr + 1:#x} has mask {mask:#x}, of no contiguous range")
        base = values[msr]
        yield VariableRange(base & mask, size, _type_of(base & 0xFF, msr))
