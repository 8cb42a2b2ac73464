"""`protect --kernel`: a Linux kernel under nested paging, its collective rights enforced."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from crosswalk.emu.cli.check import machine_spaces
from crosswalk.emu.cli.expecting import chosen_sentences, judged_machine, record, report_beside
from crosswalk.emu.cli.host_machine import chosen_kind
from crosswalk.emu.cli.names import kernel_names
from crosswalk.emu.cli.output import command_text, emit, remark
from crosswalk.emu.cli.protect_kernel_ept import protect_kernel_ept
from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.linux.failure import KernelFailure
from crosswalk.emu.load.linux.image import load_kernel
from crosswalk.emu.load.linux.points import Point, parse_point
from crosswalk.emu.protect.kernel.report import (
    Check,
    attack_lines,
    attack_record,
    boot_lines,
    checks,
    refusal_record,
)
from crosswalk.emu.protect.kernel.scenario import (
    Guest,
    PlainBoot,
    ProtectedBoot,
    run_plain,
    run_protected,
)
from crosswalk.emu.report.expectations import Result
from crosswalk.emu.workers.contained import contained
from crosswalk.guest.init import init_archive
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.files import read_file
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.protection.policy import TableKind

__all__ = ["protect_kernel"]

_PROTECT_AT = "console:Run /init as init process"
_NOTHING = "nothing came to the host since protection began: is --protect-at too late?"


@dataclass(frozen=True, slots=True)
class _Results:
    plain: PlainBoot
    protected: ProtectedBoot
    checks: tuple[Check, ...]


def protect_kernel(options: argparse.Namespace) -> int:
    """Boot without nested paging and with it, protect, attack; return the exit status."""
    kernel = load_kernel(options.kernel)
    size, seconds = options.ram << 20, options.timeout
    protect_at = _protect_at(options)
    sentences = chosen_sentences(options)
    own = options.initrd is None
    initrd = init_archive(patching=True) if own else read_file(options.initrd)
    guest = Guest(
        kernel=kernel,
        initrd=initrd,
        arguments=options.append or "",
        on_line=remark if options.console else None,
    )
    if chosen_kind(options) is not TableKind.NPT:
        return protect_kernel_ept(options, guest, protect_at)
    rams = Ram(0, size), Ram(0, size)  # Shared with the children.

    def work() -> tuple[ProtectedBoot, list[Result]]:
        found: list[Result] = []

        def look(memory: PhysicalMemory, context: PagingContext) -> None:
            spaces = machine_spaces(str(protect_at), memory, context)
            names = kernel_names(spaces, None)
            found.extend(judged_machine(options, sentences, spaces, names, search=True))

        looking = look if sentences else None
        return run_protected(rams[1], guest, protect_at, seconds, looking), found

    remark(f"{options.kernel}: {kernel.release or 'a kernel'}, {size >> 20} MiB")
    try:
        remark("booting without nested paging…")
        plain = contained(lambda: run_plain(rams[0], guest, protect_at, seconds))
        remark("booting under nested paging…")
        protected, expected = contained(work)
    except KernelFailure as failure:
        for line in failure.lines:
            remark(line)
        raise
    differing = np.flatnonzero(rams[0].words != rams[1].words)
    pairs = [(int(rams[0].words[at]), int(rams[1].words[at])) for at in differing.tolist()]
    results = _Results(plain, protected, tuple(checks(plain, protected, pairs)))
    return _report(options, results, protect_at, expected)


def _protect_at(options: argparse.Namespace) -> Point:
    point = parse_point(options.protect_at or _PROTECT_AT)
    if str(point) == "idle":
        raise BadInput("--protect-at idle: protection has to begin before the kernel is idle")
    return point


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
    return not any(results.protected.exits.values())


def _lines(results: _Results, protect_at: Point) -> Iterator[str]:
    protected = results.protected
    yield from boot_lines(results.plain, protected, str(protect_at))
    yield ""
    yield from attack_lines(protected.attacks)
    yield ""
    for check in results.checks:
        yield f"{'ok    ' if check.holds else 'FAILED'} {check.text}"
    yield ""
    counts = protected.counts
    failed = any(not check.holds for check in results.checks)
    word = _NOTHING if _unwitnessed(results) else "protected as the mappings have it"
    yield (
        f"verdict: {'FAILED' if failed else word}; writing withheld "
        f"from {counts.no_write:,} of {counts.frames:,} frames, execution from "
        f"{counts.no_execute:,} and not from the rest: any other frame may come to serve as a "
        "table, and the emulator ends where it walks a table that isn't executable"
    )


def _record(results: _Results, protect_at: Point) -> dict[str, Any]:
    protected, plain = results.protected, results.plain
    held = sum(check.holds for check in results.checks)
    return {
        "probes": len(results.checks),
        "agreements": held,
        "divergences": len(results.checks) - held,
        "known_divergences": 0,
        "seconds": round(plain.seconds + protected.plain.seconds + protected.policy_seconds, 3),
        "predicted_only": {},
        "not_asked": {_NOTHING: 1} if _unwitnessed(results) else {},
        "mappings": protected.extent[0],
        "unfollowed": {"outside": protected.extent[1], "reserved": protected.extent[2]},
        "assumed": [],
        "protect_at": str(protect_at),
        "frames": asdict(protected.counts),
        "nested_tables": protected.nested_tables,
        "pinned": protected.pinned,
        "exits_before": protected.before,
        "exits": protected.exits,
        "nested_faults": {cause.name.lower(): n for cause, n in sorted(protected.causes.items())},
        "refused": None if protected.refusal is None else refusal_record(protected.refusal),
        "patched_frames": len(protected.patched),
        "since": {
            "loaded_frames_patched": len(protected.loaded),
            "granted": protected.granted,
            "withdrawn": protected.withdrawn,
            "withdrawals": protected.lost,
            "stale": protected.stale,
        },
        "isolated": protected.isolated,
        "rights_steps": protected.steps,
        "plain_seconds": round(plain.seconds, 3),
        "nested_seconds": round(protected.plain.seconds, 3),
        "policy_seconds": round(protected.policy_seconds, 3),
        "slowdown": round(protected.plain.seconds / plain.seconds, 3),
        "slowdown_early": round(protected.plain.early / plain.early, 3),
        "checks": [asdict(check) for check in results.checks],
        "attacks": [attack_record(each) for each in protected.attacks],
    }
