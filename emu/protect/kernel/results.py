"""The results of a protected kernel, whatever enforces protection."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from crosswalk.emu.protect.attack import Attacked
from crosswalk.emu.protect.kernel.attacks import Code
from crosswalk.emu.protect.kernel.enforcement import Enforcement
from crosswalk.emu.protect.kernel.rules import Cause, Grants, may
from crosswalk.emu.protect.kernel.sealing import to_seal
from crosswalk.emu.protect.permissions import (
    ALL,
    READ_EXECUTE,
    READ_WRITE,
    Bools,
    Permissions,
    as_listed,
    executes,
)
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import FRAME, U64
from crosswalk.walker.protection.pagelist import Permission

__all__ = [
    "Beginning",
    "Counts",
    "Enforced",
    "Sealing",
    "begun",
    "count",
    "counts_of",
    "fields_of",
    "sum_up",
]


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of frames: all; by collective rights, if mapped; withheld, sealed, and of a kind."""

    frames: int
    read_only: int
    read_write: int
    read_execute: int
    all_three: int
    no_write: int
    no_execute: int
    sealed: int
    text: int
    tables: int
    image: int


@dataclass(frozen=True, slots=True)
class Sealing:
    """What became of frames outside the image that the kernel keeps read-only.

    `first` were sealed when protection began, `since` later; `released` are those that the kernel
    freed since. `unsealed` should be sealed in the end, by the kernel's tables, and aren't. `late`
    frames lost writing at another moment than when translations were dropped; `flushes` counts
    those, and `seconds` are the CPU seconds spent on looking at them.
    """

    first: int
    since: int
    released: int
    unsealed: int
    late: int
    flushes: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Enforced:
    """What came of enforcing protection, until the kernel was idle.

    `before` are the exits until protection began, `exits` those from then on to idle, by name;
    `causes` the nested faults among these. `changed` are the sealed frames whose content has
    changed, `patched` those that were opened. `as_ruled`: the nested tables, read back, grant what
    the rules do and no more. `policy_seconds` are the CPU seconds for computing rights when
    protection began.

    Of frames outside the image: `sealing` tells of those that are sealed; `loaded` were opened;
    `granted` and `withdrawn` are the numbers that have gained and lost writing, as it is in the
    end; `lost` counts all losses. `stale` frames are writable by the nested tables in the end, and
    by no mapping: of the kernel's own tables, by both roots where they are `isolated` for user
    mode, or of the tables that CR3 names. `extent` is `RightsFollower.extent` in the end. After a
    refusal there are no `attacks`.
    """

    counts: Counts
    pinned: dict[str, list[str]]
    nested_tables: int
    before: dict[str, int]
    exits: dict[str, int]
    causes: dict[Cause, int]
    steps: int
    differing: int
    as_ruled: bool
    changed: frozenset[int]
    patched: frozenset[int]
    loaded: frozenset[int]
    granted: int
    withdrawn: int
    lost: int
    stale: int
    sealing: Sealing
    isolated: bool
    nx: bool
    extent: tuple[int, int, int]
    policy_seconds: float
    attacks: tuple[Attacked[Code], ...]


def counts_of(host: Enforcement, *, text: bool = True) -> Counts:
    """Return the numbers when protection begins.

    Raises `BadInput` where `text` has to be protected by then, and none is.
    """
    grants: Grants = host.grants
    if text and not grants.text.any():
        raise BadInput("the kernel hasn't write-protected its text there (--protect-at)")
    collective: Permissions = as_listed(host.rights.initial)
    no_execute = grants.permissions & np.uint8(executes(host.kind)) == 0
    return Counts(
        frames=len(collective),
        read_only=count(collective == Permission.READ),
        read_write=count(collective == READ_WRITE),
        read_execute=count(collective == READ_EXECUTE),
        all_three=count(collective == ALL),
        no_write=count(~may(grants.permissions, Permission.WRITE)),
        no_execute=count(no_execute),
        sealed=count(grants.sealed),
        text=count(grants.text),
        tables=count(grants.tables),
        image=count(grants.image),
    )


@dataclass(frozen=True, slots=True)
class Beginning:
    """What was when protection began: numbers, the sealed frames' content, and the exits before.

    `later` is the number of frames sealed outside the image, `seconds` are the CPU seconds for
    computing rights.
    """

    counts: Counts
    content: U64
    later: int
    before: dict[str, int]
    seconds: float


def begun(host: Enforcement, since: float, *, text: bool = True) -> Beginning:
    """Return what is now that protection has begun; exits are counted from here on.

    `since` is the CPU time when computing began. `text` and errors as in `counts_of`.
    """
    counts, content, before = counts_of(host, text=text), _sealed_words(host), dict(host.exits)
    host.exits.clear()
    seconds = time.process_time() - since
    return Beginning(counts, content, host.later.added, before, seconds)


def sum_up(
    host: Enforcement,
    beginning: Beginning,
    *,
    refused: bool,
    attacked: Callable[[], Iterable[Attacked[Code]]],
) -> Enforced:
    """Withdraw what no mapping has, attack, and return what came of all.

    After an exit was refused neither is done.
    """
    exits, causes = dict(host.exits), dict(host.causes)
    if not refused:
        host.withdraw()
    later = host.later
    outside = ~host.grants.sealed & ~later.frames
    unsealed = {} if refused else to_seal(host.rights, outside)
    found = host.read_back()
    stale = may(found, Permission.WRITE) & ~host.rights.fresh_writable(host.root)
    return Enforced(
        counts=beginning.counts,
        pinned=host.pinned,
        nested_tables=host.nested.tables,
        before=beginning.before,
        exits=exits,
        causes=causes,
        steps=host.rights.steps,
        differing=host.rights.differing,
        as_ruled=_as_ruled(host, found),
        changed=_changed(host, beginning.content) | later.changed(),
        patched=frozenset(host.patched),
        loaded=frozenset(host.loaded),
        granted=count(host.followed),
        withdrawn=count(host.withdrawn),
        lost=host.lost,
        stale=count(stale),
        sealing=Sealing(
            first=beginning.later,
            since=later.added - beginning.later,
            released=later.released,
            unsealed=len(unsealed),
            late=host.late,
            flushes=host.flushes,
            seconds=host.flush_seconds,
        ),
        isolated=host.rights.isolated,
        nx=host.rights.context.nxe,
        extent=host.rights.extent(),
        policy_seconds=beginning.seconds,
        attacks=() if refused else tuple(attacked()),
    )


def fields_of(enforced: Enforced) -> dict[str, Any]:
    """Return the fields by name, for the constructor of a class that has more."""
    return {each.name: getattr(enforced, each.name) for each in fields(Enforced)}


def _as_ruled(host: Enforcement, found: Permissions) -> bool:
    """Return whether nested tables grant what the rules do, and no sealed frame is open.

    `found` is what their entries grant each frame.
    """
    sealed = found[host.grants.sealed]
    return bool((found == host.due).all()) and not may(sealed, Permission.WRITE).any()


def _sealed_words(host: Enforcement) -> U64:
    """Return what the sealed frames hold now, uint64[n, 512], a copy."""
    frames = np.flatnonzero(host.grants.sealed).astype(np.uint64) * np.uint64(FRAME)
    words: U64 = host.memory.tables(frames).copy()
    return words


def _changed(host: Enforcement, before: U64) -> frozenset[int]:
    """Return the numbers of the sealed frames whose content is no longer that of before."""
    differs = (_sealed_words(host) != before).any(axis=1)
    return frozenset(np.flatnonzero(host.grants.sealed)[differs].tolist())


def count(frames: Bools) -> int:
    """Return how many frames these are."""
    return int(np.count_nonzero(frames))
