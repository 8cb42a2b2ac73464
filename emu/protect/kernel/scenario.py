"""The scenario of a Linux kernel: booted, protected, run to idle, attacked; and a plain boot."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.cpu.svm.host import HOST_MODEL
from crosswalk.emu.load.boot import Boot
from crosswalk.emu.load.failure import GuestFailure
from crosswalk.emu.load.linux.guest import LinuxGuest
from crosswalk.emu.load.linux.image import KernelImage
from crosswalk.emu.load.points import Point, PointKind
from crosswalk.emu.protect.kernel.moment import require_early
from crosswalk.emu.protect.kernel.protection import Protection, Refusal
from crosswalk.emu.protect.kernel.results import Enforced, begun, fields_of, sum_up
from crosswalk.emu.protect.kernel.subject import attack_kernel
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import PhysicalMemory

__all__ = [
    "Guest",
    "PlainBoot",
    "ProtectedBoot",
    "boot_kernel",
    "plain_boot",
    "run_plain",
    "run_protected",
]

_IDLE = Point(PointKind.IDLE)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtectedBoot(Enforced):
    """The results of a protected boot.

    `refusal` is the exit that was refused once protection had begun, or None; after one the run
    ends there.
    """

    plain: PlainBoot
    refusal: Refusal | None


def run_plain(ram: Ram, guest: Guest, protect_at: Point, seconds: float) -> PlainBoot:
    """Boot to idle on the same CPU, without nested paging; errors as in `run_protected`."""
    boot, began = boot_kernel(ram, guest), time.process_time()
    boot.machine.intercepting = False  # As it is under nested paging.
    early = 0.0
    for reached in boot.run([protect_at], _IDLE, seconds):
        if reached.point == protect_at:
            early = time.process_time() - began
            require_early(protect_at, reached.system_calls)
    return plain_boot(boot, early, time.process_time() - began)


def run_protected(
    ram: Ram,
    guest: Guest,
    protect_at: Point,
    seconds: float,
    look: Callable[[PhysicalMemory, PagingContext], None] | None = None,
) -> ProtectedBoot:
    """Boot under nested paging, protect at a point, go on to idle, and attack.

    `look` is called when protection begins, with the guest's memory and its registers.

    RAM is left as it was at idle. Raises `GuestFailure` where the kernel ends before that for
    another reason than the host's refusal, or doesn't pass the point; `BadInput` where it hasn't
    write-protected its text by then, or a system call has been made.
    """
    boot = boot_kernel(ram, guest)
    protection = Protection(boot, guest.kernel)
    began, early = time.process_time(), 0.0
    refusal, beginning = None, None
    try:
        for reached in boot.run([protect_at], _IDLE, seconds):
            if reached.point != protect_at:
                continue
            require_early(protect_at, reached.system_calls)
            since = time.process_time()
            early = since - began
            if look is not None:
                look(boot.memory, reached.context)
            protection.enforce()
            beginning = begun(protection, since)
    except GuestFailure:
        refusal = protection.refusal
        if refusal is None:
            raise
    if beginning is None:
        raise BadInput(f"the kernel was stopped before {protect_at}: {refusal}")
    policy = beginning.seconds + protection.policy_seconds
    plain = plain_boot(boot, early, time.process_time() - began - policy)
    enforced = sum_up(
        protection,
        beginning,
        refused=refusal is not None,
        attacked=lambda: attack_kernel(protection),
    )
    return ProtectedBoot(plain=plain, refusal=refusal, **fields_of(enforced))


def boot_kernel(ram: Ram, guest: Guest) -> Boot:
    """Return the boot of a kernel, without nested paging."""
    return Boot(
        ram,
        LinuxGuest(guest.kernel, guest.initrd, guest.arguments),
        model=HOST_MODEL,
        on_line=guest.on_line,
    )


def plain_boot(boot: Boot, early: float, seconds: float) -> PlainBoot:
    """Return what a boot has come to: its console and counts, and these CPU seconds."""
    machine = boot.machine
    events = sum(machine.counts.values())
    return PlainBoot(bytes(machine.console), events, machine.system_calls, early, seconds)
