"""The emulated CPU is under the CR3 under test, with a root slot borrowed in place."""

from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.check import check
from crosswalk.emu.probe import ProbeError, Prober
from crosswalk.emu.probe.control import Control
from crosswalk.emu.probe.trampoline import CR3_UNDER_TEST, ROOT_COPY_REASONS, SlotSwitch
from crosswalk.emu.probe.workspace import Workspace
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import SparseWords
from crosswalk.walker.outcome import PageFault, Translation
from tests.emu.accesses import (
    borrowed_slots,
    columns,
    every,
    execute,
    probe,
    read,
    tables_of,
    write,
)
from tests.tables import OPEN, ROOT, USED, PageTables, context, linear

VA = 0x40_0000
HIGH_BITS, BOTH_SLOTS = ROOT_COPY_REASONS
RECURSIVE = 300


def recursive(levels=4):
    """Tables with a page, a recursive slot, and all the other root slots empty."""
    builder = PageTables(levels).map(VA, 0x8000)
    builder.words[ROOT + 8 * RECURSIVE] = ROOT | OPEN
    return builder


def engines_of(prober):
    """The engines of a prober of IA-32e mode."""
    single = prober._engines.single
    return [
        single._runner,
        single._watcher,
        prober._engines.bulk,
        prober._engines.still,
        prober._engines.watching,
    ]


def seen_cr3s(monkeypatch, prober):
    """The values of CR3 that the engines of a prober run under, as they run."""
    found = set()
    for engine in engines_of(prober):
        run, layout = engine._engine.run, engine._layout

        def noted(start, until, run=run, engine=engine, layout=layout):
            engine._engine.save(engine._after)
            found.add(engine._after.quads[layout.quads["cr3"]])
            return run(start, until)

        monkeypatch.setattr(engine._engine, "run", noted)
    return found


@pytest.mark.parametrize("bits", [0, 0x18, 0xFFF, 1 << 62, 3 << 61])
def test_the_cpu_runs_under_cr3_bits_and_all(monkeypatch, bits):
    asked = Prober(recursive().memory, context(root=ROOT | bits))
    probe(asked, *every(VA))
    cr3s = seen_cr3s(monkeypatch, asked)
    for bulk in (True, False):
        found = probe(
            asked, *every(VA), *every(VA + 0x1000), read(linear(300, 300, 0, 0)), bulk=bulk
        )
        assert [0x8000] * 6 == [each.pa for each in found[:6]]
    assert {ROOT | bits} == cr3s
    assert {CR3_UNDER_TEST: 32} == asked.roots


@pytest.mark.parametrize(
    ("bit", "expected"), [(3, CR3_UNDER_TEST), (61, HIGH_BITS), (62, HIGH_BITS)]
)
def test_with_5_levels_bits_that_the_cpu_takes_for_an_address_ask_for_a_copy(bit, expected):
    asked = Prober(recursive(5).memory, context(5, root=ROOT | 1 << bit))
    first, second = borrowed_slots(asked)
    slots = [linear(slot, 0, 0, 0, 7) for slot in (first, second)] if bit != 62 else [0, 1]
    found = probe(asked, *every(VA), read(slots[0]), read(slots[1]))
    assert [0x8000] * 6 == [each.pa for each in found[:6]]
    assert [PageFault(0, va) for va in slots] == [replace(it, entries=()) for it in found[6:]]
    assert {expected: 8} == asked.roots


@pytest.mark.parametrize("bulk", [True, False])
@pytest.mark.parametrize("levels", [4, 5])
def test_walks_through_the_borrowed_words_are_made_with_another_slot_borrowed(levels, bulk):
    builder = recursive(levels)
    asked = Prober(builder.memory, context(levels))
    first, second = borrowed_slots(asked)
    before = tables_of(asked)
    expected, vas = [], []
    for slot in (first, second):
        for depth in range(levels):
            # The borrowed word is used on the level that `depth` says, and is not present there.
            va = linear(*(RECURSIVE,) * depth, *(slot,) * (levels - depth), offset=0x10)
            vas.append(va)
            expected.append(PageFault(0, va))
    found = probe(asked, *(read(va) for va in vas), bulk=bulk)
    assert expected == [replace(each, entries=()) for each in found]
    assert {CR3_UNDER_TEST: 2 * levels} == asked.roots
    both = linear(RECURSIVE, *(RECURSIVE,) * (levels - 3), first, second)
    mixed = [linear(first, second, *(0,) * (levels - 2)), both]
    assert [PageFault(0, va) for va in mixed] == [
        replace(each, entries=()) for each in probe(asked, *map(read, mixed), bulk=bulk)
    ]
    assert np.array_equal(before, tables_of(asked))


@pytest.mark.parametrize("bulk", [True, False])
@pytest.mark.parametrize("levels", [4, 5])
def test_the_borrowed_words_themselves_are_reached_as_the_tables_say(levels, bulk):
    asked = Prober(recursive(levels).memory, context(levels))
    before = tables_of(asked)
    for slot in borrowed_slots(asked):
        va = linear(*(RECURSIVE,) * levels, offset=8 * slot)
        wanted = [read(va), write(va, 3), execute(va), write(va + 7), write(va ^ 8)]
        found = probe(asked, *wanted, bulk=bulk)
        pa = ROOT + 8 * slot
        assert [pa, pa, pa, pa + 7, pa ^ 8] == [each.pa for each in found]
    assert {CR3_UNDER_TEST: 10} == asked.roots
    assert np.array_equal(before, tables_of(asked))


@pytest.mark.parametrize("levels", [4, 5])
def test_with_no_root_slot_empty_the_root_is_borrowed_in_place_all_the_same(levels):
    builder = PageTables(levels).map(0, 0x1F_0000)
    entry = builder.words[ROOT]
    builder.entries |= {ROOT + 8 * slot: entry for slot in range(512)}
    builder.words[ROOT + 8 * RECURSIVE] = ROOT | OPEN
    asked = Prober(builder.memory, context(levels))
    zeros = (0,) * (levels - 2)
    wanted = [slot for slot in range(512) if slot != RECURSIVE]
    found = probe(asked, *(write(linear(slot, *zeros, 0, offset=8 * slot)) for slot in wanted))
    assert [0x1F_0000 + 8 * slot for slot in wanted] == [each.pa for each in found]
    assert [ROOT + 8 * slot for slot in wanted] == [each.entries[0][0] for each in found]
    assert {CR3_UNDER_TEST: 511} == asked.roots


def test_a_walk_that_uses_both_borrowed_words_is_made_under_a_copy_of_the_root():
    builder = recursive()
    empty = Prober(builder.memory, context())
    first, second = borrowed_slots(empty)
    # A root without an empty slot, in which two words are the root itself and both are borrowed.
    full = {ROOT + 8 * slot: 0x2000 | USED for slot in range(512)}
    builder.entries = full | {key: word for key, word in builder.words.items() if key > ROOT + 4088}
    asked = Prober(builder.memory, context())
    first, second = borrowed_slots(asked)
    for slot in (first, second):
        builder.words[ROOT + 8 * slot] = ROOT | OPEN
    asked = Prober(builder.memory, context())
    assert [first, second] == borrowed_slots(asked)
    va = linear(first, second, first, second, offset=0x18)
    for bulk in (True, False):
        (found,) = probe(asked, write(va), bulk=bulk)
        assert ROOT + 0x18 == found.pa
        words = {ROOT + 8 * slot: ROOT | OPEN | 0x20 for slot in (first, second)}
        words[ROOT + 8 * second] |= 0x40
        assert words == dict(found.entries)
    assert {BOTH_SLOTS: 2} == asked.roots


@pytest.mark.parametrize("mode", ["32-bit", "PAE"])
def test_older_modes_run_under_cr3_bits_and_all(monkeypatch, mode):
    tables = PageTables(mode).map(VA, 0x9000)
    asked = Prober(tables.memory, context(mode, root=0x1000 | 0x18))
    cr3s = set()
    for engine in (asked._engines.single._runner, asked._engines.single._watcher):
        attempt = engine.attempt

        def noted(*given, attempt=attempt, engine=engine, **named):
            found = attempt(*given, **named)
            cr3s.add(engine._after.quads[engine._layout.quads["cr3"]])
            return found

        monkeypatch.setattr(engine, "attempt", noted)
    slots = borrowed_slots(asked)
    shift = 22 if mode == "32-bit" else 30
    found = probe(asked, *every(VA), *(read(slot << shift) for slot in slots))
    assert [0x9000] * 6 == [each.pa for each in found[:6]]
    assert [PageFault(0, slot << shift) for slot in slots] == found[6:]
    # PAE ignores bits 4:3, and the emulated CPU takes them for none of the address.
    assert {0x1018} == cr3s
    assert {CR3_UNDER_TEST: 8} == asked.roots


def test_a_32_bit_root_that_maps_itself_shows_its_borrowed_words_as_they_are():
    tables = PageTables("32-bit").map(VA, 0x9000)
    tables.entries[0x1000 + 4 * 5] = 0x1000 | OPEN
    asked = Prober(tables.memory, context("32-bit"))
    before = tables_of(asked)
    slots = borrowed_slots(asked)
    wanted = [5 << 22 | slot << 12 for slot in slots]
    assert [PageFault(0, va) for va in wanted] == [
        replace(each, entries=()) for each in probe(asked, *map(read, wanted))
    ]
    wanted = [5 << 22 | 5 << 12 | 4 * slot for slot in slots]
    found = probe(asked, *map(write, wanted))
    assert [0x1000 + 4 * slot for slot in slots] == [each.pa for each in found]
    # Both borrowed words lie in one slot of 16 bytes, which is read as a whole.
    assert {CR3_UNDER_TEST: 2, BOTH_SLOTS: 2} == asked.roots
    assert np.array_equal(before, tables_of(asked))


def two_roots():
    """Tables at 0x1_0000_1000, and others at 0x1000: what a root cut to 32 bits leads to."""
    words = {}
    for base, page in ((1 << 32, 0x8000), (0, 0x9000)):
        for level in range(3):
            words[base + 0x1000 * (level + 1)] = base + 0x1000 * (level + 2) | USED
        words[base + 0x4000] = page | OPEN
    memory = SparseWords([(0, 1 << 16), (1 << 32, 1 << 16)], words)
    return memory, PagingContext(cr3=1 << 32 | 0x1000)


def test_a_root_cut_to_32_bits_in_the_walker_is_a_divergence(monkeypatch):
    memory, asked = two_roots()
    assert 0 == check(memory, asked).divergent
    root = PagingContext.root.fget
    monkeypatch.setattr(PagingContext, "root", property(lambda self: root(self) & 0xFFFF_FFFF))
    found = check(memory, asked)
    assert found.divergent > 0
    pas = {each.observed.pa for each in found.divergences if isinstance(each.observed, Translation)}
    assert {0x8000, 0x8FFF, 0x8FF0} >= pas


def test_a_root_cut_to_32_bits_in_the_probe_is_no_agreement(monkeypatch):
    memory, asked = two_roots()
    decode = Control.of.__func__
    cut = classmethod(
        lambda cls, it: replace(found := decode(cls, it), root=found.root & 0xFFFF_FFFF)
    )
    monkeypatch.setattr(Control, "of", cut)
    with pytest.raises(ProbeError, match="no outcome"):
        check(memory, asked)


@pytest.mark.parametrize("mode", ["4-level", "32-bit"])
def test_a_slot_borrowed_where_the_walk_uses_it_is_seen(monkeypatch, mode):
    def build():
        if mode == "4-level":
            return Prober(recursive().memory, context())
        return Prober(PageTables(mode).map(VA, 0x9000).memory, context(mode))

    asked = build()
    (slot, _), shift = borrowed_slots(asked), 39 if mode == "4-level" else 22
    assert PageFault(0, slot << shift) == probe(asked, read(slot << shift))[0]
    fit = Workspace._fit
    monkeypatch.setattr(Workspace, "_fit", lambda *given: fit(*given) | True)
    assert PageFault(0, slot << shift) != probe(build(), read(slot << shift), bulk=False)[0]


def test_a_borrowed_word_that_was_changed_meanwhile_stays_to_be_found():
    words = memoryview(bytearray(32)).cast("Q")
    words[1], words[3] = 7, 9
    switch = SlotSwitch(words, [1, 3], 0x1067)
    for number, expected in ((0, [0x1067, 9]), (1, [7, 0x1067]), (2, [7, 9]), (1, [7, 0x1067])):
        switch.select(number)
        assert expected == [words[1], words[3]]
    words[3] = 0x10E7
    switch.select(None)
    assert [7, 0x10E7] == [words[1], words[3]]


def test_accesses_are_counted_by_root_until_another_address_space_is_entered():
    asked = Prober(recursive().memory, context())
    accesses = Accesses.of(every(VA))
    first = columns(asked.probe(accesses))
    asked.probe(accesses)
    assert {CR3_UNDER_TEST: 12} == asked.roots
    asked.enter(recursive().memory, context())
    assert {} == asked.roots
    assert first == columns(asked.probe(accesses))
