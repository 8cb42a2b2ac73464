"""The walks of accesses, as the columns that coverage is counted by."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.fuzz.target import CONTROLS, End
from crosswalk.walker.bulk import leaves_among
from crosswalk.walker.columns import Accesses, Kind, Outcomes
from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import Entry, reserved_bits
from crosswalk.walker.memory import U64, WORDS, PhysicalMemory
from crosswalk.walker.outcome import ErrorCode

__all__ = ["ANSWERS", "Walks", "answers", "walks_of"]

ANSWERS = ("ok", "not present", "reserved", "protection", "key")
"""The possible results of an access to a canonical address."""

_LEVELS = 6


@dataclass(frozen=True, slots=True)
class Walks:
    """n accesses to canonical addresses, by m distinct pages.

    By page: `entry` uint64[m, 6], the entries by level, 0 where none is read; `used` bool[m, 6],
    the levels where one is; `end` uint8[m], the level where the walk ends, and `how` (`End`);
    `broken` uint64[m], the reserved bits set there. By access: `page`, its row; `type`, `user`,
    `ac`, `answer` (of `ANSWERS`). `control` are the values of `CONTROLS`, but for `ac`.
    """

    levels: int
    control: tuple[bool, ...]
    pkru: int
    entry: U64
    used: NDArray[np.bool_]
    end: NDArray[np.uint8]
    how: NDArray[np.uint8]
    broken: U64
    va: U64
    page: NDArray[np.intp]
    type: NDArray[np.uint8]
    user: NDArray[np.uint8]
    ac: NDArray[np.uint8]
    answer: NDArray[np.uint8]


def walks_of(
    memory: PhysicalMemory, context: PagingContext, accesses: Accesses, outcomes: Outcomes
) -> Walks:
    """Return the walks of these accesses; those to non-canonical addresses are left out."""
    rows = np.flatnonzero(outcomes.kind != Kind.GENERAL_PROTECTION)
    accesses, outcomes = accesses.take(rows), outcomes.take(rows)
    pages, page = np.unique(accesses.va >> np.uint64(12), return_inverse=True)
    va = pages << np.uint64(12)
    entry = np.zeros((len(va), _LEVELS), np.uint64)
    used = np.zeros((len(va), _LEVELS), np.bool_)
    end = np.zeros(len(va), np.uint8)
    how = np.zeros(len(va), np.uint8)
    broken = np.zeros(len(va), np.uint64)
    going = np.arange(len(va))
    table = np.full(len(va), context.root, np.uint64)
    for level in range(context.levels, 0, -1):
        index = va[going] >> np.uint64(3 + 9 * level) & np.uint64(WORDS - 1)
        frames, which = np.unique(table, return_inverse=True)
        backed = memory.backed(frames)[which]
        word = memory.tables(frames)[which, index]
        end[going] = level
        entry[going, level] = word
        used[going, level] = backed
        present = (word & np.uint64(Entry.P)) != 0
        leaf = leaves_among(context, level, word) & present
        reserved = np.where(
            leaf,
            np.uint64(reserved_bits(context, level, leaf=True)),
            np.uint64(reserved_bits(context, level, leaf=False)),
        )
        wrong = np.where(present, word & reserved, np.uint64(0))
        broken[going] = wrong
        how[going] = np.where(wrong != 0, End.RESERVED, np.where(leaf, End.LEAF, End.ABSENT))
        how[going[~backed]] = End.OUTSIDE
        on = present & ~leaf & (wrong == 0)
        going, table = going[on], (word & np.uint64(context.address_mask))[on]
    return Walks(
        context.levels,
        _control(context),
        context.pkru,
        entry,
        used,
        end,
        how,
        broken,
        va,
        page.astype(np.intp),
        accesses.type,
        (accesses.cpl == 3).astype(np.uint8),
        accesses.ac.astype(np.uint8),
        answers(outcomes),
    )


def _control(context: PagingContext) -> tuple[bool, ...]:
    values = {
        "wp": context.wp,
        "nxe": context.nxe,
        "smep": context.smep,
        "smap": context.smap,
        "pke": context.pke,
        "pge": bool(context.cr4 & 0x80),
        "la57": context.levels == 5,
    }
    return tuple(values[name] for name in CONTROLS if name != "ac")


def answers(outcomes: Outcomes) -> NDArray[np.uint8]:
    """Return uint8[n]: the index in `ANSWERS` of each outcome but #GP."""
    code = outcomes.error_code
    answer = np.full(len(outcomes), 3, np.uint8)
    answer[(code & ErrorCode.PK) != 0] = 4
    answer[(code & ErrorCode.RSVD) != 0] = 2
    answer[(code & ErrorCode.P) == 0] = 1
    answer[outcomes.kind == Kind.OK] = 0
    return answer
