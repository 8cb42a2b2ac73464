from dataclasses import replace

import pytest

from crosswalk.emu.fuzz.reduce import reduce_case
from crosswalk.emu.fuzz.reduce.passes import shortenings
from crosswalk.emu.fuzz.reduce.places import relocations
from crosswalk.emu.fuzz.reduce.reducer import one_by_one
from crosswalk.emu.probe.space import MAX_RAM
from crosswalk.walker.formats import Case, Cpu, Probe
from crosswalk.walker.outcome import PageFault
from crosswalk.walker.translate import translate

LA57 = 1 << 12
FIVE = {0x1000: 0x2007, 0x2008: 0x3007, 0x3010: 0x4007, 0x4018: 0x5007, 0x5020: 0x7005}
VA = 1 << 39 | 2 << 30 | 3 << 21 | 4 << 12 | 0x123


def case_of(entries, *vas, levels=4, access="write"):
    return Case(
        cpu=Cpu(cr3=0x1018, cr4=0x20 | (LA57 if levels == 5 else 0)),
        ram=((0, 0x10000),),
        entries=entries,
        probes=tuple(Probe(va=va, access=access, cpl=3) for va in vas),
    )


def candidates(case):
    """What a search yields, if nothing is accepted."""
    return [each for batch in shortenings(case) for each in batch if each is not None]


def without(entries, *gone):
    return {pa: word for pa, word in entries.items() if pa not in gone}


FOUR = case_of({0x1008: 0x3007, 0x3010: 0x4007, 0x4018: 0x5007, 0x5020: 0x7005}, VA)


def test_the_table_below_a_pml5_becomes_the_root():
    (candidate, *_) = candidates(case_of(FIVE, VA, levels=5))
    assert (0x2018, 0x20) == (candidate.cpu.cr3, candidate.cpu.cr4)
    assert without(FIVE, 0x1000) == candidate.entries
    assert [VA] == [probe.va for probe in candidate.probes]


def test_the_address_is_canonical_with_four_levels_too():
    upper = VA | 256 << 39
    entries = {**without(FIVE, 0x2008), 0x2808: 0x3007}
    (candidate, *_) = candidates(case_of(entries, upper, levels=5))
    assert 0xFFFF << 48 | upper == candidate.probes[0].va
    assert candidate.context().canonical(candidate.probes[0].va)


def test_a_larger_page_takes_the_flags_of_either_entry_or_both():
    case = Case(
        cpu=FOUR.cpu,
        ram=FOUR.ram,
        entries={**FOUR.entries, 0x4018: 1 << 63 | 0x5003, 0x5020: 0x7015},
        probes=FOUR.probes,
    )
    found = candidates(case)
    page = 0x20_0000
    words = [each.entries[0x4018] for each in found if 0x4018 in each.entries]
    assert [page | 0x95, 1 << 63 | page | 0x83, 1 << 63 | page | 0x91] == words
    assert all(0x5020 not in each.entries for each in found)


def test_the_largest_page_comes_first_and_is_enough():
    search = shortenings(FOUR)
    batch = next(batch for batch in search if any(batch))
    assert {0x1008: 0x3007, 0x3010: 0x4000_0085} == batch[0].entries
    with pytest.raises(StopIteration):
        search.send(0)


def test_what_ends_a_walk_without_a_page_may_do_so_further_up():
    case = case_of(without(FOUR.entries, 0x5020), VA)
    assert 0x4000_0080 in [each.entries[0x3010] for each in candidates(case)]


@pytest.mark.parametrize(
    "case",
    [
        case_of(FOUR.entries, VA, VA + 1),
        case_of({0x1008: 0x3007, 0x3010: 0x4000_0087}, VA),
        case_of(FOUR.entries, 1 << 60),
        case_of({}, VA),
    ],
    ids=["two probes", "largest page", "not canonical", "nothing"],
)
def test_what_can_not_be_shorter_stays(case):
    assert [] == candidates(case)


def test_a_reduction_ends_with_the_shortest_walk():
    def shows(case):
        memory, context = case.memory(), case.context()
        answer = translate(memory, context, case.probes[0].asked)
        return isinstance(answer, PageFault) and answer.error_code == 7

    reduced = reduce_case(case_of(FIVE, VA, levels=5), one_by_one(shows))
    assert reduced.done
    assert 2 == len(reduced.case.entries)
    assert 0x20 == reduced.case.cpu.cr4
    assert reduced.case == reduce_case(reduced.case, one_by_one(shows)).case


def test_a_table_that_stays_high_leaves_the_ram_in_pieces():
    high = 0xFF_FF00_0000
    ram = ((0, 0x10000), (high, 0x10000))
    case = replace(FOUR, ram=ram, entries=FOUR.entries | {high: 1})
    tried = [each for batch in relocations(case) for each in batch if each is not None]
    assert tried
    assert all(sum(size for _, size in each.ram) < MAX_RAM for each in tried)
