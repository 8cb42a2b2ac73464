"""How walks end, under which control bits."""

import numpy as np

from crosswalk.emu.fuzz.coverage.common import (
    ABSENT,
    DENIED,
    FETCH,
    KEY,
    OK,
    READ,
    REGISTERS,
    RESERVED,
    WRITE,
    Bools,
    number,
    on_leaf,
    with_answer,
)
from crosswalk.emu.fuzz.coverage.family import ANSWER, AXES, Axis, Family, Numbers, spread
from crosswalk.emu.fuzz.coverage.seen import Shown
from crosswalk.emu.fuzz.target import CONTROLS, End, Target
from crosswalk.walker.access import AccessType

__all__ = ["CONTROL", "END"]


def _end_possible() -> Bools:
    la57, level, how, kind, _user, answer = spread(2, 5, 4, 3, 2, 5)
    leaf, absent, reserved, outside = (how == end for end in End)
    possible = (leaf & (level < 3)) | absent | reserved | (outside & (level < 4 + la57 - 0))
    possible = possible & ((level < 4) | (la57 == 1)) & ~(outside & (level == 3 + la57))
    told = (leaf & ((answer == OK) | (answer >= DENIED))) | (reserved & (answer == RESERVED))
    told = told | ((absent | outside) & (answer == ABSENT))
    cells: Bools = possible & told & ~((answer == KEY) & (kind == FETCH))
    return cells


def _end_touch(shown: Shown) -> Numbers:
    return number(
        (2, 5, 4, 3, 2, 5),
        np.full(len(shown.page), shown.levels == 5),
        shown.end[shown.page] - 1,
        shown.how[shown.page],
        shown.type,
        shown.user,
        shown.answer,
    )


def _end_target(values: tuple[int, ...]) -> Target:
    la57, level, how, kind, user, answer = values
    control = {"la57": bool(la57)}
    end = End(how)
    # A walk that ends outside is steered by the entry above.
    at = level + 2 if end is End.OUTSIDE else level + 1
    return with_answer(
        Target(control=control, level=at, end=end, access=AccessType(kind), cpl=3 * user), answer
    )


def _control_possible() -> Bools:
    name, value, _size, mine, kind, user, answer = spread(len(CONTROLS), 2, 3, 2, 3, 2, 5)
    is_ = {each: name == at for at, each in enumerate(CONTROLS)}
    on, off = value == 1, value == 0
    possible = (answer == OK) | (answer >= DENIED)
    possible = possible & ~((answer == KEY) & ((kind == FETCH) | (mine == 0) | (is_["pke"] & off)))
    possible = possible & ~((mine == 0) & (user == 1) & (answer == OK))
    denied, sup = answer == DENIED, user == 0
    read, write, fetch = kind == READ, kind == WRITE, kind == FETCH
    possible = possible & ~(denied & sup & read & (mine == 0))
    possible = possible & ~(denied & sup & write & (mine == 0) & is_["wp"] & off)
    possible = possible & ~(denied & sup & fetch & (mine == 0) & is_["nxe"] & off)
    open_ = (is_["smap"] & off) | (is_["ac"] & on)
    possible = possible & ~(denied & sup & read & (mine == 1) & open_)
    possible = possible & ~((answer == OK) & sup & fetch & (mine == 1) & is_["smep"] & on)
    possible = possible & ~(denied & (user == 1) & read & (mine == 1))
    cells: Bools = possible & ~(denied & (user == 1) & fetch & (mine == 1) & is_["nxe"] & off)
    return cells


def _control_touch(shown: Shown) -> Numbers:
    leaf, user_page = on_leaf(shown)
    rows = np.flatnonzero(leaf)
    page = shown.page[rows]
    values = {
        name: np.full(len(rows), on) for name, on in zip(REGISTERS, shown.control, strict=True)
    }
    values["ac"] = shown.ac[rows] != 0
    return np.concatenate(
        [
            number(
                (len(CONTROLS), 2, 3, 2, 3, 2, 5),
                np.array(at),
                values[name],
                shown.end[page] - 1,
                user_page[page],
                shown.type[rows],
                shown.user[rows],
                shown.answer[rows],
            )
            for at, name in enumerate(CONTROLS)
        ]
    )


def _control_target(values: tuple[int, ...]) -> Target:
    name, value, size, mine, kind, user, answer = values
    levels = range(size + 1, 5)
    bits = tuple((level, "us", True) for level in levels) if mine else ((size + 1, "us", False),)
    target = Target(
        control={CONTROLS[name]: bool(value)}, level=size + 1, end=End.LEAF, bits=bits,
        access=AccessType(kind), cpl=3 * user,
    )  # fmt: skip
    return with_answer(target, answer)


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
