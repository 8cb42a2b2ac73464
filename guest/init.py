"""The first process of a Linux guest, and the archive that a kernel takes it from.

Source: System V ABI, chapters 4 and 5 (ELF); Linux Documentation/driver-api/early-userspace/
buffer-format.rst (the "newc" archive).
"""

import struct
from importlib import resources

from crosswalk.guest.assembler import assemble
from crosswalk.walker.architecture import PAGE_BYTES

__all__ = [
    "AREA",
    "AREA_PAGES",
    "DONE",
    "FAILED",
    "SHARED",
    "STARTED",
    "init_archive",
    "init_program",
]

STARTED = "crosswalk init: started"
DONE = "crosswalk init: done"
FAILED = "crosswalk init: failed"
"""What the process writes to the console: first, and last if all went well or if not."""

AREA, AREA_PAGES = 0x1000_0000, 8
"""Its private memory. When it is done, the pages are: two read-only ones, the first of which hasn't
been written since the fork; one read-execute; one without rights; one unmapped; one read-write; the
others read-only, like the first."""

SHARED = 0x2000_0000
"""A page of memory that it shared with a child."""

_BASE = 0x40_0000
_ELF = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM = struct.Struct("<IIQQQQQQ")
_EXECUTABLE, _X86_64, _LOAD, _READ_EXECUTE, _STACK, _READ_WRITE = 2, 62, 1, 5, 0x6474_E551, 6

_DIRECTORY, _CONSOLE, _FILE = 0o040755, 0o020600, 0o100755


def init_program(*, patching: bool = False) -> bytes:
    """Return the process as a static ELF file: one segment, and a stack that isn't executable.

    With `patching` it has the kernel patch its own text before it is done.
    """
    headers = _ELF.size + 2 * _PROGRAM.size
    names = ("init.s", "patching.s") if patching else ("init.s",)
    folder = resources.files("crosswalk.guest").joinpath("asm")
    source = "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)
    symbols = {"AREA": AREA, "AREA_PAGES": AREA_PAGES, "SHARED": SHARED, "PATCHING": int(patching)}
    entry = _BASE + headers
    code = assemble("init.s", source, bits=64, address=entry, symbols=symbols)
    size = headers + len(code)
    return (
        _ELF.pack(
            b"\x7fELF\x02\x01\x01",
            _EXECUTABLE,
            _X86_64,
            1,
            entry,
            _ELF.size,
            0,
            0,
            _ELF.size,
            _PROGRAM.size,
            2,
            0,
            0,
            0,
        )
        + _PROGRAM.pack(_LOAD, _READ_EXECUTE, 0, _BASE, _BASE, size, size, PAGE_BYTES)
        + _PROGRAM.pack(_STACK, _READ_WRITE, 0, 0, 0, 0, 0, 16)
        + code
    )


def init_archive(*, patching: bool = False) -> bytes:
    """Return an initial RAM disk with the process as /init, and a console for it.

    `patching` is that of `init_program`; with it the archive has a folder for /proc.
    """
    return b"".join(
        (
            _member(1, "dev", _DIRECTORY, links=2),
            _member(2, "dev/console", _CONSOLE, device=(5, 1)),
            *([_member(4, "proc", _DIRECTORY, links=2)] if patching else []),
            _member(3, "init", _FILE, init_program(patching=patching)),
            _member(0, "TRAILER!!!", 0),
        )
    )


def _member(
    inode: int,
    name: str,
    mode: int,
    content: bytes = b"",
    *,
    links: int = 1,
    device: tuple[int, int] = (0, 0),
) -> bytes:
    text = name.encode() + b"\0"
    fields = (inode, mode, 0, 0, links, 0, len(content), 0, 0, *device, len(text), 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + text
    return _padded(head) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
