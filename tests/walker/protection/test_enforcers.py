"""How ways of enforcing rights depart from them."""

import numpy as np
import pytest
from hypothesis import given, settings

from crosswalk.walker import (
    Access,
    AccessType,
    Frames,
    Rights,
    Segments,
    Translation,
    collective_rights,
)
from crosswalk.walker.nested import NestedContext, translate_nested
from crosswalk.walker.protection import enforcers as under_test
from crosswalk.walker.protection.enforcers import ENFORCERS, Enforcer, beyond
from crosswalk.walker.protection.policy import protect
from tests.random_tables import random_tables
from tests.tables import KIB4, MODES, OPEN, PS, RW, US, XD, P, context
from tests.walker.protection.frame_by_frame import by_frame, rights_of

SR, SW, SX, UR, UW, UX = Rights
EXECUTE = SX | UX


def granted(name, rights):
    """What an enforcer leaves each privilege of a frame with these rights, by prose alone."""
    found = Rights(0)
    if rights & (SR | UR):
        found |= SR | UR
    if rights & (SW | UW):
        found |= SW | UW | SR | UR
    executed = rights & EXECUTE
    if executed:
        if name.startswith("npt") or "no execute-only" in name or "NR" in name:
            found |= SR | UR
        if name == "npt, GMET":
            found |= UX if executed == UX else EXECUTE
        elif "mbec" in name:
            found |= executed
        else:
            found |= EXECUTE
    return found | SR | UR | UX if "Heki" in name else found


def expected(tables):
    found = {each.name: {} for each in ENFORCERS}
    for pages in by_frame(tables.memory, tables.context).values():
        rights = Rights(rights_of(pages))
        if not rights:
            continue
        for name, changed in found.items():
            left = granted(name, rights)
            if left != rights:
                changed[rights, left] = changed.get((rights, left), 0) + KIB4
    return found


def found(tables):
    frames = collective_rights(tables.memory, tables.context)
    return beyond(protect(frames, tables.memory.ranges))


@settings(max_examples=60)
@given(tables=random_tables(MODES))
def test_what_is_granted_beyond_is_what_going_frame_by_frame_says(tables):
    said = expected(tables)
    for each in found(tables):
        assert said[each.enforcer] == each.changed
        for right in Rights:
            pairs = said[each.enforcer].items()
            more = sum(size for (was, now), size in pairs if now & ~was & right)
            assert more == each.rights[right]


ALL_RIGHTS = Frames(
    KIB4 * np.arange(64, dtype=np.uint64),
    np.full(64, KIB4, np.uint64),
    np.arange(64, dtype=np.uint8),
)


def departures():
    return {
        each.enforcer: {(was.value, now.value): size for (was, now), size in each.changed.items()}
        for each in beyond(protect(ALL_RIGHTS, [(0, 64 * KIB4)]))
    }


def stated():
    return {
        each.name: {
            (rights, granted(each.name, Rights(rights)).value): KIB4
            for rights in range(1, 64)
            if granted(each.name, Rights(rights)) != rights
        }
        for each in ENFORCERS
    }


def test_each_of_the_rights_that_there_can_be_is_granted_as_stated():
    assert stated() == departures()


@pytest.mark.parametrize("enforcer", ENFORCERS, ids=[each.name for each in ENFORCERS])
@pytest.mark.parametrize("bit", range(4))
def test_a_right_too_many_or_too_few_is_found(enforcer, bit, monkeypatch):
    wrong = Enforcer(enforcer.name, enforcer.granted ^ np.uint8(1 << bit))
    others = [wrong if each is enforcer else each for each in ENFORCERS]
    monkeypatch.setattr(under_test, "ENFORCERS", tuple(others))
    assert stated()[enforcer.name] != departures()[enforcer.name]


def test_nobody_is_refused_what_mappings_allow():
    pairs = [pair for changed in departures().values() for pair in changed]
    assert pairs
    assert [] == [pair for pair in pairs if pair[0] & ~pair[1]]


@pytest.mark.parametrize("use", range(16))
def test_gmet_grants_execution_as_the_walk_has_it(use):
    # A page of 2 MiB, its U/S set where the user alone executes; the guest grants everything.
    page = P | RW | PS | (US if use & 12 == 8 else 0) | (0 if use & 12 else XD)
    nested, guest = (0x2000 | OPEN, 0x3000 | OPEN, page), (0x5000 | OPEN, 0x6000 | OPEN, OPEN | PS)
    words = np.zeros(6 * 512, np.uint64)
    words[::512] = [*nested, *guest]
    memory = Segments([(0x1000, words.view(np.uint8))])
    both = NestedContext(context(4, root=0x4000), context(4, root=0x1000), gmet=True)
    by_name = {each.name: each.granted for each in ENFORCERS}
    for cpl, bit in ((0, 4), (3, 8)):
        outcome = translate_nested(memory, both, Access(0, AccessType.EXECUTE, cpl))
        assert bool(by_name["npt, GMET"][use] & bit) == isinstance(outcome, Translation)


def test_ram_that_nothing_maps_is_left_out():
    nothing = Frames(*(np.zeros(0, kind) for kind in (np.uint64, np.uint64, np.uint8)))
    assert [{}] * len(ENFORCERS) == [each.changed for each in beyond(protect(nothing, [(0, KIB4)]))]
