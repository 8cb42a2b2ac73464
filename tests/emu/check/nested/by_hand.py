"""Accesses by hand of which random pairs have few: one entry of the host's refuses them, by level.

Each page is reached through entries of its own at all levels but the last, so that the guest's
tables stay as they are. The outcomes are the manuals'.
"""

from functools import partial

from crosswalk.emu.fuzz.nested.pair import Pair
from crosswalk.walker.access import Access
from crosswalk.walker.nested.outcome import (
    EptMisconfiguration,
    EptViolation,
    NestedError,
    NestedPageFault,
)
from tests.emu.check.nested.two_stages_ept import ALL, PS, WB, XU, R, TwoEptStages, W, X
from tests.emu.probe.nested.two_stages import GUEST, HOST, PAGE, SHIFT, TwoStages
from tests.tables import EXECUTE, OPEN, READ, RW, US, WRITE, XD, A, D, P

VA = 5 * PAGE + 0x123
FINAL = int(NestedError.FINAL)
UPPER = (4, 3, 2)
BASE = {level: 1 << 3 + 9 * level for level in UPPER}
"""The guest-physical address that entry 1 of a level's first table is used for."""
SIZES = {2: 1 << 21, 3: 1 << 30}


def through(make, level, entry):
    """The page at VA lies where entry 1 of this level of the host's tables is used."""
    two = make()
    two.guest(1, 5, BASE[level] | 5 * PAGE | OPEN | A | D)
    two.host(level, 1, entry)
    return two


def lower(level, flags):
    """An entry that leads to the next table."""
    return HOST[level - 1] * PAGE | flags


def pair_by_hand(two, *accesses):
    """The pair of these tables, for a machine."""
    tables = getattr(two, "tables", None) or frozenset(
        {frame * PAGE for frame in HOST.values()}
        | {(frame + SHIFT) * PAGE for frame in GUEST.values()}
    )
    return Pair(0, 0, two.memory, two.context, accesses, tables)


def _npt():
    for level in UPPER:
        gpa = BASE[level] | VA
        for lacks, kind, flags, code in (
            ("W", WRITE, P | US, 0x7),
            ("U", READ, P | RW, 0x5),
            ("execution", EXECUTE, OPEN | XD, 0x15),
        ):
            make = partial(through, TwoStages, level, lower(level, flags | A))
            yield f"no {lacks} at level {level}", make, kind, NestedPageFault(code | FINAL, gpa)


def _ept():
    mbec = partial(TwoEptStages, mbec=True)
    for level in UPPER:
        gpa = BASE[level] | VA
        for lacks, stages, kind, flags, code in (
            ("W", TwoEptStages, WRITE, R | X | XU, 0x7AA),
            ("R", TwoEptStages, READ, X | XU, 0x7A1),
            ("X", TwoEptStages, EXECUTE, R | W | XU, 0x79C),
            ("XU", mbec, EXECUTE, R | W | X, 0x7BC),
        ):
            make = partial(through, stages, level, lower(level, flags))
            yield f"no {lacks} at level {level}", make, kind, _violation(code, gpa, stages)
        malformed = {"W alone": W, "W and X alone": W | X}
        malformed |= {f"bit {bit} of a table's": ALL | 1 << bit for bit in (3, 4, 5, 6, 40, 51)}
        for why, flags in malformed.items():
            make = partial(through, TwoEptStages, level, lower(level, flags))
            yield f"{why} at level {level}", make, READ, EptMisconfiguration(gpa)
    for level, size in SIZES.items():
        low = [bit for bit in (13, 20, 21, 29) if 1 << bit < size]
        wrong = {f"bit {bit}": ALL | WB | 1 << bit for bit in (*low, 40, 51)}
        wrong |= {f"type {number}": ALL | number << 3 for number in (2, 3, 7)}
        for why, flags in wrong.items():
            make = partial(through, TwoEptStages, level, flags | PS)
            yield (
                f"{why} of a page at level {level}",
                make,
                READ,
                EptMisconfiguration(BASE[level] | VA),
            )
    make = partial(through, TwoEptStages, 4, lower(4, ALL | PS))
    yield "PS of a PML4E", make, READ, EptMisconfiguration(BASE[4] | VA)


def _violation(code, gpa, stages):
    # Bit 6 is defined under mode-based execute control alone, bit 14 for shadow stacks.
    return EptViolation(code, gpa, VA, open=0x4000 if stages is not TwoEptStages else 0x4040)


def _named(rows):
    return {name: (make, Access(VA, kind, 3), outcome) for name, make, kind, outcome in rows}


NPT_BY_HAND, EPT_BY_HAND = _named(_npt()), _named(_ept())
"""By name: what makes the tables, the access, and its outcome without the words that change."""
