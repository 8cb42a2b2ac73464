"""/proc/kcore: the memory of the machine that one sits at, while it runs.

It is an ELF core of 128 TiB (Linux fs/proc/kcore.c), which can't be mapped: frames are read when
they are asked for. The segments of the direct map have physical addresses; those of vmalloc,
modules and vmemmap have none (p_paddr of all ones). The one of the kernel's image has, but lacks
what the kernel unmapped there after boot: the direct map has the same memory.
"""

import os
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from crosswalk.walker.context import Vendor
from crosswalk.walker.errors import LimitExceeded
from crosswalk.walker.fetched import FetchedMemory
from crosswalk.walker.formats.elfcore import note_places, notes_at, placed_segments
from crosswalk.walker.formats.elfheaders import NO_ADDRESS, PT_LOAD, Programs, read_headers
from crosswalk.walker.formats.elfnotes import vmcoreinfo_of
from crosswalk.walker.formats.elfsegments import Extent, apart
from crosswalk.walker.formats.files import FileWindow, open_window
from crosswalk.walker.formats.located_errors import errors_named, printable
from crosswalk.walker.formats.registers import Registers
from crosswalk.walker.formats.sources import Contents, SourceKind
from crosswalk.walker.memory import FRAME, U64, WORDS

__all__ = ["cpu_registers", "denied", "is_kcore", "read_kcore"]

_NAME = "kcore"
_RUNNING = "running machine's memory (/proc/kcore)"
_KERNEL_IMAGE = np.uint64(0xFFFF_FFFF_8000_0000)
_LARGEST_NOTES = 1 << 24
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH, _CAP_SYS_RAWIO = 1, 2, 17
_STATUS = Path("/proc/self/status")
_CPUINFO = "cpuinfo"
_VENDORS = {"GenuineIntel": Vendor.INTEL, "AuthenticAMD": Vendor.AMD, "HygonGenuine": Vendor.AMD}
_WIDTH = re.compile(r"(\d{1,2}) bits physical")
_LOCKDOWN = Path("/sys/kernel/security/lockdown")


def is_kcore(name: str) -> bool:
    """Return whether this names the file kcore of a procfs, whether or not it is there."""
    try:
        path = os.path.realpath(name)
    except ValueError:
        return False
    folder, base = os.path.split(path)
    # Wherever that is mounted, a procfs has an entry for the process that asks.
    return base == _NAME and os.path.isdir(os.path.join(folder, "self"))  # noqa: PTH112, PTH118


def read_kcore(name: str, notice: Callable[[str], None] | None = None) -> Contents:
    """Return the memory of the machine that this runs on, read by the piece while it changes.

    Of registers, what /proc/cpuinfo says: vendor, MAXPHYADDR, whether there are 1-GiB pages.
    Raises `BadInput` as `read_core` does, and where the file can't be opened: what permission
    is missing, or that the kernel has no such file. `notice` takes what is left aside.
    """
    with errors_named(name):
        here = is_kcore(name)
        window = open_window(name, denied)
        headers = read_headers(window)
        programs = _by_direct_map(headers.programs) if here else headers.programs
        placed = placed_segments(programs, len(window))
        places = note_places(headers.programs)
        if sum(size for _, size in places) > _LARGEST_NOTES:
            raise LimitExceeded(f"ELF core: more than {_LARGEST_NOTES >> 20} MiB of notes")
        notes = notes_at(memoryview(window[at : at + size]) for at, size in places)
        extents = list(apart(None, placed.extents))
        machine = "386" if headers.is_386 else "x86-64"
        beside = Path(os.path.realpath(name)).with_name(_CPUINFO)
    if placed.virtual and notice is not None:
        notice(f"{placed.virtual:,} segments have no physical address, and are left aside")
    return Contents(
        name=printable(name),
        kind=SourceKind.KCORE,
        memory=FetchedMemory(
            [(start, size) for start, _, size in extents], _Fetching(window, extents)
        ),
        registers=cpu_registers(_content(beside) if here else ""),
        format=_RUNNING if here else f"ELF core of {machine}, read by the piece",
        machine=machine,
        notes=tuple((note.name, note.kind, len(note.content)) for note in notes),
        vmcoreinfo=vmcoreinfo_of(notes),
    )


def _by_direct_map(programs: Programs) -> Programs:
    """Return the headers without those of the kernel's image, where others have addresses."""
    loads = programs["type"] == PT_LOAD
    image = loads & (programs["vaddr"] >= _KERNEL_IMAGE)
    others = loads & ~image & (programs["paddr"] != np.uint64(NO_ADDRESS))
    image &= programs["paddr"] != np.uint64(NO_ADDRESS)
    return programs[~image] if others.any() else programs


class _Fetching:
    """Reads frames out of the file, as many at a time as follow each other there."""

    def __init__(self, window: FileWindow, extents: list[Extent]) -> None:
        self._window = window
        self._extents = extents
        self._starts = [start for start, _, _ in extents]

    def __call__(self, frames: U64) -> U64:
        words = np.empty((len(frames), WORDS), np.uint64)
        content = words.data.cast("B")
        turns = np.flatnonzero(np.diff(frames) != FRAME) + 1
        row = 0
        with errors_named(self._window.name):
            for run in np.split(frames, turns):
                first, size = int(run[0]), len(run) * FRAME
                part = content[row * FRAME : row * FRAME + size]
                for begin, place, length in self._places(first, size):
                    self._window.read_into(part[begin : begin + length], place)
                row += len(run)
        return words

    def _places(self, first: int, size: int) -> Iterator[Extent]:
        """Yield where bytes of memory lie in the file: (offset from the first, place, size)."""
        done = 0
        at = bisect_right(self._starts, first) - 1
        while done < size:
            start, place, length = self._extents[at]
            inside = first + done - start
            part = min(length - inside, size - done)
            yield done, place + inside, part
            done += part
            at += 1


def cpu_registers(cpuinfo: str) -> Registers:
    """Return what the text of /proc/cpuinfo says of its first CPU, as far as it does.

    MAXPHYADDR is less than what CPUID says where memory encryption takes some bits.
    """
    first = cpuinfo.partition("\n\n")[0].splitlines()
    said = {name.strip(): value.strip() for name, _, value in (x.partition(":") for x in first)}
    width = _WIDTH.match(said.get("address sizes", ""))
    flags = said.get("flags")
    return Registers(
        vendor=_VENDORS.get(said.get("vendor_id", "")),
        maxphyaddr=None if width is None else int(width[1]),
        page1gb=None if flags is None else "pdpe1gb" in flags.split(),
    )


def denied(error: OSError) -> str:
    """Return why /proc/kcore can't be opened, and what is missing."""
    return _denied(error, _capabilities(_STATUS), _content(_LOCKDOWN))


def _denied(error: OSError, capabilities: int, lockdown: str) -> str:
    reason = (error.strerror or str(error)).lower()
    if isinstance(error, FileNotFoundError):
        return (
            f"{reason}: the kernel was built without CONFIG_PROC_KCORE, or this container has no "
            "access to it"
        )
    if not isinstance(error, PermissionError):
        return reason
    if not capabilities >> _CAP_SYS_RAWIO & 1:
        return f"{reason}: it takes CAP_SYS_RAWIO, which root has"
    if not capabilities >> _CAP_DAC_OVERRIDE & 1 and not capabilities >> _CAP_DAC_READ_SEARCH & 1:
        return f"{reason}: it is root's, and takes CAP_DAC_READ_SEARCH for anybody else"
    if "[confidentiality]" in lockdown:
        return f"{reason}: the kernel is locked down (confidentiality)"
    return (
        f"{reason}: it takes CAP_SYS_RAWIO in the first user namespace, not a container's, and a "
        "kernel that isn't locked down (confidentiality)"
    )


def _capabilities(status: Path) -> int:
    """Return the effective capabilities of this process, a bit for each; 0 where nothing says."""
    lines = (line.partition(":") for line in _content(status).splitlines())
    found = next((value for name, _, value in lines if name == "CapEff"), "0")
    return int(found, 16)


def _content(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
