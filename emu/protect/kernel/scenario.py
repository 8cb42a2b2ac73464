"""A kernel under protection, from its first instruction to the attacks on it."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.cpu.svm.host import HOST_MODEL
from crosswalk.emu.load.linux.boot import Boot
from crosswalk.emu.load.linux.failure import KernelFailure
from crosswalk.emu.load.linux.image import KernelImage
from crosswalk.emu.load.linux.points import Point, PointKind
from crosswalk.emu.protect.kernel.protection import Protection, Refusal
from crosswalk.emu.protect.kernel.rules import Cause, Grants, Wanted
from crosswalk.emu.protect.kernel.run_attacks import Fought, fight
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import FRAME

__all__ = ["Counts", "Guest", "Outcome", "Plain", "run_plain", "run_protected"]

_IDLE = Point(PointKind.IDLE)
_WORDS = FRAME // 8


@dataclass(frozen=True, slots=True)
class Guest:
    """What to boot: as `Boot` takes it."""

    kernel: KernelImage
    initrd: bytes
    arguments: str
    on_line: Callable[[str], None] | None


@dataclass(frozen=True, slots=True)
class Plain:
    """A boot to idle: what the console showed, how much happened, and CPU seconds.

    `early` are those to the point at which protection begins, without what is done there.
    """

    console: bytes
    events: int
    system_calls: int
    early: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Counts:
    """Frames: all; by collective rights (unmapped ones in none); what was withheld and sealed."""

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
class Outcome:
    """What became of a protected kernel.

    `before` are exits until protection began, `exits` those from then on to idle, by name;
    `causes` the nested faults among these. `refusal` is what was refused in that time: nothing,
    or the kernel has been stopped there, and what follows is empty. `changed` are the sealed
    frames whose content isn't what it was, `patched` those that were opened. `as_ruled` says
    whether the nested tables, read back, grant what the rules do and no more. `policy_seconds`
    are CPU seconds that the computing of rights took when protection began.

    Of frames outside of what is sealed: `loaded` were opened, `granted` writing and `withdrawn`
    from writing is as it is in the end, `lost` counts all withdrawals. `stale` are those that the
    nested tables let be written in the end, and no mapping does: of the kernel's own, by both
    roots where tables are `isolated` for user mode, and the present ones. `extent` is what
    `RightsFollower.extent` says in the end.
    """

    plain: Plain
    counts: Counts
    pinned: dict[str, list[str]]
    nested_tables: int
    before: dict[str, int]
    exits: dict[str, int]
    causes: dict[Cause, int]
    refusal: Refusal | None
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
    isolated: bool
    extent: tuple[int, int, int]
    policy_seconds: float
    attacks: tuple[Fought, ...]


def run_plain(ram: Ram, guest: Guest, protect_at: Point, seconds: float) -> Plain:
    """Boot to idle on the same CPU, without nested paging; errors as `run_protected`."""
    boot, began = _boot(ram, guest), time.process_time()
    early = 0.0
    for reached in boot.run([protect_at], _IDLE, seconds):
        if reached.point == protect_at:
            early = time.process_time() - began
    return _plain(boot, early, time.process_time() - began)


def run_protected(ram: Ram, guest: Guest, protect_at: Point, seconds: float) -> Outcome:
    """Boot under nested paging, protect at a point, go on to idle, and attack.

    RAM is left as it was at idle. Raises `KernelFailure` where the kernel ends before that for
    another reason than the host's refusal, or doesn't come by the point; `BadInput` where it
    hasn't protected itself there.
    """
    boot = _boot(ram, guest)
    protection = Protection(boot, guest.kernel)
    began, early, policy = time.process_time(), 0.0, 0.0
    before: dict[str, int] = {}
    refusal = None
    counts, content = None, ram.words[:0]
    try:
        for reached in boot.run([protect_at], _IDLE, seconds):
            if reached.point != protect_at:
                continue
            since = time.process_time()
            early = since - began
            counts = _enforce(protection)
            content = ram.words.copy()
            policy = time.process_time() - since
            before = dict(protection.exits)
            protection.exits.clear()
    except KernelFailure:
        refusal = protection.refusal
        if refusal is None:
            raise
    if counts is None:
        raise BadInput(f"the kernel was stopped before {protect_at}: {refusal}")
    plain = _plain(boot, early, time.process_time() - began - policy - protection.policy_seconds)
    exits, causes = dict(protection.exits), dict(protection.causes)
    if refusal is None:
        protection.withdraw()
    stale = protection.nested.found()[0] & ~protection.rights.writable(protection.root)
    return Outcome(
        plain=plain,
        counts=counts,
        pinned=protection.pinned,
        nested_tables=protection.nested.tables,
        before=before,
        exits=exits,
        causes=causes,
        refusal=refusal,
        steps=protection.rights.steps,
        differing=protection.rights.differing,
        as_ruled=_as_ruled(protection),
        changed=frozenset(_changed(protection, content)),
        patched=frozenset(protection.patched),
        loaded=frozenset(protection.loaded),
        granted=_count(protection.followed),
        withdrawn=_count(protection.withdrawn),
        lost=protection.lost,
        stale=_count(stale),
        isolated=protection.rights.isolated,
        extent=protection.rights.extent(),
        policy_seconds=policy,
        attacks=() if refusal else tuple(fight(protection)),
    )


def _boot(ram: Ram, guest: Guest) -> Boot:
    return Boot(
        ram,
        guest.kernel,
        initrd=guest.initrd,
        arguments=guest.arguments,
        model=HOST_MODEL,
        on_line=guest.on_line,
    )


def _plain(boot: Boot, early: float, seconds: float) -> Plain:
    machine = boot.machine
    events = sum(machine.counts.values())
    return Plain(bytes(machine.console), events, machine.system_calls, early, seconds)


def _enforce(protection: Protection) -> Counts:
    want, grants = protection.enforce()
    if not grants.text.any():
        raise BadInput("the kernel hasn't write-protected its text there (--protect-at)")
    return _counted(want, grants)


def _counted(want: Wanted, grants: Grants) -> Counts:
    write, execute = want.writable, want.executable
    return Counts(
        frames=len(write),
        read_only=_count(want.mapped & ~write & ~execute),
        read_write=_count(write & ~execute),
        read_execute=_count(execute & ~write),
        all_three=_count(write & execute),
        no_write=_count(~grants.writable),
        no_execute=_count(~grants.executable),
        sealed=_count(grants.sealed),
        text=_count(grants.text),
        tables=_count(grants.tables),
        image=_count(grants.image),
    )


def _as_ruled(protection: Protection) -> bool:
    """Return whether the entries grant what the rules do: no sealed frame is open, for one."""
    writable, executable = protection.nested.found()
    grants = protection.grants
    return bool(
        np.array_equal(writable, protection.writable)
        and np.array_equal(executable, grants.executable | protection.user_code)
        and not (writable & grants.sealed).any()
    )


def _changed(protection: Protection, content: np.ndarray) -> Iterator[int]:
    """Yield the sealed frames whose content has changed."""
    now = protection.machine.ram.words
    for frame in np.flatnonzero(protection.grants.sealed).tolist():
        span = slice(frame * _WORDS, (frame + 1) * _WORDS)
        if not np.array_equal(now[span], content[span]):
            yield frame


def _count(frames: np.ndarray) -> int:
    return int(np.count_nonzero(frames))
