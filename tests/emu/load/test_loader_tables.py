"""Whose page tables are in use: the loader's, the loader's with changes, or the guest's."""

import pytest

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.loader_tables import LoaderTables, TablesOf
from crosswalk.walker.memory import Segments
from tests.emu.load.elf_files import BASE, Part, code, elf_file
from tests.emu.load.small_guests import SAY_DONE, booted, multiboot_header, with_header
from tests.tables import KIB4, MIB2, OPEN, PS, A, D, P, PageTables, context

LOADER, CHANGED, GUEST = TablesOf


@pytest.fixture
def loaded():
    """The RAM with a loader's tables, these tables, and what tells whose are in use."""
    ram, tables = Ram(0, 1 << 20), PageTables().map(MIB2, MIB2, OPEN | PS, level=2)
    for pa, entry in tables.words.items():
        ram.write(pa, entry.to_bytes(8, "little"))
    return ram, tables, LoaderTables(Segments([(0, ram.bytes)]), context())


def store(ram, pa, entry):
    ram.write(pa, entry.to_bytes(8, "little"))


def test_the_loaders_tables_stay_its_own_whatever_the_processor_sets(loaded):
    ram, tables, found = loaded
    assert LOADER == found.owner(context())
    leaf = tables.entry_pa(MIB2, 2)
    store(ram, leaf, tables.entries[leaf] | A | D)
    assert LOADER == found.owner(context(wp=False))


@pytest.mark.parametrize("level", [2, 3, 4])
def test_an_entry_that_the_guest_adds_makes_them_changed_ones(loaded, level):
    ram, tables, found = loaded
    store(ram, tables.entry_pa(MIB2, level) + 8 * 100, 0x8000 | P)
    assert CHANGED == found.owner(context())


def test_another_root_is_the_guests_and_so_is_another_table_in_its_frame(loaded):
    ram, tables, found = loaded
    assert GUEST == found.owner(context(root=0x8000))
    ram.write(tables.root, bytes(KIB4))
    store(ram, tables.root, 0x9000 | OPEN)
    assert GUEST == found.owner(context())


def test_where_a_guest_is_entered_without_paging_all_tables_are_its_own(loaded):
    ram, *_ = loaded
    found = LoaderTables(Segments([(0, ram.bytes)]), None)
    assert GUEST == found.owner(context())


# Copies the loader's root, and takes the copy.
OWN = f"""
    mov edi, {BASE + 0x10000}
    mov rsi, cr3
    mov ecx, 512
    rep movsq
    mov eax, {BASE + 0x10000}
    mov cr3, rax
"""
CHANGE = "mov rax, cr3\nmov rdx, [rax]\nmov [rax + 8], rdx\nmov cr3, rax\n"


@pytest.mark.parametrize(
    ("before", "owner"), [("", LOADER), (CHANGE, CHANGED), (OWN, GUEST)], ids=[*TablesOf]
)
def test_a_boot_says_whose_tables_are_in_use(before, owner):
    content = code(before + SAY_DONE, address=BASE, bits=64)
    _, reached = booted(elf_file([Part(BASE, content, size=0x20000)], bits=64))
    assert owner == reached.tables


def test_without_paging_there_are_none():
    _, reached = booted(with_header(multiboot_header()))
    assert (None, None) == (reached.paging, reached.tables)
