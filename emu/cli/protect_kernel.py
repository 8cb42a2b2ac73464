"""`protect --kernel`: a Linux kernel under nested paging, its collective rights enforced."""

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from crosswalk.emu.cli.output import command_text, emit, remark
from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.linux.failure import KernelFailure
from crosswalk.emu.load.linux.image import load_kernel
from crosswalk.emu.load.linux.points import Point, parse_point
from crosswalk.emu.protect.kernel.report import (
    Check,
    attack_lines,
    attack_record,
    checks,
    outcome_lines,
)
from crosswalk.emu.protect.kernel.scenario import Guest, Outcome, Plain, run_plain, run_protected
from crosswalk.emu.workers.contained import contained
from crosswalk.guest.init import init_archive
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.files import read_file

__all__ = ["protect_kernel"]

_PROTECT_AT = "console:Run /init as init process"
_NOTHING = "nothing came to the host since protection began: is --protect-at too late?"


@dataclass(frozen=True, slots=True)
class _Story:
    plain: Plain
    outcome: Outcome
    checks: tuple[Check, ...]


def protect_kernel(options: argparse.Namespace) -> int:
    """Boot without nested paging and with it, protect, attack; return the exit status."""
    kernel = load_kernel(options.kernel)
    size, seconds = options.ram << 20, options.timeout
    protect_at = _protect_at(options)
    own = options.initrd is None
    initrd = init_archive(patching=True) if own else read_file(options.initrd)
    guest = Guest(
        kernel=kernel,
        initrd=initrd,
        arguments=options.append or "",
        on_line=remark if options.console else None,
    )
    rams = Ram(0, size), Ram(0, size)  # Shared with the children.
    remark(f"{options.kernel}: {kernel.release or 'a kernel'}, {size >> 20} MiB")
    try:
        remark("booting without nested paging…")
        plain = contained(lambda: run_plain(rams[0], guest, protect_at, seconds))
        remark("booting under nested paging…")
        outcome = contained(lambda: run_protected(rams[1], guest, protect_at, seconds))
    except KernelFailure as failure:
        for line in failure.lines:
            remark(line)
        raise
    differing = np.flatnonzero(rams[0].words != rams[1].words)
    pairs = [(int(rams[0].words[at]), int(rams[1].words[at])) for at in differing.tolist()]
    return _tell(options, _Story(plain, outcome, tuple(checks(plain, outcome, pairs))), protect_at)


def _protect_at(options: argparse.Namespace) -> Point:
    point = parse_point(options.protect_at or _PROTECT_AT)
    if str(point) == "idle":
        raise BadInput("--protect-at idle: protection has to begin before the kernel is idle")
    return point


def _tell(options: argparse.Namespace, story: _Story, protect_at: Point) -> int:
    failed = any(not check.holds for check in story.checks)
    if options.json:
        emit({**_record(story, protect_at), "reproduce": command_text(options)})
    else:
        for line in _lines(story, protect_at):
            print(line)
        print(f"reproduce: {command_text(options)}")
    if failed:
        return 1
    if _unwitnessed(story):
        raise BadInput(f"{options.kernel}: {_NOTHING}")
    return 0


def _unwitnessed(story: _Story) -> bool:
    """Return whether nothing came to the host since protection began: no rule was ever needed."""
    return not any(story.outcome.exits.values())


def _lines(story: _Story, protect_at: Point) -> Iterator[str]:
    outcome = story.outcome
    yield from outcome_lines(story.plain, outcome, str(protect_at))
    yield ""
    yield from attack_lines(outcome.attacks)
    yield ""
    for check in story.checks:
        yield f"{'ok    ' if check.holds else 'FAILED'} {check.text}"
    yield ""
    counts = outcome.counts
    failed = any(not check.holds for check in story.checks)
    word = _NOTHING if _unwitnessed(story) else "protected as the mappings have it"
    yield (
        f"verdict: {'FAILED' if failed else word}; writing withheld "
        f"from {counts.no_write:,} of {counts.frames:,} frames, execution from "
        f"{counts.no_execute:,} and not from the rest: any other frame may come to serve as a "
        "table, and the emulator ends where it walks a table that isn't executable"
    )


def _record(story: _Story, protect_at: Point) -> dict[str, Any]:
    outcome, plain = story.outcome, story.plain
    held = sum(check.holds for check in story.checks)
    return {
        "probes": len(story.checks),
        "agreements": held,
        "divergences": len(story.checks) - held,
        "known_divergences": 0,
        "seconds": round(plain.seconds + outcome.plain.seconds + outcome.policy_seconds, 3),
        "predicted_only": {},
        "not_asked": {_NOTHING: 1} if _unwitnessed(story) else {},
        "mappings": outcome.extent[0],
        "unfollowed": {"outside": outcome.extent[1], "reserved": outcome.extent[2]},
        "assumed": [],
        "protect_at": str(protect_at),
        "frames": asdict(outcome.counts),
        "nested_tables": outcome.nested_tables,
        "pinned": outcome.pinned,
        "exits_before": outcome.before,
        "exits": outcome.exits,
        "nested_faults": {cause.name.lower(): n for cause, n in sorted(outcome.causes.items())},
        "refused": None if outcome.refusal is None else asdict(outcome.refusal),
        "patched_frames": len(outcome.patched),
        "since": {
            "loaded_frames_patched": len(outcome.loaded),
            "granted": outcome.granted,
            "withdrawn": outcome.withdrawn,
            "withdrawals": outcome.lost,
            "stale": outcome.stale,
        },
        "isolated": outcome.isolated,
        "rights_steps": outcome.steps,
        "plain_seconds": round(plain.seconds, 3),
        "nested_seconds": round(outcome.plain.seconds, 3),
        "policy_seconds": round(outcome.policy_seconds, 3),
        "slowdown": round(outcome.plain.seconds / plain.seconds, 3),
        "slowdown_early": round(outcome.plain.early / plain.early, 3),
        "checks": [asdict(check) for check in story.checks],
        "attacks": [attack_record(each) for each in outcome.attacks],
    }
