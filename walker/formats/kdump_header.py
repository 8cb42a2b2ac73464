"""The headers of kdump-compressed files, and which frames such a file speaks of.

The format is makedumpfile's (diskdump_mod.h: `disk_dump_header`, `kdump_sub_header`), in blocks of
4 KiB: header, sub-header with the notes, two bitmaps of all frames (RAM, and what of it is in the
file), a descriptor of 24 bytes for each frame in the file, and the pages. QEMU's
`dump-guest-memory -z` writes it, too (include/sysemu/dump.h). A 32-bit kernel's headers have
shorter fields.
"""

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.errors import BadInput, LimitExceeded
from crosswalk.walker.formats.located_errors import one_line
from crosswalk.walker.memory import FRAME

__all__ = ["KDUMP", "MAX_FRAMES", "MAX_RUNS", "Bytes", "Header", "Runs", "read_header", "read_runs"]

KDUMP = b"KDUMP   "
"""What a kdump-compressed file begins with."""

MAX_FRAMES = 1 << 34
"""The most frames a file may speak of: 64 TiB, as much as Linux has with 4 levels."""

MAX_RUNS = 1 << 20
"""The most runs of frames that the bitmaps of a file may name."""

_IDENTITY = struct.Struct("<8sI")
_MACHINE = slice(12 + 4 * 65, 12 + 5 * 65)
# Newer versions of QEMU say Unknown of every guest.
_MACHINES = ("x86_64", "i386", "i486", "i586", "i686", "Unknown", "")
# Where the fields from `status` on begin: status, block_size, sub_hdr_size, bitmap_blocks,
# max_mapnr. What lies before is the time, and aligned to a long.
_FIELDS = struct.Struct("<IIIII")
_AT_64, _AT_32 = 424, 412
# phys_base, dump_level, split, start_pfn, end_pfn, offset and size of VMCOREINFO, of the notes and
# of erased data; start_pfn, end_pfn and max_mapnr of version 6.
_SUB_64 = struct.Struct("<QiiQQQQQQQQQQQ")
_SUB_32 = struct.Struct("<IiiIIQIQIQIQQQ")
_SPLIT, _VMCOREINFO, _NOTES, _WIDE = 2, 3, 4, 6  # The versions that have these.
_CHUNK = 1 << 20


class Bytes(Protocol):
    """A file's bytes."""

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`; `BadInput` past the end."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What the headers say.

    `identity` is the same in all parts of a split dump. `status` are the flags of the file (how
    pages are compressed, 8: incomplete), `level` is makedumpfile's -d, `frames` the number of
    frames that the bitmaps speak of. `part` are the frame numbers [start, end) of a split dump that
    this file has, None of a whole one. `descriptors` is the offset of the first page descriptor.
    """

    identity: bytes
    narrow: bool
    status: int
    level: int
    frames: int
    bitmap: int
    bitmap_size: int
    descriptors: int
    part: tuple[int, int] | None
    vmcoreinfo: tuple[int, int]
    notes: tuple[int, int]


def read_header(file: Bytes) -> Header:
    """Return the headers of a file; `BadInput` where they are none, or of another machine."""
    head = _part(file, 0, FRAME)
    signature, version = _IDENTITY.unpack_from(head)
    if signature != KDUMP:
        raise BadInput("not a kdump-compressed file")
    machine = one_line(head[_MACHINE].split(b"\0")[0].decode("latin-1"))
    if machine not in _MACHINES:
        raise BadInput(f"kdump-compressed file of another machine: {machine}")
    found = {at: _FIELDS.unpack_from(head, at) for at in (_AT_64, _AT_32)}
    at = next((at for at, each in found.items() if each[1] == FRAME), None)
    if at is None:
        raise BadInput(f"kdump-compressed file: blocks of {found[_AT_64][1]} bytes, not of {FRAME}")
    status, _, sub_blocks, bitmap_blocks, frames = found[at]
    layout = _SUB_64 if at == _AT_64 else _SUB_32
    sub = layout.unpack_from(_part(file, FRAME, layout.size))
    _, level, split, start, end, info, info_size, notes, notes_size, _, _, *wide = sub
    if version >= _WIDE:
        start, end = wide[:2]
        frames = wide[2] or frames
    if frames > MAX_FRAMES:
        raise LimitExceeded(f"kdump-compressed file of {frames:,} frames; at most {MAX_FRAMES:,}")
    bitmap, size = (1 + sub_blocks) * FRAME, bitmap_blocks * FRAME
    return Header(
        identity=head[:at] + head[at + 4 : at + _FIELDS.size],  # An incomplete part says so.
        narrow=at == _AT_32,
        status=status,
        level=level if version else 0,
        frames=frames,
        bitmap=bitmap,
        bitmap_size=size,
        descriptors=bitmap + size,
        part=(min(start, frames), min(end, frames)) if version >= _SPLIT and split else None,
        vmcoreinfo=(info, info_size) if version >= _VMCOREINFO else (0, 0),
        notes=(notes, notes_size) if version >= _NOTES else (0, 0),
    )


def _part(file: Bytes, offset: int, size: int) -> bytes:
    if offset + size > len(file):
        raise BadInput(
            f"truncated kdump-compressed file: its headers end at byte {offset + size:,}, "
            f"the file at {len(file):,}"
        )
    return file.read(offset, size)


@dataclass(frozen=True)
class Runs:
    """Frame numbers that follow each other: run n is [starts[n], ends[n]), in ascending order."""

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    @cached_property
    def before(self) -> NDArray[np.int64]:
        """How many frames come before each run, and at last how many there are."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.ends - self.starts)])

    @property
    def frames(self) -> int:
        """How many frames they are."""
        return int(self.before[-1])

    @classmethod
    def of(cls, parts: Iterable["Runs"]) -> "Runs":
        """Return the runs of all frames that are in any of these."""
        several = list(parts)
        starts = np.concatenate([np.zeros(0, np.int64), *(each.starts for each in several)])
        ends = np.concatenate([np.zeros(0, np.int64), *(each.ends for each in several)])
        order = np.argsort(starts, kind="stable")
        starts, ends = starts[order], np.maximum.accumulate(ends[order])
        begins = np.flatnonzero(np.concatenate([np.ones(1, np.bool_), starts[1:] > ends[:-1]]))
        if not len(starts):
            return cls(starts, ends)
        return cls(starts[begins], ends[np.append(begins[1:] - 1, len(ends) - 1)])

    def within(self, start: int, end: int) -> "Runs":
        """Return the runs of those frames that are in [start, end)."""
        starts, ends = np.maximum(self.starts, start), np.minimum(self.ends, end)
        some = starts < ends
        return Runs(starts[some], ends[some])

    def without(self, others: "Runs") -> "Runs":
        """Return the runs of those frames that are in none of the others."""
        bounds = np.unique(np.concatenate([self.starts, self.ends, others.starts, others.ends]))
        starts, ends = bounds[:-1], bounds[1:]
        some = self.hold(starts) & ~others.hold(starts)
        return Runs.of([Runs(starts[some], ends[some])])

    def hold(self, frames: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return for each frame number whether a run has it."""
        if not len(self.starts):
            return np.zeros(len(frames), np.bool_)
        at = np.searchsorted(self.starts, frames, side="right") - 1
        found: NDArray[np.bool_] = (at >= 0) & (frames < self.ends[at])
        return found

    def rank(self, frames: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many frames of the runs come before each of these frame numbers."""
        at = np.searchsorted(self.starts, frames, side="right") - 1
        inside = np.minimum(frames, self.ends[at]) - self.starts[at]
        return np.where(at < 0, 0, self.before[at] + inside)


def read_runs(file: Bytes, header: Header) -> tuple[Runs, Runs]:
    """Return the frames of RAM, and those of them that are in the file (or a part beside it).

    An old file has one bitmap, which is both. Raises `BadInput` where the file ends before them,
    and `LimitExceeded` beyond `MAX_RUNS`.
    """
    needed = -(-header.frames // 8)
    if header.bitmap_size < needed:
        raise BadInput(
            f"kdump-compressed file: bitmaps of {header.bitmap_size:,} bytes "
            f"for {header.frames:,} frames"
        )
    second = header.bitmap
    if needed <= header.bitmap_size // 2:
        second += header.bitmap_size // 2
    if second + needed > len(file):
        raise BadInput(
            f"truncated kdump-compressed file: its bitmaps end at byte {second + needed:,}, "
            f"the file at {len(file):,}"
        )
    dumped = _runs(file.read, second, header.frames)
    if second == header.bitmap:
        return dumped, dumped
    return _runs(file.read, header.bitmap, header.frames), dumped


def _runs(read: Callable[[int, int], bytes], offset: int, bits: int) -> Runs:
    """Return the runs of ones among `bits` bits of a file, lowest bit of a byte first."""
    edges, count, last = list[NDArray[np.int64]](), 0, 0
    for at in range(0, -(-bits // 8), _CHUNK):
        size = min(_CHUNK, -(-bits // 8) - at)
        part = np.frombuffer(read(offset + at, size), np.uint8)
        if part[0] == part[-1] == 255 * last and (part == part[0]).all():
            continue
        ones = np.unpackbits(part, bitorder="little", count=min(8 * size, bits - 8 * at))
        changes = np.flatnonzero(np.diff(ones, prepend=np.uint8(last))) + 8 * at
        last = int(ones[-1])
        count += len(changes)
        if count > 2 * MAX_RUNS:
            raise LimitExceeded(f"kdump-compressed file: more than {MAX_RUNS:,} runs of frames")
        edges.append(changes.astype(np.int64))
    if last:
        edges.append(np.array([bits], np.int64))
    both = np.concatenate([np.zeros(0, np.int64), *edges]).reshape(-1, 2)
    return Runs(both[:, 0], both[:, 1])
