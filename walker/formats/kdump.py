"""Memory in kdump-compressed files: whole ones, flattened ones, and the parts of a split dump.

drgn reads these files, too, and the tests hold this reader to it. It isn't what reads them here: it
has no list of the frames in a file, wants VMCOREINFO and names in the header, which QEMU's files
lack, and maps a file without looking at its size, so that a truncated one ends the process
(SIGBUS).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from mmap import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.errors import BadInput, LimitExceeded
from crosswalk.walker.fetched import FetchedMemory
from crosswalk.walker.formats.elfnotes import CoreCpu, Note, cpus_of, notes_in, vmcoreinfo_of
from crosswalk.walker.formats.extras import LZO, SNAPPY, ZLIB, ZSTD, unpacker
from crosswalk.walker.formats.files import MappedFile, map_file
from crosswalk.walker.formats.flattened import FLATTENED, Flattened
from crosswalk.walker.formats.kdump_header import (
    KDUMP,
    MAX_RUNS,
    Bytes,
    Header,
    Runs,
    read_header,
    read_runs,
)
from crosswalk.walker.formats.located_errors import errors_named, one_line, printable
from crosswalk.walker.memory import FRAME, U64, WORDS

__all__ = ["MAX_BESIDE", "Kdump", "read_kdump"]

MAX_BESIDE = 4096
"""Of how many files beside a part of a split dump it is looked whether they are parts, too."""

_WHAT = "kdump-compressed file"
_INCOMPLETE = 8
_ZERO_PAGES = 1
_CODECS = {ZLIB: "zlib", LZO: "LZO", SNAPPY: "Snappy", ZSTD: "zstd"}
_DESCRIPTOR = np.dtype([("at", "<u8"), ("size", "<u4"), ("flags", "<u4"), ("page", "<u8")])
_SCANNED = 1 << 16
_LONGEST_NOTES = 1 << 24  # Of a CPU, Linux' take some 400 bytes, QEMU's 900.
_MOST_INCOMPLETE = 1 << 30
_STORED = 0x27  # The flags of a page that say how it is stored.


@dataclass(frozen=True, slots=True, kw_only=True)
class Kdump:
    """What a kdump-compressed file holds.

    `excluded` is the number of bytes of RAM that were left out on purpose and aren't backed,
    `missing` of those that should be in the file and aren't: it is incomplete, or parts of a split
    dump aren't beside it. `parts` are the names of the files that were read.
    """

    memory: FetchedMemory
    format: str
    excluded: int
    missing: int
    vmcoreinfo: str
    notes: tuple[Note, ...]
    cpus: tuple[CoreCpu, ...]
    narrow: bool
    parts: tuple[str, ...]


def read_kdump(file: MappedFile) -> Kdump:
    """Return the physical memory of a kdump-compressed file, and what else it says.

    Pages are read and unpacked when they are asked for. A page of RAM that isn't in the file reads
    as zeros where the dump's level left out zero pages alone, else it isn't backed. Of a split dump
    all parts in the same folder are read. Raises `BadInput` in one line for what isn't such a file,
    is truncated, or is compressed by what isn't installed, and `LimitExceeded` beyond the limits of
    `crosswalk.walker.formats.kdump_header`; of a damaged page when it is read.
    """
    data, how = _bytes_of(file.data)
    header = read_header(data)
    ram, dumped = read_runs(data, header)
    codecs = [name for codec, name in _CODECS.items() if header.status & codec]
    for codec in _CODECS:
        if header.status & codec:
            unpacker(codec, FRAME, _WHAT)
    parts = _parts(file, data, header, dumped)
    there = Runs.of(part.there for part in parts)
    zeros = header.level == _ZERO_PAGES
    # What the file lacks otherwise than by its level isn't known to be zeros.
    backed = Runs.of([there, ram.without(dumped)]) if zeros else there
    memory = FetchedMemory(_ranges(backed), _Pages(printable(file.name), parts).fetch)
    notes = tuple(notes_in(memoryview(_text(data, header.notes)))) if header.notes[1] else ()
    described = ", ".join([*(codecs or ["not compressed"]), *how])
    if header.part is not None:
        described += f", split in {len(parts)}" if len(parts) > 1 else ", a part of a split one"
    return Kdump(
        memory=memory,
        format=f"{_WHAT} ({described})",
        excluded=0 if zeros else max(ram.frames - dumped.frames, 0) * FRAME,
        missing=(dumped.frames - there.frames) * FRAME,
        vmcoreinfo=_vmcoreinfo(data, header, notes),
        notes=notes,
        cpus=cpus_of(notes, is_386=header.narrow),
        narrow=header.narrow,
        parts=tuple(part.name for part in parts),
    )


class _Plain:
    """The bytes of a file that is mapped."""

    def __init__(self, data: mmap) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def read(self, offset: int, size: int) -> bytes:
        if offset + size > len(self._data):
            raise BadInput(f"no byte {offset + size - 1:,} in a file of {len(self._data):,} bytes")
        return self._data[offset : offset + size]


def _bytes_of(data: mmap) -> tuple[Bytes, list[str]]:
    if data[: len(FLATTENED)] != FLATTENED:
        return _Plain(data), []
    file = Flattened(data)
    if len(file) < len(KDUMP) or file.read(0, len(KDUMP)) != KDUMP:
        raise BadInput("flattened file, not of a kdump-compressed one: `makedumpfile -R` first")
    return file, ["flattened"]


@dataclass(frozen=True, slots=True)
class _Part:
    """A file with pages: `there` are its frames, `ranks` the runs that count its descriptors."""

    name: str
    file: Bytes
    descriptors: int
    ranks: Runs
    there: Runs


def _parts(file: MappedFile, data: Bytes, header: Header, dumped: Runs) -> list[_Part]:
    """Return the file, and, if it is of a split dump, the other parts of that in its folder."""
    found = [_part(file.name, data, header, dumped)]
    if header.part is None:
        return found
    taken = [header.part]
    for name in _beside(file.name):
        try:
            other = _Plain(map_file(name).data)
            if other.read(0, len(KDUMP)) != KDUMP:
                continue
            its = read_header(other)
        except BadInput:
            continue  # What can't be read is no part.
        if its.identity != header.identity or its.part is None:
            continue
        start, end = its.part
        if all(end <= low or high <= start for low, high in taken):
            taken.append(its.part)
            with errors_named(name):
                found.append(_part(name, other, its, dumped))
    return found


def _beside(name: str) -> list[str]:
    """Return the other files in the folder of a file, the first ones by name."""
    path = Path(name)
    try:
        with os.scandir(path.parent) as entries:
            names = [each.name for each in entries if each.name != path.name and each.is_file()]
    except OSError:
        return []  # A folder that can't be listed has no parts to find.
    return [str(path.parent / each) for each in sorted(names)[:MAX_BESIDE]]


def _part(name: str, file: Bytes, header: Header, dumped: Runs) -> _Part:
    """Return a file with pages; `BadInput` where it ends before its last ones."""
    ranks = dumped if header.part is None else dumped.within(*header.part)
    count = ranks.frames
    incomplete = bool(header.status & _INCOMPLETE)
    ends = header.descriptors + count * _DESCRIPTOR.itemsize
    if ends > len(file):
        raise BadInput(
            f"truncated {_WHAT}: its page descriptors end at byte {ends:,}, "
            f"the file at {len(file):,}"
        )
    if incomplete:
        there = _written(file, header.descriptors, ranks)
        return _Part(name, file, header.descriptors, ranks, there)
    last = max(count - _SCANNED, 0)
    some = _descriptors(file, header.descriptors, last, count - last)
    pages_end = int((some["at"] + some["size"]).max(initial=0))
    if pages_end > len(file):
        raise BadInput(
            f"truncated {_WHAT}: its pages end at byte {pages_end:,}, the file at {len(file):,}"
        )
    return _Part(name, file, header.descriptors, ranks, ranks)


def _descriptors(file: Bytes, offset: int, first: int, count: int) -> NDArray[np.void]:
    size = _DESCRIPTOR.itemsize
    return np.frombuffer(file.read(offset + first * size, count * size), _DESCRIPTOR)


def _written(file: Bytes, offset: int, ranks: Runs) -> Runs:
    """Return the frames of an incomplete file whose pages were written before it ended."""
    count = ranks.frames
    if count > _MOST_INCOMPLETE:
        raise LimitExceeded(f"incomplete {_WHAT} of {count:,} pages; at most {_MOST_INCOMPLETE:,}")
    found, runs = list[Runs](), 0
    for first in range(0, count, _SCANNED):
        some = _descriptors(file, offset, first, min(_SCANNED, count - first))
        inside = (some["size"] > 0) & (some["at"] > 0) & (some["at"] + some["size"] <= len(file))
        at = np.flatnonzero(inside) + first
        run = np.searchsorted(ranks.before, at, side="right") - 1
        frames = ranks.starts[run] + at - ranks.before[run]
        found.append(Runs.of([Runs(frames, frames + 1)]))
        runs += len(found[-1].starts)
        if runs > MAX_RUNS:
            raise LimitExceeded(f"incomplete {_WHAT}: more than {MAX_RUNS:,} runs of frames")
    return Runs.of(found)


class _Pages:
    """The pages of one dump, by frame."""

    def __init__(self, name: str, parts: Sequence[_Part]) -> None:
        self._name = name
        self._parts = parts
        self._unpacker = cache(lambda codec: unpacker(codec, FRAME, _WHAT))

    def fetch(self, frames: U64) -> U64:
        """Return the words of frames; zeros for those that aren't in the file."""
        words = np.zeros((len(frames), WORDS), np.uint64)
        numbers = (frames // np.uint64(FRAME)).astype(np.int64)
        for part in self._parts:
            rows = np.flatnonzero(part.there.hold(numbers))
            if len(rows):
                with errors_named(part.name if len(self._parts) > 1 else self._name):
                    self._read(part, numbers[rows], rows, words)
        return words

    def _read(
        self, part: _Part, numbers: NDArray[np.int64], rows: NDArray[np.intp], words: U64
    ) -> None:
        ranks = part.ranks.rank(numbers)
        unpacked = dict[int, U64]()  # A page may stand for many: the one of zeros does.
        for first, count in _consecutive(ranks):
            some = _descriptors(part.file, part.descriptors, int(ranks[first]), count)
            for at, each in enumerate(some.tolist()):
                place = each[0]
                if place not in unpacked:
                    unpacked[place] = self._page(part.file, each, int(numbers[first + at]))
                words[rows[first + at]] = unpacked[place]

    def _page(self, file: Bytes, descriptor: tuple[int, int, int, int], number: int) -> U64:
        at, size, flags, _ = descriptor
        if not 0 < size <= FRAME or at + size > len(file):
            raise BadInput(
                f"{_WHAT}: the page at {number * FRAME:#x} has {size:,} bytes at byte {at:,} "
                f"of {len(file):,}; is the file damaged?"
            )
        unpack = self._unpacker(flags & _STORED)
        try:
            page = unpack(file.read(at, size))
        except ValueError as error:
            raise BadInput(
                f"{_WHAT}: the page at {number * FRAME:#x} is damaged: {one_line(str(error))}"
            ) from None
        if len(page) != FRAME:
            raise BadInput(
                f"{_WHAT}: the page at {number * FRAME:#x} has {len(page):,} bytes, not {FRAME:,}"
            )
        return np.frombuffer(page, np.uint64)


def _consecutive(ranks: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return (first, count) of the groups of ranks that follow each other."""
    begins = np.flatnonzero(np.concatenate([[True], np.diff(ranks) != 1]))
    counts = np.diff(np.append(begins, len(ranks)))
    return list(zip(begins.tolist(), counts.tolist(), strict=True))


def _ranges(runs: Runs) -> list[tuple[int, int]]:
    sizes = (runs.ends - runs.starts) * FRAME
    return list(zip((runs.starts * FRAME).tolist(), sizes.tolist(), strict=True))


def _text(file: Bytes, where: tuple[int, int]) -> bytes:
    offset, size = where
    if size > _LONGEST_NOTES:
        raise LimitExceeded(f"{_WHAT}: notes of {size:,} bytes; at most {_LONGEST_NOTES:,}")
    if offset + size > len(file):
        raise BadInput(
            f"truncated {_WHAT}: its notes end at byte {offset + size:,}, the file at {len(file):,}"
        )
    return file.read(offset, size)


def _vmcoreinfo(file: Bytes, header: Header, notes: Sequence[Note]) -> str:
    if not header.vmcoreinfo[1]:
        return vmcoreinfo_of(notes)
    return _text(file, header.vmcoreinfo).rstrip(b"\0").decode("utf-8", "replace")
