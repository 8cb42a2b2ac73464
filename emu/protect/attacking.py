"""Carrying out the attack table, and holding each row against what was expected."""

from dataclasses import dataclass

import numpy as np

from emu.protect.attack import Attack
from emu.protect.grants import ALL, written
from emu.protect.steps import is_hypercall, perform
from emu.protect.stops import NestedFault, Other, Refused, Stop, stop_of
from emu.protect.world import World
from guest import places

__all__ = ["Attacked", "attack"]

_WRITE = 2


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
    pinned = dict(hypervisor.pinned)
    if not protected:
        hypervisor.pinned.clear()
        hypervisor.tables.set(0, places.RAM_SIZE, ALL)
        world.guest.host.flush()
    before = written(hypervisor.tables)
    words = world.guest.host.pool.copy()
    if row.unpinned:
        hypervisor.pinned.clear()
    try:
        results = list(perform(world.agent, row.steps))
    finally:
        hypervisor.pinned.update(pinned)
    last, result = results[-1]
    for number, (step, each) in enumerate(results[:-1], 1):
        if is_hypercall(step) and each.value:
            return Attacked(row, Other(f"step {number} of {len(row.steps)} was refused"))
    if len(results) < len(row.steps):
        return Attacked(row, Other(f"step {len(results)} of {len(row.steps)} met {result.met}"))
    stop = stop_of(last, result, row.stop)
    if isinstance(stop, Refused) and (world.guest.host.pool != words).any():
        stop = Other(f"{stop}, and nested tables changed")
    if isinstance(stop, Refused) and row.told not in hypervisor.replies[-1].why:
        stop = Other(f"{stop}: {hypervisor.replies[-1].why}")
    if isinstance(stop, NestedFault) and _stored(world, stop):
        stop = Other(f"{stop}, and written all the same")
    if row.kept and (written(hypervisor.tables) != before).any():
        at = int(np.flatnonzero(written(hypervisor.tables) != before)[0])
        stop = Other(f"{stop}, and frame {at:#x} granted otherwise")
    return Attacked(row, stop)


def _stored(world: World, stop: NestedFault) -> bool:
    """Return whether a store was made all the same that a nested fault is told to have stopped."""
    inside = stop.gpa < places.RAM_SIZE
    return bool(stop.error_code & _WRITE) and inside and world.changed(stop.gpa & -8, 8)
