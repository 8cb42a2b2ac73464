"""`protect --kernel --tables ept`: a Linux kernel under EPT in Bochs, its rights enforced."""

import argparse
from collections.abc import Sequence
from typing import Any

from crosswalk.emu.cli.check import machine_spaces
from crosswalk.emu.cli.expecting import chosen_sentences, judged_machine
from crosswalk.emu.cli.failing import protect_failures
from crosswalk.emu.cli.host_machine import chosen_host, chosen_kind
from crosswalk.emu.cli.kernel_report import kernel_record, report_kernel
from crosswalk.emu.cli.names import kernel_names
from crosswalk.emu.cli.output import remark
from crosswalk.emu.load.points import Point
from crosswalk.emu.monitor.monitor import Monitor
from crosswalk.emu.protect.kernel.ept_moment import require_point
from crosswalk.emu.protect.kernel.ept_report import ept_boot_lines, ept_checks, ept_refusal_record
from crosswalk.emu.protect.kernel.ept_scenario import EptBoot, run_under_ept
from crosswalk.emu.protect.kernel.monitored import BOCHS_SETTINGS
from crosswalk.emu.protect.kernel.report import Check
from crosswalk.emu.protect.kernel.scenario import Guest
from crosswalk.emu.report.expectations import Result
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import PhysicalMemory

__all__ = ["protect_kernel_ept"]


def protect_kernel_ept(options: argparse.Namespace, guest: Guest, protect_at: Point) -> int:
    """Boot under EPT, protect, attack; return the exit status."""
    kind = chosen_kind(options)
    sentences = chosen_sentences(options)
    if options.protect_at is not None:
        require_point(protect_at, kind, guest.kernel)
    with protect_failures(options):
        machine = chosen_host(options, BOCHS_SETTINGS)
    require_point(protect_at, kind, guest.kernel)
    expected: list[Result] = []

    def look(memory: PhysicalMemory, context: PagingContext) -> None:
        spaces = machine_spaces(str(protect_at), memory, context)
        names = kernel_names(spaces, None)
        expected.extend(judged_machine(options, sentences, spaces, names, search=True))

    kernel = guest.kernel
    remark(f"{options.kernel}: {kernel.release or 'a kernel'}, {options.ram} MiB")
    remark(f"booting in {machine.version}: some minutes…")
    with (
        protect_failures(options),
        Monitor(machine, seconds=options.timeout) as monitor,
    ):
        boot = run_under_ept(
            monitor,
            guest,
            size=options.ram << 20,
            kind=kind,
            protect_at=protect_at,
            seconds=options.timeout,
            look=look if sentences else None,
            notice=remark,
        )
    found = tuple(ept_checks(boot))
    return report_kernel(
        options,
        boot,
        found,
        record=lambda: _record(boot, found, machine.version, protect_at),
        lines=(f"in {machine.version}", *ept_boot_lines(boot, str(protect_at))),
        expected=expected,
    )


def _record(
    boot: EptBoot, found: Sequence[Check], version: str, protect_at: Point
) -> dict[str, Any]:
    return kernel_record(
        boot,
        found,
        protect_at=str(protect_at),
        seconds=boot.early + boot.late,
        refused=None if boot.refusal is None else ept_refusal_record(boot.refusal),
        known=boot.known,
        since={"process_code": boot.user_code},
        more={
            "known": boot.known,
            "tables": str(boot.kind),
            "machine": version,
            "ticks": boot.ticks,
            "early_seconds": round(boot.early, 3),
            "late_seconds": round(boot.late, 3),
            "policy_seconds": round(boot.policy_seconds, 3),
        },
    )
