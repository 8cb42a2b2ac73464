"""What the emulated CPU does in 32-bit and PAE paging, rule by rule, by the manual's word."""

import numpy as np
import pytest

from crosswalk.emu.probe import ProbeError, Prober
from crosswalk.emu.probe import access_engine as engines
from crosswalk.emu.probe.page_marker import marker
from crosswalk.walker import (
    Accesses,
    BadInput,
    GeneralProtection,
    PageFault,
    SparseWords,
    Translation,
)
from tests.emu.accesses import (
    borrowed_slots,
    every,
    execute,
    observe,
    probe,
    read,
    tables_of,
    write,
)
from tests.tables import OPEN, PS, RW, US, XD, A, D, G, P, PageTables, context, words_of

VA = 0xC123_4560
BOTH = pytest.mark.parametrize("mode", ["32-bit", "PAE"])


def see(tables, *accesses, **switches):
    switches.setdefault("root", tables.root)
    return observe(tables.memory, context(tables.mode, **switches), *accesses)


def codes(outcomes):
    return [each.error_code if isinstance(each, PageFault) else None for each in outcomes]


@BOTH
@pytest.mark.parametrize("offset", [0, 1, 5, 8, 12, 15])
def test_every_kind_of_access_reaches_the_page(mode, offset):
    tables = PageTables(mode).map(VA, 0x80_0000)
    for outcome in see(tables, *every(VA + offset)):
        assert isinstance(outcome, Translation)
        assert 0x80_0560 + offset == outcome.pa


@pytest.mark.parametrize(
    ("mode", "pa", "inside"),
    [
        ("32-bit", 0x40_0000, 0x3F_FFFF),
        ("32-bit", 0x40_0000 | 1 << 13, 0x3F_FFFF),
        ("PAE", 0x40_0000, 0x1F_FFFF),
        ("PAE", 0x1_0040_0000, 0x1F_FFFF),
    ],
)
def test_large_pages_are_reached_above_4_gib_too(mode, pa, inside):
    base = 0x1_0040_0000 if pa & 1 << 13 or pa >> 32 else 0x40_0000
    ram = ((0, 1 << 24), (1 << 32, 1 << 24))
    tables = PageTables(mode, ram=ram).map(VA, pa, OPEN | PS, level=2)
    assert [base | VA & inside] * 6 == [each.pa for each in see(tables, *every(VA))]


@BOTH
def test_a_page_without_ram_is_reached_all_the_same(mode):
    tables = PageTables(mode).map(VA, 0x7000_0000)
    assert [0x7000_0560] * 6 == [each.pa for each in see(tables, *every(VA))]


@BOTH
def test_rights_of_every_level_are_enforced(mode):
    for level in (1, 2):
        tables = PageTables(mode).map(VA, 0x80_0000).change(VA, level, drop=RW)
        assert [None, 3, None, None, 7, None] == codes(see(tables, *every(VA), nxe=False))
        assert [None] * 4 + [7, None] == codes(see(tables, *every(VA), wp=False, nxe=False))
        tables = PageTables(mode).map(VA, 0x80_0000).change(VA, level, drop=US)
        assert [None] * 3 + [5, 7, 5] == codes(see(tables, *every(VA), nxe=False))


@BOTH
def test_smep_smap_and_ac_are_enforced(mode):
    tables = PageTables(mode).map(VA, 0x80_0000)
    assert [None, None, 0x11, None, None, None] == codes(see(tables, *every(VA), smep=True))
    assert [1, 3] == codes(see(tables, read(VA), write(VA), smap=True))
    assert [None] == codes(see(tables, read(VA, ac=True), smap=True))


def test_keys_do_not_count_outside_long_mode():
    tables = PageTables("PAE").map(VA, 0x80_0000)
    assert [None] * 6 == codes(see(tables, *every(VA), pke=True, pkru=0xFFFF_FFFF))


def test_a_and_d_are_seen_in_the_half_of_the_word_that_holds_them():
    tables = PageTables("32-bit").map(VA, 0x80_0000).map(VA ^ 0x1000, 0x80_1000)
    tables.map(VA ^ 0x40_0000, 0x80_2000)
    for va in (VA, VA ^ 0x1000, VA ^ 0x40_0000):
        words = dict(tables.words)
        for level, bits in ((2, A), (1, A | D)):
            place = tables.entry_pa(va, level)
            words[place & -8] |= bits << place % 8 * 8
        (outcome,) = see(tables, write(va))
        changed = sorted((pa, word) for pa, word in words.items() if word != tables.words[pa])
        assert tuple(changed) == outcome.entries


def test_a_page_directory_used_as_a_page_table_shows_the_original():
    entries = {0x1FFC: 0x1000 | OPEN, 0x1FF8: 0x5000 | OPEN, 0x1004: 0x6000 | OPEN}
    words = words_of(entries)
    memory = SparseWords([(0, 1 << 16)], words)
    found = observe(
        memory, context("32-bit"), read(0xFFFF_E010), read(0xFFC0_1010), write(0xFFFF_F004)
    )
    assert [0x5010, 0x6010, 0x1004] == [each.pa for each in found]
    assert ((0x1FF8, words[0x1FF8] | A | A << 32),) == found[0].entries
    assert ((0x1FF8, words[0x1FF8] | (A | D) << 32),) == found[2].entries


@BOTH
@pytest.mark.parametrize("offset", [0, 4, 8, 0x800, 0xFFF])
def test_a_write_into_a_table_reaches_it_and_is_undone(mode, offset):
    tables = PageTables(mode).map(VA, 0x80_0000)
    table = tables.entry_pa(VA, 1) & -4096
    tables.map(0x40_0000, table)
    prober = Prober(tables.memory, context(mode))
    before = tables_of(prober)
    (outcome,) = probe(prober, write(0x40_0000 + offset))
    assert table + offset == outcome.pa
    assert np.array_equal(before, tables_of(prober))


@BOTH
def test_addresses_in_the_borrowed_slots_are_what_the_tables_say(mode):
    tables = PageTables(mode)
    shift = 22 if mode == "32-bit" else 30
    prober = Prober(tables.map(VA, 0x80_0000).memory, context(mode))
    slots = borrowed_slots(prober)
    assert 2 == len(set(slots))
    assert VA >> shift not in slots
    for slot in slots:
        fetch = 0x10 if mode == "PAE" else 0
        assert [0, 2, fetch] == codes(probe(prober, *every(slot << shift)[:3]))
        tables.map(slot << shift, 0x9000)
    again = Prober(tables.memory, context(mode))
    for slot in slots:
        (outcome,) = probe(again, read(slot << shift))
        assert 0x9000 == outcome.pa


def test_all_four_pdptes_in_use_leave_room_for_the_probe():
    tables = PageTables("PAE")
    for slot in range(4):
        tables.map(slot << 30, 0x80_0000 + (slot << 12))
    found = see(tables, *(read(slot << 30) for slot in range(4)))
    assert [0x80_0000 + (slot << 12) for slot in range(4)] == [each.pa for each in found]


def test_an_identity_map_of_all_4_gib_leaves_room_for_the_probe():
    words = words_of({0x1000 + 4 * at: at << 22 | OPEN | PS for at in range(1024)})
    memory = SparseWords([(0, 1 << 24)], words)
    prober = Prober(memory, context("32-bit"))
    at = prober._workspace.trampoline.start
    found = probe(prober, *(read(va) for va in (0, 0xFF_FFF0, 0x1000, at & -0x40_0000)))
    assert [0, 0xFF_FFF0, 0x1000, at & -0x40_0000] == [each.pa for each in found]
    # What leads to the probe's own pages is made with these in another place.
    found = probe(prober, read(0), read(at), write(at + 0x1FFF), execute(at & -0x40_0000))
    assert [0, at, at + 0x1FFF, at & -0x40_0000] == [each.pa for each in found]
    assert prober._elsewhere._workspace.own != prober._workspace.own


def test_ram_everywhere_below_4_gib_leaves_none():
    with pytest.raises(BadInput, match=r"no 4 MiB below 2\^32"):
        Prober(SparseWords([(0, 1 << 32)], {0x1000: 0x2000 | OPEN}), context("32-bit"))


def test_a_root_outside_ram_is_refused():
    with pytest.raises(BadInput, match="CR3 0x8000 points to no RAM"):
        Prober(SparseWords([(0, 0x4000)], {0x1000: 1}), context("32-bit", root=0x8000))


@BOTH
def test_an_address_of_more_than_32_bits_is_refused(mode):
    prober = Prober(PageTables(mode).map(VA, 0x8000).memory, context(mode))
    with pytest.raises(BadInput, match="32 bits"):
        probe(prober, read(1 << 32))
    assert 0 == len(prober.probe(Accesses.of([])))


@BOTH
def test_progress_is_reported(mode):
    prober = Prober(PageTables(mode).map(VA, 0x8000).memory, context(mode))
    reported = []
    prober.probe(Accesses.of([read(VA)] * 2100), reported.append)
    assert [1024, 2048] == reported


def test_a_mov_to_cr3_that_is_refused_is_seen_to_be():
    prober = Prober(PageTables("PAE").map(VA, 0x8000).memory, context("PAE"))
    watcher, root = prober._engines.single._watcher, 0x1000
    assert watcher.loads_root(root)
    assert not watcher.loads_root(root, cpl=3)


def test_a_root_that_is_refused_answers_every_access_with_gp(monkeypatch):
    monkeypatch.setattr(engines.AccessEngine, "loads_root", lambda self, root: False)
    tables = PageTables("PAE").map(VA, 0x8000)
    assert [GeneralProtection()] * 6 == see(tables, *every(VA))
    assert [None] * 6 != codes(see(PageTables("32-bit").map(VA, 0x8000), write(VA), smap=True))


def test_a_mov_to_cr3_that_does_nothing_is_an_error(monkeypatch):
    monkeypatch.setattr(engines, "LOAD_ROOT", (engines.LOAD_ROOT[1],) * 2)
    with pytest.raises(ProbeError, match="MOV to CR3"):
        Prober(PageTables("PAE", root=0x1020).map(VA, 0x8000).memory, context("PAE", root=0x1020))


@BOTH
def test_an_access_that_does_not_complete_is_no_outcome(mode, monkeypatch):
    monkeypatch.setattr(engines, "MARK", 1)
    prober = Prober(PageTables(mode).map(VA, 0x8000).memory, context(mode))
    with pytest.raises(ProbeError, match="no outcome"):
        probe(prober, read(VA))


@BOTH
def test_user_mode_not_reached_is_an_error(mode, monkeypatch):
    monkeypatch.setattr(engines, "USER_CODE", 0x08)
    prober = Prober(PageTables(mode).map(VA, 0x8000).memory, context(mode))
    with pytest.raises(ProbeError, match="did not reach CPL 3"):
        probe(prober, read(VA, 3))


@BOTH
def test_a_page_that_lies_about_itself_is_found_out(mode, monkeypatch):
    tables = PageTables(mode).map(VA, 0x8000)
    prober = Prober(tables.memory, context(mode))
    workspace = prober._workspace
    monkeypatch.setattr(workspace, "_mark", lambda slots, at: None)
    at = (0x8000 | VA & 0xFF0) // 8
    workspace.space.words[at : at + 2] = marker(tables.entry_pa(VA, 2) & -16)
    with pytest.raises(ProbeError, match="none of the marked slots"):
        probe(prober, write(VA))


@BOTH
def test_a_store_that_gets_lost_is_not_taken_for_one(mode, monkeypatch):
    """Without the byte stored to be seen, the page's word isn't taken; the watcher's is."""
    tables = PageTables(mode).map(VA, 0x8000)
    asked = []

    def silent(low, high, *, va, stored=None):
        asked.append(stored)

    monkeypatch.setattr(engines, "decode", silent)
    (outcome,) = probe(Prober(tables.memory, context(mode)), write(VA))
    assert 0x8560 == outcome.pa
    assert asked
    assert None not in asked


@BOTH
def test_a_word_changed_outside_the_walk_is_an_error(mode, monkeypatch):
    tables = PageTables(mode).map(VA, 0x8000).map(0, 0x9000)
    prober = Prober(tables.memory, context(mode))
    workspace, single = prober._workspace, prober._engines.single
    make = single.make

    def planted(*arguments, **named):
        workspace.space.words[tables.entry_pa(0, 1) // 8] |= np.uint64(A)
        return make(*arguments, **named)

    monkeypatch.setattr(single, "make", planted)
    with pytest.raises(ProbeError, match="which no walk of"):
        probe(prober, read(VA))
    monkeypatch.undo()
    assert [0x8560] == [each.pa for each in probe(prober, read(VA))]


def test_the_half_word_outside_an_entry_counts_as_outside_the_walk(monkeypatch):
    tables = PageTables("32-bit").map(VA, 0x8000)
    prober = Prober(tables.memory, context("32-bit"))
    workspace, single = prober._workspace, prober._engines.single
    make = single.make
    place = tables.entry_pa(VA, 1)

    def planted(*arguments, **named):
        workspace.entries[(place ^ 4) // 4] |= A
        return make(*arguments, **named)

    monkeypatch.setattr(single, "make", planted)
    with pytest.raises(ProbeError, match="which no walk of"):
        probe(prober, read(VA))


def test_xd_reserved_bits_and_global_pages_in_pae():
    tables = PageTables("PAE").map(VA, 0x80_0000, OPEN | XD | G)
    assert [None, None, 0x11] == codes(see(tables, *every(VA)[:3]))
    assert [9, 0xB, 9] == codes(see(tables, *every(VA)[:3], nxe=False))
    tables = PageTables("PAE").map(VA, 0x80_0000, OPEN | 1 << 52)
    assert [9] == codes(see(tables, read(VA)))
    tables = PageTables("PAE").map(VA, 0x80_0000).change(VA, 1, drop=P)
    assert [0x10, 0x14] == codes(see(tables, execute(VA), execute(VA, 3)))
