"""A walk that lists one page otherwise than it is, is caught by `check` itself."""

from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.check import check, listing
from crosswalk.walker.leaves import Leaves
from tests.emu.check.wrong_walks import changed, dropped, page_of
from tests.tables import GIB1, KIB4, MIB2, OPEN, PS, RW, US, XD, P, PageTables, context

VA = 0x40_0000
LARGE = 0x4000_0000


def built():
    """Isolated pages, pages in a row, and a large page."""
    builder = PageTables().map(VA, 0x8000, P | RW | XD).map(VA + 4 * KIB4, 0x9000, P | RW | US)
    builder.map(0x80_0000, 0xA000, P | US).map(0x80_1000, 0xB000, P | US)
    return builder.map(LARGE, 4 * MIB2, OPEN | PS, level=2)


def column(page, /, **columns):
    """One page with other columns: `change(old)` for each."""

    def change(leaves):
        rows = page_of(leaves, page)
        new = {
            name: np.where(rows, how(getattr(leaves, name)), getattr(leaves, name)).astype(
                getattr(leaves, name).dtype
            )
            for name, how in columns.items()
        }
        return replace(leaves, **new)

    return changed(change)


def invented(va, entry, shift):
    def change(leaves):
        extra = Leaves(
            np.array([va], np.uint64),
            np.array([entry], np.uint64),
            np.array([7], np.uint8),
            np.array([shift], np.uint8),
        )
        both = Leaves.join([leaves, extra])
        return both.take(np.argsort(both.va, kind="stable"))

    return changed(change)


def split(va):
    """A large page listed as the 512 small pages that it is made of."""

    def change(leaves):
        (row,) = np.flatnonzero(page_of(leaves, va)).tolist()
        offsets = np.arange(512, dtype=np.uint64) << np.uint64(12)
        few = Leaves(
            leaves.va[row] + offsets,
            (leaves.entry[row] & ~np.uint64(PS)) + offsets,
            np.full(512, leaves.grant[row], np.uint8),
            np.full(512, 12, np.uint8),
        )
        both = Leaves.join([leaves.take(~page_of(leaves, va)), few])
        return both.take(np.argsort(both.va, kind="stable"))

    return changed(change)


WALKS = {
    "an isolated page dropped": dropped(VA),
    "the last page dropped": dropped(LARGE),
    "a page of a row dropped": dropped(0x80_1000),
    "a page listed one page further": column(VA, va=lambda va: va + np.uint64(KIB4)),
    "a page listed far away": column(VA, va=lambda va: va + np.uint64(7 << 39)),
    "a page with its neighbour's address": column(VA, entry=lambda it: it ^ np.uint64(KIB4)),
    "a page that can be written": column(0x80_0000, grant=lambda grant: grant | 1),
    "a page that can't be written": column(VA, grant=lambda grant: grant & 6),
    "a page for the user": column(VA, grant=lambda grant: grant | 2),
    "a page that can be executed": column(VA, grant=lambda grant: grant | 4),
    "a page that can't be executed": column(VA + 4 * KIB4, grant=lambda grant: grant & 3),
    "a page too many in a hole": invented(VA + 9 * KIB4, 0x8007, 12),
    "a large page too many": invented(5 * GIB1, OPEN | PS, 30),
    "a small page for a large one": column(LARGE, shift=lambda shift: shift * 0 + 12),
    "small pages for a large one": split(LARGE),
    "a large page for a small one": column(VA, shift=lambda shift: shift * 0 + 21),
}


@pytest.mark.parametrize("name", WALKS)
def test_a_walk_that_lists_a_page_otherwise_diverges(name):
    verdict = check(built().memory, context(), walk=WALKS[name])
    assert verdict.divergent > 0
    assert verdict.listing
    assert () == verdict.divergences  # The prediction for each address is right.
    assert verdict.probes == verdict.agreements + verdict.divergent


def test_the_walk_as_it_is_does_not():
    verdict = check(built().memory, context())
    assert (0, (), 5, 5) == (
        verdict.divergent,
        verdict.listing,
        verdict.mappings,
        verdict.checked,
    )
    assert verdict.probes == check(built().memory, context(), walk=changed(lambda it: it)).probes


def test_a_list_too_long_to_read_whole_is_held_to_the_outcomes_from_address_0_on(monkeypatch):
    monkeypatch.setattr(listing, "SPARE", -1 << 20)
    built = PageTables().map(0, 0x8000).map(KIB4, 0x9000).map(GIB1, 0xA000)
    assert 0 == check(built.memory, context()).divergent
    verdict = check(built.memory, context(), walk=dropped(0))
    assert {0, KIB4 - 16, KIB4 - 1} == {each.access.va for each in verdict.listing}


@pytest.mark.parametrize("mode", ["32-bit", "PAE"])
def test_a_dropped_page_of_the_older_modes_diverges(mode):
    tables = PageTables(mode).map(VA, 0x8000).map(0xC000_0000, 0x9000, P | RW)
    assert 0 == check(tables.memory, context(mode)).divergent
    verdict = check(tables.memory, context(mode), walk=dropped(0xC000_0000))
    assert {0xC000_0000, 0xC000_0000 + KIB4 - 16, 0xC000_0000 + KIB4 - 1} == {
        each.access.va for each in verdict.listing
    }


def test_a_divergence_from_the_list_names_the_page_that_is_listed():
    walk = WALKS["a page with its neighbour's address"]
    first = check(built().memory, context(), walk=walk).listing[0]
    assert (VA, 0x9000) == (first.listed.va, first.listed.pa)
    assert 0x8000 == first.observed.pa
    assert 4 == len(first.walk.steps)
    dropped_first = check(built().memory, context(), walk=dropped(VA)).listing[0]
    assert None is dropped_first.listed


def test_a_list_that_leaves_out_a_page_no_other_reading_finds_shows_nothing():
    # What `read` is for: without it the plan would come from the walk under check alone, which
    # accesses the ends and the middle of a hole, and no page that it dropped there.
    def nothing(*_):
        return iter(())

    verdict = check(built().memory, context(), walk=dropped(VA + 4 * KIB4), read=nothing)
    assert 0 == verdict.divergent


def test_rights_are_held_to_the_access_under_its_own_ac():
    builder = built()
    for ac in (False, True):
        smap = context(smap=True, smep=True, ac=ac)
        assert 0 == check(builder.memory, smap).divergent
        verdict = check(builder.memory, smap, walk=column(0x80_0000, grant=lambda it: it & 5))
        # A supervisor page of the list, which the supervisor may read and execute; it may neither.
        assert {(0, ac), (3, ac)} <= {
            (each.access.cpl, bool(each.access.ac)) for each in verdict.listing
        }


def test_a_page_whose_key_forbids_all_is_listed_all_the_same():
    builder = PageTables().map(VA, 0x8000, OPEN | 1 << 59)
    keyed = context(pke=True, pkru=0b1100)
    verdict = check(builder.memory, keyed)
    assert (0, 1) == (verdict.divergent, verdict.mappings)
    assert check(builder.memory, keyed, walk=dropped(VA)).divergent > 0


def test_where_the_emulator_is_known_to_be_wrong_the_list_is_held_to_what_is_predicted():
    # A bit that is reserved with 36 address bits, and which the emulated CPU takes for the address.
    builder = PageTables().map(VA, 0x8000).map(VA + KIB4, 1 << 38)
    narrow = context(maxphyaddr=36)
    verdict = check(builder.memory, narrow)
    assert (0, {"maxphyaddr-40"}) == (verdict.divergent, set(verdict.known))
    verdict = check(builder.memory, narrow, walk=invented(VA + KIB4, 1 << 38 | OPEN, 12))
    assert verdict.divergent > 0
    assert {VA + KIB4} == {each.access.va & -KIB4 for each in verdict.listing}
    assert verdict.probes == verdict.agreements + verdict.divergent + sum(verdict.known.values())
