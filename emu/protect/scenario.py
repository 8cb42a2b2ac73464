"""The scenario: the guest requests protection, is probed and attacked, and updates its tables."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from crosswalk.emu.protect.actions import Actions, intended_permissions
from crosswalk.emu.protect.attack import Attacked, Crashes, NestedFault, Violation, run_attacks
from crosswalk.emu.protect.attacks import ATTACKS, AgentAttack
from crosswalk.emu.protect.permissions import READ_WRITE, Permissions, grant_text
from crosswalk.emu.protect.probes import Probed, probe_forged, probe_mappings
from crosswalk.emu.protect.subject import ProtectedGuest
from crosswalk.emu.protect.updates import UPDATES, Updated, run_updates
from crosswalk.walker.frames import count_mappings
from crosswalk.walker.protection.policy import TableKind
from crosswalk.walker.unfollowed import Unfollowed, unfollowed

__all__ = ["Scenario", "run_scenario", "stopped_by_right"]


@dataclass(frozen=True, slots=True)
class Scenario:
    """The results of the scenario.

    `entries` of the page list, `immutable` of them immutable. `unintended` frames have other
    collective rights than the guest intends, which its page list says; `more` frames were requested
    with less than their mappings need, and are granted that. `frames` granted, by permission;
    `spared` frames are executable only because the emulator can't walk tables that aren't;
    `nested_tables` of 4 KiB. `own` are the accesses through the guest's own mappings, `forged`
    those through forged tables. `kind` is that of the nested tables. `mapped` is the number of the
    guest's mappings, `unfollowed` what of its tables can't be followed. `departed` counts the
    attacks that ended as the machine is known to depart, by its departures' names.
    """

    entries: int
    immutable: int
    unintended: int
    more: int
    kind: TableKind
    frames: dict[str, int]
    spared: int
    nested_tables: int
    own: Probed
    forged: Probed
    attacks: tuple[Attacked[Actions], ...]
    updates: tuple[Updated, ...]
    mapped: int
    unfollowed: Unfollowed
    departed: Counter[str]

    @property
    def known(self) -> Counter[str]:
        """The accesses that ended as the machine is known to depart, by its departures' names."""
        found = self.own.known + self.forged.known
        for each in self.updates:
            found += each.known
        return found

    @property
    def unprotected(self) -> list[Attacked[Actions]]:
        """The attacks that were tried without protection, too."""
        return [each for each in self.attacks if each.unprotected is not None]

    @property
    def wrong(self) -> list[str]:
        """All that isn't as expected, in words; of probes the first alone."""
        found = self.own.divergences + self.forged.divergences
        found += [wrong for each in self.attacks for wrong in each.wrong]
        found += [f"{each.update.name}: {wrong}" for each in self.updates for wrong in each.wrong]
        if self.unintended:
            found.append(f"{self.unintended:,} frames have collective rights that aren't intended")
        return found

    @property
    def divergent(self) -> int:
        """How many frames, probes, attacks and updates aren't as expected."""
        return (
            self.unintended
            + self.own.divergent
            + self.forged.divergent
            + sum(len(each.wrong) for each in self.attacks)
            + sum(bool(each.wrong) for each in self.updates)
        )


def run_scenario(
    subject: ProtectedGuest,
    *,
    crashes: Crashes | None = None,
    frames: int | None = None,
    attacks: Sequence[AgentAttack] = ATTACKS,
) -> Scenario:
    """Probe what is granted, run the attacks, then the updates.

    `frames` bounds how many are probed through forged tables; `crashes` as in `run_attacks`.
    """
    booted, hypervisor = subject.booted, subject.hypervisor
    granted = hypervisor.granted
    by_policy = hypervisor.rules.granted_by_policy(subject.collective)
    intended = intended_permissions(booted.image, booted.status, hypervisor.tables.kind)
    intended[intended == 0] = READ_WRITE
    context = subject.guest.context
    bound = len(granted) if frames is None else frames
    run = partial(run_attacks, subject, unprotected=stopped_by_right, crashes=crashes)
    subject.known.clear()
    return Scenario(
        departed=subject.known,
        mapped=sum(count_mappings(subject.guest.memory, context).values()),
        unfollowed=unfollowed(subject.guest.memory, context),
        entries=len(subject.entries),
        immutable=sum(each.immutable for each in subject.entries),
        unintended=int((intended != subject.collective).sum()),
        more=subject.more,
        kind=hypervisor.tables.kind,
        frames=_by_permission(hypervisor.tables.kind, granted),
        spared=int((granted != by_policy).sum()),
        nested_tables=hypervisor.tables.tables,
        own=probe_mappings(subject.agent, booted.image.resolve_intended(booted.status)),
        forged=probe_forged(subject.agent, granted, frames=bound),
        attacks=tuple(run(attacks)),
        updates=tuple(run_updates(subject, UPDATES)),
    )


def _by_permission(kind: TableKind, granted: Permissions) -> dict[str, int]:
    counts = np.bincount(granted)
    return {grant_text(kind, value): int(count) for value, count in enumerate(counts) if count}


def stopped_by_right(attack: AgentAttack) -> bool:
    """Return whether an attack is to be stopped by a right that a nested table withholds."""
    expected = attack.expected
    return isinstance(expected, NestedFault | Violation) and expected.withheld
