"""How much of an address space could be looked at, and what follows for the exit status."""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crosswalk.emu.cli.output import remark, write_file
from crosswalk.emu.report.source import spaces_text, unfollowed_lines, unfollowed_record
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import Source
from crosswalk.walker.frames import count_mappings
from crosswalk.walker.unfollowed import Unfollowed, unfollowed

__all__ = [
    "Followed",
    "add_allow_empty",
    "add_partial",
    "add_summary",
    "follow",
    "look",
    "tell_followed",
    "write_summary",
]


@dataclass(frozen=True, slots=True)
class Followed:
    """How much of the address space of `source` could be looked at.

    `levels` is the number of its leaves by level.
    """

    source: Source
    levels: Mapping[int, int]
    unfollowed: Unfollowed

    @property
    def mappings(self) -> int:
        """The number of its leaves."""
        return sum(self.levels.values())

    @property
    def whole(self) -> bool:
        """Whether "nothing was found" may be said of the address space.

        Not where tables lie outside SOURCE's memory, unless that is all there is, nor where
        most of what was taken for tables makes no sense, or the file is of another format.
        """
        found = self.unfollowed
        lacks = found.outside or found.implausible or self.source.begins_as
        return self.source.complete or not lacks

    def record(self) -> dict[str, Any]:
        """Return what JSON summaries say of this."""
        return {
            "mappings": self.mappings,
            "unfollowed": unfollowed_record(self.unfollowed),
            "assumed": list(self.source.assumed),
        }

    def qualified(self, whole: str, part: str) -> str:
        """Return a verdict of nothing found: `whole`, or `part` where some can't be looked at.

        With how many of the core's address spaces it is about, where there are several.
        """
        text = whole if self.whole else part
        spaces = spaces_text(self.source)
        return text if spaces is None else f"{text}; {spaces}"

    def require_mapping(self, options: argparse.Namespace) -> None:
        """Raise `BadInput` where there is no mapping at all, unless --allow-empty was given."""
        if not self.mappings and not options.allow_empty:
            raise BadInput(
                f"{self.source.name}: no mapping: is CR3 right? (--allow-empty takes it)"
            )

    def nothing_found(self, options: argparse.Namespace) -> int:
        """Return the exit status where nothing was found.

        Raises `BadInput` where not everything could be looked at, unless --partial was given.
        """
        if not self.whole and not options.partial:
            raise BadInput(
                f"{self.source.name}: nothing found, but not everything could be looked at "
                "(--partial takes what is there)"
            )
        return 0


def add_allow_empty(parser: argparse.ArgumentParser) -> None:
    """Add --allow-empty."""
    parser.add_argument(
        "--allow-empty", action="store_true", help="an address space without any mapping is right"
    )


def add_partial(parser: argparse.ArgumentParser) -> None:
    """Add --partial."""
    parser.add_argument(
        "--partial",
        action="store_true",
        help="take a SOURCE that lacks some of the tables: where nothing is found in what is "
        "there, exit with 0 and say that it is a part",
    )


def add_summary(parser: argparse.ArgumentParser) -> None:
    """Add --summary."""
    parser.add_argument(
        "--summary",
        metavar="FILE",
        type=Path,
        help="write a JSON document of the number of mappings and what can't be followed",
    )


def write_summary(options: argparse.Namespace, found: Followed) -> None:
    """Write what --summary asks for, if it was given."""
    if options.summary is None:
        return
    context = found.source.context
    root = {"cr3": hex(context.cr3), "mode": context.mode.value, "mappings": found.mappings}
    record = {**found.record(), "roots": [root]}
    write_file(options.summary, f"{json.dumps(record, indent=1)}\n".encode())


def look(source: Source) -> Followed:
    """Count the mappings of an address space, and what of it can't be followed."""
    memory, context = source.memory, source.context
    return Followed(source, count_mappings(memory, context), unfollowed(memory, context))


def tell_followed(found: Followed) -> None:
    """Say on standard error what can't be followed, and that there are other address spaces."""
    for line in unfollowed_lines(found.source, found.unfollowed):
        remark(line)
    spaces = spaces_text(found.source)
    if spaces is not None:
        remark(spaces)


def follow(options: argparse.Namespace, source: Source) -> Followed:
    """Do as `look` and `tell_followed` do.

    Raises `BadInput` for an address space without any mapping, unless --allow-empty was given.
    """
    found = look(source)
    tell_followed(found)
    found.require_mapping(options)
    return found
