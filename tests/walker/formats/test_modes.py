"""The paging mode of tables whose EFER isn't known."""

from pathlib import Path

import pytest

from crosswalk.walker import Segments, count_mappings
from crosswalk.walker.formats import Registers, open_source
from crosswalk.walker.formats.modes import is_pae_root, with_mode
from tests.tables import OPEN, USED, P, PageTables

RAM = ((0, 1 << 16),)
FLAT = 0x00CF9B00


def pae(root=0x1000):
    return PageTables("PAE", root=root, ram=RAM).map(0xC000_1000, 0x5000).map(0x1000, 0x6000)


def long(levels=4, flags=USED):
    return PageTables(levels, ram=RAM).map(0x1000, 0x5000, upper=flags)


def mode(memory, **given):
    found, why = with_mode(memory, Registers(cr3=0x1000, **given))
    return found.long_mode, why


def test_tables_of_pae_paging_are_told_from_those_of_four_levels():
    assert (False, "the four entries at CR3 are PDPTEs of PAE") == mode(pae().memory)
    assert (True, "the entries at CR3 are no PDPTEs of PAE") == mode(long().memory)


@pytest.mark.parametrize("flags", [P | 2, P | 4, P | 0x20, P | 1 << 63])
def test_a_root_entry_that_grants_anything_is_none_of_pae(flags):
    assert True is mode(long(flags=flags).memory)[0]


def test_pdptes_need_not_begin_a_frame():
    memory = pae(root=0x1FE0).memory
    found, _ = with_mode(memory, Registers(cr3=0x1FE0))
    assert False is found.long_mode


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (0x2000 | P, True),
        (0x2000 | P | 0xE18, True),
        (0x2000, False),
        (0x2000 | P | 0x80, False),
        (0x2000 | P | 1 << 52, False),
        (1 << 40 | P, False),
        (0x8000_0000 | P, False),
    ],
    ids=["plain", "ignored bits", "absent", "PS", "bit 52", "outside", "outside below 4 GiB"],
)
def test_pdptes_are_present_lawful_and_lead_to_memory(entry, expected):
    memory = Segments([(0, bytes(0x1000) + entry.to_bytes(8, "little") + bytes(0x2FF8))])
    assert expected is is_pae_root(memory, 0x1000)


def test_a_root_above_4_gib_is_none_of_pae():
    tables = (0x2000 | P).to_bytes(8, "little") + bytes(0x2FF8)
    memory = Segments([(0x1000, tables), ((1 << 32) + 0x1000, tables)])
    assert is_pae_root(memory, 0x1000)
    assert not is_pae_root(memory, (1 << 32) + 0x1000)


@pytest.mark.parametrize(
    "given", [{"efer": 0xD00}, {"long_mode": True}, {"cr4": 0x10}], ids=["EFER", "mode", "no PAE"]
)
def test_what_is_known_is_not_asked_of_the_tables(given):
    registers = Registers(cr3=0x1000, **given)
    assert (registers, "") == with_mode(pae().memory, registers)


def test_a_386_counts_where_the_tables_do_not_tell():
    empty = Segments([(0, bytes(0x4000))])
    registers = Registers(cr3=0x1000)
    assert (False, True) == tuple(
        with_mode(empty, registers, is_386=is_386)[0].long_mode for is_386 in (True, False)
    )


@pytest.fixture
def put(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def put(data):
        Path("image").write_bytes(data)
        return "image"

    return put


@pytest.mark.parametrize("machine", [3, 62])
def test_a_pae_core_is_never_read_with_four_levels(put, elf, machine):
    notes = elf.qemu_notes(elf.cpu_state(cr3=0x1000, cs_flags=FLAT))
    core = elf.Core(loads=[(0, pae().memory.read(0, 1 << 16))], notes=notes, machine=machine)

    source = open_source(put(core.build()))
    assert "PAE" == source.context.mode
    assert 2 == sum(count_mappings(source.memory, source.context).values())
    assert "efer = 0x800" in source.assumed
    why = {3: "the core is one of a 386", 62: "the four entries at CR3 are PDPTEs of PAE"}
    assert (f"EFER isn't known; no IA-32e mode, since {why[machine]}",) == source.remarks


def test_a_second_cpu_in_32_bit_code_of_a_64_bit_system_has_four_levels(put, elf):
    states = elf.cpu_state(cr3=0x1000), elf.cpu_state(cr3=0x1000, cs_flags=FLAT)
    core = elf.Core(loads=[(0, long().memory.read(0, 1 << 16))], notes=elf.qemu_notes(*states))
    name = put(core.build())

    for cpu in (0, 1):
        source = open_source(name, cpu=cpu)
        assert "4-level" == source.context.mode
        assert 1 == sum(count_mappings(source.memory, source.context).values())


def test_raw_tables_of_pae_paging_are_read_as_such(put):
    name = put(pae().memory.read(0, 1 << 16))

    source = open_source(name, Registers(cr3=0x1000))
    assert "PAE" == source.context.mode
    assert "4-level" == open_source(name, Registers(cr3=0x1000, efer=0xD00)).context.mode


def test_tables_that_make_sense_with_5_levels_are_hinted_at(put):
    hint = "the tables make sense with 5 levels, too: give --cr4 (LA57 is 0x1000)"
    name = put(long(5).memory.read(0, 1 << 16))
    assert hint in open_source(name, Registers(cr3=0x1000)).remarks
    assert hint not in open_source(name, Registers(cr3=0x1000, cr4=0x20)).remarks

    name = put(long(4, flags=OPEN).map(0x2000, 0x7000).memory.read(0, 1 << 16))
    assert hint not in open_source(name, Registers(cr3=0x1000)).remarks
