import gzip
import os
import platform
import stat
import struct

import pytest

from crosswalk.emu.cli import kallsyms, names
from crosswalk.walker.formats import open_source
from tests.emu.cli.running import refused
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
    payload = gzip.compress(b"\x7fELF of a kernel")
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
