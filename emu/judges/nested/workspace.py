"""A pair of tables as a machine gets it: marks around the tables, and what the machine is lent.

Lent are frames of the machine's own with the code that makes accesses, and the tables that lead to
it. Slot `HOST_SLOT` of the host's first table under test leads there; so does, where the guest's
tables under test have to, slot `GUEST_SLOT` of every frame, since any may be the guest's first
table. Word `SIGN` of every frame is a mark that tells which page was reached. Predictions are made
for the memory as it is then, in which all of this is in plain sight.

    guest-physical     LENT_GPA + 0x0000    quiet guest tables: a PML4, a PDPT, a PD, a PT
                       LENT_GPA + 0x4000    code for CPL 0, code for CPL 3
    linear             CODE_VA              the code for CPL 0; one page on, that for CPL 3
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.judges.nested.marks import mark_words, marked
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import FRAME, U64, WORDS, PhysicalMemory, Segments
from crosswalk.walker.nested.context import NestedContext

__all__ = [
    "CODE_VA",
    "GUEST_SLOT",
    "HOST_SLOT",
    "LENT_BYTES",
    "LENT_GPA",
    "QUIET_ROOT",
    "SIGN",
    "HostFormat",
    "Lending",
    "Workspace",
    "make_workspace",
]

HOST_SLOT, GUEST_SLOT, SIGN = 1, 0x1F0, 0x1F1
LENT_GPA = HOST_SLOT << 39
CODE_VA = GUEST_SLOT << 39 | 0xFFFF << 48
QUIET_ROOT = LENT_GPA

_HOST_TABLES, _GUEST_TABLES, _CODE_PAGES = 3, 4, 2
LENT_BYTES = (_HOST_TABLES + _GUEST_TABLES + _CODE_PAGES) * FRAME
_MOST = 1 << 19
"""Bytes of a pair's memory: all of it is compared after every access."""

# Present, writable, user, accessed, dirty; global. What is user's is so at the page alone.
_TABLE, _KERNEL, _USER = 0x67, 0x161, 0x165


class HostFormat(Protocol):
    """How entries are written that lead to what is lent, with all rights, and used already."""

    def table(self, pa: int) -> int:
        """Return an entry that leads to a table."""
        ...

    def page(self, pa: int, *, writable: bool) -> int:
        """Return an entry of the last level."""
        ...


@dataclass(frozen=True)
class Workspace:
    """A pair as it is put to a machine; `starts` uint64[n] are its frames, `words` what they hold.

    `marks` bool[n, 512] says which words are marks. `context` is that of the prediction.
    """

    context: NestedContext
    starts: U64
    words: U64
    marks: NDArray[np.bool_]

    @cached_property
    def runs(self) -> tuple[tuple[int, int, int], ...]:
        """The stretches of neighbouring frames: address, number of the first frame, frames."""
        cuts = np.flatnonzero(np.diff(self.starts) != np.uint64(FRAME)) + 1
        firsts = [0, *cuts.tolist()]
        ends = [*firsts[1:], len(self.starts)]
        return tuple(
            (int(self.starts[first]), first, end - first)
            for first, end in zip(firsts, ends, strict=True)
        )

    @cached_property
    def memory(self) -> Segments:
        """All of it as memory, for predictions."""
        return Segments(
            [(start, self.words[at : at + count].tobytes()) for start, at, count in self.runs]
        )

    def frame(self, pa: int) -> int | None:
        """Return the number of the frame that holds an address, None for one outside."""
        at = int(np.searchsorted(self.starts, np.uint64(pa & -FRAME)))
        return at if at < len(self.starts) and int(self.starts[at]) == pa & -FRAME else None

    def shows(self, access: Access, pa: int) -> bool:
        """Return whether a machine can show that an access has reached this address.

        It can't outside the pair's memory; of a read where another frame has the same word in the
        mark's place; of a fetch of what isn't a mark, which may do anything, and where no mark
        tells the frame.
        """
        frame = self.frame(pa)
        if frame is None or access.type is AccessType.WRITE:
            return frame is not None
        alone = int((self.words[:, SIGN] == self.words[frame, SIGN]).sum()) == 1
        runs = self.marks[frame, pa % FRAME // 8] and self.marks[frame, SIGN]
        return alone and (access.type is AccessType.READ or bool(runs))


@dataclass(frozen=True, slots=True)
class Lending:
    """What is lent: entries in the host's format, code for CPL 0 and 3, at a physical address.

    `host_root` is where the host's tables begin, which lead there; with `guest_too` the guest's do,
    too.
    """

    form: HostFormat
    code: tuple[bytes, bytes]
    at: int
    host_root: int
    guest_too: bool


def make_workspace(
    memory: PhysicalMemory,
    context: NestedContext,
    tables: Collection[int] | None,
    lending: Lending,
    slots: Collection[int] | None = None,
) -> Workspace:
    """Return what a machine gets of a pair.

    `tables` are the addresses of the frames with tables; None: all frames may be, and no mark is
    put. `slots` are the numbers of the words that are entries there; None: all may be.

    Raises `BadInput` where the pair has memory in the place of what is lent, none at the host's
    root, or more than can be compared after every access.
    """
    ranges = memory.ranges
    if sum(size for _, size in ranges) > _MOST:
        raise BadInput(f"a pair of tables has more than {_MOST:,} bytes of memory")
    starts, words = _frames(memory)
    lent = np.uint64(lending.at) + np.arange(LENT_BYTES // FRAME, dtype=np.uint64) * np.uint64(
        FRAME
    )
    if np.isin(starts, lent).any():
        raise BadInput(f"the pair has memory at {lending.at:#x}, where the machine's own pages are")
    own, entry = _lent(lending.form, lending.code, lending.at)
    order = np.argsort(np.concatenate([starts, lent]))
    starts = np.concatenate([starts, lent])[order]
    words = np.concatenate([words, own])[order]
    marks = np.zeros(words.shape, np.bool_)
    if tables is not None:
        kept = np.isin(starts, np.array([*tables], np.uint64))[:, None] & _in_slots(slots)
        kept |= np.isin(starts, lent)[:, None]
        words, marks = marked(starts, words, kept)
        words[:, SIGN], marks[:, SIGN] = mark_words(len(starts))[:, SIGN], True
    if lending.guest_too:
        words[:, GUEST_SLOT], marks[:, GUEST_SLOT] = own[_HOST_TABLES, GUEST_SLOT], False
    found = Workspace(context, starts, words, marks)
    root = found.frame(lending.host_root)
    if root is None:
        at = f"{lending.host_root:#x}"
        raise BadInput(f"the pair has no memory at {at}, where the host's tables begin")
    found.words[root, HOST_SLOT], found.marks[root, HOST_SLOT] = entry, False
    return found


def _frames(memory: PhysicalMemory) -> tuple[U64, U64]:
    """Return the addresses of all whole frames, and their words."""
    starts = np.concatenate(
        [
            np.arange(
                -(-start // FRAME) * FRAME, (start + size) // FRAME * FRAME, FRAME, dtype=np.uint64
            )
            for start, size in memory.ranges
        ]
        or [np.zeros(0, np.uint64)]
    )
    return starts, np.array(memory.tables(starts), np.uint64)


def _in_slots(slots: Collection[int] | None) -> NDArray[np.bool_]:
    """Return for each word of a frame whether it is one of these: bool[512]."""
    found = np.full(WORDS, slots is None)
    found[[*(slots or ())]] = True
    return found


def _lent(form: HostFormat, code: tuple[bytes, bytes], at: int) -> tuple[U64, int]:
    """Return the words of the lent frames, and the entry of the host's first table for them."""
    words = np.zeros((LENT_BYTES // FRAME, WORDS), np.uint64)
    guest = at + _HOST_TABLES * FRAME
    words[0, 0] = form.table(at + FRAME)
    words[1, 0] = form.table(at + 2 * FRAME)
    for page in range(_GUEST_TABLES + _CODE_PAGES):
        words[2, page] = form.page(guest + page * FRAME, writable=page < _GUEST_TABLES)
    tables = words[_HOST_TABLES:]
    tables[0, GUEST_SLOT] = LENT_GPA + FRAME | _TABLE
    tables[1, 0] = LENT_GPA + 2 * FRAME | _TABLE
    tables[2, 0] = LENT_GPA + 3 * FRAME | _TABLE
    for page, flags in enumerate((_KERNEL, _USER)):
        tables[3, page] = LENT_GPA + (_GUEST_TABLES + page) * FRAME | flags
        whole = np.frombuffer(code[page], np.uint64)
        words[_HOST_TABLES + _GUEST_TABLES + page] = whole
    return words, form.table(at)
