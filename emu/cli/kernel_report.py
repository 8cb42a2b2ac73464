"""What `protect --kernel` tells of a kernel, whatever enforces its rights: lines, JSON, status."""

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from crosswalk.emu.cli.expecting import record as expectations_record
from crosswalk.emu.cli.expecting import report_beside
from crosswalk.emu.cli.output import command_text, emit, remark
from crosswalk.emu.protect.kernel.report import (
    NO_NX,
    Check,
    attack_counts,
    attack_lines,
    attack_record,
)
from crosswalk.emu.protect.kernel.results import Enforced
from crosswalk.emu.report.expectations import Result
from crosswalk.walker.errors import BadInput

__all__ = ["kernel_record", "nothing_came", "report_kernel"]

_OPEN = "the mappings let all memory be written and executed: nothing is withheld"
_NOTHING = "nothing came to the host since protection began: is --protect-at too late?"


def report_kernel(
    options: argparse.Namespace,
    enforced: Enforced,
    checks: Sequence[Check],
    *,
    record: Callable[[], dict[str, Any]],
    lines: Iterable[str],
    limit: str = "",
    expected: Sequence[Result],
    other: Path | None = None,
) -> int:
    """Print what came of a protected kernel, and return the exit status.

    `record` makes the document of --json; `lines` are those of the boot; `limit` ends the verdict
    where execution can be withheld.
    `BadInput` where nothing came to the host since protection began; of a guest that isn't Linux,
    whose file is `other`, only if no attack was stopped either.
    """
    nothing = nothing_came(enforced, attacks_count=other is not None)
    if options.json:
        found = {"expectations": expectations_record(expected)} if expected else {}
        emit({**record(), **found, "reproduce": command_text(options)})
    else:
        limit = limit if enforced.nx else f": {NO_NX}"
        for line in _lines(enforced, checks, lines, limit, next(iter(nothing), "")):
            print(line)
        print(f"reproduce: {command_text(options)}")
    status = report_beside(options, expected, remark if options.json else print)
    if _failed(checks) or status == 1:
        return 1
    if nothing:
        raise BadInput(f"{other or options.kernel}: {next(iter(nothing))}")
    return status


def kernel_record(
    enforced: Enforced,
    checks: Sequence[Check],
    *,
    protect_at: str,
    seconds: float,
    refused: dict[str, Any] | None,
    more: Mapping[str, Any],
    known: Mapping[str, int] | None = None,
    since: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Return what came of a protected kernel as JSON.

    `known` counts what came as a machine is known to depart, by its departures' names; `more` and
    `since` are what one way of enforcing has besides.
    """
    held = sum(check.holds for check in checks)
    departed = sum((known or {}).values())
    return {
        "probes": len(checks) + departed,
        "agreements": held,
        "divergences": len(checks) - held,
        "known_divergences": departed,
        "seconds": round(seconds, 3),
        "predicted_only": {},
        "not_asked": nothing_came(enforced),
        "mappings": enforced.extent[0],
        "unfollowed": {"outside": enforced.extent[1], "reserved": enforced.extent[2]},
        "assumed": [],
        "protect_at": protect_at,
        "frames": asdict(enforced.counts),
        "nested_tables": enforced.nested_tables,
        "pinned": enforced.pinned,
        "exits_before": enforced.before,
        "exits": enforced.exits,
        "nested_faults": {cause.name.lower(): n for cause, n in sorted(enforced.causes.items())},
        "refused": refused,
        "patched_frames": len(enforced.patched),
        "since": {
            "loaded_frames_patched": len(enforced.loaded),
            "granted": enforced.granted,
            "withdrawn": enforced.withdrawn,
            "withdrawals": enforced.lost,
            "stale": enforced.stale,
            "sealed": enforced.sealing.since,
            "freed": enforced.sealing.released,
            "late": enforced.sealing.late,
            "unsealed": enforced.sealing.unsealed,
            **(since or {}),
        },
        "isolated": enforced.isolated,
        "rights_steps": enforced.steps,
        "sealed_outside_at_first": enforced.sealing.first,
        "flushes": enforced.sealing.flushes,
        "flush_seconds": round(enforced.sealing.seconds, 3),
        **more,
        "checks": [asdict(check) for check in checks],
        "attacks": [attack_record(each) for each in enforced.attacks],
        "attack_counts": attack_counts(enforced.attacks),
    }


def _lines(
    enforced: Enforced,
    checks: Sequence[Check],
    lines: Iterable[str],
    limit: str,
    nothing: str,
) -> Iterator[str]:
    yield from lines
    yield ""
    yield from attack_lines(enforced.attacks)
    yield ""
    for check in checks:
        yield f"{'ok    ' if check.holds else 'FAILED'} {check.text}"
    yield ""
    counts = enforced.counts
    word = nothing or "protected as the mappings have it"
    yield (
        f"verdict: {'FAILED' if _failed(checks) else word}; {_attacks_text(enforced)}writing "
        f"withheld from {counts.no_write:,} of {counts.frames:,} frames, execution from "
        f"{counts.no_execute:,}{limit}"
    )


def _attacks_text(enforced: Enforced) -> str:
    """Return how the attacks ended, for the verdict; after a refusal there were none."""
    if not enforced.attacks:
        return ""
    number = attack_counts(enforced.attacks)
    missing = f", {number['not_built']} not built" if number["not_built"] else ""
    return f"{number['stopped']} attacks stopped, {number['not_stopped']} not{missing}; "


def _failed(checks: Sequence[Check]) -> bool:
    return any(not check.holds for check in checks)


def nothing_came(enforced: Enforced, *, attacks_count: bool = False) -> dict[str, int]:
    """Return why nothing is proved, as `not_asked` has it, or nothing.

    No rule was ever needed: nothing is withheld, or nothing came of it.

    With `attacks_count` a stopped attack is something, too.
    """
    stopped = attacks_count and attack_counts(enforced.attacks)["stopped"]
    if stopped or any(enforced.exits.values()):
        return {}
    withheld = enforced.counts.no_write or enforced.counts.no_execute
    return {_NOTHING if withheld else _OPEN: 1}
