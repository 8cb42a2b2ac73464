"""A host's tables as the options name them: an EPT, or AMD's nested tables."""

import argparse
import json
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from crosswalk.emu.cli.commands import COMMANDS
from crosswalk.emu.cli.host_options import HOST_TABLES
from crosswalk.emu.cli.options import Group, options_of, source
from crosswalk.emu.cli.output import remark
from crosswalk.emu.cli.sources import WIDEST, chosen_contents, chosen_registers
from crosswalk.emu.report.host_tables import (
    doubt_text,
    host_context_text,
    host_unfollowed_lines,
    pointer_name,
)
from crosswalk.emu.report.source import lack_lines, memory_text, width_lines
from crosswalk.walker.context import PagingContext, Vendor
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import Contents
from crosswalk.walker.formats.files import write_file
from crosswalk.walker.formats.live import released_on_error, settle
from crosswalk.walker.frames import count_mappings
from crosswalk.walker.memory import FRAME
from crosswalk.walker.nested import EptCapability, EptContext
from crosswalk.walker.nested.second_level import EptTables, NptTables
from crosswalk.walker.unfollowed import Unfollowed, unfollowed

__all__ = [
    "HostSpace",
    "assumed_of_ept",
    "chosen_ept",
    "chosen_npt",
    "chosen_space",
    "refuse_others",
    "write_host_summary",
]

_EVERYTHING = EptCapability(sum(EptCapability))
_HOST = tuple(each.dest for each in HOST_TABLES.options)
_READING = (
    "maxphyaddr",
    "no_page1gb",
    *(
        each.dest
        for group in source()
        if isinstance(group, Group) and group.title == "reading SOURCE"
        for each in group.options
    ),
)
"""Options of SOURCE that say something of a host's tables, or of how its memory is read."""


def refuse_others(options: argparse.Namespace, allowed: Container[str]) -> None:
    """Raise `BadInput` for options that were given and say nothing of a host's tables.

    `allowed` are the dests of a command's own that do, beside SOURCE and how it is read.
    """
    which = "--eptp" if options.eptp is not None else "--ncr3"
    fixed = ("source", "json", "allow_empty", "encryption_mask", *_HOST, *_READING)
    for each in options_of(COMMANDS[options.command_name]):
        value = getattr(options, each.dest)
        given = value is not None and value is not False and value != each.default
        if given and each.dest not in fixed and each.dest not in allowed:
            raise BadInput(f"{each.names[-1]} and {which}: choose one of them")
    if options.eptp is not None:
        for name in ("encryption_mask", "no_page1gb"):
            if getattr(options, name):
                raise BadInput(f"--{name.replace('_', '-')} and --eptp: choose one of them")


def chosen_ept(options: argparse.Namespace, maxphyaddr: int) -> EptContext:
    """Return how the EPT that the options name is read, by a processor of this width.

    An address of a frame is no EPTP, which has the number of levels in its low bits: it is taken
    for that of the first table. `BadInput` for an EPTP with which no guest is entered.
    """
    capabilities = _EVERYTHING
    if options.ept_cap is not None:
        capabilities = EptCapability(options.ept_cap & _EVERYTHING)
    if options.eptp % FRAME == 0:
        return EptContext.at(
            options.eptp, mbec=options.mbec, maxphyaddr=maxphyaddr, capabilities=capabilities
        )
    return EptContext(
        eptp=options.eptp, mbec=options.mbec, maxphyaddr=maxphyaddr, capabilities=capabilities
    )


def chosen_npt(
    options: argparse.Namespace, maxphyaddr: int, *, page1gb: bool, encryption_mask: int = 0
) -> PagingContext:
    """Return the host's registers, with the nCR3 that the options name; `BadInput` for none."""
    try:
        return PagingContext(
            cr3=options.ncr3,
            cr4=options.host_cr4,
            efer=options.host_efer,
            maxphyaddr=maxphyaddr,
            page1gb=page1gb,
            vendor=Vendor.AMD,
            encryption_mask=encryption_mask,
        )
    except BadInput as error:
        raise BadInput(f"the host: {error}") from error


@dataclass(frozen=True, slots=True)
class HostSpace:
    """A host's tables in a memory, and how much of them could be looked at.

    `assumed` are the values that neither SOURCE nor an option gave, as texts; `levels` is the
    number of leaves by level.
    """

    contents: Contents
    tables: EptTables | NptTables
    assumed: tuple[str, ...]
    levels: Mapping[int, int]
    unfollowed: Unfollowed

    @property
    def whole(self) -> bool:
        """Whether "nothing was found" may be reported of the tables."""
        found = self.unfollowed
        lacks = found.outside or found.implausible or self.contents.begins_as
        return self.contents.complete or not lacks

    def record(self) -> dict[str, Any]:
        """Return what --summary writes."""
        found, context = self.unfollowed, self.tables.context
        gmet = {"gmet": self.tables.gmet} if isinstance(self.tables, NptTables) else {}
        return {
            pointer_name(self.tables).lower(): hex(_pointer(self.tables)),
            "levels": self.tables.levels,
            **({"mbec": context.mbec} if isinstance(context, EptContext) else gmet),
            "mappings": sum(self.levels.values()),
            "unfollowed": {"outside": found.outside, "reserved": found.reserved},
            "assumed": list(self.assumed),
        }

    def nothing(self, verdict: str, part: str) -> str:
        """Return the verdict that there is nothing of a kind; `part` says it of a part."""
        return verdict if self.whole else f"partial: {part} of what could be looked at"

    def nothing_found(self, options: argparse.Namespace) -> int:
        """Return the exit status where nothing was found; `BadInput` as `Followed` has it."""
        if not self.whole and not options.partial:
            raise BadInput(
                f"{self.contents.name}: nothing found, but not everything could be looked at "
                "(--partial takes what is there)"
            )
        return 0


def write_host_summary(options: argparse.Namespace, found: HostSpace) -> None:
    """Write what --summary asks for, if it was given."""
    if options.summary is not None:
        write_file(options.summary, f"{json.dumps(found.record(), indent=1)}\n".encode())


def chosen_space(options: argparse.Namespace) -> HostSpace:
    """Return the host's tables that the options name, and report what they are.

    Raises `BadInput` in one line for tables outside the memory, and where they map nothing unless
    --allow-empty was given.
    """
    contents = chosen_contents(options)
    with released_on_error(contents.memory):
        tables, assumed = _tables(options, contents)
        if contents.memory.word(tables.root) is None:
            raise BadInput(
                f"{contents.name}: {pointer_name(tables)} {_pointer(tables):#x} points outside the "
                "memory"
            )
        # Before anything else: a live guest is paused until then.
        settle(contents.memory, [tables])
    remark(f"{memory_text(contents)}; {host_context_text(tables)}")
    if assumed:
        remark(f"assumed: {', '.join(assumed)}")
    for text in lack_lines(contents):
        remark(text)
    memory = contents.memory
    found = HostSpace(
        contents, tables, assumed, count_mappings(memory, tables), unfollowed(memory, tables)
    )
    for text in host_unfollowed_lines(tables, found.unfollowed):
        remark(text)
    if any(each.startswith("maxphyaddr ") for each in assumed):
        for text in width_lines(found.unfollowed):
            remark(text)
    if not sum(found.levels.values()) and not options.allow_empty:
        raise BadInput(
            f"{contents.name}: no mapping: {doubt_text(tables)} (--allow-empty takes it)"
        )
    return found


def _tables(
    options: argparse.Namespace, contents: Contents
) -> tuple[EptTables | NptTables, tuple[str, ...]]:
    """Return the tables, and what is assumed of them."""
    registers = chosen_registers(options).over(contents.registers)
    width = WIDEST if registers.maxphyaddr is None else registers.maxphyaddr
    assumed = [] if registers.maxphyaddr is not None else [f"maxphyaddr = {width}"]
    if options.eptp is None:
        host = chosen_npt(
            options,
            width,
            page1gb=not options.no_page1gb,
            encryption_mask=options.encryption_mask or 0,
        )
        return NptTables(host, gmet=options.gmet), tuple(assumed)
    context = chosen_ept(options, width)
    return EptTables(context), (*assumed, *assumed_of_ept(options, context))


def assumed_of_ept(options: argparse.Namespace, context: EptContext) -> tuple[str, ...]:
    """Return what is assumed of an EPT that wasn't given, as texts."""
    assumed = []
    if options.eptp != context.eptp:
        assumed.append(f"eptp = {context.eptp:#x}")
    if options.ept_cap is None:
        assumed.append(f"ept_cap = {int(context.capabilities):#x}")
    return tuple(assumed)


def _pointer(tables: EptTables | NptTables) -> int:
    context = tables.context
    return context.eptp if isinstance(context, EptContext) else context.cr3
