import pytest

from crosswalk.emu.load.linux.image import HEADER_AT, KernelImage, parse_kernel
from crosswalk.walker.errors import BadInput
from tests.emu.load.linux.kernels import BASE, bzimage, elf_of, talking, vmlinux
from tests.packing import gzipped

ELF = vmlinux(talking(""))


def test_a_vmlinux_has_its_segments_by_physical_address_and_its_entry():
    kernel = parse_kernel(ELF)
    ((start, content, size),) = kernel.segments
    assert (BASE, BASE, 0x10000) == (start, kernel.entry, size)
    assert ELF[0x1000:] == content
    assert (b"", BASE + 0x10000) == (kernel.setup_header, kernel.end)


def test_a_bzimage_holds_a_vmlinux_its_setup_header_and_its_release():
    image = bzimage(gzipped(ELF), sectors=3)
    kernel = parse_kernel(image)
    assert parse_kernel(ELF).segments == kernel.segments
    # The header ends where the jump at its beginning leads to.
    assert image[HEADER_AT : 0x202 + 0x6A] == kernel.setup_header
    assert "6.1.0-tiny" == kernel.release


def test_sections_are_told_by_physical_address():
    kernel = KernelImage(
        segments=((BASE, b"text" * 0x400, 0x1000), (BASE + 0x4000, b"data", 0x3000)),
        entry=BASE,
        sections=((".text", BASE, 0x800), (".data", BASE + 0x4000, 4), (".bss", BASE + 0x5000, 9)),
    )
    assert kernel == parse_kernel(elf_of(kernel))
    assert () == parse_kernel(ELF).sections


BROKEN = [
    (b"", "neither a bzImage nor an ELF vmlinux"),
    (b"#!/bin/sh\n" * 100, "neither a bzImage nor an ELF vmlinux"),
    (b"\x7fELF", "a damaged ELF file"),
    (ELF[:100], "a damaged ELF file"),
    (elf_of(parse_kernel(ELF))[:-100], "a damaged ELF file"),
    (ELF[:0x1004], "a segment ends beyond its file"),
    (vmlinux("nop", machine=183), "not a guest for x86: an ELF file of EM_AARCH64"),
    (vmlinux("nop", kind=3), "an ELF file of EM_X86_64, ET_DYN"),
    (bzimage(b"", version=0x0207), "boot protocol 2.07; 2.08 is needed"),
    (bzimage(gzipped(ELF))[:0x250], "it ends in its header"),
    (bzimage(gzipped(ELF))[:-5], "truncated bzImage"),
    (bzimage(gzipped(b"no kernel")), "a damaged ELF file"),
    (bzimage(b"nothing known"), "unknown compression"),
]


@pytest.mark.parametrize("number", range(len(BROKEN)))
def test_what_is_no_kernel_is_refused(number):
    image, message = BROKEN[number]
    with pytest.raises(BadInput, match=message):
        parse_kernel(image)
