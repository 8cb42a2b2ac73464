"""Where address spaces are put side by side: nothing of one is named by another."""

import numpy as np

from crosswalk.emu.probe.control import Control
from crosswalk.emu.probe.paths import format_of
from crosswalk.emu.probe.shared_trampoline import START
from crosswalk.emu.probe.side_by_side import MAX_FRAMES, Places, content_of, moved, tables_of
from crosswalk.walker import Segments, SparseWords
from tests.tables import OPEN, PageTables, context

GIB = 30
VA = 0x40_0000


def words(*values):
    return np.array(values, np.uint64)


def content(tables, **control):
    memory = SparseWords([(0, 1 << 40)], tables.words)
    return content_of(memory, Control.of(context(tables.mode, **control)))


def test_no_two_address_spaces_are_put_where_either_names_anything():
    places, taken = Places(), {START >> GIB}
    for named in [frozenset({0}), frozenset({0, 5, 1023}), frozenset({3, 7}), frozenset({0})] * 50:
        by = places.take(named)
        there = {gib ^ by >> GIB for gib in named}
        assert not there & taken
        taken |= there


def test_where_nothing_fits_any_more_nothing_is_taken():
    places = Places()
    every = frozenset(range(32))
    fitted = 0
    while places.take(every) is not None:
        fitted += 1
    assert 31 == fitted  # Of 32 such places one holds the probe's own pages.


def test_the_first_one_stays_where_it_is():
    assert 0 == Places().take(frozenset({0, 5, 1023}))


def test_only_present_entries_are_moved_and_only_in_bits_30_to_39():
    by = np.uint64(5 << GIB)
    before = words(0x2000 | OPEN, 0x2000 | OPEN & ~1, 1 << 63 | 1 << 51 | 7 << GIB | 0x87, 0)
    after = moved(before, by)
    assert [0x2000 | OPEN | 5 << GIB, 0x2000 | OPEN & ~1] == after[:2].tolist()
    assert [1 << 63 | 1 << 51 | 2 << GIB | 0x87, 0] == after[2:].tolist()
    assert before.tolist() == moved(after, by).tolist()


def test_what_an_address_space_names_are_its_root_and_its_present_entries():
    tables = PageTables().map(VA, 9 << GIB).map(VA + 0x1000, 11 << GIB, 0)
    tables.map(VA + 0x2000, 1 << 45 | 0x8000)  # Malformed where addresses have 40 bits.
    assert frozenset({0, 9}) == content(tables).named


def test_what_names_very_many_places_or_has_very_many_tables_is_alone():
    many = PageTables()
    for at in range(65):
        many.map(VA + 0x1000 * at, at << GIB)
    assert None is content(many)
    frames = {0x1000 * (at + 1): 2 for at in range(MAX_FRAMES + 1)}
    memory = SparseWords([(0, 1 << 30)], frames)
    assert None is content_of(memory, Control.of(context()))


def test_any_memory_has_the_same_content_as_words():
    tables = PageTables().map(VA, 0x8000)
    dense = bytearray(1 << 16)
    for pa, word in tables.words.items():
        dense[pa : pa + 8] = word.to_bytes(8, "little")
    ours = content(tables)
    theirs = content_of(Segments([(0, bytes(dense))]), Control.of(context()))
    assert ours.frames.tolist() == theirs.frames.tolist()
    assert ours.words.tolist() == theirs.words.tolist()
    assert ours.named == theirs.named


def test_tables_are_those_that_walks_may_use_and_no_pages():
    tables = PageTables().map(VA, 0x8000)
    words_of = dict(tables.words) | {0x1008: 0x7000 | OPEN, 0x9000: 0xA000 | OPEN}
    memory = SparseWords([(0, 1 << 30)], words_of)
    control = Control.of(context())
    found = content_of(memory, control)
    row, column = np.nonzero(found.words & np.uint64(1))
    entries = found.words[row, column]
    used = tables_of(format_of(control), words(0x1000), found.frames, row, entries)
    # The four of the page, and an empty one that an entry of the root leads to.
    assert [0x1000, 0x2000, 0x3000, 0x4000, 0x7000] == used.tolist()
