"""What the guest's log says of each access, and nothing that it doesn't prove."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from crosswalk.emu.probe.errors import ProbeError
from crosswalk.emu.probe.page_marker import marker
from crosswalk.emu.probe.sequences.plan import STORED, Plan
from crosswalk.emu.probe.sequences.routines import RECORD_BYTES, Event
from crosswalk.emu.probe.sequences.workspace import View
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.architecture import Vector
from crosswalk.walker.memory import FRAME
from crosswalk.walker.outcome import GeneralProtection, Outcome, PageFault, Translation
from crosswalk.walker.tlb.steps import Halted, Sequence

__all__ = ["Fault", "outcomes_of"]

_LOW = (1 << 32) - 1
_VECTORS = {0: "#DE", 6: "#UD", 8: "#DF", 13: "#GP", 14: "#PF"}


class Fault(NamedTuple):
    """A fault of an access: the record's address, and what the CPU said."""

    record: int
    vector: int
    error_code: int
    cr2: int


@dataclass(slots=True)
class _Account:
    """What was logged of one access."""

    done: list[int] = field(default_factory=list)
    words: dict[int, int] = field(default_factory=dict)
    slots: list[tuple[int, int]] = field(default_factory=list)


def outcomes_of(
    sequence: Sequence,
    plan: Plan,
    view: View,
    events: list[int],
    faults: list[Fault],
    halted: tuple[int, int] | None,
) -> tuple[Outcome | Halted, ...]:
    """Return the outcomes in order; `ProbeError` for an account that doesn't add up.

    `events` are the lines of the log, two words each; `halted` the record and vector that the
    run stopped at.
    """
    accounts = dict(_accounts(view, plan, events))
    by_record = {fault.record - view.records: fault for fault in faults}
    if len(by_record) != len(faults):
        raise ProbeError("an access of a sequence faulted twice")
    found: list[Outcome | Halted] = []
    stopped = None if halted is None else (halted[0] - view.records) // RECORD_BYTES
    for at, step in enumerate(sequence.steps):
        if at == stopped and not isinstance(step, Access):
            vector = halted[1] if halted is not None else 0
            found.append(Halted(at, _VECTORS.get(vector, f"vector {vector}")))
            return tuple(found)
        if isinstance(step, Access):
            account = accounts.pop(at, None)
            if account is None:
                raise ProbeError(f"step {at} of a sequence left no account")
            found.append(_outcome(step, plan, account, by_record.get(at * RECORD_BYTES)))
    if accounts or stopped is not None:
        raise ProbeError("a sequence left accounts of what it has not")
    return tuple(found)


def _accounts(view: View, plan: Plan, events: list[int]) -> Iterator[tuple[int, _Account]]:
    account = _Account()
    for tag, value in zip(events[::2], events[1::2], strict=True):
        event, low = tag >> 32, tag & _LOW
        if event == Event.DONE:
            account.done.append(value)
        elif event == Event.WORD:
            account.words[plan.words[(low - (view.list & _LOW)) // 16]] = value
        elif event == Event.SLOT:
            # The list of slots follows that of the words, and its end.
            at = (low - (view.list & _LOW)) // 16 - len(plan.words) - 1
            account.slots.append((plan.slots[at], value))
        elif event == Event.LOOKED:
            yield (low - (view.records & _LOW)) // RECORD_BYTES, account
            account = _Account()
        else:
            raise ProbeError(f"a sequence logged {tag:#x}")


def _outcome(step: Access, plan: Plan, account: _Account, fault: Fault | None) -> Outcome:
    changes = tuple(sorted(account.words.items()))
    if fault is not None:
        if account.done or account.slots:
            raise ProbeError(f"an access at {step.va:#x} faulted, and was made")
        if fault.vector == Vector.PF:
            return PageFault(fault.error_code, fault.cr2, changes)
        if fault.vector == Vector.GP and fault.error_code == 0:
            return GeneralProtection(changes)
        raise ProbeError(f"an access at {step.va:#x} raised vector {fault.vector}")
    if len(account.done) != 1:
        raise ProbeError(f"no proof that an access at {step.va:#x} was made")
    return Translation(_reached(step, plan, account), entries=changes)


def _reached(step: Access, plan: Plan, account: _Account) -> int:
    """Return the address that an access reached, by what was found there."""
    (value,) = account.done
    if step.type is AccessType.WRITE:
        if len(account.slots) == 1:
            pa, found = account.slots[0]
            if found == marker(pa)[0] & ~0xFF | STORED:
                return pa
        raise ProbeError(f"a write at {step.va:#x} left no byte where one can be")
    if not account.slots:
        for pa in plan.slots:
            fetched = value == pa // FRAME and pa % FRAME == step.va % FRAME
            if fetched if step.type is AccessType.EXECUTE else value == marker(pa)[0]:
                return pa
    raise ProbeError(f"an access at {step.va:#x} found {value:#x}, which no page is marked with")
