"""Living the guest's life after protection, with the nested tables held against fresh ones.

The rules by which grants follow the guest's tables are `crosswalk.emu.protect.grants.Rules`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.protect.actions import is_hypercall, perform
from crosswalk.emu.protect.grants import Permissions, permissions_of, stretches, written
from crosswalk.emu.protect.probes import probe_beyond
from crosswalk.emu.protect.results import stop_of
from crosswalk.emu.protect.snapshot import World
from crosswalk.emu.protect.updates import Stage
from crosswalk.guest import places
from crosswalk.walker.frames import collective_rights
from crosswalk.walker.memory import FRAME
from crosswalk.walker.nested.tables import NestedTables
from crosswalk.walker.protection.pagelist import Permission

__all__ = ["Staged", "live"]


@dataclass(frozen=True, slots=True)
class Staged:
    """A stage lived through.

    `changed` frames are granted otherwise than before; `probes` accesses through forged tables
    were made on them and their neighbours, `divergent` of them ended otherwise than they should
    have; `wrong` is all that isn't as it should be.
    """

    stage: Stage
    changed: int
    probes: int
    divergent: int
    wrong: tuple[str, ...]


def live(world: World, stages: Iterable[Stage]) -> list[Staged]:
    """Go through these stages from where protection was granted, and return what became of each."""
    world.restore()
    return [_stage(world, each) for each in stages]


def _stage(world: World, stage: Stage) -> Staged:
    wrong: list[str] = []
    before = written(world.hypervisor.tables)
    answers = []
    for step, result in perform(world.agent, stage.steps):
        if result.failed:
            wrong.append(f"{step} met {result.met}")
        elif is_hypercall(step):
            answers.append(world.hypervisor.replies[-1].answer)
    for answer, due in zip(answers, [*[0] * (len(answers) - 1), stage.answer], strict=True):
        if answer != due:
            wrong.append(f"answered {answer.name}: {world.hypervisor.replies[-1].why}")
    wanted = _due(world, wrong)
    changed = written(world.hypervisor.tables) != before
    probes, divergent = _probe(world, changed, wanted, wrong)
    _try(world, stage, wrong)
    return Staged(stage, int(changed.sum()), probes, divergent, tuple(wrong))


def _due(world: World, wrong: list[str]) -> Permissions:
    """Return what is to be granted by a fresh computation; hold what is granted against it."""
    hypervisor = world.hypervisor
    now = written(hypervisor.tables)
    fresh = permissions_of(collective_rights(world.booted.memory, world.guest.context))
    kept = hypervisor.collective
    if kept is None or (kept != fresh).any():
        wrong.append("collective rights aren't those of a fresh computation")
    due = hypervisor.rules.granted(fresh)
    tables = NestedTables(np.zeros_like(world.guest.host.pool), hypervisor.tables.root)
    tables.update((start, size, Permission(value)) for start, size, value in stretches(due))
    if list(tables.ranges()) != list(hypervisor.tables.ranges()):
        at = np.flatnonzero(now != due)
        where = f" from {int(at[0]) * FRAME:#x} on" if len(at) else ""
        wrong.append(f"nested tables aren't those built afresh: {len(at)} frames{where}")
    if tables.tables != hypervisor.tables.tables:
        wrong.append(f"{hypervisor.tables.tables} nested tables, {tables.tables} when built afresh")
    return due


def _probe(
    world: World, changed: NDArray[np.bool_], due: Permissions, wrong: list[str]
) -> tuple[int, int]:
    """Try the frames that changed or should have, and those beside; the accesses, and divergent."""
    changed = changed | (written(world.hypervisor.tables) != due)
    near = changed.copy()
    near[1:] |= changed[:-1]
    near[:-1] |= changed[1:]
    count = divergent = 0
    for start, size, value in stretches(near.astype(np.uint8)):
        if value:
            proof = probe_beyond(world.agent, due, start=start, frames=size // FRAME)
            count += proof.count
            divergent += proof.divergent
            wrong += proof.divergences
    return count, divergent


def _try(world: World, stage: Stage, wrong: list[str]) -> None:
    """Make the stage's trials; tables that they change are put back, behind the host's back."""
    for steps, expected in stage.trials:
        tables = world.guest.ram.bytes[places.POOL :][: places.POOL_FRAMES * FRAME]
        kept = tables.copy()
        *_, (last, result) = perform(world.agent, steps)
        stop = stop_of(result, expected, asked=is_hypercall(last))
        tables[:] = kept
        world.guest.host.flush()
        if stop != expected:
            wrong.append(f"a trial ended in {stop}, not in {expected}")
