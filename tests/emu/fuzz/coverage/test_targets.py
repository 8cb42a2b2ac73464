"""What can't be seen isn't asked for, and what can be is asked for so that it is seen."""

import numpy as np
import pytest

from crosswalk.emu.fuzz.campaign.plan import LAG, ROUND, Plan
from crosswalk.emu.fuzz.coverage import CELLS, CoverageMap, coverage_of, draw_targets
from crosswalk.emu.fuzz.generate.choice import LayoutChoice
from crosswalk.emu.fuzz.target import End
from crosswalk.walker.access import AccessType
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.context import PagingMode


def number(family, **labels):
    """The number, in its family, of the cell with these labels, by the names of the axes."""
    values = tuple(axis.labels.index(labels[axis.name]) for axis in family.axes)
    return int(np.ravel_multi_index(values, family.shape))


def family(name):
    return next(each for each in CELLS.families if each.name == name)


def pair(control, value, access, first, second):
    """The target for a pair of bits, and whether there can be one."""
    pairs = family("pairs of bits")
    at = number(
        pairs, control=control, value=value, access=access, **{"with": first, "and": second}
    )
    values = tuple(int(value) for value in np.unravel_index(at, pairs.shape))
    return pairs.target(values), bool(pairs.reachable()[at])


@pytest.mark.parametrize("which", ["PTE.rw=0", "PTE.us=1"])
def test_no_store_through_a_read_only_entry_is_asked_for_with_wp_set(which):
    rest = {"PTE.rw=0": "PTE.us=1", "PTE.us=1": "PTE.pwt=1"}[which]
    _, possible = pair("wp", "1", "write at CPL 0, ok", which, rest)
    assert possible is (which != "PTE.rw=0")
    _, possible = pair("wp", "0", "write at CPL 0, ok", which, rest)
    assert possible


@pytest.mark.parametrize(
    ("withheld", "cpl", "answer", "possible"),
    [
        ("00000", "3", "protection", False),
        ("00001", "3", "protection", True),
        ("00000", "0", "protection", True),
        ("00001", "0", "protection", False),
        ("00000", "3", "ok", True),
    ],
)
def test_a_read_is_denied_to_the_user_by_u_s_and_to_the_supervisor_by_smap(
    withheld, cpl, answer, possible
):
    rights = family("rights withheld")
    labels = {"at levels": withheld, "CPL": cpl, "answer": answer, "access": "read"}
    at = number(rights, right="U/S", page="4 KiB", **labels)
    assert possible == rights.reachable()[at]


@pytest.mark.parametrize(
    ("control", "value", "access", "second", "end"),
    [
        ("wp", "1", "read at CPL 0, refused", "PTE.us=0", End.RESERVED),
        ("smap", "0", "read at CPL 0, refused", "PTE.pcd=1", End.RESERVED),
        ("smap", "1", "read at CPL 0, refused", "PTE.pcd=1", End.LEAF),
        ("wp", "0", "write at CPL 0, refused", "PTE.us=0", End.RESERVED),
        ("wp", "0", "write at CPL 0, refused", "PTE.pcd=1", End.LEAF),
        ("nxe", "0", "execute at CPL 0, refused", "PTE.us=0", End.RESERVED),
        ("nxe", "1", "execute at CPL 0, refused", "PTE.us=0", End.LEAF),
        ("wp", "1", "read at CPL 3, refused", "PTE.us=0", End.LEAF),
    ],
)
def test_where_no_right_refuses_a_reserved_bit_is_asked_for(control, value, access, second, end):
    target, possible = pair(control, value, access, "PDE.pwt=1", second)
    assert possible
    assert (end, AccessType[access.split()[0].upper()]) == (target.end, target.access)


def test_few_cells_get_few_targets():
    seen = CELLS.possible.copy()
    chance = np.random.default_rng(0)
    assert [] == draw_targets(CoverageMap(seen).pack(), chance, 100)
    seen[np.flatnonzero(seen)[:3]] = False
    assert 12 == len(draw_targets(CoverageMap(seen).pack(), chance, 100))
    seen[np.flatnonzero(seen)[:50]] = False
    assert 100 == len(draw_targets(CoverageMap(seen).pack(), chance, 100))


def test_what_layouts_touch_is_possible():
    plan, seen = Plan(seed=9, accesses=512), CoverageMap()
    for index in range(12):
        layout = plan.layout(index, seen.pack())
        memory, context, accesses = layout.memory(), layout.context, layout.accesses
        outcomes = translate_many(memory, context, accesses)
        touched = coverage_of(memory, context, accesses, outcomes)
        assert [] == [CELLS.describe(int(at)) for at in np.flatnonzero(touched & ~CELLS.possible)]
        seen.add(touched)


@pytest.mark.slow
def test_a_guided_campaign_sees_nearly_all_there_is():
    # Cells count 4- and 5-level paging; one layout of eight has wide addresses, and isn't steered.
    choice = LayoutChoice(modes=(PagingMode.LEVEL4, PagingMode.LEVEL5))
    plan, seen, maps = Plan(seed=2, accesses=1024, choice=choice), CoverageMap(), {}
    for index in range(176):
        layout = plan.layout(index, maps.get(index // ROUND - LAG, CoverageMap().pack()))
        memory, context, accesses = layout.memory(), layout.context, layout.accesses
        outcomes = translate_many(memory, context, accesses)
        seen.add(coverage_of(memory, context, accesses, outcomes))
        if index % ROUND == ROUND - 1:
            maps[index // ROUND] = seen.pack()
    for name, got, possible in seen.counts():
        if name not in {"composites", "departures that meet"}:  # Of these no access is one alone.
            assert got >= 0.995 * possible, name
