"""Planted bugs are searched for, found within a budget, and shrink to a stated size."""

from dataclasses import replace

import pytest

from crosswalk.emu.fuzz.campaign.plan import Plan
from crosswalk.emu.fuzz.generate.choice import LayoutChoice
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.context import PagingMode
from crosswalk.walker.formats import Case, Cpu
from scripts.hunting.search import Found, Search, reduced_finding, search
from scripts.hunting.table import Hunt, bug_lines, cell_lines, summary_lines
from scripts.hunting.walkers import Sought, search_walker, walker_lines
from tests.emu.check.planting import Bug
from tests.emu.fuzz.hunted_bugs import HUNTED, OBVIOUS, RARE
from tests.emu.wrong_walkers import LISTS, RIGHT

# Bugs that take no luck: entries of the case that each shrinks to, at the most. Below a page of
# some size, all levels down to it are left.
QUICK = {
    "U/S not inherited": 4,
    "PS at 1 GiB ignored": 2,
    "A not set": 2,
    "canonical not checked": 0,
    "SMAP ignored": 2,
}
MOST_ENTRIES = 4  # A 4-KiB page takes as many, with five levels one more.
NOBODY = Bug("no bug at all", translate_many)


def names(bugs):
    return [bug.name for bug in bugs]


def sizes(bugs, plan, found):
    cases = {bug.name: reduced_finding(bug, plan, found[bug.name]) for bug in bugs}
    assert {1} == {len(case.probes) for case in cases.values()}
    return {name: len(case.entries) for name, case in cases.items()}


def test_obvious_bugs_are_found_at_once_and_shrink_to_their_walk():
    bugs = [bug for bug in OBVIOUS if bug.name in QUICK]
    plan = Plan(seed=1, accesses=512)
    done = search(plan, 3, [*bugs, NOBODY])
    assert sorted(QUICK) == sorted(done.found)
    found = sizes(bugs, plan, done.found)
    assert {} == {name: size for name, size in found.items() if size > QUICK[name]}


def test_the_same_search_comes_to_the_same():
    plan = Plan(seed=4, accesses=256)
    one, other = (search(plan, 2, OBVIOUS) for _ in range(2))
    assert one.cells == other.cells
    assert {name: at.layouts for name, at in one.found.items()} == {
        name: at.layouts for name, at in other.found.items()
    }


@pytest.mark.fuzz
def test_every_planted_bug_is_found_guided_and_shrinks_to_one_probe():
    plan = Plan(seed=0, accesses=4096)
    done = search(plan, 192, [*HUNTED, NOBODY])
    assert sorted(names(HUNTED)) == sorted(done.found)
    found = sizes(HUNTED, plan, done.found)
    most = {name: MOST_ENTRIES + name.startswith("with five levels") for name in found}
    assert {} == {name: size for name, size in found.items() if size > most[name]}


@pytest.mark.fuzz
def test_guidance_finds_rare_bugs_sooner_and_reaches_more_cells():
    # The modes that coverage steers.
    steered = LayoutChoice((PagingMode.LEVEL4, PagingMode.LEVEL5))
    guided, blind = (
        [
            search(Plan(seed=seed, accesses=512, guided=how, choice=steered), 96, RARE)
            for seed in range(3)
        ]
        for how in (True, False)
    )
    for count in (1, 4, 16, 64, 96):
        reached = [sum(each.cells[count - 1] for each in some) for some in (guided, blind)]
        assert reached[0] > reached[1], count
    until = [
        sum(each.found[bug.name].layouts if bug.name in each.found else 97
            for each in some for bug in RARE)
        for some in (guided, blind)
    ]  # fmt: skip
    assert until[0] < until[1]


def hunt():
    case = Case(cpu=Cpu(cr3=0x1000), ram=((0, 0x10000),), entries={0x1000: 7, 0x1008: 7})
    quick, slow = Found(1, 0.25, b""), Found(7, 2.0, b"")
    return Hunt(
        ("one", "other", "third"),
        8,
        [Search({"one": quick, "other": slow}, (10, 20, 30, 40, 50, 60, 70, 80))] * 3,
        [
            Search({"one": slow}, (1, 2, 3, 4, 5, 6, 7, 8)),
            Search({"one": slow, "other": slow}, (1, 2, 3, 4, 5, 6, 7, 8)),
            Search({"one": quick}, (1, 2, 3, 4, 5, 6, 7, 8)),
        ],
        {"one": case},
    )


def test_the_table_has_medians_and_says_where_a_bug_was_not_found():
    assert [
        "| one | 1 | 7 | 0.25 | 2.00 | 2 entries below 0x2000, 0 probes |",
        "| other | 7 | over 8 (1 of 3) | 2.00 |  |  |",
        "| third | over 8 (0 of 3) | over 8 (0 of 3) |  |  |  |",
    ] == list(bug_lines(hunt()))[2:]


def test_the_table_of_cells_doubles_the_layouts():
    rows = [line.split("|")[1:3] for line in list(cell_lines(hunt()))[2:]]
    assert [[" 1 ", " 10 "], [" 2 ", " 20 "], [" 4 ", " 40 "], [" 8 ", " 80 "]] == rows


def test_the_summary_counts_both_kinds():
    guided, blind, sooner = summary_lines(hunt())
    assert "6 of 9 searches found their bug; 5.3 layouts" in guided
    assert "4 of 9 searches found their bug; 6.9 layouts" in blind
    assert "sooner for 2 bugs, later for 0, and as soon for 1" in sooner


def test_a_walker_that_lists_wrongly_is_found_and_one_that_does_not_is_not():
    plan = Plan(seed=0, accesses=128)
    (wrong,) = [wrong for wrong in LISTS if wrong.name == "upper half left out"]
    sought = search_walker(wrong, plan, 2)
    assert sought.found in (1, 2)
    assert 1 <= sought.causes <= sought.rules
    assert (1, True) == (len(sought.case.probes), len(sought.case.entries) <= MOST_ENTRIES)
    for right in RIGHT:
        nothing = search_walker(right, plan, 2)
        assert (None, 0, 0, None) == (nothing.found, nothing.rules, nothing.causes, nothing.case)


def test_the_table_of_walkers_has_rules_and_causes_and_says_where_nothing_was_found():
    case = Case(cpu=Cpu(cr3=0x1000), ram=((0, 0x10000),), entries={0x1000: 0x1007, 0x2000: 0x85})
    found, nothing = Sought(2, 0.5, 9, 1, case), Sought(None, 0.0, 0, 0, None)
    searches = [[found, replace(found, found=4, rules=5)], [found, nothing], [nothing, nothing]]
    rows = list(walker_lines(LISTS[:3], searches))[2:]
    one, other, third = (f"| {wrong.name} | {wrong.claims} |" for wrong in LISTS[:3])
    size = "2 entries below 0x3000, 2 flags, 0 probes |"
    assert [
        f"{one} 3 | 0.50 | 5 to 9 | 1 | {size}",
        f"{other} 2 (1 of 2) | 0.50 | 0 to 9 | 0 to 1 | {size}",
        f"{third}  (0 of 2) |  | 0 | 0 |  |",
    ] == rows
