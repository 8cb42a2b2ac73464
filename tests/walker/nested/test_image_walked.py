"""An EPT that was written, read by the walker's own walk: each page has just the rights granted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosswalk.walker import Access, Segments, Translation
from crosswalk.walker.nested import EptContext, EptViolation, NestedContext, translate_nested
from crosswalk.walker.nested.formats import TableFormat
from crosswalk.walker.nested.image import tables_image
from tests.tables import EXECUTE, GIB1, KIB4, MIB2, PS, READ, RW, US, WRITE, P, context
from tests.walker.nested.nested_memory import EPT, EPT_MBEC, GRANTS

BASE, GUEST = 0x80_0000_0000, 0x20_0000_0000
"""Where the EPT lies in the host's memory, and the guest's own tables in the guest's."""
SUPERVISOR = 1 << 39
OFFSETS = (0, KIB4, MIB2, 3 * GIB1)


def guest_tables():
    """The guest maps 64 GiB twice, for the user from 0 on and for the supervisor from 2^39 on."""
    words = np.zeros(3 * 512, np.uint64)
    words[0], words[1] = GUEST + KIB4 | P | RW | US, GUEST + 2 * KIB4 | P | RW
    for at in range(64):
        words[512 + at] = GIB1 * at | P | RW | US | PS
        words[1024 + at] = GIB1 * at | P | RW | PS
    return words


def outcomes(ranges, kind, offset):
    """What each access to the first and the last page of each range comes to, by the walk."""
    own = (GUEST, 3 * KIB4, GRANTS[kind][2])
    data, tables = tables_image([*ranges, own], BASE, kind=kind, offset=offset)
    memory = Segments([(GUEST + offset, guest_tables().view(np.uint8)), (BASE, data)])
    host = EptContext(eptp=tables.eptp(), mbec=kind is EPT_MBEC, maxphyaddr=52)
    nested = NestedContext(context(4, root=GUEST, maxphyaddr=52), host)
    return {
        (gpa, name, va != gpa, cpl): translate_nested(memory, nested, Access(va, kind_, cpl))
        for start, size, _ in ranges
        for gpa in (start, start + size - KIB4)
        for va, cpl in ((gpa, 3), (gpa, 0), (gpa + SUPERVISOR, 0))
        for name, kind_ in (("read", READ), ("write", WRITE), ("execute", EXECUTE))
    }


def allowed(rights, kind, name, supervisor):
    """Whether rights allow an access, through a page of the supervisor's or of the user's."""
    if name == "execute" and kind is EPT_MBEC:
        return bool(rights & (4 if supervisor else 8))
    return bool(rights & {"read": 1, "write": 2, "execute": 4}[name])


def holds(ranges, kind, offset):
    rights = {
        gpa: granted for start, size, granted in ranges for gpa in (start, start + size - KIB4)
    }
    for (gpa, name, supervisor, _), outcome in outcomes(ranges, kind, offset).items():
        if allowed(rights[gpa], kind, name, supervisor):
            if not isinstance(outcome, Translation) or gpa + offset != outcome.pa:
                return False
        elif not isinstance(outcome, EptViolation) or gpa != outcome.gpa:
            return False
    return True


@st.composite
def cases(draw):
    kind = draw(st.sampled_from((EPT, EPT_MBEC)))
    found, at = [], 0
    for _ in range(draw(st.integers(1, 5))):
        at += draw(st.sampled_from((0, 1, 511, 512, 1 << 18)))
        size = draw(st.sampled_from((1, 2, 511, 512, 1025, 1 << 18, 1 << 19)))
        found.append((at * KIB4, size * KIB4, draw(st.sampled_from(GRANTS[kind]))))
        at += size
    return found, kind, draw(st.sampled_from(OFFSETS))


@settings(max_examples=30)
@given(cases())
def test_each_page_translates_with_just_the_rights_that_were_granted(case):
    assert holds(*case)


def every_right(kind):
    return [(2 * at * KIB4, KIB4, each) for at, each in enumerate(GRANTS[kind])]


@pytest.mark.parametrize("kind", [EPT, EPT_MBEC])
def test_each_right_is_granted_as_such(kind):
    assert holds(every_right(kind), kind, 0)


def swapped(self, pa, level, grants):
    """Leaves in which X and XU have changed places."""
    leaves = RIGHT(self, pa, level, grants)
    moved = leaves & ~np.uint64(0x404)
    return moved | (leaves & np.uint64(4)) << np.uint64(8) | leaves >> np.uint64(8) & np.uint64(4)


def flipped(bit):
    def leaves(self, pa, level, grants):
        right = RIGHT(self, pa, level, grants)
        return right ^ np.uint64(bit) * (right != 0)

    return leaves


RIGHT = TableFormat.leaves
PLANTED = {
    "X and XU swapped": (EPT_MBEC, swapped),
    "XU": (EPT_MBEC, flipped(0x400)),
    "X": (EPT_MBEC, flipped(4)),
    "W": (EPT, flipped(2)),
    "R": (EPT, flipped(1)),
    "a type that is reserved": (EPT, flipped(8)),
    "the next page": (EPT, flipped(KIB4)),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found(bug, monkeypatch):
    kind, leaves = PLANTED[bug]
    monkeypatch.setattr(TableFormat, "leaves", leaves)
    assert not holds(every_right(kind), kind, 0)


def test_a_table_that_withholds_something_is_found(monkeypatch):
    right = TableFormat.table
    monkeypatch.setattr(TableFormat, "table", property(lambda it: right.__get__(it) & ~2))
    assert not holds(every_right(EPT), EPT, 0)
