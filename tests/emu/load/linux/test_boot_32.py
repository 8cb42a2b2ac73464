"""A 32-bit kernel from its entry to paging, checked there as any other."""

import pytest

from crosswalk.emu.check import check
from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.boot import Boot
from crosswalk.emu.load.formats import open_image, parse_as
from crosswalk.emu.load.points import parse_point
from crosswalk.guest.init import init_archive
from crosswalk.walker.mappings import mappings
from tests.emu.load.linux.kernels import BASE, TABLES, bzimage, vmlinux_32
from tests.packing import gzipped

# The zero page has to be where ESI says, under paging: its magic number goes to the console.
SAY = """
    mov edi, [esi + 0x202]
    mov dx, 0x3f8
    mov ecx, 4
letters:
    mov eax, edi
    out dx, al
    shr edi, 8
    dec ecx
    jnz letters
    mov al, 0x0a
    out dx, al
    cli
    hlt
"""
# A page of 4 MiB around the kernel, one of 4 KiB that is read-only, and CR4.PSE.
BIT32 = f"""
    mov dword ptr [{TABLES + 4 * (BASE >> 22)}], {BASE + 0x83}
    mov dword ptr [{TABLES}], {TABLES + 0x1003}
    mov dword ptr [{TABLES + 0x1000 + 4 * 2}], 0x2001
    mov eax, 0x10
    mov cr4, eax
    mov eax, {TABLES}
    mov cr3, eax
    mov eax, 0x80010011
    mov cr0, eax
"""
# The same by PAE: the kernel's 2 MiB, and the zero page.
PAE = f"""
    mov dword ptr [{TABLES}], {TABLES + 0x1001}
    mov dword ptr [{TABLES + 0x1000 + 8 * (BASE >> 21)}], {BASE + 0x83}
    mov dword ptr [{TABLES + 0x1000}], {TABLES + 0x2003}
    mov dword ptr [{TABLES + 0x2000 + 8 * 2}], 0x2001
    mov eax, 0x20
    mov cr4, eax
    mov eax, {TABLES}
    mov cr3, eax
    mov eax, 0x80010011
    mov cr0, eax
"""


@pytest.mark.parametrize(("source", "levels", "size"), [(BIT32, 2, 4 << 20), (PAE, 3, 2 << 20)])
@pytest.mark.parametrize("packed", [False, True])
def test_a_32_bit_kernel_is_entered_pages_and_is_checked(source, levels, size, packed):
    image = vmlinux_32(source + SAY)
    # A vmlinux is known by Linux' banner, which this one doesn't have.
    if packed:
        guest = open_image(bzimage(gzipped(image)))
    else:
        guest = open_image(image, as_=parse_as("linux32"))
    assert ("linux32", 32, init_archive(bits=32)) == (
        guest.format.value,
        guest.image.bits,
        guest.initrd,
    )
    boot = Boot(Ram(0, 32 << 20), guest)
    (reached,) = boot.run([], parse_point("console:HdrS"), 60)
    assert levels == reached.context.levels
    assert [(0x2000, 0x2000, 4096, "r-x"), (BASE, BASE, size, "rwx")] == [
        (page.va, page.pa, page.size, str(page.rights.supervisor))
        for page in mappings(boot.memory, reached.context)
    ]
    verdict = check(boot.memory, reached.context)
    assert (0, ()) == (verdict.divergent, verdict.divergences)
    assert verdict.agreements > 20
