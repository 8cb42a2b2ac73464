"""What leads to no marker, in bulk: paging structures, no RAM, what may not be executed."""

from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.check import check
from crosswalk.emu.probe import ProbeError, Prober
from crosswalk.emu.probe.access_engine import SingleAccess
from crosswalk.emu.probe.bulk import BulkWatcher
from crosswalk.emu.probe.trampoline import IN_PLACE
from crosswalk.walker.columns import Accesses, Kind
from tests.emu.accesses import borrowed_slots, every, observe, probe, tables_of, write
from tests.tables import MIB2, OPEN, RW, A, D, P, PageTables, context

VA = 0x40_0000
PAGES = 8


def tables_as_pages(mode=4):
    """A space whose tables are mapped by themselves, twice each, and read-only once."""
    builder = PageTables(mode)
    builder.map(VA, 0x1000)
    for number in range(PAGES):
        frame = 0x1000 + (number % 4) * 0x1000
        builder.map(VA + number * 0x1000, frame, OPEN if number < 6 else P)
    return builder


def alone(monkeypatch):
    """Have every access that is made in an engine call of its own be an error."""

    def never(*given, **_):
        raise AssertionError(f"made alone: {given[1:]}")

    monkeypatch.setattr(SingleAccess, "make", never)


def asked(pages=PAGES):
    return [access for number in range(pages) for access in every(VA + number * 0x1000 + 0x10)]


@pytest.mark.parametrize("levels", [4, 5])
def test_reads_and_writes_of_tables_are_decided_in_bulk_as_alone(levels, monkeypatch):
    builder = tables_as_pages(levels)
    registers = context(levels)
    expected = observe(builder.memory, registers, *asked())
    reached = {outcome.pa & ~0xFFF for outcome in expected if hasattr(outcome, "pa")}
    assert {0x1000, 0x2000, 0x3000, 0x4000} == reached
    alone(monkeypatch)
    assert expected == probe(Prober(builder.memory, registers), *asked())


def test_a_store_to_the_very_entry_that_maps_it_is_undone_but_for_accessed_and_dirty(monkeypatch):
    builder = PageTables().map(VA, 0x4000)
    entry = builder.entry_pa(VA, 1)
    assert 0x4000 == entry & ~0xFFF
    offset = entry & 0xFFF
    # Other pages of the same kind, so that they make a run.
    for number in range(1, 4):
        builder.map(VA + number * 0x1000, 0x4000)
    alone(monkeypatch)
    prober = Prober(builder.memory, context())
    before = tables_of(prober)
    stores = [write(VA + number * 0x1000 + offset) for number in range(4)]
    outcomes = probe(prober, *stores)
    assert [entry] * 4 == [outcome.pa for outcome in outcomes]
    assert (entry, 0x4000 | OPEN | A | D) in outcomes[0].entries
    assert np.array_equal(before, tables_of(prober))


def test_what_has_no_ram_and_what_may_not_run_is_decided_in_bulk(monkeypatch):
    builder = PageTables()
    for number in range(PAGES):
        builder.map(VA + number * 0x1000, 0x5000_0000 + number * 0x1000)
        builder.map(VA + MIB2 + number * 0x1000, 0x8000 + number * 0x1000)
    memory = builder.memory
    outside = asked()
    inside = [access for number in range(PAGES) for access in every(VA + MIB2 + number * 0x1000)]
    inside += [replace(access, va=access.va + 9) for access in inside]
    expected = observe(memory, context(), *outside, *inside)
    assert 0x5000_0010 == expected[0].pa
    alone(monkeypatch)
    assert expected == probe(Prober(memory, context()), *outside, *inside)


def test_a_root_whose_only_free_slots_lie_in_the_upper_half(monkeypatch):
    builder = PageTables()
    for slot in range(256):
        builder.map(slot << 39, 0x8000)
    memory = builder.memory
    va = [slot << 39 for slot in range(0, 256, 8)]
    accesses = [access for each in va for access in every(each)]
    expected = observe(memory, context(), *accesses)
    prober = Prober(memory, context())
    assert min(borrowed_slots(prober)) >= 256
    alone(monkeypatch)
    assert expected == probe(prober, *accesses)


def test_a_watcher_that_sees_another_address_is_found_out(monkeypatch):
    see = BulkWatcher._see

    def shifted(self, engine, event, pa, size, *given):
        see(self, engine, event, pa, size, *given)
        if size == 1:
            self._notes[-1] ^= 0x1000
        return True

    builder = tables_as_pages()
    assert 0 == check(builder.memory, context()).divergent
    monkeypatch.setattr(BulkWatcher, "_see", shifted)
    with pytest.raises(ProbeError, match="bulk and single probes differ"):
        check(builder.memory, context())


@pytest.mark.parametrize("broken", ["not seen", "seen twice", "not undone", "not taken down"])
def test_a_watcher_that_fails_leaves_the_access_to_be_made_alone(broken, monkeypatch):
    builder = tables_as_pages()
    expected = observe(builder.memory, context(), *asked())
    see, made = BulkWatcher._see, []

    def failing(self, engine, event, pa, size, *given):
        if size != 1:
            if broken == "not undone":
                self._undo = None
            return see(self, engine, event, pa, size, *given)
        for _ in range({"not seen": 0, "seen twice": 2}.get(broken, 1)):
            see(self, engine, event, pa, size, *given)
        return True

    real = SingleAccess.make
    monkeypatch.setattr(
        SingleAccess, "make", lambda *given, **named: made.append(given) or real(*given, **named)
    )
    monkeypatch.setattr(BulkWatcher, "_see", failing)
    if broken == "not taken down":
        monkeypatch.setattr(BulkWatcher, "_record_changes", lambda *_: None)
    assert expected == probe(Prober(builder.memory, context()), *asked())
    assert made


def test_a_store_to_read_only_memory_is_a_fault_and_nothing_is_stored():
    builder = PageTables()
    for number in range(PAGES):
        builder.map(VA + number * 0x1000, 0x4000, OPEN & ~RW)
    prober = Prober(builder.memory, context())
    before = tables_of(prober)
    outcomes = prober.probe(
        Accesses.of([write(VA + number * 0x1000, cpl) for number in range(PAGES) for cpl in (0, 3)])
    )
    assert {int(Kind.PAGE_FAULT)} == set(outcomes.kind.tolist())
    assert np.array_equal(before, tables_of(prober))


@pytest.mark.parametrize("cpl", [0, 3])
@pytest.mark.parametrize("ac", [False, True])
def test_a_state_made_from_another_is_what_a_guest_would_have_reached(cpl, ac):
    builder = PageTables().map(VA, 0x8000)
    memory = builder.memory
    large = context(smep=True, smap=True, pke=True, wp=False, nxe=False)
    later = Prober(memory, context())
    later._engines.bulk._state(0, cpl, ac=ac)
    later.enter(memory, large)
    derived = later._engines.bulk._state(IN_PLACE, cpl, ac=ac)
    first = Prober(memory, large)
    own = first._engines.bulk._prepare(cpl, ac=ac)
    # In front of the registers lies what only Unicorn knows of a saved state.
    start = 8 * first._engines.bulk._layout.quads["rax"]
    assert bytes(own.bytes[start:]) == bytes(derived.bytes[start:])
    other = first._engines.bulk._prepare(3 - cpl, ac=ac)
    assert bytes(other.bytes[start:]) != bytes(derived.bytes[start:])


def test_the_engines_states_are_made_once_for_all_trampolines():
    memory = PageTables().map(VA, 0x8000).memory
    prober = Prober(memory, context())
    one = prober._engines.bulk._state(0, 3, ac=False)
    other = PageTables()
    for slot in range(20):
        other.map(slot << 39, 0x8000)
    prober.enter(other.memory, context())
    assert one is prober._engines.bulk._state(0, 3, ac=False)
    found = probe(prober, *every(3 << 39), *every(4 << 39))
    assert found == observe(other.memory, context(), *every(3 << 39), *every(4 << 39))
