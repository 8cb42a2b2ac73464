"""The guest's life after protection, as data: its changes, the answers, and what holds then."""

from dataclasses import dataclass

from crosswalk.emu.protect.actions import DIRECT, RETURN_42, Move, Step, remap, report, store
from crosswalk.emu.protect.agent import Operation
from crosswalk.emu.protect.forging import FORGED
from crosswalk.emu.protect.hypervisor import Answer, Hypercall
from crosswalk.emu.protect.results import GuestFault, NestedFault, NotStopped, Stop
from crosswalk.guest import places
from crosswalk.guest.layout import PAGE, Bit, span_of

__all__ = ["STAGES", "Stage"]

_P, _RW, _NX, _G, _PS = Bit.P, Bit.RW, Bit.NX, Bit.G, Bit.PS
_MODULE = 0x3_0000
_PAGES = 4
_AREA = places.KERNEL + 0x1100_0000
_TABLE = FORGED - 2 * PAGE
_TEXT = places.TEXT + 3 * PAGE
_ALIAS = places.USER + 2 * PAGE
_DATA_RW, _DATA_R = _P | _RW | _NX, _P | _NX
_WRITE, _FETCH = 0x7, 0x15
_WORD = 0x1234_5678_9ABC_DEF0
_LARGE_TEXT = places.KERNEL + places.LARGE_TEXT


@dataclass(frozen=True, slots=True)
class Stage:
    """What the guest does, the last answer that it gets from the host, and trials that follow."""

    name: str
    steps: tuple[Move, ...]
    answer: Answer = Answer.DONE
    trials: tuple[tuple[tuple[Move, ...], Stop], ...] = ()


def _change(*changes: tuple[int, int], level: int = 1) -> tuple[Move, ...]:
    """Return changes (va, entry) of entries, reported."""
    steps = [step for va, entry in changes for step in remap(va, entry, level)]
    return (*steps, *report(*((va, level) for va, _ in changes)))


def _at(number: int) -> tuple[int, int]:
    """Return where a page of the module's area begins, and its frame."""
    return _AREA + number * PAGE, _MODULE + number * PAGE


def _do(operation: Operation, first: int = 0, second: int = 0) -> tuple[Move, ...]:
    return (Step(operation, first, second),)


_AREA_PAGES = tuple(_at(number) for number in range(_PAGES))

STAGES: tuple[Stage, ...] = (
    Stage(
        "vmap: a new page table, four pages of data",
        (
            *remap(_AREA, _TABLE | _P | _RW, 2),
            *(step for va, pa in _AREA_PAGES for step in remap(va, pa | _DATA_RW)),
            *report((_AREA, 2), *((va, 1) for va, _ in _AREA_PAGES)),
        ),
        trials=(
            (
                (*store(_AREA + 8, _WORD), *_do(Operation.LOAD, DIRECT + _MODULE + 8)),
                NotStopped(_WORD),
            ),
            ((*store(_AREA, RETURN_42), *_do(Operation.EXECUTE, _AREA)), GuestFault(_FETCH & ~4)),
        ),
    ),
    Stage(
        "set_memory_ro: the first page, and its alias in the direct map",
        _change((_AREA, _MODULE | _DATA_R), (DIRECT + _MODULE, _MODULE | _DATA_R)),
        trials=(
            (
                remap(_AREA, _MODULE | _DATA_RW) + store(_AREA, 0),
                NestedFault(_MODULE, _WRITE),
            ),
            (
                (*remap(_AREA, _MODULE | _P), *_do(Operation.EXECUTE, _AREA)),
                NestedFault(_MODULE, _FETCH),
            ),
        ),
    ),
    Stage(
        "set_memory_x: the first page is the module's code",
        _change((_AREA, _MODULE | _P)),
        trials=((_do(Operation.EXECUTE, _AREA), NotStopped(42)),),
    ),
    Stage(
        "set_memory_ro: the second page is the module's rodata",
        _change(
            (_AREA + PAGE, _MODULE + PAGE | _DATA_R),
            (DIRECT + _MODULE + PAGE, _MODULE + PAGE | _DATA_R),
        ),
    ),
    Stage(
        "set_memory_nx, set_memory_rw: both pages are data again",
        _change(
            *((va, pa | _DATA_RW) for va, pa in _AREA_PAGES[:2]),
            *((DIRECT + pa, pa | _DATA_RW) for _, pa in _AREA_PAGES[:2]),
        ),
        trials=(
            (
                (*remap(_AREA, _MODULE | _P), *_do(Operation.EXECUTE, _AREA)),
                NestedFault(_MODULE, _FETCH),
            ),
        ),
    ),
    Stage(
        "vunmap: the pages, then the page table",
        (*_change(*((va, 0) for va, _ in _AREA_PAGES)), *_change((_AREA, 0), level=2)),
        trials=((_do(Operation.LOAD, _AREA), GuestFault(0)),),
    ),
    Stage(
        "text opened for patching, and mapped by a temporary alias",
        (
            *_do(Operation.HYPERCALL, Hypercall.OPEN_TEXT, _TEXT),
            *_change((_ALIAS, _TEXT | _DATA_RW)),
        ),
        trials=(
            (store(_ALIAS, RETURN_42), NotStopped()),
            (_do(Operation.EXECUTE, places.KERNEL + _TEXT), NestedFault(_TEXT, _FETCH)),
        ),
    ),
    Stage(
        "text closed while the alias is still there",
        _do(Operation.HYPERCALL, Hypercall.CLOSE_TEXT),
        Answer.NOT_PERMITTED,
    ),
    Stage(
        "the alias gone, text closed",
        (*_change((_ALIAS, 0)), *_do(Operation.HYPERCALL, Hypercall.CLOSE_TEXT)),
        trials=((_do(Operation.EXECUTE, places.KERNEL + _TEXT), NotStopped(42)),),
    ),
    Stage(
        "set_memory_rw on text",
        _change((places.KERNEL + _TEXT, _TEXT | _P | _RW)),
        Answer.NOT_PERMITTED,
        trials=((store(places.KERNEL + _TEXT, 0), NestedFault(_TEXT, _WRITE)),),
    ),
    Stage(
        "set_memory_rw on rodata",
        _change((places.KERNEL + places.RODATA, places.RODATA | _DATA_RW)),
        Answer.NOT_PERMITTED,
        trials=((store(places.KERNEL + places.RODATA, 0), NestedFault(places.RODATA, _WRITE)),),
    ),
    Stage(
        "set_memory_x on data that stays writable",
        _change((DIRECT + _MODULE, _MODULE | _P | _RW)),
        Answer.NOT_PERMITTED,
        trials=((_do(Operation.EXECUTE, DIRECT + _MODULE), NestedFault(_MODULE, _FETCH)),),
    ),
    Stage(
        "all three taken back",
        _change(
            (places.KERNEL + _TEXT, _TEXT | _P | _G),
            (places.KERNEL + places.RODATA, places.RODATA | _DATA_R | _G),
            (DIRECT + _MODULE, _MODULE | _DATA_RW | _G),
        ),
    ),
    Stage(
        "large text unmapped: 512 frames that only the direct map reads",
        _change((_LARGE_TEXT, 0), level=2),
    ),
    Stage(
        "large text mapped again, with one small page left out",
        (
            *(
                step
                for at in range(1, 512)
                for step in store(
                    DIRECT + _TABLE + 8 * at, (places.LARGE_TEXT + at * span_of(1)) | _P
                )
            ),
            *_change((_LARGE_TEXT, _TABLE | _P | _RW), level=2),
        ),
    ),
    Stage(
        "large text as it was",
        _change((_LARGE_TEXT, places.LARGE_TEXT | _P | _PS | _G), level=2),
    ),
)
