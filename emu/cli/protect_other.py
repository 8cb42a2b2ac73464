"""`protect --guest`: a kernel of any kind under nested paging, its collective rights enforced."""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from crosswalk.emu.cli.blame import Rerun, blame_at, blame_key
from crosswalk.emu.cli.boot_points import point_named
from crosswalk.emu.cli.check import machine_spaces
from crosswalk.emu.cli.expecting import chosen_sentences, judged_machine
from crosswalk.emu.cli.failing import protect_failures
from crosswalk.emu.cli.guest_files import chosen_guest, guest_file, guest_text, names_in_guest
from crosswalk.emu.cli.host_machine import chosen_kind
from crosswalk.emu.cli.kernel_report import kernel_record, nothing_came, report_kernel
from crosswalk.emu.cli.output import remark
from crosswalk.emu.cli.protect_kernel import protect_kernel
from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.failure import GuestFailure
from crosswalk.emu.load.formats import OpenedGuest
from crosswalk.emu.load.linux.guest import LinuxGuest
from crosswalk.emu.load.points import Point, PointKind
from crosswalk.emu.protect.kernel.guest_scenario import (
    GuestRun,
    boot_guest,
    run_guest_plain,
    run_guest_protected,
)
from crosswalk.emu.protect.kernel.report import Check, checks, enforced_lines, refusal_record
from crosswalk.emu.protect.kernel.scenario import PlainBoot, ProtectedBoot
from crosswalk.emu.report.expectations import Result
from crosswalk.emu.workers.contained import contained
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.protection.policy import TableKind

__all__ = ["protect_other"]

_OF_OTHERS = {
    "--module": ": its initial RAM disk is --initrd",
    "--exit-port": "",
    "--tick-every": "",
    "--until": ": it runs until it is idle",
    "--system-map": ": its symbols are those that it has itself",
}
"""Options that protection of a Linux kernel doesn't read, and what it has in their place."""

_LIMIT = (
    ": from read-only data of the image, and not from the rest, which may come to serve as a "
    "table: the emulator ends where it walks one that isn't executable"
)

_ELSEWHERE = (
    ", where protection begins unless --protect-at names another point, as symbol:NAME or "
    "instructions:N"
)


def protect_other(options: argparse.Namespace) -> int:
    """Run a guest without nested paging and with it, protect, attack; return the exit status.

    A Linux kernel is one of --kernel.
    """
    path, guest = guest_file(options), chosen_guest(options)
    if isinstance(guest, LinuxGuest) and not guest.kernel.bare:
        _require_linux(options)
        options.kernel = path
        return protect_kernel(options)
    if chosen_kind(options) is not TableKind.NPT:
        raise BadInput("--guest is protected under NPT alone (--tables npt)")
    sentences = chosen_sentences(options)
    run = _run(options, guest)
    rams = Ram(0, options.ram << 20), Ram(0, options.ram << 20)  # Shared with the children.

    def work() -> tuple[ProtectedBoot, list[Result]]:
        found: list[Result] = []

        def look(memory: PhysicalMemory, context: PagingContext) -> None:
            spaces = machine_spaces(str(run.protect_at), memory, context)
            names = names_in_guest(options, guest, spaces)
            found.extend(judged_machine(options, sentences, spaces, names, search=True))

        return run_guest_protected(rams[1], run, look if sentences else None), found

    def both() -> tuple[PlainBoot, int | None, ProtectedBoot, list[Result]]:
        try:
            remark("running without nested paging…")
            plain, status = contained(lambda: run_guest_plain(rams[0], run))
            remark(f"running, under nested paging from {run.protect_at} on…")
            return plain, status, *contained(work)
        except GuestFailure as failure:
            if options.protect_at is None and str(run.protect_at) in failure.missed:
                _, *more = failure.args
                raise GuestFailure(f"{failure}{_ELSEWHERE}", *more) from failure
            raise

    remark(guest_text(options, guest))
    with protect_failures(options):
        plain, status, protected, expected = both()
        quiet = replace(run, on_line=None)
        rerun = Rerun(lambda ram: boot_guest(ram, quiet), (), run.protect_at, run.seconds)
        blamed = blame_at(options, guest.image, rerun)
    differing = np.flatnonzero(rams[0].words != rams[1].words)
    pairs = [(int(rams[0].words[at]), int(rams[1].words[at])) for at in differing.tolist()]
    found = [*checks(plain, protected, pairs, end=str(run.until))]
    exited = None if status is None else status >> 1
    if exited is not None:
        found.append(Check(f"the guest exited with {exited}", not exited))
    return report_kernel(
        options,
        protected,
        found,
        other=path,
        record=lambda: {
            **_record(options, run, plain, protected, found, exited),
            **blame_key(blamed),
        },
        lines=_lines(plain, protected, run),
        limit=_LIMIT,
        expected=expected,
    )


def _require_linux(options: argparse.Namespace) -> None:
    """Raise `BadInput` for an option that is for other guests than Linux alone."""
    for name, instead in _OF_OTHERS.items():
        if getattr(options, name.lstrip("-").replace("-", "_")) is not None:
            raise BadInput(f"{name} isn't for a Linux kernel that is protected{instead}")


def _run(options: argparse.Namespace, guest: OpenedGuest) -> GuestRun:
    until = PointKind.IDLE if options.exit_port is None else PointKind.EXIT
    return GuestRun(
        guest=guest,
        protect_at=_point(options, guest, options.protect_at or PointKind.USER.value),
        until=_point(options, guest, options.until or until.value),
        seconds=options.timeout,
        exit_port=options.exit_port,
        tick_every=options.tick_every,
        on_line=remark if options.console else None,
    )


def _point(options: argparse.Namespace, guest: OpenedGuest, text: str) -> Point:
    point = point_named(text, guest.image, options.system_map)
    if point.kind is PointKind.EXIT and options.exit_port is None:
        raise BadInput("the point exit needs --exit-port, by which the guest exits")
    return point


def _lines(plain: PlainBoot, protected: ProtectedBoot, run: GuestRun) -> Iterator[str]:
    nested, point = protected.plain, str(run.protect_at)
    yield (
        f"under VMRUN from {point} on: {nested.seconds:.1f} s of CPU time to {run.until}, "
        f"{nested.seconds / plain.seconds:.2f} times the {plain.seconds:.1f} s without"
    )
    yield from enforced_lines(
        protected,
        point,
        of_execution=f"read-only data of the image, but for tables ({protected.counts.tables:,} "
        "in all)",
        tables="nested tables",
        faults="nested faults",
    )


def _record(
    options: argparse.Namespace,
    run: GuestRun,
    plain: PlainBoot,
    protected: ProtectedBoot,
    found: list[Check],
    exited: int | None,
) -> dict[str, Any]:
    nested = protected.plain
    return kernel_record(
        protected,
        found,
        protect_at=str(run.protect_at),
        seconds=plain.seconds + nested.seconds + protected.policy_seconds,
        refused=None if protected.refusal is None else refusal_record(protected.refusal),
        more={
            "not_asked": nothing_came(protected, attacks_count=True),
            "guest": Path(guest_file(options)).name,
            "format": run.guest.format.value,
            "until": str(run.until),
            "guest_exit": exited,
            "plain_seconds": round(plain.seconds, 3),
            "nested_seconds": round(nested.seconds, 3),
            "policy_seconds": round(protected.policy_seconds, 3),
            "slowdown": round(nested.seconds / plain.seconds, 3),
        },
    )
