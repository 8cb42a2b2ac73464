"""What a sequence needs: the runner's own pages, records for the guest, what is to be looked at.

    physical memory                                linear memory, in one slot of every root
    _START   tables below a slot: up to four       code     the routines, for CPL 0
             code                                  user     the same page, for CPL 3
             GDT, and a stack                      gdt
             records, one a step                   records
             lists: words of tables, slots         list
             log                                   log      a page behind it isn't there
    memory under test: tables, marked pages        window   each table and page that is looked at

All roots that a sequence loads need the runner's pages, so they take one slot of each: one which
none of the sequence's addresses selects, at any level, so that no walk under test uses it.

Outstanding: accesses are at multiples of 16, of pages with RAM, under 4- or 5-level paging of an
Intel CPU.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from crosswalk.emu.probe.access_engine import rflags
from crosswalk.emu.probe.control import ADDRESS, Control
from crosswalk.emu.probe.page_marker import SLOT
from crosswalk.emu.probe.paths import PagingFormat
from crosswalk.emu.probe.sequences.routines import (
    ACCESS,
    CODE,
    RECORD_BYTES,
    ROUTINE,
    START_OF,
    USER_ACCESS,
)
from crosswalk.emu.probe.space import Space
from crosswalk.emu.probe.trampoline import GDT, PREFERRED_GIB
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import FRAME, WORDS
from crosswalk.walker.tlb.steps import (
    Invlpg,
    Invpcid,
    MovCr0,
    MovCr3,
    MovCr4,
    Sequence,
    Step,
    Store,
    Wrpkru,
)

__all__ = [
    "STORED",
    "Plan",
    "SequencePages",
    "View",
    "fault_addresses",
    "free_slot",
    "plan_of",
    "records_of",
    "roots_of",
]

_START = PREFERRED_GIB << 30
_CHAIN = 4  # Tables below a root of five levels.
_CODE, _DATA = _CHAIN, _CHAIN + 1
_RECORD_PAGES, _LIST_PAGES, _LOG_PAGES = 4, 4, 8
# Pages in the order of their entries in the last table.
_AT_CODE, _AT_USER, _AT_DATA, _AT_RECORDS = 0, 1, 2, 3
_AT_LIST = _AT_RECORDS + _RECORD_PAGES
_AT_LOG = _AT_LIST + _LIST_PAGES
_AT_WINDOW = _AT_LOG + _LOG_PAGES + 1  # Behind a page that isn't there: the log has an end.
_OWN = _CHAIN + 2 + _RECORD_PAGES + _LIST_PAGES + _LOG_PAGES
_TABLE, _KERNEL_CODE, _USER_CODE, _KERNEL_DATA = 0x67, 0x61, 0x65, 0x63
_STACK_TOP = 0x800
_MAX_RECORDS = _RECORD_PAGES * FRAME // RECORD_BYTES
_MAX_LISTED = _LIST_PAGES * FRAME // 16 - 2


STORED = 0xA5
"""The byte that a write stores: none of a marker's first one."""

_PRESENT, _LARGE = 1 << 0, 1 << 7
_REGISTERS = {MovCr0: "cr0", MovCr3: "cr3", MovCr4: "cr4", Wrpkru: "wrpkru"}


@dataclass(frozen=True, slots=True)
class View:
    """Linear addresses of the pages, under the roots that have them in one slot."""

    slot: int
    code: int
    user: int
    gdt: int
    stack: int
    records: int
    list: int
    log: int
    window: int


class SequencePages:
    """The runner's pages, in a space that has the sequence's RAM, too."""

    def __init__(self, ram: tuple[tuple[int, int], ...]) -> None:
        size = _OWN * FRAME
        if any(start < _START + size and start + length > _START for start, length in ram):
            raise BadInput(f"RAM at {_START:#x} is where the runner has its own pages")
        if any(start + length > 1 << 40 for start, length in ram):
            raise BadInput("RAM above 2^40, where the emulated CPU's addresses end")
        self.own = _START, _START + size
        self.space = Space((*ram, (_START, size)))
        self._window: tuple[int, ...] | None = None
        self._form: PagingFormat | None = None
        self._write(_CODE, array("Q", CODE.ljust(FRAME, b"\xf4")))
        self._write(_DATA, GDT[64])
        self.records = self._index(_DATA + 1)
        self.list = self.records + _RECORD_PAGES * WORDS
        self.log = self.list + _LIST_PAGES * WORDS

    def show(self, form: PagingFormat, frames: Iterable[int]) -> None:
        """Have the window show these frames; `BadInput` if they are too many."""
        shown = tuple(frames)
        if (form, shown) == (self._form, self._window):
            return
        if len(shown) > WORDS - _AT_WINDOW:
            raise BadInput(f"{len(shown)} tables and pages: more than a sequence can have here")
        own = range(_CODE, _OWN)
        code, data, *rest = (_START + at * FRAME for at in own)
        entries = [code | _KERNEL_CODE, code | _USER_CODE, data | _KERNEL_DATA]
        entries += [*(frame | _KERNEL_DATA for frame in rest), 0]
        entries += [frame | _KERNEL_DATA for frame in shown]
        last = len(form.levels) - 2
        for at in range(last):
            self._write(at, [_START + (at + 1) * FRAME | _TABLE])
        self._write(last, entries)
        self._form, self._window = form, shown

    def borrow(self, form: PagingFormat, slot: int, roots: Iterable[int]) -> View:
        """Put the pages into this slot of each root, and return where they are seen."""
        for root in roots:
            self.space.view[(self.space.byte_at(root) >> 3) + slot] = _START | _TABLE
        base = form.slot_va(slot)
        data = base + _AT_DATA * FRAME
        return View(
            slot=slot,
            code=base + _AT_CODE * FRAME,
            user=base + _AT_USER * FRAME,
            gdt=data,
            stack=data + _STACK_TOP,
            records=base + _AT_RECORDS * FRAME,
            list=base + _AT_LIST * FRAME,
            log=base + _AT_LOG * FRAME,
            window=base + _AT_WINDOW * FRAME,
        )

    def stack_index(self) -> int:
        """Return the index in the space's words of the top of the stack."""
        return self._index(_DATA) + _STACK_TOP // 8

    def _index(self, page: int) -> int:
        return self.space.byte_at(_START + page * FRAME) >> 3

    def _write(self, page: int, words: Iterable[int]) -> None:
        content = array("Q", words)
        at = self._index(page)
        self.space.view[at : at + WORDS] = content + array("Q", bytes(FRAME - 8 * len(content)))


def roots_of(sequence: Sequence) -> list[int]:
    """Return the root tables that a sequence loads, each once; `BadInput` for one outside RAM."""
    loaded = [step.value & ADDRESS for step in sequence.steps if isinstance(step, MovCr3)]
    roots = list(dict.fromkeys([Control.of(sequence.context).root, *loaded]))
    for root in roots:
        if not any(start <= root < start + size for start, size in sequence.ram):
            raise BadInput(f"CR3 {root:#x} points to no RAM")
    return roots


def free_slot(form: PagingFormat, sequence: Sequence, roots: Iterable[int]) -> int:
    """Return a slot of all roots that is empty, and that no address selects at any level."""
    taken = {
        access.va >> shift & WORDS - 1 for access in sequence.accesses for shift, _ in form.levels
    }
    stored = {step.pa for step in sequence.steps if isinstance(step, Store)}
    for slot in range(WORDS - 2, 0, -1):
        words = [root + 8 * slot for root in roots]
        if slot not in taken and not any(sequence.entries.get(pa) or pa in stored for pa in words):
            return slot
    raise BadInput("no slot of the roots is free for the runner's own pages")


@dataclass(frozen=True, slots=True)
class Plan:
    """The physical side: `frames` of paging structures, their `words`, the `slots` of pages.

    Words are all that the sequence gives a value, ever; slots, the places in pages where a
    leaf among those values may lead an access.
    """

    frames: tuple[int, ...]
    words: tuple[int, ...]
    slots: tuple[int, ...]

    @property
    def shown(self) -> tuple[int, ...]:
        """The frames to be seen through the window, in order."""
        return tuple(sorted({*self.frames, *(slot & -FRAME for slot in self.slots)}))


def plan_of(sequence: Sequence, roots: list[int]) -> Plan:
    """Return the plan of a sequence; `BadInput` for what can't be run."""
    stores = [step for step in sequence.steps if isinstance(step, Store)]
    words = sorted({*sequence.entries, *(store.pa for store in stores)})
    frames = {pa & -FRAME for pa in (*words, *roots)}
    addresses = {access.va for access in sequence.accesses}
    for va in addresses:
        if va % SLOT:
            raise BadInput(f"va {va:#x}: accesses of a sequence are at multiples of {SLOT}")
    values = {*sequence.entries.values(), *(store.value for store in stores)}
    ram = sequence.ram
    slots = {pa for value in values for va in addresses for pa in _leads_to(ram, value, va)}
    slots = {pa for pa in slots if pa & -FRAME not in frames}
    if len(words) + len(slots) > _MAX_LISTED or len(sequence.steps) >= _MAX_RECORDS:
        raise BadInput("more steps, words or pages than a sequence can have here")
    return Plan(tuple(sorted(frames)), tuple(words), tuple(sorted(slots)))


@lru_cache(1 << 14)
def _leads_to(ram: tuple[tuple[int, int], ...], value: int, va: int) -> tuple[int, ...]:
    """Return where a present entry of this value leads, as a leaf of any level."""
    if not value & _PRESENT:
        return ()
    found = []
    for shift in (12, 21, 30) if value & _LARGE else (12,):
        span = 1 << shift
        pa = value & ADDRESS & -span | va & (span - 1)
        if any(start <= pa < start + size for start, size in ram):
            found.append(pa)
    return tuple(found)


def records_of(sequence: Sequence, plan: Plan, view: View) -> list[int]:
    """Return the words of all records, the one that ends them included."""
    seen = {frame: view.window + at * FRAME for at, frame in enumerate(plan.shown)}
    index = {pa: at for at, pa in enumerate(plan.words)}
    records: list[int] = []
    for step in sequence.steps:
        routine, *rest = _record(step, sequence, seen, index, view)
        records += [view.code + routine, *rest]
    return [*records, view.code + ROUTINE["end"], 0, 0, 0]


def _record(
    step: Step,
    sequence: Sequence,
    seen: dict[int, int],
    index: dict[int, int],
    view: View,
) -> tuple[int, int, int, int]:
    match step:
        case Store(pa, value):
            listed = view.list + 16 * index[pa] + 8
            return ROUTINE["store"], seen[pa & -FRAME] + pa % FRAME, value, listed
        case Invlpg(va):
            return ROUTINE["invlpg"], va, 0, 0
        case Invpcid(kind, pcid, va):
            return ROUTINE["invpcid"], pcid, va, kind
        case Access(va, kind, cpl, ac):
            ac = sequence.context.rflags_ac if ac is None else ac
            return START_OF[cpl, kind], va, STORED, rflags(ac=ac)
        case _:
            return ROUTINE[_REGISTERS[type(step)]], 0, step.value, 0


def fault_addresses(sequence: Sequence, view: View) -> dict[int, int]:
    """Return the RIP that a fault of each access has to show, by its record's address."""
    found = {}
    for at, step in enumerate(sequence.steps):
        if isinstance(step, Access):
            user = step.cpl == 3
            rip = step.va
            if step.type is not AccessType.EXECUTE:
                rip = (view.user if user else view.code) + (USER_ACCESS if user else ACCESS)[
                    step.type
                ]
            found[view.records + at * RECORD_BYTES] = rip
    return found
