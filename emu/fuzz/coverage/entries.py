"""Each bit of each entry."""

import numpy as np

from crosswalk.emu.fuzz.coverage.common import (
    ABSENT,
    COLUMNS,
    DENIED,
    FETCH,
    KEY,
    NAMES,
    OK,
    READ,
    RESERVED,
    WRITE,
    Bools,
    with_answer,
)
from crosswalk.emu.fuzz.coverage.family import ANSWER, AXES, Axis, Family, spread
from crosswalk.emu.fuzz.coverage.seen import MASKS, Shown
from crosswalk.emu.fuzz.target import End, Target
from crosswalk.walker.access import AccessType
from crosswalk.walker.entry import Entry

__all__ = ["ENTRIES"]

_PS = NAMES.index("ps")
_ABOUT = 3 * 2 * 5  # Types × privileges × answers.


def _bits_possible() -> Bools:
    level, role, bit, value, kind, user, answer = spread(5, 2, len(NAMES), 2, 3, 2, 5)
    leaf = role == 1
    possible = ~(leaf & (level > 2)) & ~(~leaf & (level == 0))
    possible = possible & np.where(leaf, answer != ABSENT, True)
    ps = bit == _PS
    possible = possible & ~(ps & leaf & (level > 0) & (value == 0))
    # PS above the leaf is reserved from the PML4E up; below, it would make a leaf.
    possible = possible & ~(ps & ~leaf & (value == 1) & ((level < 3) | (answer != RESERVED)))
    us, rw, xd = (bit == NAMES.index(name) for name in ("us", "rw", "xd"))
    possible = possible & ~(us & (value == 0) & ((answer == KEY) | ((user == 1) & (answer == OK))))
    possible = possible & ~(us & (value == 0) & (user == 0) & (kind == READ) & (answer == DENIED))
    possible = possible & ~(rw & (value == 0) & (user == 1) & (kind == WRITE) & (answer == OK))
    possible = possible & ~(xd & (value == 1) & (kind == FETCH) & (answer == OK))
    cells: Bools = possible & ~((answer == KEY) & (kind == FETCH))
    return cells


def _bits_touch(shown: Shown) -> Bools:
    ends = shown.end[shown.page]
    how = shown.how[shown.page]
    # An entry with PS counts as a leaf also where it is broken.
    word = shown.entry[np.arange(len(shown.end)), shown.end]
    broken_leaf = (shown.how == End.RESERVED) & (
        (shown.end == 1) | (((word & np.uint64(Entry.PS)) != 0) & (shown.end < 4))
    )
    closes = (how == End.LEAF) | broken_leaf[shown.page]
    # What an absent entry holds says nothing.
    silent = (how == End.ABSENT) | (how == End.OUTSIDE)
    # Which of the names are set in each entry, as one number: few of them differ in a group.
    names = np.zeros(shown.entry.shape, np.int64)
    for at, column in enumerate(COLUMNS):
        names |= ((shown.entry & MASKS[column]) != 0).astype(np.int64) << at
    about = (shown.type * 2 + shown.user).astype(np.int64) * 5 + shown.answer
    found = np.zeros((5, 2, _ABOUT, 1 << len(NAMES)), np.bool_)
    for level in range(1, shown.levels + 1):
        last = ends == level
        rows = np.flatnonzero(shown.used[shown.page, level] & ~(last & silent))
        role = (last & closes)[rows].astype(np.int64)
        found[level - 1, role, about[rows], names[shown.page[rows], level]] = True
    levels, roles, which, sets = np.nonzero(found)
    touched = np.zeros((5, 2, len(NAMES), 2, _ABOUT), np.bool_)
    for at in range(len(NAMES)):
        touched[levels, roles, at, sets >> at & 1, which] = True
    return touched


def _bits_target(values: tuple[int, ...]) -> Target:
    level, role, bit, value, kind, user, answer = values
    at = level + 1 if role else max(1, level)
    end, reserved = None, None
    bits: tuple[tuple[int, str, bool], ...] = ((level + 1, NAMES[bit], bool(value)),)
    if answer == RESERVED:
        end, reserved = End.RESERVED, 51
        if bit == _PS and level > 2:
            at, reserved, bits = level + 1, 7, ()
    elif answer == ABSENT:
        end = End.ABSENT
    else:
        end = End.LEAF
        at = level + 1 if role else min(level, 1 + (bit + value) % 3)
    control = {"la57": True} if level == 4 else {}
    if NAMES[bit] == "xd" and value:
        control["nxe"] = True
    if NAMES[bit] == "rw" and not value and kind == WRITE and not user and answer == OK:
        control["wp"] = False
    target = Target(
        control=control, level=at, end=end, bits=bits, reserved=reserved,
        access=AccessType(kind), cpl=3 * user,
    )  # fmt: skip
    return with_answer(target, answer)


ENTRIES = Family(
    "bits of entries",
    (
        AXES["level"],
        Axis("role", ("table", "leaf")),
        Axis("bit", NAMES),
        AXES["value"],
        AXES["type"],
        AXES["user"],
        ANSWER,
    ),
    _bits_possible(),
    _bits_touch,
    _bits_target,
)
