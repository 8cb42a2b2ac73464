import bz2
import lzma

import pytest

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.formats import As, Given, open_guest, open_image, open_kernel, parse_as
from crosswalk.emu.load.image import Format
from crosswalk.emu.load.placing import Module
from crosswalk.emu.pc.firmware import RSDP
from crosswalk.walker.errors import BadInput
from tests.emu.load.elf_files import BASE, Part, elf_file, note
from tests.emu.load.linux.kernels import bzimage, talking, vmlinux
from tests.emu.load.small_guests import multiboot2_header, multiboot_header, with_header
from tests.packing import gzipped

LINUX = bzimage(gzipped(vmlinux(talking(""))))
LINUX32 = bzimage(gzipped(elf_file([Part(0x100_0000, b"\xf4")])))
PVH = elf_file([Part(BASE, b"\xf4")], notes=note(b"Xen", 18, BASE.to_bytes(4, "little")))
FILES = {
    "linux64": LINUX,
    "linux32": LINUX32,
    "multiboot2": with_header(multiboot2_header()),
    "multiboot": with_header(multiboot_header()),
    "pvh": PVH,
    "elf64": elf_file([Part(BASE, b"\xf4")], bits=64),
}


def bare():
    """A bzImage without a payload, as of memtest86+."""
    image = bytearray(bzimage(b"\xfa\xf4"))
    image[0x214:0x218] = (0x10_0000).to_bytes(4, "little")
    image[0x248:0x250] = bytes(8)
    return bytes(image)


@pytest.mark.parametrize("name", FILES)
def test_a_format_is_recognised_and_its_name_asks_for_it(name):
    found, asked = open_image(FILES[name]), open_image(FILES[name], as_=parse_as(name))
    assert name == found.format == asked.format
    assert found.image == asked.image


@pytest.mark.parametrize(("bits", "name"), [(32, "linux32"), (64, "linux64")])
def test_an_elf_file_with_linuxs_banner_is_linux_and_else_what_it_says(bits, name):
    banner = b"Linux version 9.9 (nobody)"
    pvh = note(b"Xen", 18, BASE.to_bytes(4, "little"))
    data = elf_file([Part(BASE, banner)], bits=bits, notes=pvh)
    assert name == open_image(data).format
    assert "pvh" == open_image(data.replace(b"Linux", b"Other")).format


@pytest.mark.parametrize("name", ["multiboot", "elf64"])
@pytest.mark.parametrize(
    "pack", [gzipped, bz2.compress, lzma.compress], ids=["gzip", "bzip2", "xz"]
)
def test_a_compressed_file_is_unpacked(name, pack):
    assert open_image(FILES[name]).image == open_image(pack(FILES[name])).image


def test_a_file_without_a_payload_is_entered_at_its_32_bit_code_and_is_no_linux():
    guest = open_image(bare())
    ((start, content, _),) = guest.image.segments
    assert (Format.LINUX32, 0x10_0000, 0x10_0000) == (guest.format, start, guest.image.entry)
    assert (b"\xfa\xf4", b"") == (content[-2:], guest.initrd)


def test_linux_takes_a_module_or_a_disk_or_the_projects_init():
    disk = Module("initrd", b"disk")
    assert b"disk" == open_image(LINUX, given=Given(modules=(disk,))).initrd
    assert b"other" == open_image(LINUX, given=Given(initrd=b"other")).initrd
    assert b"init" in open_image(LINUX).initrd
    for given in (Given(modules=(disk, disk)), Given(modules=(disk,), initrd=b"")):
        with pytest.raises(BadInput, match="one initial RAM disk"):
            open_image(LINUX, given=given)


@pytest.mark.parametrize(
    ("data", "as_", "message"),
    [
        (b"", None, "looked for: a Linux bzImage, a Multiboot2 header .* --as raw@ADDRESS:MODE"),
        (b"#!/bin/sh\n" * 99, None, "no guest of a known format"),
        (elf_file([Part(BASE, b"\xf4")]), None, "no guest of a known format"),
        (gzipped(b"nothing"), None, "no guest of a known format"),
        (gzipped(bytes(999))[:-20], None, "damaged gzip payload"),
        (FILES["elf64"][:99], None, "a damaged ELF file: truncated, what its headers name lies"),
        (FILES["elf64"][:20], None, "truncated to 20 bytes, in its header of 64"),
        (FILES["multiboot"][:20], None, "truncated to 20 bytes, in its header of 52"),
        (FILES["elf64"], "multiboot", "no Multiboot header in the first 8 KiB"),
        (FILES["elf64"], "multiboot2", "no Multiboot2 header in the first 32 KiB"),
        (FILES["elf64"], "pvh", "no note"),
        (FILES["multiboot"], "elf64", "not 64-bit code: an ELF32 file of EM_386"),
        (FILES["multiboot"], "linux64", "a kernel of 32 bits: that is linux32, not linux64"),
        (LINUX, "linux32", "a kernel of 64 bits: that is linux64, not linux32"),
        (b"text", "linux64", "neither a bzImage nor an ELF vmlinux"),
    ],
)
def test_a_file_that_fits_no_format_or_another_is_refused_in_one_line(data, as_, message):
    with pytest.raises(BadInput, match=message) as caught:
        open_image(data, as_=None if as_ is None else parse_as(as_))
    assert "\n" not in str(caught.value)


def test_a_disk_is_for_linux_alone():
    with pytest.raises(BadInput, match="a guest of format elf64 takes modules and no initial RAM"):
        open_image(FILES["elf64"], given=Given(initrd=b""))


@pytest.mark.parametrize(
    "text",
    [
        *("", "elf", "raw", "raw@", "raw@0x7c00", "raw@0x7c00:8", "raw@x:16", "raw@-1:16"),
        *("raw@0:16", "raw@0x100000000:64", "elf64@0x1000", "raw@0x7c00:16:16"),
    ],
)
def test_what_is_no_format_is_refused(text):
    with pytest.raises(BadInput, match=r"is no format of a guest|is not raw@ADDRESS:MODE"):
        parse_as(text)


def test_raw_code_has_an_address_and_a_mode():
    assert As(Format.RAW, 0x7C00, 16) == parse_as("raw@0x7c00:16")
    assert As(Format.RAW, 4096, 64) == parse_as("raw@4096:64")


def test_errors_name_the_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"text")
    for opening in (open_guest, open_kernel):
        with pytest.raises(BadInput, match=f"{path}: "):
            opening(path)


def test_the_name_of_the_file_is_handed_on_without_its_folder(tmp_path):
    path = tmp_path / "kernel.elf"
    path.write_bytes(FILES["multiboot"])
    assert "kernel.elf a b" == open_guest(path, given=Given(arguments="a b")).handed.command_line


@pytest.mark.parametrize(
    ("data", "firmware", "arguments"),
    [(bare(), b"RSD PTR ", b"a=1\0"), (LINUX, bytes(8), b"console=ttyS0 ")],
    ids=["bare", "Linux"],
)
def test_what_is_no_linux_gets_its_own_arguments_alone_and_a_firmware(data, firmware, arguments):
    ram = Ram(0, 32 << 20)
    open_image(data, given=Given(arguments="a=1")).place(ram)
    assert firmware == ram.read(RSDP, 8)
    line = int.from_bytes(ram.read(0x2000 + 0x228, 4), "little")
    assert arguments == ram.read(line, len(arguments))
