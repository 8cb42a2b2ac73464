"""The first process of a Linux guest, and the archive that a kernel takes it from.

Source: System V ABI, chapters 4 and 5 (ELF); Linux Documentation/driver-api/early-userspace/
buffer-format.rst (the "newc" archive).
"""

import struct
from dataclasses import dataclass
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
_EXECUTABLE, _LOAD, _STACK = 2, 1, 0x6474_E551
_READ_EXECUTE, _READ_WRITE = 5, 6
_STACK_ALIGNMENT = 16

_DIRECTORY, _CONSOLE, _FILE = 0o040755, 0o020600, 0o100755


@dataclass(frozen=True, slots=True)
class _Format:
    """An ELF file's class: its headers, its machine, and the source of its program."""

    identity: bytes
    machine: int
    header: struct.Struct
    program: struct.Struct
    source: str
    patching: str

    @property
    def headers(self) -> int:
        """The size of the file's header and of two program headers, in bytes."""
        return self.header.size + 2 * self.program.size

    def program_header(self, kind: int, rights: int, va: int, size: int, alignment: int) -> bytes:
        """Return a program header for what begins with the file."""
        place = (0, va, va, size, size)
        fields = (rights, *place) if self is _FORMATS[64] else (*place, rights)
        return self.program.pack(kind, *fields, alignment)


_FORMATS = {
    32: _Format(
        b"\x7fELF\x01\x01\x01",
        3,
        struct.Struct("<16sHHIIIIIHHHHHH"),
        struct.Struct("<IIIIIIII"),
        "init32.s",
        "patching32.s",
    ),
    64: _Format(
        b"\x7fELF\x02\x01\x01",
        62,
        struct.Struct("<16sHHIQQQIHHHHHH"),
        struct.Struct("<IIQQQQQQ"),
        "init.s",
        "patching.s",
    ),
}


def init_program(*, patching: bool = False, bits: int = 64) -> bytes:
    """Return the process as a static ELF file: one segment, and a stack that isn't executable.

    It is of 64 or 32 `bits`. With `patching` it has the kernel load code and patch its own text
    before it is done.
    """
    form = _FORMATS[bits]
    names = (form.source, form.patching) if patching else (form.source,)
    folder = resources.files("crosswalk.guest").joinpath("asm")
    source = "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)
    symbols = {"AREA": AREA, "AREA_PAGES": AREA_PAGES, "SHARED": SHARED}
    symbols["PATCHING"] = int(patching)
    entry = _BASE + form.headers
    code = assemble(form.source, source, bits=bits, address=entry, symbols=symbols)
    size = form.headers + len(code)
    sizes = (form.header.size, form.program.size, 2, 0, 0, 0)
    return (
        form.header.pack(
            form.identity, _EXECUTABLE, form.machine, 1, entry, form.header.size, 0, 0, *sizes
        )
        + form.program_header(_LOAD, _READ_EXECUTE, _BASE, size, PAGE_BYTES)
        + form.program_header(_STACK, _READ_WRITE, 0, 0, _STACK_ALIGNMENT)
        + code
    )


def init_archive(*, patching: bool = False, bits: int = 64) -> bytes:
    """Return an initial RAM disk with the process as /init, and a console for it.

    `patching` and `bits` are those of `init_program`; with the former the archive has a folder for
    /proc.
    """
    return b"".join(
        (
            _member(1, "dev", _DIRECTORY, links=2),
            _member(2, "dev/console", _CONSOLE, device=(5, 1)),
            *([_member(4, "proc", _DIRECTORY, links=2)] if patching else []),
            _member(3, "init", _FILE, init_program(patching=patching, bits=bits)),
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
