"""`protect --kernel --tables ept`: a Linux kernel under EPT in Bochs, its rights enforced."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from crosswalk.emu.cli.check import machine_spaces
from crosswalk.emu.cli.expecting import chosen_sentences, judged_machine, record, report_beside
from crosswalk.emu.cli.host_machine import chosen_host, chosen_kind
from crosswalk.emu.cli.names import kernel_names
from crosswalk.emu.cli.output import command_text, emit, remark
from crosswalk.emu.load.linux.failure import KernelFailure
from crosswalk.emu.load.linux.points import Point
from crosswalk.emu.monitor.monitor import Monitor
from crosswalk.emu.protect.kernel.ept_report import ept_boot_lines, ept_checks, ept_refusal_record
from crosswalk.emu.protect.kernel.ept_scenario import EptBoot, require_point, run_under_ept
from crosswalk.emu.protect.kernel.monitored import BOCHS_SETTINGS
from crosswalk.emu.protect.kernel.report import Check, attack_lines, attack_record
from crosswalk.emu.protect.kernel.scenario import Guest
from crosswalk.emu.report.expectations import Result
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import PhysicalMemory

__all__ = ["protect_kernel_ept"]

_NOTHING = "nothing came to the host since protection began: is --protect-at too late?"


@dataclass(frozen=True, slots=True)
class _Results:
    boot: EptBoot
    checks: tuple[Check, ...]
    version: str


def protect_kernel_ept(options: argparse.Namespace, guest: Guest, protect_at: Point) -> int:
    """Boot under EPT, protect, attack; return the exit status."""
    kind = chosen_kind(options)
    require_point(protect_at)
    sentences = chosen_sentences(options)
    machine = chosen_host(options, BOCHS_SETTINGS)
    expected: list[Result] = []

    def look(memory: PhysicalMemory, context: PagingContext) -> None:
        spaces = machine_spaces(str(protect_at), memory, context)
        names = kernel_names(spaces, None)
        expected.extend(judged_machine(options, sentences, spaces, names, search=True))

    kernel = guest.kernel
    remark(f"{options.kernel}: {kernel.release or 'a kernel'}, {options.ram} MiB")
    remark(f"booting in {machine.version}: some minutes…")
    try:
        with Monitor(machine, seconds=options.timeout) as monitor:
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
    except KernelFailure as failure:
        for line in failure.lines:
            remark(line)
        raise
    results = _Results(boot, tuple(ept_checks(boot)), machine.version)
    return _report(options, results, protect_at, expected)


def _report(
    options: argparse.Namespace,
    results: _Results,
    protect_at: Point,
    expected: Sequence[Result],
) -> int:
    failed = any(not check.holds for check in results.checks)
    if options.json:
        found = {"expectations": record(expected)} if expected else {}
        about = {**_record(results, protect_at), **found}
        emit({**about, "reproduce": command_text(options)})
    else:
        for line in _lines(results, protect_at):
            print(line)
        print(f"reproduce: {command_text(options)}")
    status = report_beside(options, expected, remark if options.json else print)
    if failed or status == 1:
        return 1
    if _unwitnessed(results):
        raise BadInput(f"{options.kernel}: {_NOTHING}")
    return status


def _unwitnessed(results: _Results) -> bool:
    """Return whether nothing came to the host since protection began: no rule was ever needed."""
    return not any(results.boot.exits.values())


def _lines(results: _Results, protect_at: Point) -> Iterator[str]:
    boot = results.boot
    yield f"in {results.version}"
    yield from ept_boot_lines(boot, str(protect_at))
    yield ""
    yield from attack_lines(boot.attacks)
    yield ""
    for check in results.checks:
        yield f"{'ok    ' if check.holds else 'FAILED'} {check.text}"
    yield ""
    counts = boot.counts
    failed = any(not check.holds for check in results.checks)
    word = _NOTHING if _unwitnessed(results) else "protected as the mappings have it"
    yield (
        f"verdict: {'FAILED' if failed else word}; writing withheld from {counts.no_write:,} of "
        f"{counts.frames:,} frames, execution from {counts.no_execute:,}"
    )


def _record(results: _Results, protect_at: Point) -> dict[str, Any]:
    boot = results.boot
    held = sum(check.holds for check in results.checks)
    known = sum(boot.known.values())
    return {
        "probes": len(results.checks) + known,
        "agreements": held,
        "divergences": len(results.checks) - held,
        "known_divergences": known,
        "known": boot.known,
        "seconds": round(boot.early + boot.late, 3),
        "predicted_only": {},
        "not_asked": {_NOTHING: 1} if _unwitnessed(results) else {},
        "mappings": boot.extent[0],
        "unfollowed": {"outside": boot.extent[1], "reserved": boot.extent[2]},
        "assumed": [],
        "tables": str(boot.kind),
        "machine": results.version,
        "protect_at": str(protect_at),
        "frames": asdict(boot.counts),
        "nested_tables": boot.nested_tables,
        "pinned": boot.pinned,
        "exits_before": boot.before,
        "exits": boot.exits,
        "nested_faults": {cause.name.lower(): n for cause, n in sorted(boot.causes.items())},
        "refused": None if boot.refusal is None else ept_refusal_record(boot.refusal),
        "patched_frames": len(boot.patched),
        "since": {
            "loaded_frames_patched": len(boot.loaded),
            "granted": boot.granted,
            "withdrawn": boot.withdrawn,
            "withdrawals": boot.lost,
            "stale": boot.stale,
            "process_code": boot.user_code,
        },
        "isolated": boot.isolated,
        "rights_steps": boot.steps,
        "ticks": boot.ticks,
        "early_seconds": round(boot.early, 3),
        "late_seconds": round(boot.late, 3),
        "policy_seconds": round(boot.policy_seconds, 3),
        "checks": [asdict(check) for check in results.checks],
        "attacks": [attack_record(each) for each in boot.attacks],
    }
