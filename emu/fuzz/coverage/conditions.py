"""Families of one condition: how walks end, control bits, entry bits, rights, keys, addresses."""

import numpy as np

from crosswalk.emu.fuzz.coverage.family import (
    ABSENT,
    ANSWER,
    AXES,
    DENIED,
    FETCH,
    KEY,
    MASKS,
    NAMES,
    OK,
    READ,
    REGISTERS,
    RESERVED,
    WRITE,
    Axis,
    Bools,
    Family,
    Numbers,
    number,
    spread,
    with_answer,
)
from crosswalk.emu.fuzz.coverage.walks import Walks
from crosswalk.emu.fuzz.target import CONTROLS, CoverageTarget, End
from crosswalk.walker.access import AccessType
from crosswalk.walker.entry import Entry

__all__ = ["ADDRESSES", "CONTROL", "END", "ENTRIES", "KEYS", "RESERVED_BITS", "RIGHTS"]

_PS = NAMES.index("ps")
_GROUPS = 3 * 2 * 5  # Types × privileges × answers.
_RIGHTS = (("R/W", Entry.RW, "rw"), ("U/S", Entry.US, "us"), ("XD", Entry.XD, "xd"))
_SETS = 32
_BITS = (7, *range(13, 30), *range(40, 52), 63)
_INDICES = ("0", "1 to 254", "255", "256", "257 to 510", "511")
_INDEX_OF = (0, 7, 255, 256, 300, 511)
"""An index of each class."""
_INDEX_CLASS = np.array([0] + [1] * 254 + [2, 3] + [4] * 254 + [5], np.int64)
_WALKED = np.array([False, True, True, True, True, True])


def on_leaf(walks: Walks) -> tuple[Bools, Bools]:
    """Return bool[n], the accesses that reach a page, and bool[m], the pages of the user."""
    leaf: Bools = (walks.how == End.LEAF)[walks.page]
    kept = (walks.entry & np.uint64(Entry.US)) != 0
    user: Bools = (kept | ~walks.used).all(axis=1, where=_WALKED) & (walks.how == End.LEAF)
    return leaf, user


def _end_possible() -> Bools:
    la57, level, how, kind, _user, answer = spread(2, 5, 4, 3, 2, 5)
    leaf, absent, reserved, outside = (how == end for end in End)
    possible = (leaf & (level < 3)) | absent | reserved | (outside & (level < 3 + la57))
    answered = (
        (leaf & ((answer == OK) | (answer >= DENIED)))
        | (reserved & (answer == RESERVED))
        | ((absent | outside) & (answer == ABSENT))
    )
    levels = (level < 4) | (la57 == 1)
    cells: Bools = possible & levels & answered & ~((answer == KEY) & (kind == FETCH))
    return cells


def _end_touch(walks: Walks) -> Numbers:
    return number(
        (2, 5, 4, 3, 2, 5),
        np.full(len(walks.page), walks.levels == 5),
        walks.end[walks.page] - 1,
        walks.how[walks.page],
        walks.type,
        walks.user,
        walks.answer,
    )


def _end_target(values: tuple[int, ...]) -> CoverageTarget:
    la57, level, how, kind, user, answer = values
    control = {"la57": bool(la57)}
    end = End(how)
    # The entry above decides that a walk ends outside RAM.
    at = level + 2 if end is End.OUTSIDE else level + 1
    return with_answer(
        CoverageTarget(control=control, level=at, end=end, access=AccessType(kind), cpl=3 * user),
        answer,
    )


def _control_possible() -> Bools:
    name, value, _size, mine, kind, user, answer = spread(len(CONTROLS), 2, 3, 2, 3, 2, 5)
    is_ = {each: name == at for at, each in enumerate(CONTROLS)}
    on, off, supervisor, own = value == 1, value == 0, user == 0, mine == 0
    read, write, fetch = kind == READ, kind == WRITE, kind == FETCH
    open_ = (is_["smap"] & off) | (is_["ac"] & on)
    never_denied = (
        (supervisor & own & (read | (write & is_["wp"] & off) | (fetch & is_["nxe"] & off)))
        | (supervisor & ~own & read & open_)
        | (~supervisor & ~own & (read | (fetch & is_["nxe"] & off)))
    )
    never_ok = (own & ~supervisor) | (supervisor & fetch & ~own & is_["smep"] & on)
    never_key = fetch | own | (is_["pke"] & off)
    cells: Bools = (
        ((answer == OK) & ~never_ok)
        | ((answer == DENIED) & ~never_denied)
        | ((answer == KEY) & ~never_key)
    )
    return cells


def _control_touch(walks: Walks) -> Numbers:
    leaf, user_page = on_leaf(walks)
    rows = np.flatnonzero(leaf)
    page = walks.page[rows]
    values = {
        name: np.full(len(rows), on) for name, on in zip(REGISTERS, walks.control, strict=True)
    }
    values["ac"] = walks.ac[rows] != 0
    return np.concatenate(
        [
            number(
                (len(CONTROLS), 2, 3, 2, 3, 2, 5),
                np.array(at),
                values[name],
                walks.end[page] - 1,
                user_page[page],
                walks.type[rows],
                walks.user[rows],
                walks.answer[rows],
            )
            for at, name in enumerate(CONTROLS)
        ]
    )


def _control_target(values: tuple[int, ...]) -> CoverageTarget:
    name, value, size, mine, kind, user, answer = values
    levels = range(size + 1, 5)
    bits = tuple((level, "us", True) for level in levels) if mine else ((size + 1, "us", False),)
    target = CoverageTarget(
        control={CONTROLS[name]: bool(value)}, level=size + 1, end=End.LEAF, bits=bits,
        access=AccessType(kind), cpl=3 * user,
    )  # fmt: skip
    return with_answer(target, answer)


def _bits_possible() -> Bools:
    level, role, bit, value, kind, user, answer = spread(5, 2, len(NAMES), 2, 3, 2, 5)
    leaf, ok, denied = role == 1, answer == OK, answer == DENIED
    ps, us, rw, xd = (bit == NAMES.index(name) for name in ("ps", "us", "rw", "xd"))
    on, off, supervisor = value == 1, value == 0, user == 0
    impossible = (
        (leaf & ((level > 2) | (answer == ABSENT)))
        | (~leaf & (level == 0))
        | (ps & leaf & (level > 0) & off)
        # PS above the leaf is reserved from the PML4E up; below, it would make a leaf.
        | (ps & ~leaf & on & ((level < 3) | (answer != RESERVED)))
        | (us & off & ((answer == KEY) | (ok & ~supervisor)))
        | (us & off & denied & supervisor & (kind == READ))
        | (rw & off & ok & ~supervisor & (kind == WRITE))
        | (xd & on & ok & (kind == FETCH))
        | ((answer == KEY) & (kind == FETCH))
    )
    cells: Bools = ~impossible
    return cells


def _bits_touch(walks: Walks) -> Bools:
    ends = walks.end[walks.page]
    how = walks.how[walks.page]
    # An entry with PS counts as a leaf also where it is broken.
    word = walks.entry[np.arange(len(walks.end)), walks.end]
    broken_leaf = (walks.how == End.RESERVED) & (
        (walks.end == 1) | (((word & np.uint64(Entry.PS)) != 0) & (walks.end < 4))
    )
    closes = (how == End.LEAF) | broken_leaf[walks.page]
    # Bits of an absent entry don't count.
    absent = (how == End.ABSENT) | (how == End.OUTSIDE)
    # The names set in each entry as one number, few of which differ within a group.
    names = np.zeros(walks.entry.shape, np.int64)
    for at, mask in enumerate(MASKS):
        names |= ((walks.entry & mask) != 0).astype(np.int64) << at
    group = (walks.type * 2 + walks.user).astype(np.int64) * 5 + walks.answer
    found = np.zeros((5, 2, _GROUPS, 1 << len(NAMES)), np.bool_)
    for level in range(1, walks.levels + 1):
        last = ends == level
        rows = np.flatnonzero(walks.used[walks.page, level] & ~(last & absent))
        role = (last & closes)[rows].astype(np.int64)
        found[level - 1, role, group[rows], names[walks.page[rows], level]] = True
    levels, roles, which, sets = np.nonzero(found)
    touched = np.zeros((5, 2, len(NAMES), 2, _GROUPS), np.bool_)
    for at in range(len(NAMES)):
        touched[levels, roles, at, sets >> at & 1, which] = True
    return touched


def _bits_target(values: tuple[int, ...]) -> CoverageTarget:
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
    target = CoverageTarget(
        control=control, level=at, end=end, bits=bits, reserved=reserved,
        access=AccessType(kind), cpl=3 * user,
    )  # fmt: skip
    return with_answer(target, answer)


def _rights_possible() -> Bools:
    right, withheld, size, kind, user, answer = spread(3, _SETS, 3, 3, 2, 5)
    some, supervisor = withheld != 0, user == 0
    never_ok = some & (
        ((right == 0) & (kind == WRITE) & ~supervisor)
        | ((right == 1) & ~supervisor)
        | ((right == 2) & (kind == FETCH))
    )
    # A read is denied to the supervisor by SMAP, to the user by U/S, and by nothing else.
    never_denied = (right == 1) & (some == supervisor) & (kind == READ)
    # Levels below a large page aren't walked.
    walked = (withheld & ((1 << size) - 1)) == 0
    answered = ((answer == OK) & ~never_ok) | ((answer == DENIED) & ~never_denied)
    cells: Bools = walked & answered
    return cells


def _rights_touch(walks: Walks) -> Numbers:
    leaf, _ = on_leaf(walks)
    rows = np.flatnonzero(leaf & ((walks.answer == OK) | (walks.answer == DENIED)))
    page = walks.page[rows]
    parts = []
    for at, (_, bit, _name) in enumerate(_RIGHTS):
        on = (walks.entry & np.uint64(bit)) != 0
        withheld = (on if bit is Entry.XD else ~on) & walks.used
        lost = (withheld[:, 1:] << np.arange(5)[None, :]).sum(axis=1)
        parts.append(
            number(
                (3, _SETS, 3, 3, 2, 5),
                np.array(at),
                lost[page],
                walks.end[page] - 1,
                walks.type[rows],
                walks.user[rows],
                walks.answer[rows],
            )
        )
    return np.concatenate(parts)


def _rights_target(values: tuple[int, ...]) -> CoverageTarget:
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
    target = CoverageTarget(
        control=control, level=size + 1, end=End.LEAF, bits=bits,
        access=AccessType(kind), cpl=3 * user,
    )  # fmt: skip
    # The withheld right refuses the access by itself if the access needs it.
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


def _reserved_touch(walks: Walks) -> Numbers:
    rows = np.flatnonzero((walks.how == End.RESERVED)[walks.page])
    page = walks.page[rows]
    one = walks.broken[page]
    alone = (one & (one - np.uint64(1))) == 0
    rows, page, one = rows[alone], page[alone], one[alone]
    numbers = np.full(64, -1)
    numbers[list(_BITS)] = np.arange(len(_BITS))
    which = numbers[np.log2(one.astype(np.float64)).astype(np.int64)] if len(one) else one
    known = which >= 0
    rows, page = rows[known], page[known]
    return number(
        (5, len(_BITS), 3, 2),
        walks.end[page] - 1,
        which[known],
        walks.type[rows],
        walks.user[rows],
    )


def _reserved_target(values: tuple[int, ...]) -> CoverageTarget:
    level, bit, kind, user = values
    control = {"la57": True} if level == 4 else {}
    if _BITS[bit] == 63:
        control["nxe"] = False
    return CoverageTarget(
        control=control, level=level + 1, end=End.RESERVED, reserved=_BITS[bit],
        access=AccessType(kind), cpl=3 * user,
    )  # fmt: skip


def _keys_possible() -> Bools:
    _key, pair, kind, user, mine, wp, answer = spread(16, 4, 2, 2, 2, 2, 5)
    own, supervisor, write = mine == 0, user == 0, kind == WRITE
    denies = ((pair & 1) != 0) | (((pair & 2) != 0) & write & (~supervisor | (wp == 1)))
    never_denied = (~write & (own == supervisor)) | (write & own & supervisor & (wp == 0))
    cells: Bools = np.where(
        denies & ~own,
        answer == KEY,
        ((answer == OK) & ~(own & ~supervisor)) | ((answer == DENIED) & ~never_denied),
    )
    return cells


def _keys_touch(walks: Walks) -> Numbers:
    control = dict(zip(("wp", "nxe", "smep", "smap", "pke"), walks.control, strict=False))
    if not control["pke"]:
        return np.zeros(0, np.int64)
    leaf, user_page = on_leaf(walks)
    rows = np.flatnonzero(leaf & (walks.type != FETCH))
    page = walks.page[rows]
    entry = walks.entry[page, walks.end[page]]
    key = (entry >> np.uint64(59)).astype(np.int64) & 15
    return number(
        (16, 4, 2, 2, 2, 2, 5),
        key,
        walks.pkru >> 2 * key & 3,
        walks.type[rows],
        walks.user[rows],
        user_page[page],
        np.array(control["wp"]),
        walks.answer[rows],
    )


def _keys_target(values: tuple[int, ...]) -> CoverageTarget:
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
    return CoverageTarget(
        control=control, level=1, end=End.LEAF, bits=tuple(bits), key=key, pkru=pair,
        access=AccessType(kind), cpl=3 * user,
    )  # fmt: skip


def _addresses_possible() -> Bools:
    return np.ones((5, len(_INDICES), 3, 2), np.bool_)


def _addresses_touch(walks: Walks) -> Numbers:
    rows = np.flatnonzero(walks.answer == OK)
    parts = []
    for level in range(1, walks.levels + 1):
        here = rows[walks.used[walks.page[rows], level]]
        index = walks.va[walks.page[here]] >> np.uint64(3 + 9 * level) & np.uint64(511)
        parts.append(
            number(
                (5, len(_INDICES), 3, 2),
                np.array(level - 1),
                _INDEX_CLASS[index],
                walks.type[here],
                walks.user[here],
            )
        )
    return np.concatenate(parts)


def _addresses_target(values: tuple[int, ...]) -> CoverageTarget:
    level, index, kind, user = values
    return CoverageTarget(
        control={"la57": True} if level == 4 else {},
        level=1,
        end=End.LEAF,
        # A supervisor page, which SMEP and SMAP don't concern, or a key that denies nothing.
        bits=() if user else ((1, "us", False),),
        index=((level + 1, _INDEX_OF[index]),),
        key=0 if user else None,
        pkru=0 if user else None,
        access=AccessType(kind),
        cpl=3 * user,
    )


END = Family(
    "end of the walk",
    (
        Axis("levels", ("4", "5")),
        AXES["level"],
        Axis("ends at", ("a page", "an absent entry", "a reserved bit", "no RAM")),
        AXES["type"],
        AXES["user"],
        ANSWER,
    ),
    _end_possible(),
    _end_touch,
    _end_target,
)

CONTROL = Family(
    "control bits",
    (
        Axis("bit", CONTROLS),
        AXES["value"],
        AXES["size"],
        AXES["whose"],
        AXES["type"],
        AXES["user"],
        ANSWER,
    ),
    _control_possible(),
    _control_touch,
    _control_target,
)
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
_WHICH = (AXES["type"], AXES["user"])
RIGHTS = Family(
    "rights withheld",
    (
        Axis("right", tuple(name for name, _, _ in _RIGHTS)),
        Axis("at levels", tuple(f"{each:05b}" for each in range(_SETS))),
        AXES["size"],
        *_WHICH,
        ANSWER,
    ),
    _rights_possible(),
    _rights_touch,
    _rights_target,
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
ADDRESSES = Family(
    "addresses",
    (AXES["level"], Axis("index", _INDICES), *_WHICH),
    _addresses_possible(),
    _addresses_touch,
    _addresses_target,
)
