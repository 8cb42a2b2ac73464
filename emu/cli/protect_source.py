"""`protect SOURCE`: what the policy would make of an image, and the list to ask for it with."""

import argparse
import json
import time
from pathlib import Path

from crosswalk.emu.cli.completeness import follow
from crosswalk.emu.cli.output import command_text, emit, remark, write_file
from crosswalk.emu.cli.source_options import chosen_source, tell_source
from crosswalk.emu.report.protection_records import protection_record, protection_summary_record
from crosswalk.emu.report.protection_text import NO_FRAME, PART_OF_THEM, summary_lines
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import Source, parse_int
from crosswalk.walker.frames import Frames, collective_rights
from crosswalk.walker.memory import FRAME, PhysicalMemory
from crosswalk.walker.protection.pagelist import Permission, encode
from crosswalk.walker.protection.policy import TableKind, protect
from crosswalk.walker.protection.summary import exposed, summarise

__all__ = ["add_policy", "protect_source"]

_AT = 0x10_0000
_BOTH = Permission.WRITE | Permission.EXECUTE


def add_policy(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is granted, and in which form it is told."""
    group = parser.add_argument_group("the policy, for SOURCE")
    group.add_argument(
        "--tables",
        choices=[kind.value for kind in TableKind],
        help="the second-level tables that are to enforce it (npt)",
    )
    group.add_argument(
        "--policy",
        choices=["one-privilege", "any"],
        help="exit with status 1 if a frame is both writable and executable: within one "
        "privilege, or for any two",
    )
    group.add_argument(
        "--format",
        choices=["json", "pages"],
        help="instead of a summary, write the list of what is granted: as one document, or as "
        "the page list that a hypercall takes",
    )
    group.add_argument("--output", metavar="FILE", type=Path, help="where --format writes it")
    group.add_argument(
        "--at", metavar="PA", help=f"where in memory the page list is to lie ({_AT:#x})"
    )


def protect_source(options: argparse.Namespace) -> int:
    """Tell what the policy would make of SOURCE, and return the exit status.

    Where not everything could be looked at, a list isn't written, unless --partial was given:
    it would grant too little.
    """
    _check(options)
    started = time.perf_counter()
    source = chosen_source(options, listing=True)
    tell_source(source)
    followed = follow(options, source)
    kind = TableKind(options.tables or TableKind.NPT)
    frames = collective_rights(source.memory, source.context)
    violated = _violated(options.policy, source, frames)
    if options.format is not None:
        if not violated:
            followed.nothing_found(options)
        write = _write_document if options.format == "json" else _write_pages
        write(options, frames, source.memory, kind)
        return 1 if violated else 0
    summary = summarise(source.memory, source.context, frames, kind)
    if options.json:
        record = protection_summary_record(summary, time.perf_counter() - started)
        emit({**record, **followed.record(), "reproduce": command_text(options)})
    else:
        for line in summary_lines(summary, followed.qualified(NO_FRAME, PART_OF_THEM)):
            print(line)
    return 1 if violated else followed.nothing_found(options)


def _check(options: argparse.Namespace) -> None:
    if options.format is None:
        for name in ("output", "at"):
            if getattr(options, name) is not None:
                raise BadInput(f"--{name} needs --format")
    elif options.json:
        raise BadInput("--json prints the summary, --format the list: choose one of them")
    if options.format == "pages" and options.output is None:
        raise BadInput("--format pages needs --output: bytes are not for a terminal")
    if options.format == "json" and options.at is not None:
        raise BadInput("--at is for --format pages")


def _violated(policy: str | None, source: Source, frames: Frames) -> bool:
    if policy is None:
        return False
    found = exposed(source.memory, source.context, frames)
    return bool(found.strict if policy == "one-privilege" else found.ranges)


def _write_document(
    options: argparse.Namespace, frames: Frames, memory: PhysicalMemory, kind: TableKind
) -> None:
    record = protection_record(frames, memory.ranges, kind)
    if options.output is None:
        emit(record)
    else:
        write_file(options.output, f"{json.dumps(record, indent=1)}\n".encode())
        remark(f"wrote {options.output}: {len(record['ranges']):,} ranges")


def _write_pages(
    options: argparse.Namespace, frames: Frames, memory: PhysicalMemory, kind: TableKind
) -> None:
    pa = _AT if options.at is None else parse_int(options.at, "--at", bits=52)
    entries = list(protect(frames, memory.ranges, kind))
    pages = encode(entries, pa)
    if not any(start <= pa and pa + len(pages) <= start + size for start, size in memory.ranges):
        raise BadInput(f"--at {pa:#x}: {len(pages):,} bytes from there are not all RAM")
    write_file(options.output, pages)
    remark(f"wrote {options.output}: {len(entries):,} entries in {len(pages) // FRAME:,} pages")
    both = sum(each.permission & _BOTH == _BOTH for each in entries)
    if both:
        remark(f"{both:,} entries allow writing and executing: a strict hypervisor refuses them")
