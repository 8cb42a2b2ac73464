"""How much of an address space could be looked at, and what follows for the exit status."""

import argparse
from dataclasses import dataclass
from typing import Any

from emu.cli.output import remark
from emu.report.source import spaces_text, unfollowed_lines, unfollowed_record
from walker.errors import BadInput
from walker.frames import count_mappings
from walker.source import Source
from walker.unfollowed import Unfollowed, unfollowed

__all__ = ["Followed", "add_allow_empty", "add_partial", "follow"]


@dataclass(frozen=True, slots=True)
class Followed:
    """How much of the address space of `source` could be looked at.

    `mappings` is the number of its leaves.
    """

    source: Source
    mappings: int
    unfollowed: Unfollowed

    @property
    def whole(self) -> bool:
        """Whether "nothing was found" may be said of the address space.

        Not where tables lie outside SOURCE's memory, unless that is all there is, nor where
        most of what was taken for tables makes no sense.
        """
        return self.source.complete or not (self.unfollowed.outside or self.unfollowed.mostly)

    def record(self) -> dict[str, Any]:
        """Return what JSON summaries say of this."""
        return {
            "mappings": self.mappings,
            "unfollowed": unfollowed_record(self.unfollowed),
            "assumed": list(self.source.assumed),
        }

    def qualified(self, text: str) -> str:
        """Return a verdict, with how many address spaces it is about where there are several."""
        spaces = spaces_text(self.source)
        return text if spaces is None else f"{text}; {spaces}"


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


def follow(options: argparse.Namespace, source: Source) -> Followed:
    """Count the mappings and what can't be followed, and say on standard error what that is.

    Raises `BadInput` for an address space without any mapping, unless --allow-empty was given.
    """
    found = Followed(
        source,
        sum(count_mappings(source.memory, source.context).values()),
        unfollowed(source.memory, source.context),
    )
    for line in unfollowed_lines(source, found.unfollowed):
        remark(line)
    spaces = spaces_text(source)
    if spaces is not None:
        remark(spaces)
    if not found.mappings and not options.allow_empty:
        raise BadInput(f"{source.name}: no mapping: is CR3 right? (--allow-empty takes it)")
    return found
