"""Names of a 32-bit Linux kernel, out of its memory or of a file."""

import pytest

from crosswalk.walker.formats import Source, SourceKind
from crosswalk.walker.memory import Segments
from crosswalk.walker.symbols.known import vmcoreinfo_of
from tests.emu.cli.running import refused
from tests.walker.symbols.kallsyms_tables import LINKED_32
from tests.walker.symbols.small_linux_32 import SYMBOLS, SmallLinux32

MOVED = 0x180_0000
each_mode = pytest.mark.parametrize("mode", ["PAE", "32-bit"])
CR4 = {"PAE": "0x30", "32-bit": "0x10"}


@pytest.fixture
def walk(run, tmp_path):
    """Walk a kernel's memory with these options."""

    def walk(linux, *options):
        path = tmp_path / "linux.bin"
        path.write_bytes(linux.content)
        root = ("--cr3", hex(linux.context.cr3), "--cr4", CR4[linux.mode], "--efer", "0x800")
        return run("walk", path, *root, *options)

    return walk


def system_map(*, moved=0):
    return "".join(f"{at + moved:08x} {letter} {name}\n" for letter, name, at in SYMBOLS)


@each_mode
@pytest.mark.parametrize("offset", [0, MOVED])
def test_symbols_are_those_of_its_memory_wherever_it_runs(walk, mode, offset):
    linux = SmallLinux32(mode, offset)
    ran = walk(linux, "--symbols", "auto", "--json")
    assert 0 == ran.status
    assert f"{len(SYMBOLS)} symbols out of the kernel's memory" in ran.err
    found = {record["va"]: record["symbol"] for record in ran.records}
    # symbol_248_long_number is 0x80 + 248 * 16 bytes behind the beginning, and 16 long.
    assert ("_text", "symbol_248_long_number") == (
        found[hex(LINKED_32 + offset)],
        found[hex(LINKED_32 + offset + 0x1000)],
    )


@each_mode
def test_its_vmcoreinfo_is_the_one_whose_root_has_the_same_tables(mode):
    linux = SmallLinux32(mode)
    memory = Segments([(0, linux.content)])
    source = Source(name="", kind=SourceKind.RAW, memory=memory, context=linux.context)
    assert linux.vmcoreinfo() == vmcoreinfo_of(source)


@each_mode
def test_without_the_place_of_its_text_there_are_no_symbols_and_that_is_said(walk, mode):
    ran = walk(SmallLinux32(mode, stext=False), "--symbols", "auto")
    assert 0 == ran.status
    assert "no symbols: VMCOREINFO doesn't say where the kernel's text is" in ran.err


@each_mode
def test_symbols_of_a_file_are_moved_as_kaslr_has_moved_the_kernel(walk, tmp_path, mode):
    path = tmp_path / "System.map"
    stext = f"{LINKED_32:08x} T _stext\n"
    path.write_text(stext + system_map())
    ran = walk(SmallLinux32(mode, MOVED), "--symbols", path, "--json")
    assert "KASLR: symbols are moved by 0x1800000 (VMCOREINFO)" in ran.err
    found = {record["va"]: record["symbol"] for record in ran.records}
    assert "symbol_248_long_number" == found[hex(LINKED_32 + MOVED + 0x1000)]


@each_mode
def test_symbols_of_another_kernel_are_refused(walk, tmp_path, mode):
    path = tmp_path / "System.map"
    path.write_text(f"{LINKED_32 + 0x40:08x} T _stext\n{system_map()}")
    assert "System.map: symbols of another kernel" in refused(
        walk(SmallLinux32(mode), "--symbols", path)
    )


@each_mode
def test_a_region_is_the_part_of_the_image_that_symbols_bound(walk, tmp_path, mode):
    path = tmp_path / "System.map"
    end = f"{LINKED_32 + 0x1000:08x} T _etext\n"
    path.write_text(f"{LINKED_32:08x} T _stext\n{system_map()}{end}")
    ran = walk(SmallLinux32(mode), "--symbols", path, "--in", "text", "--json")
    assert [(hex(LINKED_32), "text")] == [(each["va"], each["region"]) for each in ran.records]
