"""Boot images: the runner, what it is told to do, and room for its answers, as multiboot loads it.

base               pages of fixed places (`places.py`)
base + FIXED       the runs, encoded (`wire.py`)
behind them        scratch words; the results, in memory
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntFlag
from functools import cache
from hashlib import sha256
from importlib import resources
from typing import NamedTuple

from crosswalk.guest.assembler import assemble
from crosswalk.guest.boot import places
from crosswalk.guest.boot.legacy import legacy_pages, legacy_symbols, lent_entry
from crosswalk.guest.boot.log import MOST_STRAYS, Kind, Refusal, results_bound
from crosswalk.guest.boot.places import PAGE
from crosswalk.guest.boot.programs import Op, Run
from crosswalk.guest.boot.wire import RUN_WORDS, encoded, scratch_size
from crosswalk.guest.errors import AssemblyError
from crosswalk.walker.context import PagingMode
from crosswalk.walker.errors import BadInput

__all__ = [
    "SOURCES",
    "Output",
    "Place",
    "Results",
    "boot_image",
    "digest_of",
    "results_of",
    "size_bound",
    "size_of",
]

SOURCES = (
    "runner_start.s",
    "runner.s",
    "runner_traps.s",
    "runner_legacy_call.s",
    "runner_screen.s",
)
"""The sources of the runner's code, put together in this order; the first bytes are its entry."""

_ENTRY_SOURCE, _ACCESS_SOURCE = "runner_entry.s", "runner_accesses.s"

_TOP = 3 << 30
"""Where PCs may leave RAM for devices."""

_PRESENT, _WRITABLE, _USER, _ACCESSED, _DIRTY, _PS = 1, 2, 4, 0x20, 0x40, 0x80
_TABLE = _PRESENT | _WRITABLE | _ACCESSED
_LEAF = _TABLE | _DIRTY

# Multiboot 1: a header with addresses ("a.out kludge"), and the memory map is wanted.
_MULTIBOOT, _MULTIBOOT_FLAGS = 0x1BADB002, 0x10002
_WITH_SCREEN, _TEXT_SCREEN = 4, 1  # text if there is such a mode, else a framebuffer
_SAYS = 0x40  # Where the image says of itself what follows.
_MARK = b"crosswalk-boot/1"
_DIGEST_AT, _DIGEST = _SAYS + len(_MARK), 32
_ENTRY = 0xC0


class Output(IntFlag):
    """Where results go. They are in memory in any case, in the area `results_of` names."""

    MEMORY = 0
    """Nowhere else."""
    SERIAL = 1
    """COM1 at 115,200 baud, 8N1, if there is one."""
    DEBUG_PORT = 2
    """I/O port 0xE9, as Bochs and QEMU's isa-debugcon have it."""
    SCREEN = 4
    """The screen, at the end and for good, unless there is a COM1 that they went to: in pages, the
    next after a key or half a minute. `screen.py` reads them back."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the runner lies: from the physical address `base` on, a multiple of 2 MiB.

    Raises `BadInput` for one that isn't, or doesn't lie within 1 MiB to 3 GiB.
    """

    base: int

    def __post_init__(self) -> None:
        if self.base % (2 << 20) or not 1 << 20 <= self.base < _TOP:
            raise BadInput(f"{self.base:#x} is no place of the runner: 2 MiB to 3 GiB, by 2 MiB")

    def lent(self, mode: PagingMode, *, user: bool) -> int:
        """Return the entry of the run's root that shows the runner's pages.

        That of `Run.alias`, or of `Run.user` with `user`: of a PML5, PML4, a PDPTE or a PDE. In
        IA-32e mode the slots are chosen by bits of these addresses above the root's first slot;
        what they lead to starts at the slot's first address, 512 GiB wide in both modes.
        """
        match mode, user:
            case PagingMode.LEVEL4, False:
                return self.base + places.DIRECT3 | _TABLE
            case PagingMode.LEVEL4, True:
                return self.base + places.USER3 | _TABLE | _USER
            case PagingMode.LEVEL5, False:
                return self.base + places.DIRECT4 | _TABLE
            case PagingMode.LEVEL5, True:
                return self.base + places.USER4 | _TABLE | _USER
            case _:
                return lent_entry(self.base, mode)


@dataclass(frozen=True, slots=True)
class Results:
    """Where an image leaves its results: a physical address and a size in bytes."""

    address: int
    size: int


def size_of(runs: Sequence[Run]) -> int:
    """Return how many bytes the image of these runs occupies from its base on, in whole pages."""
    return _Layout.of(runs, [encoded(run) for run in runs]).size


def size_bound(run: Run) -> int:
    """Return how many bytes a run adds to an image at most: told without encoding it."""
    programs = sum(
        1 + 4 * len(each.steps) + len(each.watched) + 2 * len(each.signed) for each in run.programs
    )
    words = RUN_WORDS + len(run.clear) + 2 * len(run.words) + programs
    return 8 * words + scratch_size([run]) + results_bound([run])


def boot_image(runs: Sequence[Run], place: Place, output: Output = Output.SERIAL) -> bytes:
    """Return an image for multiboot 1 that does these runs, one after the other.

    It loads at `place.base` and may use `size_of(runs)` bytes from there. The same runs, place
    and output give the same bytes.

    Raises `BadInput` for a run that can't be encoded, and where the image would end above 3 GiB.
    """
    parts = [encoded(run) for run in runs]
    layout = _Layout.of(runs, parts)
    if place.base + layout.size > _TOP:
        raise BadInput(f"an image of {layout.size:,} bytes at {place.base:#x} ends above 3 GiB")
    image = bytearray(places.FIXED)
    code = _code()
    _put(image, places.ACCESS, code.accesses, PAGE)
    _put(image, places.CODE, code.rest, places.CODE_PAGES * PAGE)
    _put(image, places.DATA, _data(place.base, layout, output, len(parts)), PAGE)
    _put(image, places.GDT, _GDT, places.TSS - places.GDT)
    _put(image, places.TSS, bytes(102) + struct.pack("<H", 104), 104)
    for at, entry in _tables(place.base).items():
        image[at : at + 8] = entry.to_bytes(8, "little")
    _put(image, places.LEGACY, legacy_pages(place.base), places.FIXED - places.LEGACY)
    _put(image, places.HEAD, _head(place.base, layout, output), PAGE)
    image += b"".join(parts)
    image[_DIGEST_AT : _DIGEST_AT + _DIGEST] = sha256(image).digest()
    return bytes(image)


def digest_of(image: bytes) -> bytes:
    """Return the 32 bytes by which a log names the image it is of; `BadInput` for no such image."""
    _require(image)
    return image[_DIGEST_AT : _DIGEST_AT + _DIGEST]


def results_of(image: bytes) -> Results:
    """Return where this image leaves its results in memory; `BadInput` for no such image."""
    _require(image)
    return Results(*struct.unpack_from("<QQ", image, _DIGEST_AT + _DIGEST))


def _require(image: bytes) -> None:
    if image[_SAYS : _SAYS + len(_MARK)] != _MARK or len(image) < places.FIXED:
        raise BadInput("that is no boot image of this version")


@dataclass(frozen=True, slots=True)
class _Layout:
    """Offsets from the base."""

    loaded: int
    scratch: int
    results: int
    size: int

    @classmethod
    def of(cls, runs: Sequence[Run], parts: Sequence[bytes]) -> "_Layout":
        loaded = places.FIXED + sum(map(len, parts))
        scratch = _up(loaded)
        results = _up(scratch + scratch_size(runs))
        return cls(loaded, scratch, results, _up(results + results_bound(runs)))


def _up(size: int) -> int:
    return -(-size // PAGE) * PAGE


def _put(image: bytearray, at: int, data: bytes, room: int) -> None:
    if len(data) > room:
        raise AssemblyError(f"{len(data)} bytes of the runner don't fit into {room}")
    image[at : at + len(data)] = data


def _head(base: int, layout: _Layout, output: Output) -> bytes:
    """Return the first page: header, what the image says of itself, where execution begins."""
    addresses = (base, base, base + layout.loaded, base + layout.size, base + _ENTRY)
    flags = _MULTIBOOT_FLAGS | (_WITH_SCREEN if Output.SCREEN in output else 0)
    header = (_MULTIBOOT, flags, -(_MULTIBOOT + flags) & 0xFFFF_FFFF)
    head = bytearray(_ENTRY + 10)
    struct.pack_into("<8I", head, 0, *header, *addresses)
    if Output.SCREEN in output:
        struct.pack_into("<4I", head, 32, _TEXT_SCREEN, 0, 0, 0)
    head[_SAYS : _SAYS + len(_MARK)] = _MARK
    says = _DIGEST_AT + _DIGEST
    struct.pack_into("<QQ", head, says, base + layout.results, layout.size - layout.results)
    # mov ebp, base; jmp ENTRY
    struct.pack_into("<BIBi", head, _ENTRY, 0xBD, base, 0xE9, places.ENTRY - (_ENTRY + 10))
    return bytes(head).ljust(places.ENTRY, b"\0") + _code().entry


def _data(base: int, layout: _Layout, output: Output, runs: int) -> bytes:
    """Return the variables' first values; the assembly has their places as symbols."""
    data = bytearray(_VARIABLES["D_FREE"])
    values = {
        "D_BASE": base,
        "D_RUNS": base + places.FIXED,
        "D_RUN_COUNT": runs,
        "D_SCRATCH": base + layout.scratch,
        "D_OUT": base + layout.results,
        "D_RESULTS": base + layout.results,
        "D_END": base + layout.size,
        "D_OUTPUT": int(output),
        "D_ROOT": base + places.OWN4,
        "D_GDTR": 0xFF | base + places.GDT << 16,
    }
    for name, value in values.items():
        size = 16 if name == "D_GDTR" else 8
        data[_VARIABLES[name] : _VARIABLES[name] + size] = value.to_bytes(size, "little")
    return bytes(data)


_NAMES = (
    "D_BASE",
    "D_RUNS",
    "D_RUN_COUNT",
    "D_SCRATCH",
    "D_OUT",
    "D_END",
    "D_OUTPUT",
    "D_ROOT",
    "D_GDTR",
    "D_GDTR_REST",
    "D_IDTR",
    "D_IDTR_REST",
    "D_DM",
    "D_RUN",
    "D_RUN_INDEX",
    "D_STEP",
    "D_RESUME",
    "D_RSP",
    "D_AFTER_SWITCH",
    "D_INFO",
    "D_SEQUENCE",
    "D_RAM_COUNT",
    "D_LA57",
    "D_KEY",
    "D_POOL_USED",
    "D_PAGE1GB",
    "D_BURST",
    "D_KIND",
    "D_WROTE",
    "D_BLOCKS",
    "D_PROGRAMS",
    "D_PROGRAMS_LEFT",
    "D_NEXT",
    "D_COUNTS",
    "D_WATCHED",
    "D_SIGNED",
    "D_STEPS_LEFT",
    "D_WORD",
    "D_VECTOR",
    "D_ERROR",
    "D_RIP",
    "D_CR2",
    "D_SEEN",
    "D_FIRST",
    "D_ACCESS_RIP",
    "D_DONE_RIP",
    "D_INVPCID",
    "D_INVPCID_REST",
    "D_RESULTS",
    "D_SCREEN",
    "D_PITCH",
    "D_ROWS",
    "D_PIXEL",
    "D_SCALE",
    "D_WIDTH",
    "D_LINE",  # 80 bytes
    *(f"D_LINE_{at}" for at in range(1, 10)),
    "D_FREE",
)
_VARIABLES: Mapping[str, int] = {name: 8 * at for at, name in enumerate(_NAMES)}
"""Offsets in the page of variables, 8 bytes each; the legacy part's begin at D_FREE."""

_GDT = struct.pack(
    "<6Q",
    0,
    0x00CF9B000000FFFF,  # 0x08: code of 32 bits
    0x00AF9B000000FFFF,  # 0x10: code of 64 bits
    0x00CF93000000FFFF,  # 0x18: data
    0x00CFF3000000FFFF,  # 0x20: data of CPL 3
    0x00AFFB000000FFFF,  # 0x28: code of CPL 3
)
"""Behind them, at 0x30 and 0x40, TSS and LDT of 16 bytes each; Accessed is set, against writes."""


def _tables(base: int) -> dict[int, int]:
    """Return the runner's own paging structures: entries by their offset."""
    entries = {
        places.OWN4: base + places.DIRECT3 | _TABLE,
        places.OWN5: base + places.DIRECT4 | _TABLE,
        places.DIRECT4: base + places.DIRECT3 | _TABLE,
        places.USER4: base + places.USER3 | _TABLE | _USER,
        places.USER3: base + places.USER2 | _TABLE | _USER,
        places.USER2: base + places.USER1 | _TABLE | _USER,
        places.USER1: base + places.ACCESS | _LEAF | _USER,
    }
    for gib in range(4):
        table = places.DIRECT2 + gib * PAGE
        entries[places.DIRECT3 + 8 * gib] = base + table | _TABLE
        entries |= {
            table + 8 * slot: (gib << 30) + (slot << 21) | _LEAF | _PS for slot in range(512)
        }
    return entries


def symbols() -> dict[str, int]:
    """Return the constants that the runner's sources use, by name."""
    names = (name for name in places.__all__ if isinstance(getattr(places, name), int))
    return {
        **{f"P_{name}": getattr(places, name) for name in names},
        **{name: places.DATA + at for name, at in _VARIABLES.items()},
        **{f"KIND_{kind.name}": kind.value for kind in Kind},
        **{f"REFUSED_{refusal.name}": refusal.value for refusal in Refusal},
        **{f"OP_{op.name}": op.value for op in Op},
        "P_DIGEST": _DIGEST_AT,
        **{f"OUTPUT_{output.name}": output.value for output in Output},
        "MOST_STRAYS": MOST_STRAYS,
        **legacy_symbols(),
    }


class _Code(NamedTuple):
    entry: bytes
    accesses: bytes
    rest: bytes


@cache
def _code() -> _Code:
    return _Code(
        entry=_assembled((_ENTRY_SOURCE,), places.ENTRY, bits=32),
        accesses=_assembled((_ACCESS_SOURCE,), places.ACCESS),
        rest=_assembled(SOURCES, places.CODE),
    )


def _assembled(sources: Sequence[str], offset: int, *, bits: int = 64) -> bytes:
    folder = resources.files("crosswalk.guest").joinpath("asm")
    text = "\n".join(folder.joinpath(source).read_text(encoding="utf-8") for source in sources)
    name = sources[0]
    return assemble(name, text, bits=bits, address=offset, symbols=symbols())
