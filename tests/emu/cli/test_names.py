import pytest

from crosswalk.emu.cli import watch
from tests.emu.cli.running import refused
from tests.walker.formats.stubs import Stub
from tests.walker.symbols.kernel_elf import ALLOC, GLOBAL, NO_TYPE, PROGBITS, kernel_elf
from tests.walker.symbols.small_linux import LINKED, SYMBOLS, SmallLinux

LINUX = SmallLinux()


@pytest.fixture
def linux(tmp_path):
    path = tmp_path / "linux.bin"
    path.write_bytes(LINUX.content)
    return path


@pytest.fixture
def system_map(tmp_path):
    path = tmp_path / "System.map"
    path.write_text(LINUX.system_map)
    return path


def regions(ran):
    return list(dict.fromkeys(record["region"] for record in ran.records))


def test_walk_names_regions_and_symbols_in_columns_of_their_own(run, linux, system_map):
    ran = run("walk", linux, "--symbols", system_map)
    assert "KASLR: symbols are moved by 0x2400000 (VMCOREINFO)" in ran.err
    text = next(line for line in ran.out.splitlines() if line.startswith("ffffffff83402000"))
    assert text.endswith("text            run_init_process+0xfc0")
    plain = run("walk", linux)
    before = [line[:60].rstrip() for line in ran.out.splitlines()]
    assert [line.rstrip() for line in plain.out.splitlines()] == before


def test_records_have_names_where_they_are_asked_for(run, linux, system_map):
    (first, *_) = run("walk", linux, "--json", "--symbols", system_map).records
    assert ["va", "pa", "size", "level", "flags", "rights", "region", "symbol"] == list(first)
    assert ("user", None) == (first["region"], first["symbol"])
    assert "region" not in run("walk", linux, "--json").records[0]


def test_in_chooses_regions_sections_and_symbols_whole_pages(run, linux, system_map):
    found = run("walk", linux, "--in", "text", "--in", "vmemmap", "--symbols", system_map, "--json")
    assert ["vmemmap", "text"] == regions(found)
    (page,) = run("walk", linux, "--in", "schedule", "--symbols", system_map, "--json").records
    assert hex(LINUX.addresses["schedule"] & -0x1000) == page["va"]
    kernel = run("walk", linux, "--in", "kernel", "--symbols", system_map, "--json")
    assert ["text", "rodata", "data", "bss", "kernel"] == regions(kernel)


def test_regions_can_be_chosen_without_symbols_and_are_not_shown_then(run, linux):
    ran = run("walk", linux, "--in", "direct-map", "--json")
    assert 2 == len(ran.records)
    assert "region" not in ran.records[0]
    assert "user" == regions(run("walk", linux, "--in", "user", "--symbols", "auto", "--json"))[0]


def test_name_chooses_pages_that_hold_a_symbol(run, linux, system_map):
    ran = run("walk", linux, "--symbols", system_map, "--name", "run_*", "--json")
    start = LINUX.addresses["run_init_process"] & -0x1000
    assert [hex(start), hex(start + 0x1000)] == [record["va"] for record in ran.records]
    both = ("--name", "run_*", "--in", "schedule")
    ran = run("walk", linux, "--symbols", system_map, *both, "--json")
    assert [] == ran.records
    assert ran.err.endswith("0 mappings\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--in", "txt"), "--in txt: no such region, section or symbol; there is text"),
        (("--name", "shedule"), "--name shedule: no such symbol; there is schedule"),
        (("--name", "nothing_*"), "--name nothing_*: no such symbol"),
        (("--name", "text"), "--name text: no such symbol"),
        (("--in", "\x1b[1m"), r"--in \x1b[1m: no such region"),
    ],
)
def test_a_name_that_there_is_not_is_an_error_with_those_near(
    run, linux, system_map, options, message
):
    assert message in refused(run("walk", linux, "--symbols", system_map, *options))


def test_without_symbols_their_names_are_no_regions(run, linux):
    line = refused(run("walk", linux, "--in", "do_fork"))
    advice = "--symbols auto, or --symbols FILE, gives names of symbols"
    assert line.endswith(f"no such region, section or symbol; {advice}")
    assert "--name needs --symbols" in refused(run("walk", linux, "--name", "x*"))


def test_the_way_that_was_tried_is_not_proposed_again(run, small_case):
    line = refused(run("walk", small_case, "--in", "do_fork"))
    assert line.endswith("it has no names of its own: --symbols FILE, auto or linux gives some")
    ran = run("walk", small_case, "--in", "do_fork", "--symbols", "auto")
    assert ran.err.endswith("it has no names of its own: --symbols FILE or linux gives some\n")
    ran = run("walk", small_case, "--in", "do_fork", "--symbols", "linux")
    assert ran.err.endswith("; --symbols FILE gives names of symbols\n")


def test_ranges_end_with_their_region_where_names_are_shown(run, tmp_path):
    # .text and what is behind it are one range, but for their names.
    path = tmp_path / "System.map"
    path.write_text(LINUX.system_map.replace("3800 T _etext", "2000 T _etext"))
    linux = tmp_path / "linux.bin"
    linux.write_bytes(LINUX.content)
    options = ("--coalesce", "--start", "0xffffffff83400000", "--end", "0xffffffff83404000")
    assert 1 == len(run("walk", linux, *options).out.splitlines())
    ran = run("walk", linux, *options, "--symbols", path, "--json")
    named = [tuple(record.values())[-3:] for record in ran.records]
    assert [
        ("text", "_text", "run_init_process"),
        ("kernel", "_etext", "kernel_randomize_memory"),
    ] == named
    assert ["region", "symbol", "last_symbol"] == list(ran.records[0])[-3:]
    ran = run("walk", linux, *options, "--symbols", path)
    assert ["_text … run_init_process", "_etext … kernel_randomize_memory"] == [
        line.rpartition("  ")[2] for line in ran.out.splitlines()
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--symbols", "nowhere"), "nowhere: no such file"),
        (("--symbols", __file__), "test_names.py: line 1 is no address, type and name"),
        (("--symbols", "auto", "--symbols-offset", "4096"), "--symbols-offset is for a file"),
        (("--symbols-offset", "4096"), "--symbols-offset needs --symbols"),
        (("--symbols", "MAP", "--symbols-offset", "x"), "'x' is not a number"),
    ],
)
def test_other_values_are_refused(run, linux, system_map, options, message):
    given = [system_map if each == "MAP" else each for each in options]
    assert message in refused(run("walk", linux, *given))


def test_symbols_of_another_kernel_are_refused(run, linux, tmp_path):
    path = tmp_path / "System.map"
    path.write_text(LINUX.system_map.replace("81400000 D init_top_pgt", "81408000 D init_top_pgt"))
    line = refused(run("walk", linux, "--symbols", path))
    assert "symbols of another kernel" in line
    ran = run("walk", linux, "--symbols", path, "--symbols-offset", "0x2400000", "--json")
    assert "text" in regions(ran)


def test_symbols_of_another_release_are_refused_and_a_remark_where_an_offset_is_given(
    run, linux, tmp_path
):
    banner = b"Linux version 6.1.0-other (me@here)\n\0"
    section = (b".rodata", LINKED + 0x20_0000, 0x1000, ALLOC, PROGBITS, banner)
    symbols = [
        (name.encode(), LINKED + at, 0, GLOBAL, NO_TYPE, 1)
        for name, (kind, at) in SYMBOLS.items()
        if kind == "R"
    ]
    path = tmp_path / "vmlinux"
    symbols.append((b"linux_banner", LINKED + 0x20_0000, 0, GLOBAL, NO_TYPE, 1))
    path.write_bytes(kernel_elf([section], symbols))
    line = refused(run("walk", linux, "--symbols", path))
    assert line.endswith("vmlinux: symbols of another kernel: release 6.1.0-other, not 6.1.0-small")
    ran = run("walk", linux, "--symbols", path, "--symbols-offset", "0x2400000")
    assert 0 == ran.status
    assert "release 6.1.0-other, not 6.1.0-small; they are moved by 0x2400000" in ran.err
    path.write_bytes(kernel_elf([(*section[:5], banner.replace(b"other", b"small"))], symbols))
    assert 0 == run("walk", linux, "--symbols", path).status


def test_the_guests_own_map_names_its_memory(run):
    ran = run("walk", "guest:4level", "--symbols", "auto", "--in", "stack", "--json")
    assert ["stack"] == regions(ran)
    assert 2 == len(ran.records)
    assert "there is user-stack" in refused(run("walk", "guest:4level", "--in", "user-stak"))
    direct = run("walk", "guest:4level", "--in", "direct-map", "--json")
    assert len(direct.records) > 500


def test_the_tables_of_a_linux_are_named_by_its_layout(run, linux):
    raw = run("walk", linux, "--symbols", "linux", "--json")
    assert {"direct-map", "cpu-entry-area", "kernel", "modules"} <= set(regions(raw))


def test_halves_have_names_on_every_system(run, linux, small_case):
    upper = run("walk", linux, "--symbols", "linux", "--in", "upper-half", "--json")
    assert {"user"} == set(regions(run("walk", linux, "--symbols", "linux", "--json"))) - set(
        regions(upper)
    )
    assert 3 == len(run("walk", small_case, "--in", "lower-half", "--json").records)
    assert [] == run("walk", small_case, "--in", "upper-half", "--json").records


def test_frames_are_called_by_the_regions_that_map_them(run, linux, system_map):
    ran = run("frames", linux, "--symbols", system_map, "--json")
    called = {record["pa"]: record["regions"] for record in ran.records}
    # The last page of .text ends behind it.
    assert "text, kernel" == called["0x100000"]
    # The direct map joins what may be written, and is named where nothing else maps a range.
    joined = "vmalloc, vmemmap, cpu-entry-area, espfix, kernel, rodata, data, bss"
    assert joined == called["0x104000"]
    assert "modules" == called["0x222000"]
    assert "direct-map" == called["0x0"]


def test_frames_of_an_address_and_wx_lines_have_names(run, linux, system_map):
    ran = run("frames", linux, "--of", "0x100000", "--symbols", system_map)
    assert any(line.endswith("text            _text") for line in ran.out.splitlines())
    assert any(line.endswith("direct-map") for line in ran.out.splitlines())
    ran = run("frames", linux, "--symbols", system_map)
    assert any(
        "executed through ffffffff83400000" in line and line.endswith("text: _text")
        for line in ran.out.splitlines()
    )


def test_translate_names_the_address(run, linux, system_map):
    va = hex(LINUX.addresses["schedule"] + 4)
    ran = run("translate", linux, va, "--symbols", system_map)
    assert ran.out.startswith(f"read of {va} at CPL 0  text: schedule+0x4\n")
    ran = run("translate", linux, va, "--symbols", system_map, "--json")
    assert ("text", "schedule+0x4") == (ran.document["region"], ran.document["symbol"])
    assert "region" not in run("translate", linux, va, "--json").document


def test_malformed_entries_are_named(run):
    err = run("walk", "guest:4level", "--symbols", "auto").err
    plain = run("walk", "guest:4level").err
    assert plain == err  # They lie in no region.
    ran = run("check", "guest:4level", "--symbols", "linux", "--end", "0x1000", "--jobs", "1")
    assert "va 0xc10000: sets a reserved bit  user" in ran.err


def test_what_watch_lists_is_named(run, linux, system_map, monkeypatch):
    content = bytearray(LINUX.content)
    entry = LINUX.tables.entry_pa(LINUX.addresses["schedule"])

    def changes(seconds):
        content[entry] ^= 2
        linux.write_bytes(content)

    monkeypatch.setattr(watch.time, "sleep", changes)
    options = ("--watch", "1", "--watch-count", "2", "--symbols", system_map)
    ran = run("walk", linux, *options)
    assert [True] == [
        line.endswith("text: run_init_process+0xfc0") for line in ran.out.splitlines()
    ]
    (record,) = run("walk", linux, *options, "--json").records
    assert ("text", "run_init_process+0xfc0") == (record["region"], record["symbol"])
    assert "--watch and --symbols: choose one of them" in refused(run("frames", linux, *options))


def test_a_live_kernels_variables_are_read_before_it_goes_on(run, system_map):
    with Stub(LINUX.memory).listening() as stub:
        ran = run("walk", stub.name, "--cr3", "0x1000", "--symbols", system_map, "--json")
    assert (True, False) == stub.found
    assert {"direct-map", "vmalloc", "vmemmap", "text"} <= set(regions(ran))
    assert "vmemmap are isn't known" not in ran.err
