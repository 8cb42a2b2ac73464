"""Where rights are lost, which reserved bits, which keys, which addresses."""

import numpy as np

from crosswalk.emu.fuzz.coverage.common import (
    DENIED,
    FETCH,
    KEY,
    OK,
    WRITE,
    Bools,
    number,
    on_leaf,
    with_answer,
)
from crosswalk.emu.fuzz.coverage.family import ANSWER, AXES, Axis, Family, Numbers, spread
from crosswalk.emu.fuzz.coverage.seen import Shown
from crosswalk.emu.fuzz.target import End, Target
from crosswalk.walker.access import AccessType
from crosswalk.walker.entry import Entry

__all__ = ["KEYS", "LOST", "PLACES", "RESERVED_BITS"]

_RIGHTS = (("R/W", Entry.RW, "rw"), ("U/S", Entry.US, "us"), ("XD", Entry.XD, "xd"))
_SETS = 32
_BITS = (7, *range(13, 30), *range(40, 52), 63)
_INDICES = ("0", "1 to 254", "255", "256", "257 to 510", "511")
_INDEX_OF = (0, 7, 255, 256, 300, 511)
"""An index of each class."""
_INDEX_CLASS = np.array([0] + [1] * 254 + [2, 3] + [4] * 254 + [5], np.int64)


def _lost_possible() -> Bools:
    right, lost, size, kind, user, answer = spread(3, _SETS, 3, 3, 2, 5)
    # Levels below a large page aren't walked.
    possible = (lost & ((1 << size) - 1)) == 0
    possible = possible & ((answer == OK) | (answer == DENIED))
    some, write, fetch = lost != 0, kind == WRITE, kind == FETCH
    possible = possible & ~((right == 0) & some & write & (user == 1) & (answer == OK))
    possible = possible & ~((right == 1) & some & (user == 1) & (answer == OK))
    possible = possible & ~((right == 2) & some & fetch & (answer == OK))
    read_denied = ~write & ~fetch & (answer == DENIED)
    # A read is denied to the supervisor by SMAP, to the user by U/S, and by nothing else.
    cells: Bools = possible & ~((right == 1) & (some == (user == 0)) & read_denied)
    return cells


def _lost_touch(shown: Shown) -> Numbers:
    leaf, _ = on_leaf(shown)
    rows = np.flatnonzero(leaf & ((shown.answer == OK) | (shown.answer == DENIED)))
    page = shown.page[rows]
    parts = []
    for at, (_, bit, _name) in enumerate(_RIGHTS):
        on = (shown.entry & np.uint64(bit)) != 0
        withheld = (on if bit is Entry.XD else ~on) & shown.used
        lost = (withheld[:, 1:] << np.arange(5)[None, :]).sum(axis=1)
        parts.append(
            number(
                (3, _SETS, 3, 3, 2, 5),
                np.array(at),
                lost[page],
                shown.end[page] - 1,
                shown.type[rows],
                shown.user[rows],
                shown.answer[rows],
            )
        )
    return np.concatenate(parts)


def _lost_target(values: tuple[int, ...]) -> Target:
    right, lost, size, kind, user, answer = values
    name = _RIGHTS[right][2]
    bits = tuple(
        (level, name, bool(lost >> level - 1 & 1) == (name == "xd")) for level in range(size + 1, 6)
    )
    control = {"la57": True} if lost & 16 else {}
    if name == "xd" and lost:
        control["nxe"] = True
    if name == "rw" and kind == WRITE and not user and lost:
        control["wp"] = answer == DENIED
    target = Target(
        control=control, level=size + 1, end=End.LEAF, bits=bits,
        access=AccessType(kind), cpl=3 * user,
    )  # fmt: skip
    # What is withheld refuses the access by itself where it is about that.
    concerns = {"rw": kind == WRITE, "us": user == 1, "xd": kind == FETCH}[name]
    return target if answer == DENIED and lost and concerns else with_answer(target, answer)


def _reserved_possible() -> Bools:
    level, bit, _kind, _user = spread(5, len(_BITS), 3, 2)
    which = np.array(_BITS)[bit]
    everywhere = (which >= 40) & (which <= 63)
    low = ((which >= 13) & (which < 21) & ((level == 1) | (level == 2))) | (
        (which >= 21) & (which < 30) & (level == 2)
    )
    possible: Bools = everywhere | low | ((which == 7) & (level >= 3))
    return possible


def _reserved_touch(shown: Shown) -> Numbers:
    rows = np.flatnonzero((shown.how == End.RESERVED)[shown.page])
    page = shown.page[rows]
    one = shown.broken[page]
    alone = (one & (one - np.uint64(1))) == 0
    rows, page, one = rows[alone], page[alone], one[alone]
    numbers = np.full(64, -1)
    numbers[list(_BITS)] = np.arange(len(_BITS))
    which = numbers[np.log2(one.astype(np.float64)).astype(np.int64)] if len(one) else one
    known = which >= 0
    rows, page = rows[known], page[known]
    return number(
        (5, len(_BITS), 3, 2),
        shown.end[page] - 1,
        which[known],
        shown.type[rows],
        shown.user[rows],
    )


def _reserved_target(values: tuple[int, ...]) -> Target:
    level, bit, kind, user = values
    control = {"la57": True} if level == 4 else {}
    if _BITS[bit] == 63:
        control["nxe"] = False
    return Target(
        control=control, level=level + 1, end=End.RESERVED, reserved=_BITS[bit],
        access=AccessType(kind), cpl=3 * user,
    )  # fmt: skip


def _keys_possible() -> Bools:
    _key, pair, kind, user, mine, wp, answer = spread(16, 4, 2, 2, 2, 2, 5)
    possible = (answer == OK) | (answer == DENIED) | (answer == KEY)
    denies = ((pair & 1) != 0) | (((pair & 2) != 0) & (kind == WRITE) & ((user == 1) | (wp == 1)))
    possible = possible & ((answer == KEY) == (denies & (mine == 1)))
    possible = possible & ~((mine == 0) & (user == 1) & (answer == OK))
    possible = possible & ~((mine == 0) & (user == 0) & (kind == 0) & (answer == DENIED))
    possible = possible & ~((mine == 1) & (user == 1) & (kind == 0) & (answer == DENIED))
    cells: Bools = possible & ~(
        (mine == 0) & (user == 0) & (kind == WRITE) & (wp == 0) & (answer == DENIED)
    )
    return cells


def _keys_touch(shown: Shown) -> Numbers:
    control = dict(zip(("wp", "nxe", "smep", "smap", "pke"), shown.control, strict=False))
    if not control["pke"]:
        return np.zeros(0, np.int64)
    leaf, user_page = on_leaf(shown)
    rows = np.flatnonzero(leaf & (shown.type != FETCH))
    page = shown.page[rows]
    entry = shown.entry[page, shown.end[page]]
    key = (entry >> np.uint64(59)).astype(np.int64) & 15
    return number(
        (16, 4, 2, 2, 2, 2, 5),
        key,
        shown.pkru >> 2 * key & 3,
        shown.type[rows],
        shown.user[rows],
        user_page[page],
        np.array(control["wp"]),
        shown.answer[rows],
    )


def _keys_target(values: tuple[int, ...]) -> Target:
    key, pair, kind, user, mine, wp, answer = values
    bits = [] if mine else [(2, "us", False)]
    control = {"pke": True, "wp": bool(wp)}
    if answer == DENIED and mine:
        if user:
            bits.append((2, "rw", False))
        else:
            control |= {"smap": True, "ac": False}
    elif answer == DENIED and kind == WRITE and not user:
        bits.append((2, "rw", False))
    return Target(
        control=control, level=1, end=End.LEAF, bits=tuple(bits), key=key, pkru=pair,
        access=AccessType(kind), cpl=3 * user,
    )  # fmt: skip


def _places_possible() -> Bools:
    return np.ones((5, len(_INDICES), 3, 2), np.bool_)


def _places_touch(shown: Shown) -> Numbers:
    rows = np.flatnonzero(shown.answer == OK)
    parts = []
    for level in range(1, shown.levels + 1):
        here = rows[shown.used[shown.page[rows], level]]
        index = shown.va[shown.page[here]] >> np.uint64(3 + 9 * level) & np.uint64(511)
        parts.append(
            number(
                (5, len(_INDICES), 3, 2),
                np.array(level - 1),
                _INDEX_CLASS[index],
                shown.type[here],
                shown.user[here],
            )
        )
    return np.concatenate(parts)


def _places_target(values: tuple[int, ...]) -> Target:
    level, index, kind, user = values
    return Target(
        control={"la57": True} if level == 4 else {},
        level=1,
        end=End.LEAF,
        # The supervisor's own page, which SMEP and SMAP leave alone, or a key that denies nothing.
        bits=() if user else ((1, "us", False),),
        index=((level + 1, _INDEX_OF[index]),),
        key=0 if user else None,
        pkru=0 if user else None,
        access=AccessType(kind),
        cpl=3 * user,
    )


_WHICH = (AXES["type"], AXES["user"])
LOST = Family(
    "rights withheld",
    (
        Axis("right", tuple(name for name, _, _ in _RIGHTS)),
        Axis("at levels", tuple(f"{each:05b}" for each in range(_SETS))),
        AXES["size"],
        *_WHICH,
        ANSWER,
    ),
    _lost_possible(),
    _lost_touch,
    _lost_target,
)
RESERVED_BITS = Family(
    "reserved bits",
    (AXES["level"], Axis("bit", tuple(str(bit) for bit in _BITS)), *_WHICH),
    _reserved_possible(),
    _reserved_touch,
    _reserved_target,
)
KEYS = Family(
    "protection keys",
    (
        Axis("key", tuple(str(key) for key in range(16))),
        Axis("PKRU", ("00", "01", "10", "11")),
        Axis("access", ("read", "write")),
        AXES["user"],
        AXES["whose"],
        Axis("WP", ("0", "1")),
        ANSWER,
    ),
    _keys_possible(),
    _keys_touch,
    _keys_target,
)
PLACES = Family(
    "addresses",
    (AXES["level"], Axis("index", _INDICES), *_WHICH),
    _places_possible(),
    _places_touch,
    _places_target,
)
