"""The guest's updates of its tables after protection: as data, run, and checked.

After each update the nested tables are compared with fresh ones. The rules by which grants follow
the guest's tables are `crosswalk.emu.protect.hypervisor.Rules`.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from crosswalk.emu.protect.actions import (
    DIRECT,
    RETURN_42,
    Actions,
    do,
    is_hypercall,
    perform,
    remap,
    report,
    store,
)
from crosswalk.emu.protect.agent import FORGED, Operation
from crosswalk.emu.protect.attack import GuestFault, NestedFault, NotStopped, Result
from crosswalk.emu.protect.attack_kinds import expected_under
from crosswalk.emu.protect.attacks import FETCH, TEXT, WRITE
from crosswalk.emu.protect.hypervisor import Answer, Hypercall
from crosswalk.emu.protect.permissions import Bools, Permissions, stretches
from crosswalk.emu.protect.probes import probe_forged
from crosswalk.emu.protect.subject import ProtectedGuest, result_of
from crosswalk.guest import places
from crosswalk.guest.layout import PAGE, Bit, span_of
from crosswalk.walker.memory import FRAME

__all__ = ["UPDATES", "Update", "Updated", "run_updates"]

_P, _RW, _NX, _G, _PS = Bit.P, Bit.RW, Bit.NX, Bit.G, Bit.PS
_MODULE = 0x3_0000
_PAGES = 4
_AREA = places.KERNEL + 0x1100_0000
_TABLE = FORGED - 2 * PAGE
_ALIAS = places.USER + 2 * PAGE
_DATA_RW, _DATA_R = _P | _RW | _NX, _P | _NX
_WORD = 0x1234_5678_9ABC_DEF0
_LARGE_TEXT = places.KERNEL + places.LARGE_TEXT


@dataclass(frozen=True, slots=True)
class Update:
    """The guest's actions, the last answer expected from the host, and trials that follow.

    A trial is a sequence of actions with its expected result.
    """

    name: str
    actions: Actions
    answer: Answer = Answer.DONE
    trials: tuple[tuple[Actions, Result], ...] = ()


@dataclass(frozen=True, slots=True)
class Updated:
    """An update's results.

    `changed` frames are granted otherwise than before; `probes` accesses through forged tables were
    made on them and their neighbours, `divergent` of them ended otherwise than expected; `wrong` is
    everything that isn't as expected, in words; `known` as in `Probed`.
    """

    update: Update
    changed: int
    probes: int
    divergent: int
    wrong: tuple[str, ...]
    known: Counter[str]


def _change(*changes: tuple[int, int], level: int = 1) -> Actions:
    """Return changes (va, entry) of entries, reported."""
    actions = [action for va, entry in changes for action in remap(va, entry, level)]
    return (*actions, *report(*((va, level) for va, _ in changes)))


def _at(number: int) -> tuple[int, int]:
    """Return where a page of the module's area begins, and its frame."""
    return _AREA + number * PAGE, _MODULE + number * PAGE


_AREA_PAGES = tuple(_at(number) for number in range(_PAGES))

UPDATES: tuple[Update, ...] = (
    Update(
        "vmap: a new page table, four pages of data",
        (
            *remap(_AREA, _TABLE | _P | _RW, 2),
            *(action for va, pa in _AREA_PAGES for action in remap(va, pa | _DATA_RW)),
            *report((_AREA, 2), *((va, 1) for va, _ in _AREA_PAGES)),
        ),
        trials=(
            (
                (*store(_AREA + 8, _WORD), *do(Operation.LOAD, DIRECT + _MODULE + 8)),
                NotStopped(_WORD),
            ),
            ((*store(_AREA, RETURN_42), *do(Operation.EXECUTE, _AREA)), GuestFault(FETCH & ~4)),
        ),
    ),
    Update(
        "set_memory_ro: the first page, and its alias in the direct map",
        _change((_AREA, _MODULE | _DATA_R), (DIRECT + _MODULE, _MODULE | _DATA_R)),
        trials=(
            (
                remap(_AREA, _MODULE | _DATA_RW) + store(_AREA, 0),
                NestedFault(_MODULE, WRITE),
            ),
            (
                (*remap(_AREA, _MODULE | _P), *do(Operation.EXECUTE, _AREA)),
                NestedFault(_MODULE, FETCH),
            ),
        ),
    ),
    Update(
        "set_memory_x: the first page is the module's code",
        _change((_AREA, _MODULE | _P)),
        trials=((do(Operation.EXECUTE, _AREA), NotStopped(42)),),
    ),
    Update(
        "set_memory_ro: the second page is the module's rodata",
        _change(
            (_AREA + PAGE, _MODULE + PAGE | _DATA_R),
            (DIRECT + _MODULE + PAGE, _MODULE + PAGE | _DATA_R),
        ),
    ),
    Update(
        "set_memory_nx, set_memory_rw: both pages are data again",
        _change(
            *((va, pa | _DATA_RW) for va, pa in _AREA_PAGES[:2]),
            *((DIRECT + pa, pa | _DATA_RW) for _, pa in _AREA_PAGES[:2]),
        ),
        trials=(
            (
                (*remap(_AREA, _MODULE | _P), *do(Operation.EXECUTE, _AREA)),
                NestedFault(_MODULE, FETCH),
            ),
        ),
    ),
    Update(
        "vunmap: the pages, then the page table",
        (*_change(*((va, 0) for va, _ in _AREA_PAGES)), *_change((_AREA, 0), level=2)),
        trials=((do(Operation.LOAD, _AREA), GuestFault(0)),),
    ),
    Update(
        "text opened for patching, and mapped by a temporary alias",
        (
            *do(Operation.HYPERCALL, Hypercall.OPEN_TEXT, TEXT),
            *_change((_ALIAS, TEXT | _DATA_RW)),
        ),
        trials=(
            (store(_ALIAS, RETURN_42), NotStopped()),
            (do(Operation.EXECUTE, places.KERNEL + TEXT), NestedFault(TEXT, FETCH)),
        ),
    ),
    Update(
        "text closed while the alias is still there",
        do(Operation.HYPERCALL, Hypercall.CLOSE_TEXT),
        Answer.NOT_PERMITTED,
    ),
    Update(
        "the alias gone, text closed",
        (*_change((_ALIAS, 0)), *do(Operation.HYPERCALL, Hypercall.CLOSE_TEXT)),
        trials=((do(Operation.EXECUTE, places.KERNEL + TEXT), NotStopped(42)),),
    ),
    Update(
        "set_memory_rw on text",
        _change((places.KERNEL + TEXT, TEXT | _P | _RW)),
        Answer.NOT_PERMITTED,
        trials=((store(places.KERNEL + TEXT, 0), NestedFault(TEXT, WRITE)),),
    ),
    Update(
        "set_memory_rw on rodata",
        _change((places.KERNEL + places.RODATA, places.RODATA | _DATA_RW)),
        Answer.NOT_PERMITTED,
        trials=((store(places.KERNEL + places.RODATA, 0), NestedFault(places.RODATA, WRITE)),),
    ),
    Update(
        "set_memory_x on data that stays writable",
        _change((DIRECT + _MODULE, _MODULE | _P | _RW)),
        Answer.NOT_PERMITTED,
        trials=((do(Operation.EXECUTE, DIRECT + _MODULE), NestedFault(_MODULE, FETCH)),),
    ),
    Update(
        "all three taken back",
        _change(
            (places.KERNEL + TEXT, TEXT | _P | _G),
            (places.KERNEL + places.RODATA, places.RODATA | _DATA_R | _G),
            (DIRECT + _MODULE, _MODULE | _DATA_RW | _G),
        ),
    ),
    Update(
        "large text unmapped: 512 frames that only the direct map reads",
        _change((_LARGE_TEXT, 0), level=2),
    ),
    Update(
        "large text mapped again, with one small page left out",
        (
            *(
                action
                for at in range(1, 512)
                for action in store(
                    DIRECT + _TABLE + 8 * at, (places.LARGE_TEXT + at * span_of(1)) | _P
                )
            ),
            *_change((_LARGE_TEXT, _TABLE | _P | _RW), level=2),
        ),
    ),
    Update(
        "large text as it was",
        _change((_LARGE_TEXT, places.LARGE_TEXT | _P | _PS | _G), level=2),
    ),
)


def run_updates(subject: ProtectedGuest, updates: Iterable[Update]) -> list[Updated]:
    """Run these updates, one after the other, from where protection was granted."""
    subject.restore()
    return [_stage(subject, each) for each in updates]


def _stage(subject: ProtectedGuest, update: Update) -> Updated:
    wrong: list[str] = []
    before = subject.hypervisor.tables.read_back()
    answers = []
    for action, result in perform(subject.agent, update.actions):
        if result.failed:
            wrong.append(f"{action} ended in {result.event}")
        elif is_hypercall(action):
            answers.append(subject.hypervisor.replies[-1].answer)
    for answer, expected in zip(answers, [*[0] * (len(answers) - 1), update.answer], strict=True):
        if answer != expected:
            wrong.append(f"answered {answer.name}: {subject.hypervisor.replies[-1].why}")
    fresh = _fresh_grants(subject, wrong)
    changed = subject.hypervisor.tables.read_back() != before
    known: Counter[str] = Counter()
    probes, divergent = _probe_changed(subject, changed, fresh, wrong, known)
    _run_trials(subject, update, wrong)
    return Updated(update, int(changed.sum()), probes, divergent, tuple(wrong), known)


def _fresh_grants(subject: ProtectedGuest, wrong: list[str]) -> Permissions:
    """Return what is to be granted by a fresh computation; compare it with what is granted."""
    hypervisor = subject.hypervisor
    collective = subject.fresh_collective()
    if hypervisor.collective is None or (hypervisor.collective != collective).any():
        wrong.append("collective rights aren't those of a fresh computation")
    fresh = hypervisor.rules.granted(collective)
    tables = hypervisor.tables.afresh(fresh)
    if list(tables.ranges()) != list(hypervisor.tables.ranges()):
        at = np.flatnonzero(hypervisor.tables.read_back() != fresh)
        where = f" from {int(at[0]) * FRAME:#x} on" if len(at) else ""
        wrong.append(f"nested tables aren't those built afresh: {len(at)} frames{where}")
    if tables.tables != hypervisor.tables.tables:
        wrong.append(f"{hypervisor.tables.tables} nested tables, {tables.tables} when built afresh")
    return fresh


def _probe_changed(
    subject: ProtectedGuest,
    changed: Bools,
    fresh: Permissions,
    wrong: list[str],
    known: Counter[str],
) -> tuple[int, int]:
    """Probe the frames that changed, or should have, and their neighbours.

    Returns how many accesses were made, and how many of them diverged.
    """
    changed = changed | (subject.hypervisor.tables.read_back() != fresh)
    near = changed.copy()
    near[1:] |= changed[:-1]
    near[:-1] |= changed[1:]
    count = divergent = 0
    for start, size, value in stretches(near.astype(np.uint8)):
        if value:
            found = probe_forged(subject.agent, fresh, start=start, frames=size // FRAME)
            count += found.count
            divergent += found.divergent
            wrong += found.divergences
            known.update(found.known)
    return count, divergent


def _run_trials(subject: ProtectedGuest, update: Update, wrong: list[str]) -> None:
    """Run the update's trials; tables they change are restored without the host's knowledge."""
    kind = subject.guest.tables.kind
    for actions, stated in update.trials:
        expected = expected_under(kind, stated)
        with subject.guest.preserved(places.POOL, places.POOL_FRAMES * FRAME):
            *_, (last, result) = perform(subject.agent, actions)
            found = result_of(result, expected, answered=is_hypercall(last))
        subject.guest.flush()
        if found != expected:
            wrong.append(f"a trial ended in {found}, not in {expected}")
