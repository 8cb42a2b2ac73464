"""The whole story: a guest that asks for protection, what proves it, attacks, and its life after.

What may crash the emulator is done by way of a function that is given: it runs its argument in a
child process.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from crosswalk.emu.protect.attack import Attack
from crosswalk.emu.protect.attacks import ATTACKS
from crosswalk.emu.protect.grants import Permissions
from crosswalk.emu.protect.probes import Proof, probe_beyond, probe_mappings
from crosswalk.emu.protect.requests import meant
from crosswalk.emu.protect.results import Crash, NestedFault, NotStopped, Other
from crosswalk.emu.protect.run_attacks import Attacked, attack
from crosswalk.emu.protect.run_updates import Staged, live
from crosswalk.emu.protect.snapshot import World
from crosswalk.emu.protect.updates import STAGES
from crosswalk.walker.frames import count_mappings
from crosswalk.walker.protection.pagelist import Permission
from crosswalk.walker.unfollowed import Unfollowed, unfollowed

__all__ = ["Crashes", "Story", "tell"]

Crashes = Callable[[Callable[[], object]], str | None]
"""Does work in a child process; what the child died of, None if it lived."""

_PRESENT = 1


@dataclass(frozen=True, slots=True)
class Story:
    """What came of it all.

    `entries` asked for, `immutable` of them for ever; `meant_otherwise` frames that the guest
    means to have other rights than its tables give, which is what it asked by; `more` frames
    that it asked for with less than its mappings need, and has that all the same; `frames` granted,
    by permission; `spared` frames that are executable only because the emulator can't take
    anything else; `nested_tables` of 4 KiB. `mappings` and `beyond` are the proofs; `unprotected`
    are the attacks that nested faults stop, tried where nothing is protected. `mapped` is the
    number of the guest's mappings, `unfollowed` what of its tables can't be followed.
    """

    entries: int
    immutable: int
    meant_otherwise: int
    more: int
    frames: dict[str, int]
    spared: int
    nested_tables: int
    mappings: Proof
    beyond: Proof
    attacks: tuple[Attacked, ...]
    unprotected: tuple[Attacked, ...]
    stages: tuple[Staged, ...]
    mapped: int
    unfollowed: Unfollowed

    @property
    def wrong(self) -> list[str]:
        """All that isn't as it should be, in words."""
        found = [f"{self.meant_otherwise:,} frames aren't meant to have what their mappings need"]
        found = found if self.meant_otherwise else []
        found += self.mappings.divergences + self.beyond.divergences
        found += [
            f"{each.attack.name}: {each.stop}, not {each.attack.stop}"
            for each in self.attacks
            if not each.as_expected
        ]
        found += [
            f"{each.attack.name}, where nothing is protected: {each.stop}"
            for each in self.unprotected
            if not isinstance(each.stop, NotStopped)
        ]
        found += [f"{each.stage.name}: {wrong}" for each in self.stages for wrong in each.wrong]
        return found

    @property
    def divergent(self) -> int:
        """How many probes, attacks, stages and frames aren't as they should be."""
        return (
            self.meant_otherwise
            + self.mappings.divergent
            + self.beyond.divergent
            + sum(not each.as_expected for each in self.attacks)
            + sum(not isinstance(each.stop, NotStopped) for each in self.unprotected)
            + sum(bool(each.wrong) for each in self.stages)
        )


def tell(
    world: World, crashes: Crashes, *, frames: int | None = None, rows: Sequence[Attack] = ATTACKS
) -> Story:
    """Prove what is granted, carry out the attacks, and live on.

    `frames` bounds how many are tried through forged tables.
    """
    booted, hypervisor = world.booted, world.hypervisor
    granted, collective = hypervisor.granted, hypervisor.rules.granted_by_policy(world.collective)
    bound = len(granted) if frames is None else frames
    intended = booted.image.resolve_intended(booted.status)
    context = world.guest.context
    return Story(
        mapped=sum(count_mappings(booted.memory, context).values()),
        unfollowed=unfollowed(booted.memory, context),
        entries=len(world.entries),
        immutable=sum(each.immutable for each in world.entries),
        meant_otherwise=_otherwise(meant(booted.image, booted.status), world.collective),
        more=world.more,
        frames=_by_permission(granted),
        spared=int((granted != collective).sum()),
        nested_tables=hypervisor.tables.tables,
        mappings=probe_mappings(world.agent, intended),
        beyond=probe_beyond(world.agent, granted, frames=bound),
        attacks=tuple(_attacked(world, row, crashes) for row in rows),
        unprotected=tuple(
            attack(world, row, protected=False) for row in rows if _by_nested_tables(row)
        ),
        stages=tuple(live(world, STAGES)),
    )


def _otherwise(meant_: Permissions, collective: Permissions) -> int:
    data = np.uint8(Permission.READ | Permission.WRITE)
    return int((np.where(meant_, meant_, data) != collective).sum())


def _by_permission(granted: Permissions) -> dict[str, int]:
    counts = np.bincount(granted, minlength=8)
    return {
        "".join(name if value >> at & 1 else "-" for at, name in enumerate("rwx")): int(count)
        for value, count in enumerate(counts)
        if count
    }


def _by_nested_tables(row: Attack) -> bool:
    """Return whether a right that a nested table withholds is what is to stop an attack."""
    return isinstance(row.stop, NestedFault) and bool(row.stop.error_code & _PRESENT)


def _attacked(world: World, row: Attack, crashes: Crashes) -> Attacked:
    if not isinstance(row.stop, Crash):
        return attack(world, row)
    died_of = crashes(lambda: attack(world, row))
    return Attacked(row, Crash() if died_of else Other("the emulator lives"))
