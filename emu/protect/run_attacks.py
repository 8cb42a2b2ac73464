"""Carrying out the attack table, and holding each row against what was expected."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from crosswalk.emu.protect.actions import Move, Step, is_hypercall, perform
from crosswalk.emu.protect.agent import Operation
from crosswalk.emu.protect.attack import Attack
from crosswalk.emu.protect.events import Met
from crosswalk.emu.protect.grants import ALL, Permissions, written
from crosswalk.emu.protect.results import NestedFault, Other, Refused, Stop, stop_of
from crosswalk.emu.protect.snapshot import World
from crosswalk.guest import places
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.memory import U64

__all__ = ["Attacked", "attack"]

_WRITE = 2
_ACCESSES = {
    Operation.LOAD: (AccessType.READ, 0),
    Operation.STORE: (AccessType.WRITE, 0),
    Operation.EXECUTE: (AccessType.EXECUTE, 0),
    Operation.LOAD_USER: (AccessType.READ, 3),
    Operation.STORE_USER: (AccessType.WRITE, 3),
    Operation.EXECUTE_USER: (AccessType.EXECUTE, 3),
}


@dataclass(frozen=True, slots=True)
class Attacked:
    """A row carried out: what became of it."""

    attack: Attack
    stop: Stop

    @property
    def as_expected(self) -> bool:
        """Whether that is what was expected."""
        return self.stop == self.attack.stop


def attack(world: World, row: Attack, *, protected: bool = True) -> Attacked:
    """Carry out one attack on a protected guest that is put back first.

    Without `protected`, under nested tables that grant everything, and no register pinned.
    """
    world.restore()
    hypervisor = world.hypervisor
    pinned = dict(hypervisor.pins.kept)
    if not protected or row.unpinned:
        hypervisor.pins.kept.clear()
    if not protected:
        hypervisor.tables.set(0, places.RAM_SIZE, ALL)
        world.guest.host.flush()
    before = written(hypervisor.tables), world.guest.host.pool.copy()
    try:
        stop = _performed(world, row)
    finally:
        hypervisor.pins.kept.update(pinned)
    wrong = next(_wrong(world, row, stop, *before), None)
    return Attacked(row, stop if wrong is None else Other(f"{stop}, {wrong}"))


def _performed(world: World, row: Attack) -> Stop:
    """Take the steps, and return what became of the last one."""
    results = list(perform(world.agent, row.steps[:-1]))
    for number, (step, each) in enumerate(results, 1):
        if each.failed:
            return Other(f"step {number} of {len(row.steps)} met {each.met}")
        if is_hypercall(step) and each.value:
            return Other(f"step {number} of {len(row.steps)} was refused")
    last = row.steps[-1]
    foretold = _foretold(world, last)
    before = len(world.hypervisor.replies)
    ((_, result),) = perform(world.agent, [last])
    stop = stop_of(result, row.stop, asked=len(world.hypervisor.replies) > before)
    if _access_of(last) is not None and foretold != result.met:
        return Other(f"{stop}, which the walk in two dimensions doesn't foretell: {foretold}")
    return stop


def _wrong(world: World, row: Attack, stop: Stop, before: Permissions, words: U64) -> Iterator[str]:
    """Yield what is wrong with the way in which an attack was stopped, or wasn't."""
    hypervisor = world.hypervisor
    if isinstance(stop, Refused) and row.told not in hypervisor.replies[-1].why:
        yield f"but: {hypervisor.replies[-1].why}"
    if isinstance(stop, Refused) and (world.guest.host.pool != words).any():
        yield "and nested tables changed"
    if isinstance(stop, NestedFault) and _stored(world, stop):
        yield "and written all the same"
    changed = np.flatnonzero(written(hypervisor.tables) != before)
    if row.kept and len(changed):
        yield f"and frame {int(changed[0]):#x} granted otherwise"


def _access_of(step: Move) -> Access | None:
    if not isinstance(step, Step) or step.operation not in _ACCESSES:
        return None
    kind, cpl = _ACCESSES[step.operation]
    return Access(step.first, kind, cpl)


def _foretold(world: World, step: Move) -> Met | None:
    """Return what the walk in two dimensions says of a step that is an access."""
    access = _access_of(step)
    return None if access is None else world.guest.foretell(access)


def _stored(world: World, stop: NestedFault) -> bool:
    """Return whether a store was made all the same that a nested fault is told to have stopped."""
    inside = stop.gpa < places.RAM_SIZE
    return bool(stop.error_code & _WRITE) and inside and world.changed(stop.gpa & -8, 8)
