"""Pairs of bits on one path under a control bit, which rare bugs depend on."""

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.fuzz.coverage.family import (
    DENIED,
    FETCH,
    MASKS,
    NAMES,
    OK,
    REGISTERS,
    WRITE,
    Axis,
    Bools,
    Family,
    spread,
    with_answer,
)
from crosswalk.emu.fuzz.coverage.walks import Walks
from crosswalk.emu.fuzz.target import CoverageTarget, End
from crosswalk.walker.access import AccessType
from crosswalk.walker.memory import U64

__all__ = ["PAIRS"]

_LEVELS = ("PTE", "PDE", "PDPTE", "PML4E", "PML5E")
_ONES = [(level, name, value) for level in range(5) for name in NAMES for value in (0, 1)]
_COUNT = len(_ONES)
_GROUPS = 12  # Types × privileges × allowed or not.
_SHAPE = (len(REGISTERS), 2, _GROUPS, _COUNT, _COUNT)


_LEVEL, _BIT = (
    np.array(column)
    for column in zip(*[(level, NAMES.index(name)) for level, name, _ in _ONES], strict=True)
)
_ORDER = (_LEVEL[:, None] > _LEVEL[None, :]) | (
    (_LEVEL[:, None] == _LEVEL[None, :]) & (_BIT[:, None] < _BIT[None, :])
)
"""The first bit of a pair is the one at the upper level, or the earlier one of one entry."""
_FIRST, _SECOND = np.nonzero(_ORDER)


def _possible() -> Bools:
    register, value, group, one, other = spread(*_SHAPE)
    level, bits = _LEVEL, _BIT
    on = np.array([value_ for _, _, value_ in _ONES])
    allowed, user, kind = group % 2 == 0, group // 2 % 2 == 1, group // 4
    ps, xd, us, rw = (NAMES.index(name) for name in ("ps", "xd", "us", "rw"))

    def has(which: np.ndarray, bit: int, value_: int) -> np.ndarray:
        found: np.ndarray = (bits[which] == bit) & (on[which] == value_)
        return found

    def clear(name: str) -> np.ndarray:
        found: np.ndarray = (register == REGISTERS.index(name)) & (value == 0)
        return found

    upper = level[one] > level[other]
    # With WP set the supervisor, too, stores to what is writable only.
    bound = user | ((register == REGISTERS.index("wp")) & (value == 1))
    # What sets PS above level 1 leads to no table.
    impossible = (upper & has(one, ps, 1)) | (clear("nxe") & upper & has(one, xd, 1))
    for which in (one, other):
        impossible = (
            impossible
            | (allowed & has(which, ps, 1) & (level[which] > 2))
            | (allowed & has(which, xd, 1) & ((kind == FETCH) | clear("nxe")))
            | (allowed & has(which, us, 0) & user)
            | (allowed & has(which, rw, 0) & (kind == WRITE) & bound)
            | (clear("la57") & (level[which] == 4))
        )
    cells: Bools = np.broadcast_to(_ORDER, _SHAPE) & ~impossible
    return cells


def _touch(walks: Walks) -> Bools:
    ones = np.zeros((len(walks.end), _COUNT), np.bool_)
    rows = np.arange(len(walks.end))
    # Bits of an absent entry don't count.
    absent = (walks.how == End.ABSENT) | (walks.how == End.OUTSIDE)
    for level in range(1, walks.levels + 1):
        here = walks.used[rows, level] & ~((walks.end == level) & absent)
        on = (walks.entry[:, level, None] & MASKS) != 0
        first = (level - 1) * 2 * len(NAMES)
        last = first + 2 * len(NAMES)
        ones[:, first:last:2] = ~on & here[:, None]
        ones[:, first + 1 : last : 2] = on & here[:, None]
    group = (walks.type.astype(np.int64) * 2 + walks.user) * 2 + (walks.answer != OK)
    # Many pages have equal paths, which are looked at once.
    paths, path = _distinct(ones)
    among = np.zeros((_GROUPS, len(paths)), np.bool_)
    among[group, path[walks.page]] = True
    # Sets of paths as bits of words: a pair is on the paths that have both of its bits.
    have, took = _words(paths.T), _words(among)
    both = np.zeros((_GROUPS, len(_FIRST)), np.bool_)
    for word in range(have.shape[1]):
        column = np.ascontiguousarray(have[:, word])
        both |= (column[_FIRST] & column[_SECOND] & took[:, word, None]) != 0
    touched = np.zeros(_SHAPE, np.bool_)
    chosen = np.zeros(_SHAPE[2:], np.bool_)
    chosen[:, _FIRST, _SECOND] = both
    for register, value in enumerate(walks.control):
        touched[register, int(value)] = chosen
    return touched


def _words(sets: Bools) -> U64:
    """Return uint64[n, w]: each of n sets, bool[n, m], as the bits of words."""
    octets = np.packbits(sets, axis=1)
    padded = np.zeros((len(sets), -(-octets.shape[1] // 8) * 8), np.uint8)
    padded[:, : octets.shape[1]] = octets
    return padded.view(np.uint64)


def _distinct(ones: Bools) -> tuple[Bools, NDArray[np.intp]]:
    """Return the distinct rows, and for each row which of them it is."""
    packed = np.packbits(ones, axis=1)
    rows = np.ascontiguousarray(packed).view(f"V{packed.shape[1]}").ravel()
    _, first, which = np.unique(rows, return_index=True, return_inverse=True)
    return ones[first], which.astype(np.intp)


def _target(values: tuple[int, ...]) -> CoverageTarget:
    register, value, group, one, other = values
    pair = (_ONES[one], _ONES[other])
    bits = tuple((level + 1, name, bool(on)) for level, name, on in pair)
    lowest = min(level for level, _, _ in bits)
    leaf = next((level for level, name, on in bits if name == "ps" and on and level > 1), None)
    level = leaf or (1 if any(name == "ps" and not on for _, name, on in bits) else lowest)
    control = {REGISTERS[register]: bool(value)}
    # PS of a PML4E or PML5E is a reserved bit, and the walk ends there.
    broken = next((level for level, name, on in bits if name == "ps" and on and level > 3), None)
    if any(level == 5 for level, _, _ in bits):
        control.setdefault("la57", True)
    if any(name == "xd" and on for _, name, on in bits):
        control.setdefault("nxe", True)
    kind, user = AccessType(group // 4), group // 2 % 2
    if broken is not None:
        rest = tuple(each for each in bits if each[:2] != (broken, "ps"))
        return CoverageTarget(
            control=control, level=broken, end=End.RESERVED, reserved=7, bits=rest,
            access=kind, cpl=3 * user,
        )  # fmt: skip
    level = min(level, 3)
    if group % 2 and not user and _never_denied(kind, bits, control):
        return CoverageTarget(
            control=control, level=level, end=End.RESERVED, reserved=51, bits=bits,
            access=kind, cpl=0,
        )  # fmt: skip
    target = CoverageTarget(
        control=control, level=level, end=End.LEAF, bits=bits, access=kind, cpl=3 * user
    )
    return with_answer(target, DENIED if group % 2 else OK)


def _never_denied(
    kind: AccessType, bits: tuple[tuple[int, str, bool], ...], control: dict[str, bool]
) -> bool:
    """Return whether no right denies the supervisor this, so that only a reserved bit does."""
    own = any(name == "us" and not on for _, name, on in bits)
    if kind is AccessType.READ:
        return own or not control.get("smap", True)
    needed, guard = ("wp", "smap") if kind is AccessType.WRITE else ("nxe", "smep")
    return not control.get(needed, True) and (own or not control.get(guard, True))


PAIRS = Family(
    "pairs of bits",
    (
        Axis("control", REGISTERS),
        Axis("value", ("0", "1")),
        Axis(
            "access",
            tuple(
                f"{kind} at CPL {cpl}, {answer}"
                for kind in ("read", "write", "execute")
                for cpl in (0, 3)
                for answer in ("ok", "refused")
            ),
        ),
        Axis("with", tuple(f"{_LEVELS[level]}.{name}={on}" for level, name, on in _ONES)),
        Axis("and", tuple(f"{_LEVELS[level]}.{name}={on}" for level, name, on in _ONES)),
    ),
    _possible(),
    _touch,
    _target,
)
