"""Each access is made from the same state, whatever was done before it."""

import random

import numpy as np
import pytest

from crosswalk.emu.probe import Prober, prober
from crosswalk.walker.columns import Accesses
from crosswalk.walker.memory import Segments
from crosswalk.walker.outcome import GeneralProtection, PageFault, Translation
from tests.emu.accesses import columns, every, execute, observe, probe, read, tables_of, write
from tests.tables import OPEN, RW, US, XD, P, PageTables, context

VA, READ_ONLY, HOLE, WILD = 0x40_0000, 0x40_1000, 0x40_2000, 1 << 50


def built():
    return PageTables().map(VA, 0x8000).map(READ_ONLY, 0x9000, P | US | XD)


def mixed(count):
    chosen = random.Random(5).choices(
        [*every(VA), *every(VA + 0xFFF), *every(READ_ONLY), *every(HOLE), *every(WILD)], k=count
    )
    assert len(set(chosen)) > 20
    return chosen


def test_the_hundredth_fault_in_a_row_is_still_right():
    accesses = [write(HOLE), read(HOLE + 1, 3), write(READ_ONLY, 3), execute(READ_ONLY)] * 25
    found = observe(built().memory, context(), *accesses)
    expected = [(0x2, HOLE), (0x4, HOLE + 1), (0x7, READ_ONLY), (0x11, READ_ONLY)] * 25
    assert expected == [(each.error_code, each.cr2) for each in found]


@pytest.mark.parametrize("fault", [read(HOLE), write(READ_ONLY), read(WILD), execute(HOLE, 3)])
def test_a_success_after_faults_is_a_success_and_the_next_fault_a_fault(fault):
    found = observe(built().memory, context(), *[fault] * 3, read(VA), *[fault] * 3, write(VA, 3))
    assert [found[0]] * 6 == found[:3] + found[4:7]
    assert isinstance(found[0], (PageFault, GeneralProtection))
    assert [0x8000, 0x8000] == [found[3].pa, found[7].pa]


def test_with_a_long_row_of_faults_and_successes_bulk_and_single_probes_agree():
    accesses = Accesses.of(mixed(2000))
    asked = Prober(built().memory, context(smep=True))
    bulk, single = asked.probe(accesses), asked.probe(accesses, bulk=False)
    assert columns(bulk) == columns(single)
    assert len(set(bulk.error_code.tolist())) > 5


def test_page_faults_and_general_protection_are_not_taken_for_each_other():
    found = observe(built().memory, context(), *[read(WILD), read(HOLE)] * 10)
    assert [GeneralProtection, PageFault] * 10 == [type(each) for each in found]
    assert [HOLE] * 10 == [each.cr2 for each in found[1::2]]


def test_the_same_access_marks_the_same_entries_each_time():
    # A second access through a TLB that wasn't emptied would mark nothing.
    first, *others = observe(built().memory, context(), *[write(VA)] * 5)
    assert 4 == len(first.entries)
    assert [first] * 4 == others


def test_a_read_after_a_write_marks_what_a_read_marks():
    found = observe(built().memory, context(), read(VA), write(VA), read(VA))
    assert found[0] == found[2]
    assert found[0].entries[-1][1] | 0x40 == found[1].entries[-1][1]


def test_a_page_that_was_written_to_still_says_where_it_is():
    found = observe(built().memory, context(), *[write(VA + at) for at in range(16)], *every(VA))
    assert [0x8000 + at for at in range(16)] + [0x8000] * 6 == [each.pa for each in found]


def test_the_order_of_accesses_makes_no_difference():
    accesses = mixed(400)
    shuffled = list(range(400))
    random.Random(7).shuffle(shuffled)
    first = observe(built().memory, context(smap=True), *accesses)
    second = observe(built().memory, context(smap=True), *(accesses[at] for at in shuffled))
    assert [first[at] for at in shuffled] == second


def test_two_runs_and_two_probers_say_the_same():
    accesses = Accesses.of(mixed(300))
    one, other = Prober(built().memory, context()), Prober(built().memory, context())
    first = columns(one.probe(accesses))
    assert first == columns(one.probe(accesses))
    assert first == columns(other.probe(accesses))


def test_how_accesses_are_cut_into_batches_makes_no_difference(monkeypatch):
    accesses = Accesses.of(mixed(100))
    whole = Prober(built().memory, context()).probe(accesses)
    monkeypatch.setattr(prober, "_BATCH", 7)
    monkeypatch.setattr(prober, "_STEP", 1)
    done = []
    parts = Prober(built().memory, context()).probe(accesses, done.append)
    assert columns(whole) == columns(parts)
    assert {*range(7, 100, 7), 100} <= set(done)


def test_no_accesses_have_no_outcomes():
    assert 0 == len(Prober(built().memory, context()).probe(Accesses.of([])))


def writable(builder):
    """The same memory as bytes that could be written, and those bytes."""
    data = np.zeros(1 << 20, np.uint8)
    for pa, word in builder.words.items():
        data.view(np.uint64)[pa // 8] = word
    return Segments([(0, data)]), data


def test_the_memory_under_test_is_never_written():
    memory, data = writable(built())
    before = data.copy()
    found = observe(memory, context(), *mixed(200))
    assert any(each.entries for each in found)
    assert np.array_equal(before, data)


def test_the_probes_own_tables_are_as_they_were_after_probing():
    asked = Prober(built().memory, context())
    before = tables_of(asked)
    found = probe(asked, *mixed(200))
    assert any(each.entries for each in found)
    assert np.array_equal(before, tables_of(asked))


def test_a_change_of_the_source_after_the_prober_was_made_is_not_seen():
    memory, data = writable(built())
    asked = Prober(memory, context())
    data[:] = 0
    (found,) = probe(asked, read(VA))
    assert 0x8000 == found.pa


def test_rights_below_differ_where_entries_do():
    # The probe's own mapping must not lend its rights to what is probed.
    memory = PageTables().map(VA, 0x8000, OPEN, upper=OPEN & ~RW).memory
    assert isinstance(observe(memory, context(), read(VA))[0], Translation)
    assert 0x3 == observe(memory, context(), write(VA))[0].error_code
