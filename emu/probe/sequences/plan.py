"""What a sequence needs: its records for the guest, the words and pages to be looked at."""

from dataclasses import dataclass
from functools import lru_cache

from crosswalk.emu.probe.control import ADDRESS
from crosswalk.emu.probe.page_marker import SLOT
from crosswalk.emu.probe.sequences.routines import (
    ACCESS,
    RECORD_BYTES,
    ROUTINE,
    START_OF,
    USER_ACCESS,
)
from crosswalk.emu.probe.sequences.workspace import MAX_LISTED, MAX_RECORDS, View
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import FRAME
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

__all__ = ["STORED", "Plan", "fault_addresses", "plan_of", "records_of"]

STORED = 0xA5
"""The byte that a write stores: none of a marker's first one."""

_RFLAGS, _AC = 1 << 1, 1 << 18
_PRESENT, _LARGE = 1 << 0, 1 << 7
_REGISTERS = {MovCr0: "cr0", MovCr3: "cr3", MovCr4: "cr4", Wrpkru: "wrpkru"}


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
    if len(words) + len(slots) > MAX_LISTED or len(sequence.steps) >= MAX_RECORDS:
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
            return START_OF[cpl, kind], va, STORED, _RFLAGS | (_AC if ac else 0)
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
