"""The scenario of a Linux kernel under EPT: booted, protected, run to idle, attacked."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from crosswalk.emu.load.linux.guest import ARGUMENTS
from crosswalk.emu.load.points import Point, PointKind
from crosswalk.emu.monitor.monitor import Monitor
from crosswalk.emu.monitor.vmx import ExitReason
from crosswalk.emu.protect.kernel.ept import EptProtection, EptRefusal
from crosswalk.emu.protect.kernel.ept_moment import EptMoment, Noticed
from crosswalk.emu.protect.kernel.ept_subject import attack_under_ept
from crosswalk.emu.protect.kernel.moment import require_early
from crosswalk.emu.protect.kernel.monitored import MonitoredKernel
from crosswalk.emu.protect.kernel.results import Enforced, begun, count, fields_of, sum_up
from crosswalk.emu.protect.kernel.scenario import Guest
from crosswalk.walker.architecture import RFlags
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.protection.policy import TableKind

__all__ = ["IDLE_TICKS", "EptBoot", "run_under_ept"]

IDLE_TICKS = 250
"""How many halts in a row without anything else make a guest idle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EptBoot(Enforced):
    """The results of a boot under EPT.

    `refusal` is the exit that was refused once protection had begun, or None; after one the run
    ends there. `early` and `late` are the host's seconds from the entry to where protection begins,
    and from there to idle; `ticks` what the machine's time-stamp counter had advanced by until
    then: Bochs counts instructions, those of the monitor too. `user_code` is the number of frames
    that users were granted execution of. `unlike` tells the EPT violations, until idle and in
    attacks, that the nested walk didn't predict, but for those that came as the machine is known to
    depart: `known` counts these, by its departures' names.
    """

    kind: TableKind
    console: bytes
    refusal: EptRefusal | None
    early: float
    late: float
    ticks: int
    user_code: int
    unlike: tuple[str, ...]
    known: dict[str, int]


def run_under_ept(
    monitor: Monitor,
    guest: Guest,
    *,
    size: int,
    kind: TableKind,
    protect_at: Point,
    seconds: float,
    look: Callable[[PhysicalMemory, PagingContext], None] | None = None,
    notice: Callable[[str], None] = lambda _: None,
) -> EptBoot:
    """Boot in `size` bytes of RAM, protect at a point, go on to idle, and attack.

    `look` is called when protection begins, with the guest's memory and its registers, `notice`
    with a line at each stage. Raises `GuestFailure` where the kernel ends, or has run for
    `seconds`, before it is idle, for another reason than the host's refusal; `BadInput` where it
    hasn't write-protected its text by the point, or a system call has been made.
    """
    kernel = MonitoredKernel(
        monitor,
        guest.kernel,
        size=size,
        initrd=guest.initrd,
        arguments=f"{ARGUMENTS} {guest.arguments}".strip(),
        kind=kind,
        on_line=guest.on_line,
    )
    host = EptProtection(kernel, guest.kernel)
    began, first_tick = time.monotonic(), kernel.ticks
    moment = EptMoment(host, protect_at)
    _run(host, moment, protect_at, began + seconds)
    if host.refusal is not None:
        raise BadInput(f"the kernel was stopped before {protect_at}: {host.refusal}")
    moment.end()
    require_early(protect_at, moment.system_calls, at_least=True)
    early, ticks = time.monotonic() - began, kernel.ticks - first_tick
    notice(
        f"protection begins, {early:.0f} s and {ticks:,} ticks of the CPU's clock after the entry"
    )
    since = time.process_time()
    if look is not None:
        look(kernel.memory, host.context)
    host.enforce()
    beginning = begun(host, since)
    resumed = time.monotonic()
    _run(host, None, Point(PointKind.IDLE), resumed + seconds - early)
    late, refused = time.monotonic() - resumed, host.refusal
    if refused is None:
        notice(f"idle, {late:.0f} s later; attacks…")
    enforced = sum_up(
        host,
        beginning,
        refused=refused is not None,
        attacked=lambda: attack_under_ept(host),
    )
    return EptBoot(
        kind=kind,
        console=bytes(kernel.console),
        refusal=refused,
        early=early,
        late=late,
        ticks=ticks,
        user_code=count(host.user_code),
        unlike=tuple(host.unlike),
        known=dict(sorted(host.known.items())),
        **fields_of(enforced),
    )


def _run(host: EptProtection, moment: EptMoment | None, point: Point, until: float) -> None:
    """Run until a moment is reached; without one, until the guest is idle.

    Or until the host refuses an exit. Idle is a guest that only halts: so many times that nothing
    but ticks of its timer can have woken it.
    """
    kernel, halts = host.guest, 0
    while True:
        left = kernel.run(moment.on_console if moment else (lambda: False))
        if left is None:
            return
        if time.monotonic() > until:
            raise kernel.failure(f"the guest didn't reach {point}: the time is up")
        noticed = moment.handle(left) if moment else Noticed.OTHER
        if noticed is Noticed.REACHED:
            return
        if noticed is Noticed.HANDLED:
            continue
        if left.reason == ExitReason.HLT:
            if not left.rflags & RFlags.IF:
                raise kernel.failure(f"the guest didn't reach {point}: it halted for good")
            halts += 1
            if moment is None and halts > IDLE_TICKS:
                return
            kernel.halt(left)
        elif host.handle(left):
            halts = 0
        else:
            return
