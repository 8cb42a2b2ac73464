"""How much of address spaces could be followed, and what "nothing found" means then."""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from crosswalk.emu.cli.output import remark
from crosswalk.emu.cli.spaces import Spaces
from crosswalk.emu.report.protection import NO_FRAME
from crosswalk.emu.report.source import (
    roots_text,
    spaces_text,
    unfollowed_lines,
    unfollowed_record,
)
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import Source
from crosswalk.walker.formats.files import write_file
from crosswalk.walker.frames import count_mappings
from crosswalk.walker.roots.counting import count_by_root
from crosswalk.walker.unfollowed import Unfollowed, unfollowed

__all__ = ["Followed", "follow", "look", "report_unfollowed", "write_summary"]

_NONE = "none is both writable and executable"


@dataclass(frozen=True, slots=True)
class Followed:
    """How much of address spaces could be looked at; `levels` is the number of leaves by level."""

    spaces: Spaces
    levels: Mapping[int, int]
    unfollowed: Unfollowed

    @property
    def source(self) -> Source:
        """The memory."""
        return self.spaces.source

    @property
    def mappings(self) -> int:
        """The number of leaves, those of all address spaces together."""
        return sum(self.levels.values())

    @property
    def whole(self) -> bool:
        """Whether "nothing was found" may be reported of the address spaces.

        Not where tables lie outside SOURCE's memory, unless that is all there is, nor where
        most of what was taken for tables makes no sense, or the file is of another format.
        """
        found = self.unfollowed
        lacks = found.outside or found.implausible or self.source.begins_as
        return self.source.complete or not lacks

    def record(self) -> dict[str, Any]:
        """Return the keys of JSON summaries about this."""
        return {
            "mappings": self.mappings,
            "unfollowed": unfollowed_record(self.unfollowed),
            "assumed": list(self.source.assumed),
        }

    def roots_record(self) -> dict[str, Any]:
        """Return the keys about the roots that were looked at, and about how many are known."""
        contexts = self.spaces.contexts
        counts = [self.mappings]
        if len(contexts) > 1:
            counts = count_by_root(self.source.memory, contexts)
        return {
            "roots": [
                {"cr3": hex(each.cr3), "mode": each.mode.value, "mappings": count}
                for each, count in zip(contexts, counts, strict=True)
            ],
            "known_roots": self.spaces.known,
        }

    def no_frame(self) -> str:
        """Return the verdict that no frame is both writable and executable, and of how much."""
        over = roots_text(self.spaces.contexts, self.spaces.known)
        if self.spaces.part:
            also = "" if self.whole else ", and not all of their tables"
            return f"partial: {over}{also}: {_NONE} there; --roots all looks at all"
        over = f", {'in' if len(self.spaces.contexts) == 1 else 'over'} {over}"
        scope = "" if self.source.complete and not self.spaces.named else over
        if not self.whole:
            text = f"partial: {_NONE} of what could be looked at{scope}"
        else:
            text = f"{NO_FRAME}{scope}"
        spaces = None if self.spaces.named or self.spaces.known else spaces_text(self.source)
        return text if spaces is None else f"{text}; {spaces}"

    def more(self) -> str | None:
        """Return where there may be more than what was found; None where all was looked at."""
        if self.spaces.part:
            over = roots_text(self.spaces.contexts, self.spaces.known)
            return f"partial: {over}; there may be more in the others (--roots all)"
        if not self.whole:
            return "partial: there may be more behind what could not be looked at"
        return None

    def require_mapping(self, options: argparse.Namespace) -> None:
        """Raise `BadInput` where there is no mapping at all, unless --allow-empty was given."""
        if not self.mappings and not options.allow_empty:
            which = "are these roots" if self.spaces.named else "is CR3 right"
            raise BadInput(f"{self.source.name}: no mapping: {which}? (--allow-empty takes it)")

    def nothing_found(self, options: argparse.Namespace) -> int:
        """Return the exit status where nothing was found.

        Raises `BadInput` where not everything could be looked at, or where there are other roots
        and nobody chose these, unless --partial was given.
        """
        if options.partial:
            return 0
        name = self.source.name
        if not self.whole:
            raise BadInput(
                f"{name}: nothing found, but not everything could be looked at "
                "(--partial takes what is there)"
            )
        if self.spaces.part and not self.spaces.chosen:
            over = roots_text(self.spaces.contexts, self.spaces.known)
            raise BadInput(
                f"{name}: nothing found, but in {over} alone (--roots all looks at all, --partial "
                "takes these)"
            )
        return 0


def write_summary(options: argparse.Namespace, found: Followed) -> None:
    """Write what --summary asks for, if it was given."""
    if options.summary is not None:
        record = {**found.record(), **found.roots_record()}
        write_file(options.summary, f"{json.dumps(record, indent=1)}\n".encode())


def look(spaces: Spaces) -> Followed:
    """Count the mappings of address spaces, and what of them can't be followed."""
    memory = spaces.source.memory
    counts = count_mappings(memory, spaces.walked)
    return Followed(spaces, counts, unfollowed(memory, spaces.walked))


def report_unfollowed(found: Followed) -> None:
    """Say on standard error what can't be followed, and that there are other address spaces."""
    for line in unfollowed_lines(found.source, found.unfollowed):
        remark(line)
    if found.spaces.named or (found.spaces.known is not None and not found.source.complete):
        remark(roots_text(found.spaces.contexts, found.spaces.known))
        return
    spaces = spaces_text(found.source)
    if spaces is not None:
        remark(spaces)


def follow(options: argparse.Namespace, spaces: Spaces) -> Followed:
    """Do as `look` and `report_unfollowed` do.

    Raises `BadInput` for address spaces without any mapping, unless --allow-empty was given.
    """
    found = look(spaces)
    report_unfollowed(found)
    found.require_mapping(options)
    return found
