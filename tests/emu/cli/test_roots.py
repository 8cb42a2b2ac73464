"""`roots`, and commands that aren't told where the tables begin."""

import json

import pytest

from tests.emu.cli.incomplete_images import RAM, commands
from tests.emu.cli.running import refused
from tests.tables import OPEN, RW, XD, P, PageTables
from tests.walker.formats.conftest import Core, cpu_state, note, qemu_notes

KERNEL = 0xFFFF_FFFF_8000_0000
SIZE = 0x40000


def kernel():
    """A kernel's table with a page of the direct map, and its own frame twice as Linux' has it."""
    tables = PageTables(ram=((0, SIZE),)).map(KERNEL + 0x1000, 0x1000, P | XD)
    return tables.map(0xFFFF_8880_0000_1000, 0x1000, P | RW | XD)


def with_processes(*roots):
    """The kernel's, and processes that share its upper half and have a page of their own."""
    tables = kernel()
    for number, root in enumerate(roots):
        for index in range(256, 512):
            entry = tables.entries.get(0x1000 + 8 * index)
            if entry is not None:
                tables.entries[root + 8 * index] = entry
        table = 0x20000 + 0x3000 * number
        for above, below in (
            (root, table),
            (table, table + 0x1000),
            (table + 0x1000, table + 0x2000),
        ):
            tables.entries[above] = below | OPEN
        tables.entries[table + 0x2000] = 0x3F000 | OPEN
    return tables


def memory(tables):
    return bytearray(tables.memory.read(0, SIZE))


@pytest.fixture
def put(tmp_path):
    def write(data, name="memory"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


def cr3s(ran):
    return [record["cr3"] for record in ran.records]


def test_roots_are_listed_best_first_with_all_that_can_be_told(run, put):
    ran = run("roots", put(memory(with_processes(0xC000, 0xE000))), "--json")
    process = {"mode": "4-level", "group": 0, "mappings": 3, "user_mappings": 1, "source": "scan"}
    swapper = process | {"mappings": 2, "user_mappings": 0}
    assert 0 == ran.status
    assert [
        {"cr3": "0x1000", **swapper, "role": "swapper", "pair": None},
        {"cr3": "0xc000", **process, "role": "process", "pair": None},
        {"cr3": "0xe000", **process, "role": "process", "pair": None},
    ] == ran.records
    assert "3 roots" == ran.err.splitlines()[-1]


def test_every_root_is_a_line_for_people(run, put):
    image = put(memory(with_processes(0xC000)))
    lines = run("roots", image).out.splitlines()
    assert [
        ["0x1000", "4-level", "0", "2", "0", "swapper", "-", "scan"],
        ["0xc000", "4-level", "0", "3", "1", "process", "-", "scan"],
    ] == [line.split() for line in lines]


def test_what_is_named_goes_first_and_is_not_found_once_more(run, put):
    notes = qemu_notes(cpu_state(cr3=0xE000), cpu_state(cr3=0x1000))
    core = put(
        Core(loads=[(0, bytes(memory(with_processes(0xC000, 0xE000))))], notes=notes).build()
    )
    assert ["0xe000", "0x1000", "0xc000"] == cr3s(run("roots", core, "--json"))
    sources = [record["source"] for record in run("roots", core, "--json").records]
    assert ["cpu 0", "cpu 1", "scan"] == sources
    assert ["0x1000", "0xe000"] == cr3s(run("roots", core, "--json", "--no-scan", "--cpu", "1"))
    assert ["0xc000"] == cr3s(run("roots", core, "--json", "--cr3", "0xc000"))[:1]


def test_a_walk_without_cr3_takes_the_best_root_and_says_why(run, put):
    image = put(memory(with_processes(0xC000)))
    said = "root 0x1000: the likeliest of 2 that a search of the memory finds (swapper, 2 mappings)"
    for command in commands(image):
        ran = run(*command)
        assert 0 == ran.status
        assert said in ran.err + ran.out
    assert run("walk", image).out == run("walk", image, "--cr3", "0x1000").out
    assert "root 0x1000" not in run("walk", image, "--cr3", "0xc000").err


def test_the_root_of_vmcoreinfo_goes_before_those_that_are_searched(run, put):
    data = memory(with_processes(0xC000))
    text = f"OSRELEASE=6.1\nSYMBOL(swapper_pg_dir)={KERNEL + 0xC000:x}\nNUMBER(phys_base)=0\n"
    data[0x3E000 : 0x3E000 + len(text)] = text.encode()
    image = put(data)
    assert "root 0xc000: swapper_pg_dir of VMCOREINFO" in run("walk", image).err.splitlines()
    assert "vmcoreinfo" == run("roots", image, "--json").records[0]["source"]


def test_a_core_without_registers_reads_as_with_cr3(run, put):
    notes = note(b"VMCOREINFO\0", 0, b"OSRELEASE=6.1\n")
    core = put(Core(loads=[(0, bytes(memory(kernel())))], notes=notes).build())
    assert run("walk", core).out == run("walk", core, "--cr3", "0x1000").out


def test_info_shows_the_roots_where_none_is_named(run, put):
    image = put(memory(with_processes(*range(0xA000, 0x14000, 0x1000))))
    lines = run("info", image).out.splitlines()
    assert "roots: 11" in lines
    assert "  … and 3 more: `crosswalk roots` lists them" == lines[-1]
    found = run("info", image, "--json").document
    assert run("roots", image, "--json").records == found["roots"]
    assert "roots" not in run("info", image, "--cr3", "0x1000", "--json").document


def test_where_no_root_is_found_one_line_says_so(run, put):
    nothing = put(bytes(RAM[0][1]))
    assert "memory: no root is named, and none was found in its memory" in refused(
        run("roots", nothing)
    )
    assert "memory: no root is named" in refused(run("roots", nothing, "--no-scan"))
    give = "no root was found in its memory: give --cr3"
    assert give in refused(run("walk", nothing))
    ran = run("info", nothing, "--json")
    assert (2, "raw") == (ran.status, json.loads(ran.out)["kind"])
    assert give in ran.err


def test_a_booted_guest_has_the_root_of_its_cpu(run):
    first, *_ = run("roots", "guest:5level", "--json").records
    assert ("cpu 0", "5-level") == (first["source"], first["mode"])
