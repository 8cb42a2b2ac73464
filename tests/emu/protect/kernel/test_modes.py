"""Guests' tables of every paging mode: the host's walk, and rights that are followed."""

import random
from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.linux.image import KernelImage
from crosswalk.emu.protect.kernel.enforcement import Enforcement
from crosswalk.emu.protect.kernel.facts import GuestState
from crosswalk.emu.protect.kernel.guestwalk import (
    Leaf,
    entries_of,
    find_kernel_root,
    find_leaf,
    find_user_root,
    lower_leaves,
)
from crosswalk.emu.protect.kernel.rights import RightsFollower, image_frames, section_frames
from crosswalk.emu.protect.kernel.rules import Cause
from crosswalk.emu.protect.kernel.sealing import LaterSeals
from crosswalk.emu.protect.permissions import FrameTables
from crosswalk.walker.context import Vendor
from crosswalk.walker.mappings import mappings
from crosswalk.walker.memory import Segments
from crosswalk.walker.protection.pagelist import Permission
from crosswalk.walker.protection.policy import TableKind, Use
from crosswalk.walker.rights import Rights
from tests.tables import KIB4, MIB2, MIB4, MODES, OPEN, PS, RW, US, XD, A, D, P, PageTables, context

READ, WRITE, EXECUTE = Permission
RAM = 8 << 20
USER, DATA, CODE, RODATA = 0x40_0000, 0x20_0000, 0x20_1000, 0x20_2000
KERNEL = {"32-bit": 0xC000_0000, "PAE": 0xC000_0000, 4: 0xFFFF_8000_0000_0000, 5: 0xFF << 56}
LARGE = {"32-bit": MIB4}
each_mode = pytest.mark.parametrize("mode", MODES, ids=str)
legacy = pytest.mark.parametrize("mode", ["32-bit", "PAE"])


def paging(tables, **switches):
    return context(tables.mode, root=tables.root, vendor=Vendor.AMD, **switches)


def built(mode, root=0x1_0000):
    """A process: two pages of its own, the kernel's data, code, and a large page."""
    base = KERNEL[mode]
    tables = PageTables(mode, root=root, ram=((0, RAM),))
    tables.map(USER, 0x5000).map(USER + KIB4, 0x6000, P | US)
    tables.map(base, DATA, P | RW, upper=P | RW).map(base + KIB4, CODE, P)
    return tables.map(base + MIB4, MIB4, P | RW | PS, level=2, upper=P | RW)


@each_mode
def test_a_page_has_its_place_and_the_rights_that_all_levels_leave(mode):
    tables, base = built(mode), KERNEL[mode]
    found = [
        find_leaf(tables.memory, paging(tables), va)
        for va in (USER + 0x10, USER + KIB4, base, base + KIB4 + 0xFFF, base + MIB4 + 0x12345)
    ]
    entry = tables.entry_pa
    assert [
        Leaf(0x5000, KIB4, entry(USER), writable=True, user=True, executable=True),
        Leaf(0x6000, KIB4, entry(USER + KIB4), writable=False, user=True, executable=True),
        Leaf(DATA, KIB4, entry(base), writable=True, user=False, executable=True),
        Leaf(CODE, KIB4, entry(base + KIB4), writable=False, user=False, executable=True),
        Leaf(
            MIB4,
            LARGE.get(mode, MIB2),
            entry(base + MIB4, 2),
            writable=True,
            user=False,
            executable=True,
        ),
    ] == found


@each_mode
def test_leaves_are_the_walkers_mappings(mode):
    tables, dice = built(mode), random.Random(7)
    asked = paging(tables)
    found = list(mappings(tables.memory, asked))
    for each in found:
        leaf = find_leaf(tables.memory, asked, each.va + dice.randrange(each.size))
        user = bool(each.rights & Rights.USER_READ)
        write = Rights.USER_WRITE if user else Rights.SUPERVISOR_WRITE
        observed = leaf.pa, leaf.size, leaf.user, leaf.writable
        assert (each.pa, each.size, user, bool(each.rights & write)) == observed


@each_mode
def test_what_is_not_mapped_has_no_leaf(mode):
    tables = built(mode)
    asked = paging(tables)
    assert None is find_leaf(tables.memory, asked, USER + 2 * KIB4)
    assert None is find_leaf(tables.memory, asked, 0x9000_0000)
    # A table outside RAM.
    tables.map(0x8000_0000, 0x5000)
    entry = tables.entry_pa(0x8000_0000, 2)
    tables.entries[entry] = RAM | OPEN
    assert None is find_leaf(tables.memory, asked, 0x8000_0000)


@each_mode
def test_the_entries_of_a_page_are_those_of_its_walk(mode):
    tables = built(mode)
    levels = sorted(MODES[mode].shifts, reverse=True)
    expected = [tables.entry_pa(USER, level) for level in levels]
    assert expected == list(entries_of(tables.memory, paging(tables), USER + 0x777))


@each_mode
def test_pages_below_the_kernels_are_in_order(mode):
    tables = built(mode)
    below = {"32-bit": 0xBFFF_F000, "PAE": 0xBFFF_F000, 4: 0x7FFF_FFFF_F000, 5: (1 << 56) - KIB4}
    tables.map(below[mode], 0x7000)
    expected = [USER, USER + KIB4, below[mode]]
    assert expected == list(lower_leaves(tables.memory, paging(tables)))


@pytest.mark.parametrize("mode", ["PAE", 4, 5], ids=str)
def test_xd_at_any_level_that_has_rights_takes_execution(mode):
    for level in (1, 2):
        tables = built(mode).change(USER, level, add=XD)
        assert not find_leaf(tables.memory, paging(tables), USER).executable


def test_a_pdpte_of_pae_paging_gives_and_takes_nothing():
    tables = built("PAE")
    assert P == tables.entries[tables.entry_pa(USER, 3)] & 0xFFF
    leaf = find_leaf(tables.memory, paging(tables), USER)
    assert (True, True) == (leaf.writable, leaf.user)


def test_large_pages_of_32_bit_paging_need_pse():
    tables = built("32-bit")
    va = KERNEL["32-bit"] + MIB4
    assert MIB4 == find_leaf(tables.memory, paging(tables), va).size
    # Without it the frame is a table, and a table of zeros.
    assert None is find_leaf(tables.memory, paging(tables, pse=False), va)


def test_a_page_of_4_mib_has_address_bits_39_to_32_in_its_bits_20_to_13():
    tables = built("32-bit")
    tables.map(0xD000_0000, MIB4 | 3 << 13, P | PS, level=2)
    leaf = find_leaf(tables.memory, paging(tables), 0xD000_0000)
    assert 0x3_0040_0000 == leaf.pa


def kernel_only(mode, process, root):
    """The kernel's own root beside a process's, with the same entries for what is the kernel's."""
    own = PageTables(mode, root=root)
    for level in (max(MODES[mode].shifts),):
        for va in (KERNEL[mode], KERNEL[mode] + MIB4):
            own.entries[own.entry_pa(va, level)] = process.entries[process.entry_pa(va, level)]
    return own.entries


@each_mode
def test_the_kernels_own_root_maps_what_is_the_kernels_and_no_more(mode):
    process = built(mode)
    own = 0x10_0000
    process.entries |= kernel_only(mode, process, own)
    frames = np.arange(0x8_0000, 0x18_0000, KIB4, dtype=np.uint64)
    asked = paging(process)
    assert own == find_kernel_root(process.memory, asked, frames)
    assert own == find_kernel_root(process.memory, replace(asked, cr3=own), frames)
    assert None is find_kernel_root(process.memory, asked, frames[:-0x80])
    # What accesses set makes no difference, any other bit does.
    top = max(MODES[mode].shifts)
    entry = process.entry_pa(KERNEL[mode], top)
    process.entries[entry] ^= A | D
    assert own == find_kernel_root(process.memory, asked, frames)
    process.entries[entry] ^= KIB4
    assert None is find_kernel_root(process.memory, asked, frames)
    process.entries[entry] ^= KIB4
    process.entries[own] = 0x5000 | P
    assert None is find_kernel_root(process.memory, asked, frames)


def test_a_pdpt_may_lie_anywhere_in_its_frame():
    process = built("PAE", root=0x1_0FE0)
    process.entries |= kernel_only("PAE", process, 0x10_0000)
    frames = np.array([0x10_0000], np.uint64)
    assert 0x10_0000 == find_kernel_root(process.memory, paging(process), frames)
    assert 0x5000 == find_leaf(process.memory, paging(process), USER).pa
    assert None is find_user_root(process.memory, paging(process))


def isolated():
    """PAE paging with two roots: a process's, and above it the user's, with some kernel's code."""
    tables, other = built("PAE"), PageTables("PAE", root=0x8_0000)
    other.map(KERNEL["PAE"] + KIB4, CODE, P)
    pairs = ((0x10_0000, 0x1_0000), (0x10_1000, 0x8_0000))
    tables.entries |= other.entries
    for pa, root in pairs:
        tables.entries |= {pa + at: tables.entries.get(root + at, 0) for at in (0, 8, 16, 24)}
    tables.entries[0x10_1000] = tables.entries[0x10_0000]
    tables.root = 0x10_0000
    return tables, other.entry_pa(KERNEL["PAE"] + KIB4)


def test_a_users_root_of_pae_paging_is_known_by_what_it_shares():
    tables, _ = isolated()
    asked = paging(tables)
    assert 0x10_1000 == find_user_root(tables.memory, asked)
    tables.entries[0x10_1000] = 0x9000 | P
    assert None is find_user_root(tables.memory, asked)


def follower(tables, **switches):
    """The rights of tables in RAM, and that RAM, whose words may be changed."""
    ram = Ram(0, RAM)
    for pa, word in tables.words.items():
        ram.words[pa // 8] = word
    return RightsFollower(Segments([(0, ram.bytes)]), paging(tables, **switches)), ram


def put(ram, pa, entry, size):
    ram.write(pa, entry.to_bytes(size, "little"))


@each_mode
def test_rights_are_those_of_all_mappings(mode):
    rights, _ = follower(built(mode))
    frames = [pa // KIB4 for pa in (0x6000, DATA, CODE, MIB4, 0x30_0000)]
    read, write, run = int(READ), int(READ | WRITE), int(EXECUTE)
    expected = [read | run, write | run, read | run, write | run, 0]
    assert expected == rights.initial[frames].tolist()


@each_mode
def test_a_change_of_a_page_is_followed(mode):
    tables = built(mode)
    size = MODES[mode].entry_size
    # Of two entries in a word of 32-bit paging the upper one.
    entry = tables.entry_pa(KERNEL[mode] + KIB4)
    rights, ram = follower(tables)
    put(ram, entry, CODE | P | RW, size)
    assert not rights.narrowed()
    assert rights.update()[CODE // KIB4] & WRITE
    assert (1, 0) == (rights.steps, rights.differing)
    put(ram, entry, CODE | P, size)
    assert rights.narrowed()
    assert not rights.update()[CODE // KIB4] & WRITE
    assert (2, 0) == (rights.steps, rights.differing)
    assert not rights.narrowed()


def test_of_a_pdpt_its_own_four_entries_count():
    tables = built("PAE", root=0x1_0020)
    rights, ram = follower(tables)
    entry = tables.entry_pa(KERNEL["PAE"], 3)
    was = tables.entries[entry]
    # Another PDPT in the frame.
    put(ram, 0x1_0058, was, 8)
    assert not rights.narrowed()
    rights.update()
    put(ram, entry, 0, 8)
    assert rights.narrowed()
    assert 0 == rights.update()[DATA // KIB4]
    put(ram, entry, was, 8)
    assert not rights.narrowed()
    assert rights.update()[DATA // KIB4] & WRITE
    assert (3, 0) == (rights.steps, rights.differing)
    assert rights.tables()[0x10]


@legacy
def test_each_changed_word_counts_whatever_else_is_in_it(mode, monkeypatch):
    monkeypatch.setattr(RightsFollower, "_changed", lambda _: [])
    tables = built(mode)
    rights, ram = follower(tables)
    put(ram, tables.entry_pa(KERNEL[mode] + KIB4), CODE | P | RW, MODES[mode].entry_size)
    rights.update()
    assert (1, 1) == (rights.steps, rights.differing)


def test_both_roots_of_pae_paging_count():
    tables, leaf = isolated()
    tables.entries[leaf] |= RW
    rights, _ = follower(tables)
    assert rights.isolated
    assert rights.initial[CODE // KIB4] & WRITE


def begun(mode, *sections):
    """What is granted to an image of data, code and read-only data that names these sections."""
    tables, base = built(mode), KERNEL[mode]
    tables.map(base + 2 * KIB4, RODATA, P | (XD if mode == "PAE" else 0))
    ram = Ram(0, RAM)
    for pa, word in tables.words.items():
        ram.words[pa // 8] = word
    places = {".data": DATA, ".text": CODE, ".rodata": RODATA}
    kernel = KernelImage(
        segments=((DATA, b"", 3 * KIB4),),
        entry=CODE,
        sections=tuple((name, places[name], KIB4) for name in sections),
    )
    # No guest runs: what a host does with it isn't asked.
    host = type("Host", (Enforcement,), dict.fromkeys(Enforcement.__abstractmethods__))
    nested = FrameTables(np.zeros(16 * 512, np.uint64), 0x4000_0000, RAM // KIB4)
    return host(Segments([(0, ram.bytes)]), kernel, nested).begin(paging(tables))


LATER, LATER_AT, LATER_USER = 0x30_0000, KERNEL[4] + 4 * KIB4, USER + 8 * KIB4


def host_of(flags):
    """A host under EPT, of a guest that executes as a user what the kernel maps by these flags."""
    tables = built(4).map(LATER_AT, LATER, flags).map(LATER_USER, LATER, P | US)
    ram = Ram(0, RAM)
    for pa, word in tables.words.items():
        ram.words[pa // 8] = word
    state = GuestState(general=(0,) * 16, rip=LATER_USER, cpl=3, rflags=2, context=paging(tables))
    kernel = KernelImage(segments=((DATA, b"", 3 * KIB4),), entry=CODE)
    members = dict.fromkeys(Enforcement.__abstractmethods__, lambda _: None)
    members |= {"state": state, "context": state.context}
    nested = FrameTables(
        np.zeros(16 * 512, np.uint64), 0x4000_0000, RAM // KIB4, kind=TableKind.EPT_MBEC
    )
    host = type("Host", (Enforcement,), members)(Segments([(0, ram.bytes)]), kernel, nested)
    put(ram, tables.entry_pa(LATER_USER), 0, 8)  # The process comes later.
    nested.grant(host.begin(state.context).permissions)
    put(ram, tables.entry_pa(LATER_USER), LATER | P | US, 8)

    def change(entry):
        put(ram, tables.entry_pa(LATER_AT), entry, 8)
        host.flushed()

    return host, change


def fetched(host):
    """The rule for a user's fetch, where all that is granted is due."""
    cause = host.decide(LATER // KIB4, write=False, fetch=True)
    assert (host.due == host.nested.read_back()).all()
    return cause


def test_what_is_sealed_outside_the_image_is_no_process_s_code_until_it_is_freed():
    host, change = host_of(P)
    assert host.later.frames[LATER // KIB4]
    assert Cause.REFUSED is fetched(host)
    change(0)
    assert Cause.PROCESS_CODE is fetched(host)
    assert (1, False) == (host.later.released, host.later.frames[LATER // KIB4])


def test_a_process_s_code_that_is_sealed_later_is_not_a_user_s_any_more():
    host, change = host_of(P | RW | XD)
    assert Cause.PROCESS_CODE is fetched(host)
    assert host.nested.granted[LATER // KIB4] & Use.USER_EXECUTE
    change(LATER | P)
    assert host.later.frames[LATER // KIB4]
    assert not host.nested.granted[LATER // KIB4] & Use.USER_EXECUTE
    assert Cause.REFUSED is fetched(host)


@legacy
def test_text_is_what_is_sealed_in_the_section_of_that_name(mode):
    grants = begun(mode, ".data", ".text", ".rodata")
    assert [CODE // KIB4, RODATA // KIB4] == np.flatnonzero(grants.sealed).tolist()
    assert [CODE // KIB4] == np.flatnonzero(grants.text).tolist()


def test_where_no_section_is_named_and_nothing_withholds_execution_all_that_is_sealed_is_text():
    assert [CODE // KIB4, RODATA // KIB4] == np.flatnonzero(begun("32-bit").text).tolist()
    assert [CODE // KIB4] == np.flatnonzero(begun("PAE").text).tolist()


def test_execution_is_withheld_from_nothing_without_nx():
    every = (".data", ".text", ".rodata")
    assert [] == np.flatnonzero(begun("32-bit", *every).permissions & EXECUTE == 0).tolist()
    assert [RODATA // KIB4] == np.flatnonzero(
        begun("PAE", *every).permissions & EXECUTE == 0
    ).tolist()


def test_without_nx_all_that_is_mapped_is_executable():
    tables = built("PAE").change(KERNEL["PAE"], add=XD)
    rights, _ = follower(tables)
    assert not rights.initial[DATA // KIB4] & EXECUTE
    rights, _ = follower(built("32-bit"))
    assert rights.initial[DATA // KIB4] & EXECUTE


@each_mode
def test_a_page_that_is_mapped_elsewhere_or_by_a_table_takes_writing_from_where_it_was(mode):
    tables, base = built(mode), KERNEL[mode]
    size, large = MODES[mode].entry_size, tables.entry_pa(base + MIB4, 2)
    rights, ram = follower(tables)
    put(ram, tables.entry_pa(base), RODATA | P | RW, size)
    assert rights.narrowed()
    own = rights.update()
    assert [0, WRITE] == [own[pa // KIB4] & WRITE for pa in (DATA, RODATA)]
    # The frame that the large page began with is a table now, an empty one.
    put(ram, large, MIB4 | P | RW, size)
    assert rights.narrowed()
    assert not rights.update()[MIB4 // KIB4] & WRITE
    assert (2, 0) == (rights.steps, rights.differing)


@each_mode
def test_a_frame_is_where_its_own_pages_are(mode):
    """The page in front of it lies in front of other memory elsewhere."""
    base = KERNEL[mode]
    rights, _ = follower(built(mode).map(base + 8 * KIB4, RODATA, P))
    among = np.zeros(RAM // KIB4, np.bool_)
    among[[RODATA // KIB4, MIB4 // KIB4 + 7]] = True
    assert {
        RODATA // KIB4: (base + 8 * KIB4,),
        MIB4 // KIB4 + 7: (base + MIB4 + 7 * KIB4,),
    } == rights.places(among)


def test_a_section_has_the_frames_that_it_fills_and_an_image_those_that_it_touches():
    kernel = KernelImage(
        segments=((0x20_0800, b"", 0x1900),),
        entry=0x20_0800,
        sections=((".data", 0x20_0800, 0x1900), (".bss", 0x20_2800, 0x1000)),
    )
    assert [0x201] == np.flatnonzero(section_frames(kernel, [".data", ".bss"], 0x300)).tolist()
    assert [0x200, 0x201, 0x202] == np.flatnonzero(image_frames(kernel, 0x300)).tolist()


@each_mode
def test_what_is_sealed_in_a_large_page_is_freed_when_that_is_unmapped(mode):
    tables, frame = built(mode), MIB4 // KIB4 + 3
    entry = tables.entry_pa(KERNEL[mode] + MIB4, 2)
    tables.entries[entry] &= ~int(RW)
    rights, ram = follower(tables)
    later = LaterSeals(Segments([(0, ram.bytes)]), rights.count)
    later.add(rights, rights.own != 0)
    assert (True, False) == (later.frames[frame], later.freed(frame, rights.context))
    put(ram, entry, 0, MODES[mode].entry_size)
    assert later.freed(frame, rights.context)


def test_what_is_sealed_is_code_where_it_is_executable_and_not_writable():
    tables, first = built(4), KERNEL[4] + 8 * KIB4
    tables.map(first, RODATA, P | XD).map(first + KIB4, RODATA, P | XD)
    rights, ram = follower(tables)
    later = LaterSeals(Segments([(0, ram.bytes)]), rights.count)
    later.add(rights, rights.own != 0)
    assert (True, False) == (later.frames[RODATA // KIB4], later.code[RODATA // KIB4])
    for flags, code in ((P | RW, False), (P, True)):
        put(ram, tables.entry_pa(first), RODATA | flags, 8)
        rights.update()
        later.note_code(rights)
        assert code is bool(later.code[RODATA // KIB4])
