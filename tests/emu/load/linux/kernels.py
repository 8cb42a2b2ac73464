"""Kernels of a few instructions, in the formats that real ones come in."""

import struct

from crosswalk.guest.assembler import assemble
from tests.emu.cpu.assembly import SAY

BASE = 0x100_0000
TABLES = 0x120_0000
TEXT = "tiny kernel"

_ELF = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
PAGE = 0x1000

# Sixteen large pages, and a stack in them.
_OWN_TABLES = f"""
    mov esp, {BASE + 0xF000}
    mov ebx, {TABLES}
    mov dword ptr [rbx], {TABLES + 0x1003}
    mov dword ptr [rbx + 0x1000], {TABLES + 0x2003}
    mov eax, 0x83
    xor ecx, ecx
fill:
    mov [rbx + rcx * 8 + 0x2000], rax
    add eax, 0x200000
    inc ecx
    cmp ecx, 16
    jb fill
    mov cr3, rbx
"""


def vmlinux(source, *, own_tables=True, entry=BASE, machine=62, kind=2, base=BASE):
    """An ELF kernel that runs `source`, which may `call say`."""
    tables = _OWN_TABLES if own_tables else f"mov esp, {BASE + 0xF000}"
    code = assemble("tiny", f"{tables}\n{source}\n{SAY}", bits=64, address=BASE, symbols={})
    offset = 0x1000
    header = _ELF.pack(
        b"\x7fELF\x02\x01\x01", kind, machine, 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    segment = _PROGRAM.pack(1, 7, offset, base, base, len(code), 0x10000, 0x1000)
    return (header + segment).ljust(offset, b"\0") + code


def talking(then, text=TEXT):
    """The source of a kernel that says a line and does something else."""
    return f"""
    lea rdi, [rip + text]
    call say
    {then}
    cli
    hlt
text:
    .asciz "{text}\\n"
"""


def bzimage(payload, *, version=0x020F, sectors=1, release=b"6.1.0-tiny (nobody) #1"):
    """A bzImage with that payload, of which the header and nothing else is right."""
    start = (sectors + 1) * 512
    image = bytearray(start + 0x100)
    image[0x1F1] = sectors
    struct.pack_into("<H", image, 0x1FE, 0xAA55)
    image[0x200:0x202] = b"\xeb\x6a"
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, version)
    struct.pack_into("<H", image, 0x20E, 0x280)
    image[0x480 : 0x480 + len(release) + 1] = release + b"\0"
    struct.pack_into("<II", image, 0x248, 0x100, len(payload))
    return bytes(image) + payload


def elf_of(kernel):
    """An ELF file with a kernel's segments and sections; its machine says how many bits it has."""
    named = [name for name, *_ in kernel.sections]
    names = b"\0" + b"".join(name.encode() + b"\0" for name in [*named, ".shstrtab"])
    offset, programs, content = 0x1000, b"", b""
    for start, data, size in kernel.segments:
        programs += _PROGRAM.pack(1, 7, offset + len(content), start, start, len(data), size, PAGE)
        content += data.ljust(-(-len(data) // PAGE) * PAGE, b"\0")
    sections = _SECTION.pack(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    for name, start, size in kernel.sections:
        at = names.index(b"\0" + name.encode() + b"\0") + 1
        sections += _SECTION.pack(at, 1, 3, start, 0, size, 0, 0, 1, 0)
    end = offset + len(content)
    at = names.index(b"\0.shstrtab") + 1
    sections += _SECTION.pack(at, 3, 0, 0, end, len(names), 0, 0, 1, 0)
    count = len(kernel.sections) + 2
    header = _ELF.pack(
        b"\x7fELF\x02\x01\x01",
        *(2, {32: 3, 64: 62}[kernel.bits], 1, kernel.entry, 64, end + len(names), 0, 64, 56),
        *(len(kernel.segments), 64, count, count - 1),
    )
    return (header + programs).ljust(offset, b"\0") + content + names + sections


def vmlinux_32(source, base=BASE):
    """A 32-bit ELF kernel that runs `source`."""
    code = assemble("tiny32", source, bits=32, address=base, symbols={})
    offset = 0x1000
    header = struct.pack(
        "<16sHHIIIIIHHHHHH", b"\x7fELF\x01\x01\x01", 2, 3, 1, base, 52, 0, 0, 52, 32, 1, 0, 0, 0
    )
    segment = struct.pack("<IIIIIIII", 1, offset, base, base, len(code), 0x10000, 7, PAGE)
    return (header + segment).ljust(offset, b"\0") + code
