"""The scenario of any guest: booted, protected at a point, run on to another, attacked."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.cpu.svm.host import HOST_MODEL
from crosswalk.emu.load.boot import Boot, Reached
from crosswalk.emu.load.failure import GuestFailure
from crosswalk.emu.load.formats import OpenedGuest
from crosswalk.emu.load.points import Point
from crosswalk.emu.protect.kernel.guest_attacks import attack_guest
from crosswalk.emu.protect.kernel.protection import Protection
from crosswalk.emu.protect.kernel.results import begun, fields_of, sum_up
from crosswalk.emu.protect.kernel.scenario import PlainBoot, ProtectedBoot, plain_boot
from crosswalk.walker.context import PagingContext, PagingMode
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import PhysicalMemory

__all__ = ["GuestRun", "boot_guest", "run_guest_plain", "run_guest_protected"]


@dataclass(frozen=True, slots=True)
class GuestRun:
    """A guest, how its machine is, and where protection begins and the run ends."""

    guest: OpenedGuest
    protect_at: Point
    until: Point
    seconds: float
    exit_port: int | None = None
    tick_every: int | None = None
    on_line: Callable[[str], None] | None = None


def run_guest_plain(ram: Ram, run: GuestRun) -> tuple[PlainBoot, int | None]:
    """Run on the same CPU without nested paging; also return what the guest exited with, if it did.

    Raises `GuestFailure` where it doesn't pass its points.
    """
    boot, began = boot_guest(ram, run), time.process_time()
    early = 0.0
    for reached in boot.run([run.protect_at], run.until, run.seconds):
        if reached.point == run.protect_at:
            _require_paging(reached)
            boot.machine.intercepting = False  # As it is under nested paging.
            early = time.process_time() - began
    return plain_boot(boot, early, time.process_time() - began), boot.exit_status


def run_guest_protected(
    ram: Ram,
    run: GuestRun,
    look: Callable[[PhysicalMemory, PagingContext], None] | None = None,
) -> ProtectedBoot:
    """Run to a point, take the guest under nested paging and protect it, go on, and attack.

    `look` is called when protection begins, with the guest's memory and its registers. RAM is left
    as it was at the end. Errors as in `run_guest_plain`; `BadInput` where the guest is without
    paging at the point, or in 5-level paging.
    """
    boot = boot_guest(ram, run)
    began, early = time.process_time(), 0.0
    protection, refusal, beginning = None, None, None
    try:
        for reached in boot.run([run.protect_at], run.until, run.seconds):
            if reached.point != run.protect_at:
                continue
            context = _require_paging(reached)
            since = time.process_time()
            early = since - began
            if look is not None:
                look(boot.memory, context)
            protection = Protection(boot, run.guest.image, keeps=False)
            protection.enforce()
            beginning = begun(protection, since, text=False)
    except GuestFailure:
        refusal = None if protection is None else protection.refusal
        if refusal is None:
            raise
    if protection is None or beginning is None:
        raise BadInput(f"the guest didn't reach {run.protect_at}")
    enforcing = protection
    policy = beginning.seconds + enforcing.policy_seconds
    plain = plain_boot(boot, early, time.process_time() - began - policy)
    enforced = sum_up(
        enforcing,
        beginning,
        refused=refusal is not None,
        attacked=lambda: attack_guest(enforcing),
    )
    return ProtectedBoot(plain=plain, refusal=refusal, **fields_of(enforced))


def _require_paging(reached: Reached) -> PagingContext:
    context = reached.paging
    if context is None or context.mode is PagingMode.LEVEL5:
        mode = "without paging" if context is None else f"in {context.mode} paging"
        raise BadInput(
            f"--protect-at {reached.point}: the guest is {mode} there, and what protects it is for "
            "32-bit, PAE and 4-level paging"
        )
    return context


def boot_guest(ram: Ram, run: GuestRun) -> Boot:
    """Return the boot of a guest, without nested paging."""
    return Boot(
        ram,
        run.guest,
        model=HOST_MODEL,
        exit_port=run.exit_port,
        tick_every=run.tick_every,
        on_line=run.on_line,
    )
