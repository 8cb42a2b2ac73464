"""The formats of guests: which one a file has, and the guest in it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from crosswalk.emu.load.elf import ElfGuest, read_elf_guest
from crosswalk.emu.load.elf64 import open_elf64
from crosswalk.emu.load.entry import Guest
from crosswalk.emu.load.handed import HandedOn
from crosswalk.emu.load.image import Format
from crosswalk.emu.load.linux.guest import LinuxGuest
from crosswalk.emu.load.linux.image import is_bzimage, parse_kernel
from crosswalk.emu.load.multiboot import find_multiboot, open_multiboot
from crosswalk.emu.load.multiboot2 import find_multiboot2, open_multiboot2
from crosswalk.emu.load.payload import compression_of, unpack
from crosswalk.emu.load.placing import Module
from crosswalk.emu.load.pvh import open_pvh, pvh_entry
from crosswalk.emu.load.raw import open_raw
from crosswalk.guest.init import init_archive
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.files import read_file
from crosswalk.walker.formats.located_errors import errors_named
from crosswalk.walker.symbols.elf import ELF

__all__ = [
    "As",
    "Given",
    "OpenedGuest",
    "open_guest",
    "open_image",
    "open_kernel",
    "parse_as",
    "recognise",
]

_MODES = {"16": 16, "32": 32, "64": 64}
_LINUX = (Format.LINUX64, Format.LINUX32)
_BANNER = b"Linux version "
_LOOKED_FOR = (
    "a Linux bzImage, a Multiboot2 header in the first 32 KiB, a Multiboot header in the first "
    "8 KiB, an ELF file with a PVH entry, of Linux, or of 64-bit code; --as raw@ADDRESS:MODE takes "
    "any bytes"
)


class OpenedGuest(Guest, Protocol):
    """A guest out of a file: a `Guest`, and its format."""

    @property
    def format(self) -> Format:
        """The format by which it was opened."""
        ...


@dataclass(frozen=True, slots=True)
class As:
    """A format that was asked for; `address` and `bits` are those of raw code."""

    format: Format
    address: int = 0
    bits: int = 0


@dataclass(frozen=True, slots=True)
class Given:
    """What a guest is given beside its file.

    Linux takes `initrd`, or one module in its place, or the project's own init without either.
    `levels` is 4 or 5, the paging of an entry in long mode.
    """

    modules: tuple[Module, ...] = ()
    arguments: str = ""
    initrd: bytes | None = None
    levels: int = 4


def parse_as(text: str) -> As:
    """Return the format that a text names: one of `Format`, or raw@ADDRESS:MODE.

    Raises `BadInput` for anything else.
    """
    name, _, where = text.partition("@")
    if name == Format.RAW:
        address, _, mode = where.partition(":")
        if mode not in _MODES or not (value := _address(address)):
            raise BadInput(f"{text!r} is not raw@ADDRESS:MODE, as raw@0x7c00:16 (MODE 16, 32, 64)")
        return As(Format.RAW, value, _MODES[mode])
    if where or name not in list(Format):
        names = ", ".join(each for each in Format if each != Format.RAW)
        raise BadInput(f"{text!r} is no format of a guest ({names}, raw@ADDRESS:MODE)")
    return As(Format(name))


def _address(text: str) -> int:
    try:
        value = int(text, 0)
    except ValueError:
        return 0
    return value if 0 < value < 1 << 32 else 0


def open_guest(path: Path, as_: As | None = None, given: Given | None = None) -> OpenedGuest:
    """Return the guest in a file, also a compressed one, in a format asked for or recognised.

    Raises `BadInput`, with the file's name, for a file that can't be read, or has no guest in it.
    """
    content = read_file(path)
    with errors_named(str(path)):
        return open_image(content, path.name, as_, given)


def open_kernel(path: Path, given: Given | None = None) -> OpenedGuest:
    """Return the Linux kernel in a file; `BadInput`, with the file's name, where it is none."""
    content = read_file(path)
    with errors_named(str(path)):
        return _linux(content, None, Given() if given is None else given)


def open_image(
    data: bytes, name: str = "guest", as_: As | None = None, given: Given | None = None
) -> OpenedGuest:
    """Return the guest in a file's content; `name` is the file's, without folders."""
    given = Given() if given is None else given
    if as_ is None or as_.format is not Format.RAW:
        data = unpack(data) if compression_of(data) else data
    if is_bzimage(data) and as_ is None:
        return _linux(data, None, given)
    chosen = As(recognise(data)) if as_ is None else as_
    if chosen.format in _LINUX:
        return _linux(data, chosen.format, given)
    if given.initrd is not None:
        raise BadInput(f"a guest of format {chosen.format} takes modules and no initial RAM disk")
    handed = HandedOn(name, given.arguments, given.modules)
    openers: dict[Format, Callable[[], OpenedGuest]] = {
        Format.MULTIBOOT: lambda: open_multiboot(data, handed),
        Format.MULTIBOOT2: lambda: open_multiboot2(data, handed),
        Format.PVH: lambda: open_pvh(data, handed),
        Format.ELF64: lambda: open_elf64(data, handed, given.levels),
        Format.RAW: lambda: open_raw(data, chosen.address, chosen.bits, handed, given.levels),
    }
    return openers[chosen.format]()


def recognise(data: bytes) -> Format:
    """Return the format of an unpacked file: the first that fits, in the order of `_LOOKED_FOR`.

    Raises `BadInput` where none fits, and for a damaged file.
    """
    if is_bzimage(data):
        return Format.LINUX64 if parse_kernel(data).bits == 64 else Format.LINUX32
    if find_multiboot2(data) is not None:
        return Format.MULTIBOOT2
    if find_multiboot(data) is not None:
        return Format.MULTIBOOT
    found = _of_elf(read_elf_guest(data)) if data.startswith(ELF) else None
    if found is None:
        raise BadInput(f"no guest of a known format; looked for: {_LOOKED_FOR}")
    return found


def _of_elf(elf: ElfGuest) -> Format | None:
    code64 = (elf.bits, elf.machine) == (64, "EM_X86_64")
    if _BANNER in elf.data:
        return Format.LINUX64 if code64 else Format.LINUX32
    if pvh_entry(elf) is not None:
        return Format.PVH
    return Format.ELF64 if code64 else None


def _linux(data: bytes, wanted: Format | None, given: Given) -> LinuxGuest:
    kernel = parse_kernel(data)
    found = Format.LINUX64 if kernel.bits == 64 else Format.LINUX32
    if wanted not in (None, found):
        raise BadInput(f"a kernel of {kernel.bits} bits: that is {found}, not {wanted}")
    if len(given.modules) > (given.initrd is None):
        raise BadInput("Linux takes one initial RAM disk, as --initrd or as one module")
    initrd = given.initrd
    if given.modules:
        initrd = given.modules[0].content
    elif initrd is None:
        initrd = b"" if kernel.bare else init_archive(bits=kernel.bits)
    return LinuxGuest(kernel, initrd, given.arguments, given.levels)
