"""How much of address spaces could be followed, and what "nothing found" means then."""

import argparse
import json
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.cli.names import address_text
from crosswalk.emu.cli.output import remark
from crosswalk.emu.cli.spaces import Spaces
from crosswalk.emu.report.protection import NO_FRAME
from crosswalk.emu.report.source import (
    spaces_text,
    unfollowed_lines,
    unfollowed_record,
)
from crosswalk.walker.context import CR4
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import Source
from crosswalk.walker.formats.files import write_file
from crosswalk.walker.frames import Frames, collective_rights, count_mappings
from crosswalk.walker.rights import Rights
from crosswalk.walker.roots.counting import count_by_root
from crosswalk.walker.symbols import NO_NAMES, Names
from crosswalk.walker.unfollowed import Unfollowed, unfollowed

__all__ = [
    "BOTH",
    "Followed",
    "follow",
    "look",
    "report_unfollowed",
    "within_one_privilege",
    "write_summary",
]

BOTH = (
    Rights.SUPERVISOR_WRITE | Rights.SUPERVISOR_EXECUTE,
    Rights.USER_WRITE | Rights.USER_EXECUTE,
)
"""Writing and executing, within one privilege."""

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
            "strays": self.spaces.strays,
            "unsearched": self.spaces.unsearched,
        }

    def no_frame(self) -> str:
        """Return the verdict that no frame is both writable and executable, and of how much."""
        return self.nothing(NO_FRAME, _NONE)

    def nothing(self, verdict: str, part: str) -> str:
        """Return the verdict that there is nothing of a kind, and of how much it is said.

        `part` says the same of a part of the address spaces, or of their tables.
        """
        spaces = self.spaces
        over, more = spaces.text, self._others()
        if spaces.part or spaces.open:
            also = "" if self.whole else ", and not all of their tables"
            where = "" if spaces.part else "in "
            return f"partial: {where}{over}{also}: {part} there; {more}"
        scope = self.where
        if scope and more:
            scope += f"; {more}"
        if not self.whole:
            text = f"partial: {part} of what could be looked at{scope}"
        else:
            text = f"{verdict}{scope}"
        one = None if spaces.named or spaces.known else spaces_text(self.source)
        return text if one is None else f"{text}; {one}"

    @property
    def where(self) -> str:
        """Of which roots a verdict is, to stand behind it; "" where SOURCE has no other."""
        spaces = self.spaces
        if self.source.complete and not spaces.named:
            return ""
        return f", {'in' if len(spaces.contexts) == 1 else 'over'} {spaces.text}"

    def _others(self) -> str:
        """Return what looks at other roots, those that are known and those that may be there."""
        known = ["--roots all looks at all"] if self.spaces.part else []
        return "; ".join([*known, *([self.spaces.unsearched] if self.spaces.unsearched else [])])

    def more(self) -> str | None:
        """Return where there may be more than what was found; None where all was looked at."""
        if self.spaces.part:
            return f"partial: {self.spaces.text}; there may be more; {self._others()}"
        if self.spaces.open:
            return f"partial: in {self.spaces.text}; {self._others()}"
        if not self.whole:
            return "partial: there may be more behind what could not be looked at"
        return None

    def by_assumption(self, frames: Frames) -> dict[str, Any] | None:
        """Return how much of what is found within one privilege is found by an assumption.

        As JSON has it: the register that is assumed, the bits with which fewer ranges are found,
        and how many fewer; None where nothing is. `frames` are the collective rights. CR4 is
        assumed without SMEP and SMAP, which take rights of the supervisor away; what else is
        assumed takes as many away as it can, but for PKRU, which user mode may write.
        """
        found = _within_one_privilege(frames)
        if not found or not any(each.startswith("cr4 ") for each in self.source.assumed):
            return None
        gone, names = 0, []
        for bits, named in (CR4.SMEP, ["SMEP"]), (CR4.SMEP | CR4.SMAP, ["SMEP", "SMAP"]):
            contexts = [replace(each, cr4=each.cr4 | bits) for each in self.spaces.contexts]
            left = _within_one_privilege(collective_rights(self.source.memory, contexts))
            fewer = sum(not _meets(each, left) for each in found)
            if fewer > gone:
                gone, names = fewer, named
        return {"register": "cr4", "bits": names, "ranges": gone} if gone else None

    def assumption(self, frames: Frames) -> str | None:
        """Return the same as a sentence for people."""
        found = self.by_assumption(frames)
        if found is None:
            return None
        every = len(_within_one_privilege(frames))
        bits = " and ".join(found["bits"])
        are = "is" if found["ranges"] == 1 else "are"
        return (
            f"{found['ranges']:,} of the {every:,} within one privilege {are} no more with "
            f"CR4.{bits}, which {self.source.name} doesn't tell: give --cr4"
        )

    def require_mapping(self, options: argparse.Namespace) -> None:
        """Raise `BadInput` where there is no mapping at all, unless --allow-empty was given."""
        if not self.mappings and not options.allow_empty:
            which = "are these roots" if self.spaces.named else "is CR3 right"
            raise BadInput(f"{self.source.name}: no mapping: {which}? (--allow-empty takes it)")

    def nothing_found(self, options: argparse.Namespace) -> int:
        """Return the exit status where nothing was found.

        Raises `BadInput` where not everything could be looked at, or where there are other roots,
        or may be, and nobody chose these, unless --partial was given.
        """
        if options.partial:
            return 0
        name = self.source.name
        if not self.whole:
            raise BadInput(
                f"{name}: nothing found, but not everything could be looked at "
                "(--partial takes what is there)"
            )
        if self.spaces.open:
            raise BadInput(f"{name}: nothing found, but {self._open_text}; --partial takes these")
        return 0

    @property
    def _open_text(self) -> str:
        why = "other roots are known" if self.spaces.part else "there may be other roots"
        return f"{why}: {self._others()}"

    @property
    def doubt(self) -> str:
        """Why nothing can be said to hold of these address spaces; "" for no reason."""
        if self.source.complete:
            return ""
        if self.source.begins_as:
            return f"the file begins as another kind ({self.source.begins_as})"
        return "most entries make no sense" if self.unfollowed.implausible else ""

    @property
    def doubt_of_all(self) -> str:
        """Why nothing can be said to hold of all mappings of a frame; "" for no reason."""
        if not self.whole:
            return "not all tables could be looked at"
        return self._open_text if self.spaces.open else ""


def within_one_privilege(rights: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which of n rights let one privilege both write and execute, bool[n]."""
    found = np.zeros(len(rights), np.bool_)
    for each in BOTH:
        found |= rights & np.uint8(each) == np.uint8(each)
    return found


def _within_one_privilege(frames: Frames) -> list[tuple[int, int]]:
    """Return the ranges [start, end) that one privilege may both write and execute."""
    found = frames.take(within_one_privilege(frames.rights))
    return list(zip(found.start.tolist(), (found.start + found.size).tolist(), strict=True))


def _meets(one: tuple[int, int], others: list[tuple[int, int]]) -> bool:
    """Return whether a range has anything in common with others, which are in order."""
    at = bisect_right(others, one[0], key=lambda each: each[1])
    return at < len(others) and others[at][0] < one[1]


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


def report_unfollowed(found: Followed, names: Names = NO_NAMES) -> None:
    """Say on standard error what can't be followed, and that there are other address spaces."""
    for line in unfollowed_lines(found.source, found.unfollowed, partial(address_text, names)):
        remark(line)
    if found.spaces.named or (found.spaces.known is not None and not found.source.complete):
        remark(found.spaces.text)
        return
    spaces = spaces_text(found.source)
    if spaces is not None:
        remark(spaces)


def follow(options: argparse.Namespace, spaces: Spaces, names: Names = NO_NAMES) -> Followed:
    """Do as `look` and `report_unfollowed` do.

    Raises `BadInput` for address spaces without any mapping, unless --allow-empty was given.
    """
    found = look(spaces)
    report_unfollowed(found, names)
    found.require_mapping(options)
    return found
