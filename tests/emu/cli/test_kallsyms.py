import os
import platform
import stat
import struct
from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.cli import kallsyms, names
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import Source, SourceKind, open_source
from crosswalk.walker.memory import Segments
from tests.emu.cli.running import refused
from tests.packing import gzipped
from tests.tables import KIB4, OPEN, A, P, PageTables, context
from tests.walker.symbols.kallsyms_tables import FORMS, LINKED, lines, symbols, tables
from tests.walker.symbols.small_linux import SYMBOLS, SmallLinux


def without_finder(tmp_path, monkeypatch):
    monkeypatch.setattr(kallsyms.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(kallsyms.shutil, "which", lambda name: None)


needs_drgn = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="drgn has wheels for x86-64 alone"
)


def image(tmp_path, linux=None):
    path = tmp_path / "linux.bin"
    path.write_bytes((linux or SmallLinux()).content)
    return path


@needs_drgn
def test_symbols_are_read_out_of_a_kernels_memory(run, tmp_path):
    linux = SmallLinux()
    ran = run("walk", image(tmp_path, linux), "--symbols", "auto", "--json")
    assert 0 == ran.status
    assert f"{len(SYMBOLS)} symbols out of the kernel's memory, by drgn" in ran.err
    symbols = {record["va"]: record["symbol"] for record in ran.records}
    assert "_text" == symbols[hex(linux.addresses["_text"])]
    assert "kernel_randomize_memory" == symbols[hex(linux.addresses["_text"] + 0x3000)]
    assert "run_init_process+0xfc0" == symbols[hex(linux.addresses["_text"] + 0x2000)]
    assert None not in {record["region"] for record in ran.records}


ENTRIES = 0xFFFF_FE00_0000_0000
"""Linux' cpu_entry_area."""


def mapped(memory, moved, *, hole=None, user=False):
    """A source in which a kernel's image is mapped page by page, but for the page of a hole.

    With `user` its root is user mode's, which maps the area of its entries alone.
    """
    tables = PageTables(ram=((0, 1 << 23),), root=0x2000)
    tables._free = 0x4000  # User mode's root is the frame above the kernel's.
    pages = [at for at in range(0, len(memory), KIB4) if hole is None or at != hole & -KIB4]
    for at in pages:
        tables.map(LINKED + moved + at, 0x20_0000 + at, P | A)
    tables.map(ENTRIES, 0x1000, P | A)
    content = bytearray(1 << 23)
    content[0x20_0000 : 0x20_0000 + len(memory)] = memory
    for pa, entry in tables.map(0x40_0000, 0x1000, OPEN | A).words.items():
        content[pa : pa + 8] = entry.to_bytes(8, "little")
    if user:
        content[0x3000:0x3800] = content[0x2000:0x2800]
        slot = 0x2000 + 8 * (ENTRIES >> 39 & 511)
        content[slot + 0x1000 : slot + 0x1008] = content[slot : slot + 8]
    physical = Segments([(0, np.frombuffer(content, np.uint8))])
    paging = context(4, root=0x3000 if user else 0x2000)
    return Source(name="", kind=SourceKind.LIVE, memory=physical, context=paging)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("moved", [0, 0x240_0000])
def test_symbols_are_read_by_the_projects_own_reader_wherever_the_kernel_runs(form, moved):
    held = [(letter, name, at + moved) for letter, name, at in symbols()]
    source = mapped(tables(held, form, address=LINKED + moved), moved)
    text, by = kallsyms.kallsyms_of_memory(source, "")
    assert (lines(held), "Crosswalk's own reader of kallsyms") == (text, by)


def test_a_page_that_is_not_mapped_is_no_reason_to_read_others_as_something_else(
    tmp_path, monkeypatch
):
    without_finder(tmp_path, monkeypatch)
    memory = tables(symbols(), "6.4")
    first = mapped(memory, 0, hole=0)
    assert lines(symbols()) == kallsyms.kallsyms_of_memory(first, "")[0]
    names = mapped(memory, 0, hole=memory.index(b"symbol_"))
    with pytest.raises(BadInput, match="vmlinux-to-elf isn't installed"):
        kallsyms.kallsyms_of_memory(names, "")


def test_under_user_modes_root_of_page_table_isolation_the_kernels_is_read():
    source = mapped(tables(symbols(), "5.10"), 0, user=True)
    found = names.kernel_context(source.memory, source.context)
    assert (0x2000, source.context.efer) == (found.root, found.efer)
    text, _ = kallsyms.kallsyms_of_memory(replace(source, context=found), "")
    assert lines(symbols()) == text
    # The kernel's own root has no other.
    assert found == names.kernel_context(source.memory, found)


@needs_drgn
def test_lines_of_kallsyms_have_the_addresses_at_which_the_kernel_runs(tmp_path):
    linux = SmallLinux()
    source = open_source(image(tmp_path, linux), width=52)
    text, by = kallsyms.kallsyms_of_memory(source, linux.vmcoreinfo)
    lines = text.decode().splitlines()
    assert "drgn" == by
    assert f"{linux.addresses['schedule']:016x} T schedule" in lines
    assert f"{linux.addresses['run_init_process']:016x} t run_init_process" in lines
    assert len(SYMBOLS) == len(lines)


@needs_drgn
def test_memory_that_lacks_kallsyms_leaves_regions_alone(run, tmp_path):
    linux = SmallLinux()
    content = bytearray(linux.content)
    # The tables' entry for the page with the names.
    entry = linux.tables.entry_pa(linux.addresses["__start_rodata"] + 0x1000)
    content[entry : entry + 8] = bytes(8)
    path = tmp_path / "without.bin"
    path.write_bytes(content)
    ran = run("walk", path, "--symbols", "auto")
    assert 0 == ran.status
    assert "regions alone, no symbols: drgn: nothing is mapped at" in ran.err
    assert "direct-map" in ran.out


def test_a_kernel_that_does_not_say_where_kallsyms_are_has_regions(run, tmp_path):
    ran = run("walk", image(tmp_path, SmallLinux(kallsyms=False)), "--symbols", "auto")
    assert 0 == ran.status
    assert "VMCOREINFO doesn't say where they are" in ran.err
    assert "the direct map is at 0xffff9a4000000000 by the tables" in ran.err


def test_without_what_finds_symbols_the_command_that_installs_it_is_named(
    run, tmp_path, monkeypatch
):
    monkeypatch.setattr(kallsyms, "find_spec", lambda name: None)
    without_finder(tmp_path, monkeypatch)
    ran = run("walk", image(tmp_path), "--symbols", "auto")
    assert 0 == ran.status
    why = (
        "drgn isn't installed; vmlinux-to-elf isn't installed: pip install 'crosswalk-x86[symbols]'"
    )
    assert f"no symbols: {why}" in ran.err


def test_vmlinux_to_elf_is_given_the_image_as_it_is_mapped(run, tmp_path, monkeypatch):
    linux = SmallLinux(kallsyms=False)
    copy = tmp_path / "image"
    start = linux.addresses["_text"]
    finder(tmp_path, monkeypatch, f'cp "$3" {copy}; echo "{start:016x} T _text"')
    ran = run("walk", image(tmp_path, linux), "--symbols", "auto", "--json")
    assert "1 symbol out of the kernel's memory, by vmlinux-to-elf" in ran.err
    content, ram = copy.read_bytes(), linux.content
    assert ram[0x10_0000:0x10_4000] == content[:0x4000]
    assert ram[0x11_0000:0x11_8000] == content[0x20_0000:0x20_8000]
    assert bytes(0x1000) == content[0x4000:0x5000]
    assert "_text" in {record["symbol"] for record in ran.records}


def test_a_crash_of_drgn_leaves_regions(run, tmp_path, monkeypatch):
    def crashes(source, info):
        os._exit(7)

    monkeypatch.setattr(kallsyms, "_read_by_drgn", crashes)
    ran = run("walk", image(tmp_path), "--symbols", "auto")
    assert 0 == ran.status
    assert "no symbols: drgn ended with status 7" in ran.err


def test_drgn_that_needs_too_much_memory_leaves_regions(run, tmp_path, monkeypatch):
    def grows(source, info):
        raise MemoryError

    monkeypatch.setattr(kallsyms, "_read_by_drgn", grows)
    ran = run("walk", image(tmp_path), "--symbols", "auto")
    assert 0 == ran.status
    assert "regions alone, no symbols: drgn" in ran.err


def test_memory_of_no_linux_has_no_names_of_its_own(run, small_raw):
    ran = run("walk", small_raw, "--cr3", "0x1000", "--symbols", "auto")
    assert 0 == ran.status
    assert "no VMCOREINFO of a Linux kernel was found" in ran.err
    assert ran.out == run("walk", small_raw, "--cr3", "0x1000").out


def bzimage():
    """A header of a bzImage before a payload that is stored, gzip's smallest."""
    payload = gzipped(b"\x7fELF of a kernel")
    head = bytearray(0x400)
    head[0x1F1] = 1
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x206, 0x20F)
    struct.pack_into("<II", head, 0x248, 0, len(payload))
    return bytes(head) + payload


def finder(tmp_path, monkeypatch, body):
    """A stand-in for vmlinux-to-elf's command."""
    folder = tmp_path / "bin"
    folder.mkdir()
    path = folder / "kallsyms-finder"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(kallsyms.sys, "executable", str(folder / "python"))


def test_symbols_of_a_bzimage_are_those_that_vmlinux_to_elf_finds(tmp_path, monkeypatch):
    script = (
        'test "$1 $2" = "--bit-size 64" && grep -q "ELF of a kernel" "$3" || exit 9\n'
        "echo '[+] Version string: 6.1'; echo 'ffffffff81000000 T _text'"
    )
    finder(tmp_path, monkeypatch, script)
    path = tmp_path / "vmlinuz"
    path.write_bytes(bzimage())
    file = names.symbols_of(str(path))
    assert ["_text"] == [each.name for each in file.symbols]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("echo broken >&2; exit 3", "vmlinux-to-elf ended with status 3: broken"),
        ("echo '[+] nothing'", "vmlinux-to-elf finds none"),
    ],
)
def test_a_bzimage_without_symbols_is_refused(
    run, tmp_path, monkeypatch, small_case, body, message
):
    finder(tmp_path, monkeypatch, body)
    path = tmp_path / "vmlinuz"
    path.write_bytes(bzimage())
    assert message in refused(run("walk", small_case, "--symbols", path))


def test_without_vmlinux_to_elf_the_command_that_installs_it_is_named(
    run, tmp_path, monkeypatch, small_case
):
    without_finder(tmp_path, monkeypatch)
    path = tmp_path / "vmlinuz"
    path.write_bytes(bzimage())
    line = refused(run("walk", small_case, "--symbols", path))
    assert "vmlinux-to-elf isn't installed: pip install 'crosswalk-x86[symbols]'" in line
