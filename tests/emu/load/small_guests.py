"""Guests of a few instructions in every format, which look at what they are handed."""

import struct

from crosswalk.emu.cpu.cpu import GENERAL
from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.boot import Boot
from crosswalk.emu.load.formats import Given, open_image
from crosswalk.emu.load.points import parse_point
from tests.emu.load.elf_files import BASE, Part, code, elf_file

MIB = 1 << 20
DONE = parse_point("console:.")

# Says a full stop, and halts.
SAY_DONE = """
    mov dx, 0x3f8
    mov al, 0x2e
    out dx, al
    cli
    hlt
"""


def multiboot_header(flags=0, *more, checksum=None):
    magic = 0x1BADB002
    checksum = -(magic + flags) & 0xFFFF_FFFF if checksum is None else checksum
    return struct.pack(f"<{3 + len(more)}I", magic, flags, checksum, *more)


def multiboot2_header(*tags, architecture=0, checksum=None):
    """A header with these tags, each (type, flags, content), and the last one."""
    content = b""
    for kind, flags, inner in (*tags, (0, 0, b"")):
        tag = struct.pack("<HHI", kind, flags, 8 + len(inner)) + inner
        content += tag + bytes(-len(tag) % 8)
    magic, size = 0xE85250D6, 16 + len(content)
    checksum = -(magic + architecture + size) & 0xFFFF_FFFF if checksum is None else checksum
    return struct.pack("<IIII", magic, architecture, size, checksum) + content


def with_header(header, source=SAY_DONE, *, bits=32, **options):
    """An ELF file that begins with a boot loader's header, and code behind it."""
    start = BASE + (len(header) + 15) // 16 * 16
    content = header.ljust(start - BASE, b"\0") + code(source, address=start)
    return elf_file([Part(BASE, content, size=0x4000)], bits=bits, entry=start, **options)


def booted(data, until=DONE, *, as_=None, mib=16, seconds=20, **given):
    """The machine at a point of a guest's boot, and what was reached."""
    guest = open_image(data, "tiny", as_, Given(**given))
    boot = Boot(Ram(0, mib * MIB), guest)
    (reached,) = boot.run([], until, seconds)
    return boot.machine, reached


def at_entry(data, *, as_=None, mib=16, **given):
    """The machine at a guest's first instruction."""
    guest = open_image(data, "tiny", as_, Given(**given))
    return Boot(Ram(0, mib * MIB), guest).machine


def numbers(ram, at, form):
    """The numbers that lie in RAM at an address."""
    return struct.unpack(form, ram.read(at, struct.calcsize(form)))


def text_at(ram, at):
    """The text that begins in RAM at an address."""
    return ram.read(at, 256).partition(b"\0")[0].decode()


def general(machine, *names):
    """The values of general registers."""
    machine.cpu.load()
    return tuple(machine.cpu.general(GENERAL.index(name)) for name in names)
