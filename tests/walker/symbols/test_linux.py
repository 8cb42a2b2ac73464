import pytest

from crosswalk.walker.errors import BadInput
from crosswalk.walker.pages import pages
from crosswalk.walker.symbols import NO_NAMES
from crosswalk.walker.symbols.kaslr import symbols_offset, vmcoreinfo_values
from crosswalk.walker.symbols.linux import linux_regions
from crosswalk.walker.symbols.system_map import parse_system_map
from tests.tables import KIB4, MIB2, PS, RW, XD, P, PageTables, context
from tests.walker.symbols.small_linux import FIXED_BASES, LINKED, SmallLinux

NOTHING = NO_NAMES.symbols


def symbols_of(linux):
    return parse_system_map(linux.system_map.encode()).moved(linux.offset)


def regions_of(linux, symbols=None, info=None):
    values = vmcoreinfo_values(linux.vmcoreinfo if info is None else info)
    symbols = symbols_of(linux) if symbols is None else symbols
    return linux_regions(linux.memory, linux.context, symbols, values)


def called(linux, found):
    """The region of each mapping, in address order, repeats left out."""
    names = []
    for block in pages(linux.memory, linux.context):
        for row in found.regions.rows_at(block.va).tolist():
            name = found.regions[row].name if row >= 0 else None
            if names[-1:] != [name]:
                names.append(name)
    return names


def test_regions_are_where_the_kernels_variables_say():
    linux = SmallLinux()
    expected = [
        *("user", "direct-map", "vmalloc", "vmemmap", "cpu-entry-area", "espfix", "text"),
        *("rodata", "data", "bss", "kernel", "modules", "fixmap", "vsyscall"),
    ]
    found = regions_of(linux)
    # The page that begins with _edata belongs to .data still; the last one is behind .bss.
    assert expected == called(linux, found)
    assert () == found.remarks
    (kernel,) = found.wider
    assert (linux.addresses["_text"], linux.addresses["_end"]) == (kernel.start, kernel.end)


def test_the_direct_map_ends_where_vmalloc_begins_or_as_far_as_it_may_reach():
    linux = SmallLinux()
    spans = {each.name: each for each in regions_of(linux).regions}
    assert spans["direct-map"].end == linux.bases["vmalloc_base"]
    assert spans["vmalloc"].end == linux.bases["vmalloc_base"] + (32 << 40)
    assert spans["vmemmap"].end == linux.bases["vmemmap_base"] + (1 << 40)
    assert "kasan-shadow" not in spans


def test_without_randomisation_regions_are_those_of_the_document():
    linux = SmallLinux(offset=0, bases=FIXED_BASES)
    spans = {each.name: each for each in regions_of(linux).regions}
    assert (0xFFFF_8880_0000_0000, 0xFFFF_C880_0000_0000) == (
        spans["direct-map"].start,
        spans["direct-map"].end,
    )
    assert (0xFFFF_EC00_0000_0000, 0xFFFF_FC00_0000_0000) == (
        spans["kasan-shadow"].start,
        spans["kasan-shadow"].end,
    )
    # The tables alone show the same direct map: memory isn't randomised.
    assert spans.keys() - {"text", "rodata", "data", "bss"} <= {
        each.name for each in regions_of(linux, NOTHING).regions
    }


def test_without_symbols_the_direct_map_is_found_in_the_tables_and_others_are_not_named():
    linux = SmallLinux()
    found = regions_of(linux, NOTHING)
    expected = [
        *("user", "direct-map", None, "cpu-entry-area", "espfix", "kernel", "modules"),
        *("fixmap", "vsyscall"),
    ]
    assert expected == called(linux, found)
    direct = next(each for each in found.regions if each.name == "direct-map")
    assert linux.bases["page_offset_base"] == direct.start
    assert "isn't known: no symbols say so" in found.remarks[0]


def test_variables_that_make_no_sense_are_not_believed():
    linux = SmallLinux(bases={**SmallLinux().bases, "vmalloc_base": 0xFFFF_B000_4000_1000})
    assert "the variables that say so can't be read" in regions_of(linux).remarks[0]


def test_other_paging_modes_have_no_regions():
    tables = PageTables("PAE").map(0xC000_0000, 0x8000, P)
    found = linux_regions(tables.memory, context("PAE"), NOTHING, {})
    assert 0 == len(found.regions)


def test_five_levels_have_a_layout_of_their_own():
    tables = PageTables(5).map(0xFF11_0000_0000_0000, 0, P | RW | XD | PS, level=3)
    found = linux_regions(tables.memory, context(5), NOTHING, {})
    starts = {each.name: each.start for each in found.regions}
    assert 0xFF11_0000_0000_0000 == starts["direct-map"]
    assert 0xFFA0_0000_0000_0000 == starts["vmalloc"]
    assert 0xFFFF_FE00_0000_0000 == starts["cpu-entry-area"]


def test_regions_are_disjoint_and_in_order():
    for linux in (SmallLinux(), SmallLinux(offset=0, bases=FIXED_BASES)):
        regions = regions_of(linux).regions
        assert (regions.start[1:] > regions.last[:-1]).all()


def offset_of(linux, info, symbols=None):
    symbols = parse_system_map(linux.system_map.encode()) if symbols is None else symbols
    return symbols_offset(symbols, vmcoreinfo_values(info), linux.memory, linux.context)


def test_kaslr_is_told_by_vmcoreinfo():
    linux = SmallLinux()
    found = offset_of(linux, linux.vmcoreinfo)
    assert (linux.offset, "KASLR: symbols are moved by 0x2400000 (VMCOREINFO)") == (
        found.value,
        found.remark,
    )


def test_symbols_that_are_where_the_kernel_runs_stay():
    linux = SmallLinux()
    assert 0 == offset_of(linux, linux.vmcoreinfo, symbols_of(linux)).value
    assert "" == offset_of(linux, linux.vmcoreinfo, symbols_of(linux)).remark


def test_without_vmcoreinfo_kaslr_is_told_by_the_first_page_of_the_image():
    found = offset_of(SmallLinux(), "")
    assert 0x240_0000 == found.value
    assert "the first page that is mapped" in found.remark


def test_symbols_of_another_kernel_are_refused():
    linux = SmallLinux()
    other = linux.vmcoreinfo.replace(f"{linux.addresses['_stext']:x}", f"{LINKED + 0x5000:x}")
    with pytest.raises(BadInput, match=r"another kernel: .* 0x2400000, _stext 0x5000; 1 of 2"):
        offset_of(linux, other)


def stating(linux, **distances):
    """Return VMCOREINFO with more symbols, each at a distance from where the image runs."""
    lines = [f"SYMBOL({name})={LINKED + linux.offset + at:x}\n" for name, at in distances.items()]
    return linux.vmcoreinfo + "".join(lines)


def test_all_that_vmcoreinfo_says_has_to_fit():
    linux = SmallLinux()
    more = stating(linux, schedule=0x2080, node_online_map=0x40_1234)
    # A pointer's value, as that of mem_section, is no address of the image.
    more += "SYMBOL(schedule_pointer)=ffff89c2effd5000\nSYMBOL(_etext)=ffff89c2effd5000\n"
    assert linux.offset == offset_of(linux, more).value
    # _stext and swapper_pg_dir are where those of the kernel are, and another function isn't.
    with pytest.raises(BadInput, match=r"swapper_pg_dir 0x2400000, schedule 0x2400100; 2 of 3 fit"):
        offset_of(linux, stating(linux, schedule=0x2180))


def test_of_static_symbols_of_one_name_any_may_be_meant():
    linux = SmallLinux()
    text = f"{LINKED + 0x40_1100:016x} d prb\n{LINKED + 0x40_1200:016x} d prb\n"
    symbols = parse_system_map((linux.system_map + text).encode())
    assert linux.offset == offset_of(linux, stating(linux, prb=0x40_1200), symbols).value
    with pytest.raises(BadInput, match="prb"):
        offset_of(linux, stating(linux, prb=0x40_1300), symbols)


def test_one_address_does_not_say_whose_symbols_they_are():
    linux = SmallLinux()
    text = "".join(line for line in linux.system_map.splitlines(keepends=True) if " T " in line)
    found = offset_of(linux, linux.vmcoreinfo, parse_system_map(text.encode()))
    assert linux.offset == found.value
    assert found.remark.endswith("_stext alone of them: whether they are this kernel's isn't known")
    none = parse_system_map(f"{LINKED + 0x2080:x} T schedule\n".encode())
    found = offset_of(linux, linux.vmcoreinfo, none)
    assert 0 == found.value
    assert "isn't known (KERNELOFFSET is 0x2400000): --symbols-offset says" in found.remark


def test_one_address_is_told_with_how_far_symbols_are_moved_or_alone():
    linux = SmallLinux()
    lines = linux.system_map.splitlines(keepends=True)
    text = parse_system_map("".join(line for line in lines if " T " in line).encode())
    alone = "VMCOREINFO has _stext alone of them: whether they are this kernel's isn't known"
    moved = f"KASLR: symbols are moved by 0x2400000 (VMCOREINFO); {alone}"
    assert moved == offset_of(linux, linux.vmcoreinfo, text).remark
    assert alone == offset_of(linux, linux.vmcoreinfo, text.moved(linux.offset)).remark
    # KASLR moves a kernel by multiples of 2 MiB.
    with pytest.raises(BadInput, match=r"_stext 0x23ff000; 1 of 1 fit"):
        offset_of(linux, linux.vmcoreinfo, text.moved(KIB4))


@pytest.mark.parametrize("end", ["", f"{LINKED:x} T _etext\n", f"{LINKED - 0x1000:x} T _etext\n"])
def test_symbols_without_an_end_of_text_behind_its_begin_tell_nothing_of_kaslr(end):
    linux = SmallLinux()
    found = offset_of(linux, "", parse_system_map(f"{LINKED:x} T _text\n{end}".encode()))
    assert 0 == found.value
    assert "symbols don't fit the image that the tables map" in found.remark


def test_tables_that_map_no_image_tell_nothing_of_kaslr():
    symbols = parse_system_map(SmallLinux().system_map.encode())
    found = symbols_offset(symbols, {}, PageTables().map(0, 0x8000).memory, context(4))
    assert 0 == found.value
    assert "symbols don't fit the image that the tables map" in found.remark


def test_an_image_whose_text_is_not_all_executable_tells_nothing_of_kaslr():
    linux = SmallLinux()
    start = LINKED + linux.offset
    tables = linux.tables.change(start + 0x2000, add=XD)
    found = symbols_offset(
        parse_system_map(linux.system_map.encode()), {}, tables.memory, linux.context
    )
    assert 0 == found.value
    assert "--symbols-offset says" in found.remark


def test_values_of_vmcoreinfo_that_are_no_numbers_say_nothing():
    linux = SmallLinux()
    more = "SYMBOL(schedule)=here\nSYMBOL(_etext)=\nSYMBOL(_text)=-81000000\nSYMBOL(x)=0x10\n"
    found = offset_of(linux, linux.vmcoreinfo + more)
    assert (linux.offset, "KASLR: symbols are moved by 0x2400000 (VMCOREINFO)") == (
        found.value,
        found.remark,
    )
    info = linux.vmcoreinfo.replace("KERNELOFFSET=", "KERNELOFFSET=0x")
    none = parse_system_map(f"{LINKED + 0x2080:x} T schedule\n".encode())
    assert "isn't known: --symbols-offset says" in offset_of(linux, info, none).remark


def test_where_a_file_has_no_stext_the_text_begins_with_text():
    linux = SmallLinux()
    lines = linux.system_map.splitlines(keepends=True)
    some = "".join(line for line in lines if "_stext" not in line and "_pgt" not in line)
    found = offset_of(linux, linux.vmcoreinfo, parse_system_map(some.encode()))
    assert linux.offset == found.value
    assert "VMCOREINFO has _stext alone of them" in found.remark


def test_distances_are_told_with_their_sign():
    linux = SmallLinux()
    there, above = symbols_of(linux), symbols_of(linux).moved(0x60_0000)
    with pytest.raises(BadInput, match=r"swapper_pg_dir 0x0, schedule 0x100; 2 of 3 fit"):
        offset_of(linux, stating(linux, schedule=0x2180), there)
    with pytest.raises(BadInput, match=r"swapper_pg_dir 0x0, schedule -0x80; 2 of 3 fit"):
        offset_of(linux, stating(linux, schedule=0x2000), there)
    found = offset_of(linux, linux.vmcoreinfo, above)
    assert (-0x60_0000, "KASLR: symbols are moved by -0x600000 (VMCOREINFO)") == (
        found.value,
        found.remark,
    )


@pytest.mark.parametrize(("pages_behind", "offset"), [(2, 0x240_0000), (1, 0)])
def test_the_text_of_an_image_may_be_in_pages_of_two_sizes(pages_behind, offset):
    start = LINKED + 0x240_0000
    tables = PageTables().map(start, 4 * MIB2, P | PS, level=2)
    for page in range(pages_behind):
        tables.map(start + MIB2 + page * KIB4, 0x8000, P)
    text = f"{LINKED:x} T _text\n{LINKED + MIB2 + 0x1800:x} T _etext\n"
    symbols = parse_system_map(text.encode())
    assert offset == symbols_offset(symbols, {}, tables.memory, context(4)).value


@pytest.mark.parametrize("part", ["__start_rodata", "_sdata"])
def test_an_image_whose_data_has_other_rights_is_another_kernels(part):
    linux = SmallLinux()
    there = parse_system_map(linux.system_map.encode())
    changed = linux.tables.change(linux.addresses[part], add=RW, drop=XD)
    assert 0x240_0000 == symbols_offset(there, {}, changed.memory, linux.context).value
    other = linux.tables.change(linux.addresses[part], drop=RW | XD)
    assert 0 == symbols_offset(there, {}, other.memory, linux.context).value


@pytest.mark.parametrize(("part", "end"), [("_etext", 0x2800), ("__end_rodata", 0x20_6000)])
def test_an_image_whose_parts_end_elsewhere_is_another_kernels(part, end):
    linux = SmallLinux()
    lines = [line.split() for line in linux.system_map.splitlines()]
    moved = [(f"{LINKED + end:x}" if name == part else at, kind, name) for at, kind, name in lines]
    without = [row for row in moved if row[2] != part or part == "_etext"]
    there, none = (
        parse_system_map("".join(f"{' '.join(row)}\n" for row in rows).encode())
        for rows in (moved, without)
    )
    assert 0 == offset_of(linux, "", there).value
    # Without the end of read-only data nothing contradicts; that of text is needed.
    assert (0 if part == "_etext" else linux.offset) == offset_of(linux, "", none).value


def test_read_only_data_that_ends_with_a_page_that_is_not_mapped_is_another_kernels():
    linux = SmallLinux()
    there = parse_system_map(linux.system_map.encode())
    end = linux.addresses["__end_rodata"]
    tables = linux.tables.map(end, 0x8000, P | RW).change(end - KIB4, drop=P)
    assert 0 == symbols_offset(there, {}, tables.memory, linux.context).value
    tables.change(end - KIB4, add=P)
    assert linux.offset == symbols_offset(there, {}, tables.memory, linux.context).value


def test_symbols_of_no_kernel_are_not_moved():
    own = parse_system_map(b"0000000000401000 T _start\n")
    linux = SmallLinux()
    for info in (linux.vmcoreinfo, ""):
        found = offset_of(linux, info, own)
        assert (0, "") == (found.value, found.remark)
    named = parse_system_map(b"0000000000401000 T _stext\n0000000000402000 D swapper_pg_dir\n")
    assert (0, "") == (
        offset_of(linux, linux.vmcoreinfo, named).value,
        offset_of(linux, "", named).remark,
    )


@pytest.mark.parametrize("direct_map", [True, False])
def test_without_variables_the_layout_is_the_fixed_one_only_where_nothing_says_otherwise(
    direct_map,
):
    linux = SmallLinux()
    lines = [line for line in linux.system_map.splitlines() if "_base" not in line]
    symbols = parse_system_map("\n".join([*lines, ""]).encode()).moved(linux.offset)
    info = vmcoreinfo_values(linux.vmcoreinfo)
    memory, where = linux.memory, linux.context
    if not direct_map:
        tables = PageTables(4).map(linux.addresses["_text"], 0x8000)
        memory, where = tables.memory, context(4, root=tables.root)
    found = linux_regions(memory, where, symbols, info)
    names = [each.name for each in found.regions]
    assert direct_map == ("direct-map" in names)
    assert not {"kasan-shadow", "vmalloc", "vmemmap"} & set(names)
    assert "no symbols say so" in found.remarks[0]
    # Without KASLR, and where no table maps RAM at another place, it is the fixed one.
    plain = {**info, "KERNELOFFSET": "0"}
    names = [each.name for each in linux_regions(memory, where, symbols, plain).regions]
    assert direct_map != ("kasan-shadow" in names)
