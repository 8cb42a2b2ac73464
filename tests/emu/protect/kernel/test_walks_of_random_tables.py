"""The host's walk of random tables, in every paging mode, held against what accesses come to."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosswalk.emu.protect.kernel.facts import GuestState, find_facts
from crosswalk.emu.protect.kernel.guestwalk import find_leaf
from crosswalk.emu.protect.kernel.rights import RightsFollower
from crosswalk.emu.protect.kernel.rules import Grants
from crosswalk.walker import Access, Translation, translate
from crosswalk.walker.context import Vendor
from tests.tables import (
    EXECUTE,
    KIB4,
    MIB4,
    MODES,
    OPEN,
    PS,
    READ,
    RW,
    US,
    WRITE,
    XD,
    P,
    PageTables,
    context,
)

each_mode = pytest.mark.parametrize("mode", MODES, ids=str)
PLACES = (
    0,
    0x1000,
    0x3FF000,
    0x400000,
    0x401000,
    0x7FC0_0000,
    0xBFFF_F000,
    0xC000_0000,
    0xFFFF_F000,
)
RIGHTS = st.sampled_from((0, P, P | RW, P | US, OPEN))
ACCESSES = [(kind, cpl) for kind in (READ, WRITE, EXECUTE) for cpl in (0, 3)]


@st.composite
def address_spaces(draw, mode):
    """Pages with rights at each level, and a context with switches; no entry is malformed."""
    data = MODES[mode].entry_size == 8
    root = draw(st.integers(0, 127)) * 32 if mode == "PAE" else 0
    tables = PageTables(mode, root=0x1_0000 + root, ram=((0, 1 << 24),))
    nxe, pse = draw(st.booleans()), draw(st.booleans())
    rights = st.tuples(RIGHTS, st.booleans()).map(lambda it: it[0] | XD * (it[1] and data and nxe))
    for va in draw(st.lists(st.sampled_from(PLACES), min_size=1, max_size=6, unique=True)):
        large = not any(tables.entries.get(pa) for pa in _directory(tables, va)) and draw(
            st.booleans()
        )
        pages = st.integers(0, 3)
        if large:
            tables.map(va & -MIB4, draw(pages) * MIB4, draw(rights) | PS, level=2, upper=OPEN)
        elif not any(tables.entries.get(pa, 0) & PS for pa in _directory(tables, va)):
            tables.map(va, draw(pages) * KIB4, draw(rights), upper=draw(rights))
    switches = {"nxe": nxe, "wp": draw(st.booleans()), "vendor": Vendor.AMD}
    return tables, context(mode, root=tables.root, pse=pse, **switches)


def _directory(tables, va):
    """The address of the PDE that the page is below, if its tables are there; and that of MIB4."""
    found = set()
    for each in (va, va & -MIB4):
        try:
            found.add(tables.entry_pa(each, 2))
        except KeyError:
            continue
    return found


def allowed(leaf, asked, kind, cpl):
    """Whether rights let an access be made, by the manuals' words on U/S, R/W, XD and CR0.WP."""
    if leaf is None or (cpl == 3 and not leaf.user):
        return False
    if kind is WRITE:
        return leaf.writable or (cpl == 0 and not asked.wp)
    return kind is READ or leaf.executable


def differing(tables, asked, find=find_leaf):
    """The accesses that the walker and the host's walk don't say the same of."""
    found = []
    for place in PLACES:
        va = place + 0x123
        leaf = find(tables.memory, asked, va)
        for kind, cpl in ACCESSES:
            outcome = translate(tables.memory, asked, Access(va, kind, cpl))
            expected = outcome.pa if isinstance(outcome, Translation) else None
            reached = None
            if allowed(leaf, asked, kind, cpl):
                reached = leaf.pa + va % leaf.size
            if expected != reached:
                found.append((va, kind, cpl, expected, reached))
    return found


@each_mode
@settings(max_examples=40)  # Each has 54 accesses.
@given(data=st.data())
def test_a_leaf_is_what_accesses_reach_with_the_rights_they_have(mode, data):
    tables, asked = data.draw(address_spaces(mode))
    assert [] == differing(tables, asked)


WRONG = {
    "place": lambda leaf: replace(leaf, pa=leaf.pa + KIB4),
    "size": lambda leaf: replace(leaf, size=KIB4 // 2, pa=leaf.pa + KIB4 // 2),
    "R/W": lambda leaf: replace(leaf, writable=not leaf.writable),
    "U/S": lambda leaf: replace(leaf, user=not leaf.user),
    "XD": lambda leaf: replace(leaf, executable=not leaf.executable),
    "P": lambda _: None,
}


@each_mode
@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_a_walk_that_is_wrong_about_a_page_is_found(mode, change):
    tables = PageTables(mode, root=0x1_0FE0 if mode == "PAE" else 0x1_0000)
    tables.map(0x40_0000, 0x5000)
    asked = context(mode, root=tables.root, vendor=Vendor.AMD)

    def wrong(*of):
        leaf = find_leaf(*of)
        return None if leaf is None else change(leaf)

    assert [] == differing(tables, asked)
    assert [] != differing(tables, asked, wrong)


@each_mode
def test_a_users_code_in_any_frame_of_a_large_page_is_a_users(mode):
    tables = PageTables(mode, ram=((0, 1 << 23),)).map(MIB4, MIB4, OPEN | PS, level=2)
    asked = context(mode, root=tables.root, vendor=Vendor.AMD)
    rights = RightsFollower(tables.memory, asked)
    none = np.zeros(rights.count, np.bool_)
    grants = Grants(rights.initial, none, none, none, none, none)
    frame = MIB4 // KIB4 + 5
    state = GuestState((0,) * 16, frame * KIB4, 3, 0, asked, 32, dict.fromkeys(("cs",), 0))
    for asked_of, expected in ((frame, True), (frame + 1, False), (MIB4 // KIB4, False)):
        facts = find_facts(
            state, tables.memory, grants, rights, asked_of, write=False, fetch=True, sealed=False
        )
        assert expected is facts.user_code
