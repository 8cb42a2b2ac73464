"""`protect`: what the policy grants each page of SOURCE, of a Linux kernel, or of the guest."""

import argparse
import time
from collections.abc import Iterator
from typing import Any

from crosswalk.emu.cli.expecting import (
    chosen_sentences,
    joint_status,
    judged,
    names_for,
    report_beside,
)
from crosswalk.emu.cli.expecting import record as expectations_record
from crosswalk.emu.cli.followed import Followed, follow
from crosswalk.emu.cli.names import chosen_names
from crosswalk.emu.cli.output import command_text, emit, remark
from crosswalk.emu.cli.protect_list import require_format, write_list
from crosswalk.emu.cli.sources import report_source
from crosswalk.emu.cli.spaces import Spaces, chosen_spaces
from crosswalk.emu.report.beyond import beyond_lines, beyond_record
from crosswalk.emu.report.expectations import Result
from crosswalk.emu.report.protection import protection_summary_record, summary_lines
from crosswalk.walker.errors import BadInput
from crosswalk.walker.frames import Frames, collective_rights
from crosswalk.walker.protection.enforcers import beyond
from crosswalk.walker.protection.policy import TableKind, protect
from crosswalk.walker.protection.summary import exposed, summarise

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """Protect SOURCE, a Linux kernel or the built-in guest, and return the exit status."""
    if options.source is not None:
        if options.kernel is not None or options.guest is not None:
            raise BadInput("SOURCE and --kernel or --guest: choose one of them")
        if options.machine is not None:
            raise BadInput("--with runs a guest: it isn't for SOURCE")
        return _protect_source(options)
    if options.verbose and options.expect is None:
        for name, given in (("--guest", options.guest), ("--kernel", options.kernel)):
            if given is not None:
                raise BadInput(f"--verbose isn't for {name}")
    # Not imported for SOURCE: they need the emulator.
    if options.guest is not None:
        from crosswalk.emu.cli.protect_other import protect_other  # noqa: PLC0415

        return protect_other(options)
    if options.kernel is not None:
        from crosswalk.emu.cli.protect_kernel import protect_kernel  # noqa: PLC0415

        return protect_kernel(options)
    from crosswalk.emu.cli.protect_guest import protect_guest  # noqa: PLC0415

    return protect_guest(options)


def _protect_source(options: argparse.Namespace) -> int:
    """Tell what the policy would make of SOURCE, and return the exit status.

    Where not everything could be looked at, a list isn't written, unless --partial was given:
    it would grant too little.
    """
    _check(options)
    sentences = chosen_sentences(options)
    started = time.perf_counter()
    spaces = chosen_spaces(options, listing=True, count=True)
    memory = spaces.source.memory
    report_source(spaces.source)
    followed = follow(options, spaces)
    kind = TableKind(options.tables or TableKind.NPT)
    frames = collective_rights(memory, spaces.walked)
    violated = _violated(options.policy, spaces, frames)
    if options.map is not None:
        # What draws isn't needed for anything else.
        from crosswalk.emu.cli.protect_map import write_protection_map  # noqa: PLC0415

        write_protection_map(options, followed, frames, kind)
    expected: list[Result] = []
    if sentences:
        names = names_for(options, spaces, sentences, chosen_names(options, spaces))
        every, partial = options.verbose, options.partial
        expected = judged(followed, sentences, names, partial=partial, every=every)
    if options.format is not None:
        if not violated:
            followed.nothing_found(options)
        write_list(options, frames, spaces.source)
        return joint_status(1 if violated else 0, report_beside(options, expected, remark))
    if options.beyond:
        record, lines = _beyond(followed, frames, started)
    else:
        summary = summarise(memory, spaces.walked, frames, kind)
        record = protection_summary_record(summary, time.perf_counter() - started)
        others = [followed.assumption(frames), followed.more()]
        lines = summary_lines(summary, followed.no_frame(), [each for each in others if each])
    if options.json:
        record |= {**followed.record(), **followed.roots_record()}
        record["by_assumption"] = followed.by_assumption(frames)
        if expected:
            record["expectations"] = expectations_record(expected)
        emit({**record, "reproduce": command_text(options)})
    else:
        for line in lines:
            print(line)
    status = report_beside(options, expected, remark if options.json else print)
    # What is broken comes before what can't be said.
    return 1 if violated or status == 1 else joint_status(followed.nothing_found(options), status)


def _beyond(
    followed: Followed, frames: Frames, started: float
) -> tuple[dict[str, Any], Iterator[str]]:
    """Return what each way of enforcing rights grants beyond them: a record, and lines of text."""
    protection = protect(frames, followed.source.memory.ranges)
    found = beyond(protection)
    record = beyond_record(protection, found, time.perf_counter() - started)
    return record, beyond_lines(protection, found)


def _check(options: argparse.Namespace) -> None:
    require_format(options)
    if options.beyond and options.format is not None:
        raise BadInput("--beyond and --format: choose one of them")


def _violated(policy: str | None, spaces: Spaces, frames: Frames) -> bool:
    if policy is None:
        return False
    found = exposed(spaces.source.memory, spaces.walked, frames)
    return bool(found.strict if policy == "one-privilege" else found.ranges)
