"""The scenario of a Linux kernel: booted, protected, run to idle, attacked; and a plain boot."""

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
from crosswalk.emu.protect.attack import Attacked
from crosswalk.emu.protect.kernel.attacks import Code
from crosswalk.emu.protect.kernel.enforcement import Enforcement
from crosswalk.emu.protect.kernel.protection import Protection, Refusal
from crosswalk.emu.protect.kernel.rules import Cause, Grants, may
from crosswalk.emu.protect.kernel.subject import attack_kernel
from crosswalk.emu.protect.permissions import (
    ALL,
    READ_EXECUTE,
    READ_WRITE,
    Bools,
    Permissions,
)
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import FRAME, U64, PhysicalMemory
from crosswalk.walker.protection.pagelist import Permission

__all__ = ["Counts", "Guest", "PlainBoot", "ProtectedBoot", "run_plain", "run_protected"]

_IDLE = Point(PointKind.IDLE)
_WORDS = FRAME // 8


@dataclass(frozen=True, slots=True)
class Guest:
    """The kernel to boot, and the parameters of `Boot`."""

    kernel: KernelImage
    initrd: bytes
    arguments: str
    on_line: Callable[[str], None] | None


@dataclass(frozen=True, slots=True)
class PlainBoot:
    """A boot to idle: the console's output, counts of events and system calls, CPU seconds.

    `early` are the seconds to the point where protection begins, without what is done there.
    """

    console: bytes
    events: int
    system_calls: int
    early: float
    seconds: float


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
class ProtectedBoot:
    """The results of a protected boot.

    `before` are the exits until protection began, `exits` those from then on to idle, by name;
    `causes` the nested faults among these. `refusal` is the exit that was refused in that time, or
    None; after one the run ends there, and the fields below are empty. `changed` are the sealed
    frames whose content has changed, `patched` those that were opened. `as_ruled`: the nested
    tables, read back, grant what the rules do and no more. `policy_seconds` are the CPU seconds for
    computing rights when protection began.

    Of frames that aren't sealed: `loaded` were opened; `granted` and `withdrawn` are the numbers
    that have gained and lost writing, as it is in the end; `lost` counts all losses. `stale` frames
    are writable by the nested tables in the end, and by no mapping: of the kernel's own tables, by
    both roots where they are `isolated` for user mode, or of the tables that CR3 names. `extent` is
    `RightsFollower.extent` in the end.
    """

    plain: PlainBoot
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
    attacks: tuple[Attacked[Code], ...]


def run_plain(ram: Ram, guest: Guest, protect_at: Point, seconds: float) -> PlainBoot:
    """Boot to idle on the same CPU, without nested paging; errors as in `run_protected`."""
    boot, began = _boot(ram, guest), time.process_time()
    early = 0.0
    for reached in boot.run([protect_at], _IDLE, seconds):
        if reached.point == protect_at:
            early = time.process_time() - began
    return _plain(boot, early, time.process_time() - began)


def run_protected(
    ram: Ram,
    guest: Guest,
    protect_at: Point,
    seconds: float,
    look: Callable[[PhysicalMemory, PagingContext], None] | None = None,
) -> ProtectedBoot:
    """Boot under nested paging, protect at a point, go on to idle, and attack.

    `look` is called when protection begins, with the guest's memory and its registers.

    RAM is left as it was at idle. Raises `KernelFailure` where the kernel ends before that for
    another reason than the host's refusal, or doesn't pass the point; `BadInput` where it hasn't
    write-protected its text by then.
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
            if look is not None:
                look(boot.memory, reached.context)
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
    mapped = protection.rights.fresh_writable(protection.root)
    stale = may(protection.nested.read_back(), Permission.WRITE) & ~mapped
    return ProtectedBoot(
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
        attacks=() if refusal else tuple(attack_kernel(protection)),
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


def _plain(boot: Boot, early: float, seconds: float) -> PlainBoot:
    machine = boot.machine
    events = sum(machine.counts.values())
    return PlainBoot(bytes(machine.console), events, machine.system_calls, early, seconds)


def _enforce(protection: Protection) -> Counts:
    grants = protection.enforce()
    if not grants.text.any():
        raise BadInput("the kernel hasn't write-protected its text there (--protect-at)")
    return _counts(protection.rights.initial, grants)


def _counts(collective: Permissions, grants: Grants) -> Counts:
    return Counts(
        frames=len(collective),
        read_only=_count(collective == Permission.READ),
        read_write=_count(collective == READ_WRITE),
        read_execute=_count(collective == READ_EXECUTE),
        all_three=_count(collective == ALL),
        no_write=_count(~may(grants.permissions, Permission.WRITE)),
        no_execute=_count(~may(grants.permissions, Permission.EXECUTE)),
        sealed=_count(grants.sealed),
        text=_count(grants.text),
        tables=_count(grants.tables),
        image=_count(grants.image),
    )


def _as_ruled(protection: Enforcement) -> bool:
    """Return whether the nested tables grant what the rules do, and no sealed frame is open."""
    found = protection.nested.read_back()
    sealed = found[protection.grants.sealed]
    return bool((found == protection.due).all()) and not may(sealed, Permission.WRITE).any()


def _changed(protection: Protection, content: U64) -> Iterator[int]:
    """Yield the sealed frames whose content has changed."""
    now = protection.machine.ram.words
    for frame in np.flatnonzero(protection.grants.sealed).tolist():
        span = slice(frame * _WORDS, (frame + 1) * _WORDS)
        if not np.array_equal(now[span], content[span]):
            yield frame


def _count(frames: Bools) -> int:
    return int(np.count_nonzero(frames))
