"""The protected guest that attacks and updates run in: restored to one state before each."""

from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass

import numpy as np

from crosswalk.emu.cpu.svm.host import Exit
from crosswalk.emu.load.guest import boot
from crosswalk.emu.monitor.monitor import Monitor
from crosswalk.emu.protect.actions import (
    Action,
    Operate,
    ask,
    is_hypercall,
    page_entries,
    perform,
)
from crosswalk.emu.protect.agent import Agent, AgentResult, Operation, forge_tables
from crosswalk.emu.protect.attack import (
    Granted,
    GuestFault,
    NestedFault,
    NotStopped,
    Other,
    Refused,
    Result,
    Violation,
    VmExited,
    exit_result,
    violation_result,
)
from crosswalk.emu.protect.attacks import AgentAttack
from crosswalk.emu.protect.events import Fault, GuestEvent, VmExit, describe_event, same_event
from crosswalk.emu.protect.guest import Guest
from crosswalk.emu.protect.hypervisor import Answer, Hypercall, Hypervisor, Rules
from crosswalk.emu.protect.machine import FRAMES, GuestMachine, Saved
from crosswalk.emu.protect.permissions import Permissions, collective_permissions
from crosswalk.emu.protect.vmx import EptGuest
from crosswalk.guest import places
from crosswalk.guest.builder import build_image
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.architecture import Vector
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.frames import collective_rights
from crosswalk.walker.memory import U64
from crosswalk.walker.nested.outcome import EptViolation
from crosswalk.walker.protection.policy import TableKind
from crosswalk.walker.tracker import RightsTracker

__all__ = ["ProtectedGuest", "protected_guest", "result_of"]

_ACCESSES = {
    Operation.LOAD: (AccessType.READ, 0),
    Operation.STORE: (AccessType.WRITE, 0),
    Operation.EXECUTE: (AccessType.EXECUTE, 0),
    Operation.LOAD_USER: (AccessType.READ, 3),
    Operation.STORE_USER: (AccessType.WRITE, 3),
    Operation.EXECUTE_USER: (AccessType.EXECUTE, 3),
}


@dataclass(frozen=True, slots=True)
class _Snapshot:
    state: Saved
    rules: Rules
    pins: dict[str, int]


class ProtectedGuest:
    """The guest with its host and its agent, protected on its request; a `Subject` of attacks.

    It has forged tables, too. `entries` are those of its page list; `collective` are the
    permissions that its mappings needed then; `more` frames were requested with less, and granted
    what they need. `known` counts the attacks' events that depart from what is predicted as the
    machine is known to, by the departures' names.

    Raises `CrosswalkError` where its request is refused.
    """

    def __init__(self, guest: GuestMachine) -> None:
        self.booted = booted = guest.booted
        self.guest = guest
        self.known: Counter[str] = Counter()
        self.hypervisor = Hypervisor(self.guest)
        self.agent = Agent(self.guest)
        self.entries = page_entries(booted.image, booted.status)
        forge_tables(self.agent)
        result = ask(self.agent, self.entries)
        reply = self.hypervisor.replies[-1] if self.hypervisor.replies else None
        if result.failed or reply is None or reply.answer is not Answer.DONE:
            raise CrosswalkError(f"the guest isn't protected: {result}, {reply}")
        self.more = reply.more
        self.collective = self.fresh_collective()
        self._snapshot = _Snapshot(
            self.guest.save(),
            deepcopy(self.hypervisor.rules),
            dict(self.hypervisor.pins.kept),
        )

    def fresh_collective(self) -> Permissions:
        """Return the permissions that the guest's mappings need now, computed afresh."""
        rights = collective_rights(self.guest.memory, self.guest.context)
        return collective_permissions(rights, FRAMES, kind=self.guest.tables.kind)

    def restore(self, *, protected: bool = True, pinned: bool = True) -> None:
        """Put guest and host back to where protection was granted.

        Without `protected` nothing is withheld, without `pinned` no control register is pinned.
        """
        guest, hypervisor = self.guest, self.hypervisor
        self._snapshot.state.restore()
        if any(reply.call == Hypercall.UPDATE for reply in hypervisor.replies):
            hypervisor.tracker = RightsTracker(guest.memory, guest.context)
        hypervisor.replies.clear()
        hypervisor.collective = self.collective.copy()
        hypervisor.rules = deepcopy(self._snapshot.rules)
        hypervisor.pins.kept = dict(self._snapshot.pins) if pinned else {}
        hypervisor.write()
        if not protected:
            hypervisor.tables.grant_all()
            guest.flush()

    def changed(self, pa: int, size: int) -> bool:
        """Return whether this memory differs from what it was when protection was granted."""
        return self.guest.read(pa, size) != self._snapshot.state.read(pa, size)

    def run(self, attack: AgentAttack) -> Result:
        """Carry out an attack; what is wrong with how it ended makes its result `Other`."""
        before = self.hypervisor.tables.read_back(), self.guest.nested_words()
        result = self._perform(attack)
        wrong = next(self._wrong(attack, result, *before), None)
        return result if wrong is None else Other(f"{result}, {wrong}")

    def _perform(self, attack: AgentAttack) -> Result:
        """Carry out all actions, and return the result of the last one."""
        *first, last = attack.program
        for number, (action, each) in enumerate(perform(self.agent, first), 1):
            if each.failed:
                return Other(f"action {number} of {len(attack.program)} ended in {each.event}")
            if is_hypercall(action) and each.value:
                return Other(f"action {number} of {len(attack.program)} was refused")
        access = _access_of(last)
        predicted = None if access is None else self.guest.predict(access)
        before = len(self.hypervisor.replies)
        ((_, result),) = perform(self.agent, [last])
        answered = len(self.hypervisor.replies) > before
        found = result_of(result, attack.expected, answered=answered)
        if access is not None and not self._foreseen(predicted, result.event):
            return Other(f"{found}, which the nested walk doesn't predict: {predicted}")
        return found

    def _foreseen(self, predicted: GuestEvent | None, observed: GuestEvent | None) -> bool:
        """Return whether an event is as predicted, or departs from that as is known."""
        if same_event(predicted, observed):
            return True
        if known := self.guest.departure(predicted, observed):
            self.known[known] += 1
        return bool(known)

    def _wrong(
        self, attack: AgentAttack, result: Result, permissions: Permissions, words: U64
    ) -> Iterator[str]:
        """Yield what is wrong with the way in which an attack was stopped, or wasn't."""
        hypervisor = self.hypervisor
        if isinstance(result, Refused) and attack.reason not in hypervisor.replies[-1].why:
            yield f"but: {hypervisor.replies[-1].why}"
        if isinstance(result, Refused) and (self.guest.nested_words() != words).any():
            yield "and nested tables changed"
        if isinstance(result, NestedFault | Violation) and self._stored(result):
            yield "and written all the same"
        changed = np.flatnonzero(hypervisor.tables.read_back() != permissions)
        if attack.keeps_grants and len(changed):
            yield f"and frame {int(changed[0]):#x} granted otherwise"

    def _stored(self, fault: NestedFault | Violation) -> bool:
        """Return whether a store that a nested fault should have stopped was made all the same."""
        inside = fault.gpa < places.RAM_SIZE
        return fault.access is AccessType.WRITE and inside and self.changed(fault.gpa & -8, 8)


def protected_guest(
    monitor: Monitor | None = None, kind: TableKind = TableKind.NPT
) -> ProtectedGuest:
    """Boot the built-in guest with 4 levels, and have it request protection.

    It is a monitor's guest under EPT where one is given, else Unicorn's under AMD's nested tables.
    """
    booted = boot(build_image(4))
    if monitor is None:
        return ProtectedGuest(Guest(booted))
    return ProtectedGuest(EptGuest(booted, monitor, kind))


def result_of(result: AgentResult, expected: Result, *, answered: bool) -> Result:
    """Return the result of an attack, given that of its last action, and the expected one.

    `answered`: it was a hypercall, and its value is the answer. Any other value counts only where
    one is expected.
    """
    if result.event is not None:
        return _event_result(result.event)
    if answered and result.value:
        answer = _signed(result.value)
        return Granted(answer) if answer > 0 else Refused(Answer(answer))
    counts = isinstance(expected, NotStopped) and expected.value is not None
    return NotStopped(result.value if counts else None)


def _event_result(event: GuestEvent) -> Result:
    if isinstance(event, Exit):
        return exit_result(event)
    if isinstance(event, EptViolation):
        return violation_result(event)
    if isinstance(event, VmExit):
        return VmExited(event.what)
    if isinstance(event, Fault) and event.vector == Vector.PF:
        return GuestFault(event.error_code)
    return Other(describe_event(event))


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _access_of(action: Action) -> Access | None:
    if not isinstance(action, Operate) or action.operation not in _ACCESSES:
        return None
    kind, cpl = _ACCESSES[action.operation]
    return Access(action.first, kind, cpl)
