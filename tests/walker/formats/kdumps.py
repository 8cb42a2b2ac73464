"""Files in makedumpfile's kdump-compressed format, written for tests.

The layout is that of makedumpfile's diskdump_mod.h: a header and a sub-header of a block each, two
bitmaps (pages of RAM, pages in the file), a descriptor for each page in the file, the pages.
"""

import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import cramjam
import lzallright
import zstandard

BLOCK = 4096
ZLIB, LZO, SNAPPY, ZSTD = 1, 2, 4, 0x20

_UTSNAME = 65
_PAGE = struct.Struct("<QIIQ")


def packed(page: bytes, codec: int) -> bytes:
    """Return a page compressed by the codec of a descriptor's flags; 0 is none."""
    if codec == ZLIB:
        return zlib.compress(page)
    if codec == ZSTD:
        return zstandard.compress(page)
    if codec == SNAPPY:
        return bytes(cramjam.snappy.compress_raw(page))
    if codec == LZO:
        return bytes(lzallright.LZOCompressor().compress(page))
    return page


@dataclass(frozen=True, kw_only=True)
class Kdump:
    """What a file says: `pages` by frame number; `ram` are the frame numbers of all RAM."""

    pages: Mapping[int, bytes]
    ram: Iterable[int] = ()
    codec: int = ZLIB
    level: int = 31
    vmcoreinfo: bytes = b""
    notes: bytes = b""
    version: int = 6
    uts: str = "x"
    machine: str = "x86_64"
    frames: int | None = None
    status: int | None = None
    signature: bytes = b"KDUMP   "
    block: int = BLOCK
    narrow: bool = False

    def file(self, start: int | None = None, end: int | None = None) -> bytes:
        """Return the file, or the part of a split one that has the frames from start to end."""
        split = start is not None
        ram = set(self.ram) | set(self.pages)
        frames = max(ram, default=0) + 1 if self.frames is None else self.frames
        half = -(-frames // (8 * BLOCK)) * BLOCK
        present = _bitmap(ram, half)
        dumped = _bitmap(self.pages, half)
        notes_at = BLOCK + 104
        notes, vmcoreinfo_at = self.notes, 0
        if self.vmcoreinfo:
            head = struct.pack("<III12s", 11, len(self.vmcoreinfo), 0, b"VMCOREINFO")
            vmcoreinfo_at = notes_at + len(notes) + len(head)
            notes += head + self.vmcoreinfo + bytes(-len(self.vmcoreinfo) % 4)
        sub_blocks = -(-(104 + len(notes)) // BLOCK)
        names = ["Linux", *[self.uts] * 3, self.machine, self.uts]
        uts = b"".join(name.encode().ljust(_UTSNAME, b"\0") for name in names)
        status = self.codec if self.status is None else self.status
        fields = status, self.block, sub_blocks, 2 * half // BLOCK, min(frames, 0xFFFF_FFFF)
        header = struct.pack("<8sI390s", self.signature, self.version, uts)
        header = header.ljust(412 if self.narrow else 424, b"\0") + struct.pack("<5I", *fields)
        header = header.ljust(BLOCK, b"\0")
        layout = "<IIIIIQIQIQIQQQ" if self.narrow else "<QIIQQQQQQQQQQQ"
        first, last = start or 0, end or 0
        wide = (first, last, frames) if self.version >= 6 else (0, 0, 0)
        where = (vmcoreinfo_at, len(self.vmcoreinfo), notes_at if notes else 0, len(notes), 0, 0)
        sub = struct.pack(layout, 0, self.level, int(split), first, last, *where, *wide)
        sub = (sub.ljust(notes_at - BLOCK, b"\0") + notes).ljust(sub_blocks * BLOCK, b"\0")
        chosen = [pfn for pfn in sorted(self.pages) if not split or start <= pfn < end]
        at = (1 + sub_blocks) * BLOCK + 2 * half + _PAGE.size * len(chosen)
        descriptors, data = bytearray(), bytearray()
        for pfn in chosen:
            page, codec = packed(self.pages[pfn], self.codec), self.codec
            if len(page) >= BLOCK:
                page, codec = self.pages[pfn], 0
            descriptors += _PAGE.pack(at + len(data), len(page), codec, 0)
            data += page
        return b"".join([header, sub, present, dumped, descriptors, data])


def _bitmap(frames: Iterable[int], size: int) -> bytes:
    found = bytearray(size)
    for pfn in frames:
        found[pfn // 8] |= 1 << pfn % 8
    return bytes(found)


def flattened(content: bytes, piece: int = 5000) -> bytes:
    """Return the file in makedumpfile's flattened form: pieces in no order, one twice."""
    head = struct.pack(">16sqq", b"makedumpfile", 1, 1).ljust(BLOCK, b"\0")
    places = list(range(0, len(content), piece))
    records = [(0, b"\xff" * min(piece, len(content)))]
    records += [(at, content[at : at + piece]) for at in places[::-1]]
    body = b"".join(struct.pack(">qq", at, len(data)) + data for at, data in records)
    return head + body + struct.pack(">qq", -1, -1)
