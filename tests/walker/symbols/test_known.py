from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import open_source
from crosswalk.walker.pages import pages
from crosswalk.walker.symbols import NO_NAMES, Names, Span, SpanKind, Spans
from crosswalk.walker.symbols.identity import Identity
from crosswalk.walker.symbols.known import halves, known_names, vmcoreinfo_of
from crosswalk.walker.symbols.physical import physical_names
from crosswalk.walker.symbols.symbol_files import parse_symbols
from tests.tables import TOP, P, PageTables, context
from tests.walker.symbols.small_linux import LINKED, SmallLinux

LINUX = Path(__file__).parents[2] / "cases" / "linux-6.1-4level.json"


@pytest.fixture
def small_linux(tmp_path):
    path = tmp_path / "linux.bin"
    path.write_bytes(SmallLinux().content)
    return open_source(path, width=52)


def test_vmcoreinfo_is_found_in_memory(small_linux):
    assert SmallLinux().vmcoreinfo == vmcoreinfo_of(small_linux)


def test_of_two_kernels_texts_the_one_with_these_tables_counts(tmp_path):
    linux = SmallLinux()
    content = bytearray(linux.content)
    other = linux.vmcoreinfo.replace("NUMBER(phys_base)=", "NUMBER(phys_base)=1")
    content[0x12_8000 : 0x12_8000 + len(other)] = other.encode()
    path = tmp_path / "two.bin"
    path.write_bytes(content)
    assert linux.vmcoreinfo == vmcoreinfo_of(open_source(path, width=52))


def test_a_map_and_vmcoreinfo_give_all_names_of_a_kernel(small_linux):
    linux, remarks = SmallLinux(), []
    file = parse_symbols(linux.system_map.encode(), "System.map")
    names = known_names(small_linux, file, info=linux.vmcoreinfo, notice=remarks.append)
    assert ["KASLR: symbols are moved by 0x2400000 (VMCOREINFO)"] == remarks
    assert "text: schedule+0x10" == names.text(linux.addresses["schedule"] + 0x10)
    # What is behind the last symbol of a part isn't called by it.
    assert "text: kernel_randomize_memory+0x7ff" == names.text(linux.addresses["_etext"] - 1)
    assert "kernel: _etext" == names.text(linux.addresses["_etext"])
    for block in pages(small_linux.memory, small_linux.context):
        assert None not in names.region_texts(block.va)


def test_a_given_offset_goes_before_what_vmcoreinfo_says(small_linux):
    linux = SmallLinux()
    file = parse_symbols(linux.system_map.encode(), "System.map")
    names = known_names(small_linux, file, info=linux.vmcoreinfo, offset=0x1000)
    (found,) = names.find("schedule")
    assert linux.addresses["schedule"] - linux.offset + 0x1000 == found.start


@pytest.mark.parametrize(
    ("theirs", "ours", "difference"),
    [
        (Identity("aa", "6.1.0-small"), Identity("ab", "6.1.0-small"), "build ID aa, not ab"),
        (Identity("aa", "6.1.0-x"), Identity("aa", "6.1.0-small"), ""),
        (Identity("", "6.1.0-x"), Identity("aa", "6.1.0-small"), "release 6.1.0-x, not 6.1.0-s"),
        (Identity("aa", ""), Identity("", "6.1.0-small"), ""),
    ],
)
def test_symbols_of_another_build_are_refused(small_linux, theirs, ours, difference):
    linux, remarks = SmallLinux(), []
    info = linux.vmcoreinfo.replace("6.1.0-small", ours.release)
    info += f"BUILD-ID={ours.build_id}\n" if ours.build_id else ""
    file = parse_symbols(linux.system_map.encode(), "vmlinux")
    file = replace(file, identity=theirs)
    if not difference:
        assert known_names(small_linux, file, info=info).find("schedule")
        return
    with pytest.raises(BadInput, match=f"symbols of another kernel: {difference}"):
        known_names(small_linux, file, info=info)
    given = known_names(small_linux, file, info=info, offset=0x1000, notice=remarks.append)
    assert LINKED + 0x1000 == given.find("_text")[0].start
    assert difference in remarks[0]
    assert remarks[0].endswith("they are moved by 0x1000 all the same")


@pytest.mark.parametrize(
    ("banner", "release", "difference"),
    [
        (b"Linux version 6.1.0-small (me)", "", ""),
        (b"Linux version 6.1.0-small (me)", "6.1.0-small", ""),
        (b"Linux version 6.1.0-small (me)", "6.1.0-x", "release 6.1.0-x, not 6.1.0-small"),
        (b"", "6.1.0-x", ""),
        (b"something else", "", "no linux_banner is at 0xffffffff83607000"),
    ],
)
def test_without_vmcoreinfo_the_banner_in_memory_says_whose_symbols_fit(
    tmp_path, banner, release, difference
):
    linux = SmallLinux()
    path = tmp_path / "linux.bin"
    content = bytearray(linux.content)
    content[0x11_7000 : 0x11_7000 + len(banner)] = banner
    path.write_bytes(content)
    source = open_source(path, width=52)
    text = f"{linux.system_map}{LINKED + 0x20_7000:016x} D linux_banner\n"
    file = replace(parse_symbols(text.encode(), "map"), identity=Identity(release=release))
    if difference:
        with pytest.raises(BadInput, match=f"map: symbols of another kernel: {difference}"):
            known_names(source, file)
        return
    remarks = []
    names = known_names(source, file, notice=remarks.append)
    assert linux.addresses["_text"] == names.find("_text")[0].start
    unknown = "whether the symbols are this kernel's isn't known: no linux_banner says so"
    assert (not banner) == any(unknown in each for each in remarks)


def test_a_case_of_linux_has_the_regions_of_its_tables():
    source = open_source(LINUX)
    names = known_names(source, linux=True)
    counts = {}
    for block in pages(source.memory, source.context):
        for name in names.region_texts(block.va):
            counts[name] = counts.get(name, 0) + 1
    assert {"direct-map", "cpu-entry-area", "kernel", "modules", "fixmap"} <= set(counts)
    assert not known_names(source)


def test_what_is_no_linux_has_two_halves():
    assert [("lower-half", 0, 1 << 47), ("upper-half", (1 << 64) - (1 << 47), 1 << 64)] == [
        (each.name, each.start, each.end) for each in halves(context(4))
    ]
    assert ["lower-half"] == [each.name for each in halves(context("32-bit"))]


def named(*regions):
    spans = [Span(name, start, end, SpanKind.REGION) for name, start, end in regions]
    return Names(Spans.of(SpanKind.REGION, spans), NO_NAMES.sections, NO_NAMES.symbols)


PAGES = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 15)), max_size=12)


@given(PAGES, st.lists(st.tuples(st.integers(0, 16), st.integers(1, 6)), max_size=5))
def test_physical_ranges_are_called_as_a_loop_over_all_pages_calls_them(mapped, asked):
    tables = PageTables(4)
    for va, frame in dict(mapped).items():
        tables.map(va << 12, 0x20_0000 + (frame << 12))
    names = named(("low", 0, 8 << 12), ("mid", 8 << 12, 9 << 12), ("high", 12 << 12, 64 << 12))
    found = physical_names(tables.memory, [tables_context(tables)], names)
    start = np.array([0x20_0000 + (at << 12) for at, _ in asked], np.uint64)
    size = np.array([count << 12 for _, count in asked], np.uint64)
    codes, sets = found.sets(start, size)
    expected = [
        tuple(
            region.name
            for region in names.regions
            if any(
                region.start <= va << 12 < region.end and at <= frame < at + count
                for va, frame in dict(mapped).items()
            )
        )
        for at, count in asked
    ]
    assert expected == [sets[code] for code in codes.tolist()]


def tables_context(tables):
    return context(4, root=tables.root)


def test_a_page_belongs_to_the_regions_of_both_its_ends():
    tables = PageTables(4, ram=((0, 1 << 24),)).map(0x20_0000, 0x20_0000, 0x83, level=2)
    names = named(("one", 0x20_0000, 0x30_0000), ("other", 0x30_0000, 0x40_0000))
    found = physical_names(tables.memory, tables_context(tables), names)
    codes, sets = found.sets(np.array([0x2F_0000], np.uint64), np.array([0x1000], np.uint64))
    assert ("one", "other") == sets[codes[0]]


def test_tables_that_are_used_again_and_again_count_once():
    tables = PageTables(4).map(0, 0x8000)
    # The one page table everywhere below the first PDPT, and that PDPT in 100 slots of the root.
    for slot in range(512):
        tables.entries[tables.entry_pa(0, 2) + 8 * slot] = tables.entries[tables.entry_pa(0, 2)]
        tables.entries[tables.entry_pa(0, 3) + 8 * slot] = tables.entries[tables.entry_pa(0, 3)]
    for slot in range(100):
        tables.entries[tables.entry_pa(0, 4) + 8 * slot] = tables.entries[tables.entry_pa(0, 4)]
    names = named(("first", 0, 0x1000), ("rest", 0x1000, 100 << 39))
    found = physical_names(tables.memory, tables_context(tables), names)
    codes, sets = found.sets(np.array([0x8000, 0x9000], np.uint64), np.full(2, 0x1000, np.uint64))
    assert [("first", "rest"), ()] == [sets[code] for code in codes]


def test_regions_of_the_upper_half_and_of_other_paging_modes_are_found():
    tables = PageTables(5).map(0xFF11_0000_0000_0000, 0x8000).map(0xFFFF_FFFF_FFFF_F000, 0x9000)
    names = named(("one", 0xFF11 << 48, 0xFF12 << 48), ("last", TOP - 0x1000, TOP))
    found = physical_names(tables.memory, context(5, root=tables.root), names)
    assert ("one", "last") == found.names
    small = PageTables("PAE").map(0xC000_0000, 0x8000, P)
    found = physical_names(small.memory, context("PAE"), named(("high", 0xC000_0000, 1 << 32)))
    assert ("high",) == found.names
    assert [0x8000] == found.start[0].tolist()
