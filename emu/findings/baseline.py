"""Findings that don't fail: those that a pattern names, and those that a baseline lists.

A finding is known here by texts alone: what `Cause` says of it, and the rules of its variants.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import msgspec

from crosswalk.emu.findings.cause import is_listed
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.documents import Document, read_document
from crosswalk.walker.formats.files import read_file, write_file
from crosswalk.walker.formats.located_errors import errors_named, printable

__all__ = ["Accepted", "Baseline", "BaselineEntry", "Muting", "read_muting"]


class BaselineEntry(Document, frozen=True):
    """A cause of findings, in words; `note` is for people to say why it is accepted."""

    cause: str
    note: str = ""


class Baseline(Document, frozen=True):
    """The causes of findings that are known, sorted."""

    format: Literal["crosswalk-baseline/1"]
    causes: list[BaselineEntry]


@dataclass(frozen=True, slots=True)
class Accepted:
    """The causes of the findings of a run, each in one of these, in the order they were given.

    `new` are those that fail, `ignored` those that a pattern matches, by pattern, `known` those of
    the baseline. `vanished` are causes of the baseline that the run didn't find. `parts` are what a
    baseline lists of each.
    """

    new: tuple[str, ...] = ()
    ignored: Mapping[str, tuple[str, ...]] | None = None
    known: tuple[str, ...] = ()
    vanished: tuple[str, ...] = ()
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many findings don't fail."""
        return len(self.known) + sum(len(causes) for causes in (self.ignored or {}).values())

    def lines(self) -> Iterator[str]:
        """Yield what isn't new, in a line for each pattern and for the baseline."""
        for pattern, causes in (self.ignored or {}).items():
            yield f"ignored by {printable(repr(pattern))}: {_named(causes)}"
        if self.known:
            yield f"known from the baseline: {_named(self.known)}"
        if self.vanished:
            yield f"in the baseline, and not found any more: {_named(self.vanished)}"

    def record(self) -> dict[str, object]:
        """Return the same for a JSON document."""
        return {
            "ignored": {name: list(causes) for name, causes in (self.ignored or {}).items()},
            "baseline": list(self.known),
            "vanished": list(self.vanished),
        }


@dataclass(frozen=True, slots=True)
class Muting:
    """What isn't to fail, as a command's options say; `write` is where a baseline is to be written.

    `ignore` are patterns as file names have them (`*`, `?`, `[…]`), whose case doesn't matter.
    """

    ignore: tuple[str, ...] = ()
    baseline: Baseline | None = None
    write: Path | None = None

    def accepted(
        self, found: Mapping[str, Sequence[str]], texts: Mapping[str, Sequence[str]] | None = None
    ) -> Accepted:
        """Return what is new of the findings of a run, and what isn't.

        `found` has the rules of a cause's variants by the words of the cause, `texts` what a
        baseline lists of it, by default those words: which rules a cause is named by depends on
        what else was found. A pattern that matches the cause, or the rules of all of its variants,
        ignores it. It is known where all of its texts are listed.
        """
        parts = {cause: tuple((texts or {}).get(cause, (cause,))) for cause in found}
        ignored: dict[str, tuple[str, ...]] = {}
        listed = {entry.cause for entry in self.baseline.causes} if self.baseline else set()
        new, known = [], []
        for cause, rules in found.items():
            pattern = self._ignoring(cause, rules)
            if pattern is not None:
                ignored[pattern] = (*ignored.get(pattern, ()), cause)
            elif listed and all(is_listed(text, listed) for text in parts[cause]):
                known.append(cause)
            else:
                new.append(cause)
        seen = {
            each for each in listed for some in parts.values() for text in some
            if is_listed(text, {each})
        }  # fmt: skip
        return Accepted(tuple(new), ignored, tuple(known), tuple(sorted(listed - seen)), parts)

    def _ignoring(self, cause: str, rules: Sequence[str]) -> str | None:
        for pattern in self.ignore:
            if _matches(cause, pattern):
                return pattern
        by_rule = [
            next((each for each in self.ignore if _matches(rule, each)), None) for rule in rules
        ]
        return by_rule[0] if by_rule and None not in by_rule else None

    def write_baseline(self, accepted: Accepted) -> Accepted:
        """Write the baseline of a whole run, if one is to be written; return what is new then.

        It lists what isn't ignored; the notes of causes that were listed before stay.
        """
        if self.write is None:
            return accepted
        notes = {each.cause: each.note for each in self.baseline.causes} if self.baseline else {}
        known = (*accepted.new, *accepted.known)
        causes = sorted({text for cause in known for text in accepted.parts.get(cause, (cause,))})
        document = Baseline(
            "crosswalk-baseline/1", [BaselineEntry(each, notes.get(each, "")) for each in causes]
        )
        write_file(self.write, _encoded(document))
        return Accepted((), accepted.ignored, known, accepted.vanished, accepted.parts)


def read_muting(
    ignore: Sequence[str] | None, baseline: Path | None, write: Path | Literal[True] | None = None
) -> Muting:
    """Return what the options `--ignore`, `--baseline` and `--write-baseline` say.

    True for `write` is the file of `baseline`; that may be missing where it is to be written.
    Raises `BadInput` for a file that is no baseline, and where it isn't said which to write.
    """
    if write is True and baseline is None:
        raise BadInput("--write-baseline: which FILE? Neither it nor --baseline says so")
    target = baseline if write is True else write or None
    new = target is not None and baseline is not None and target == baseline
    if baseline is None or (new and not baseline.exists()):
        return Muting(tuple(ignore or ()), None, target)
    with errors_named(str(baseline)):
        known = read_document(read_file(baseline), Baseline)
    return Muting(tuple(ignore or ()), known, target)


def _matches(text: str, pattern: str) -> bool:
    return fnmatchcase(text.lower(), pattern.lower())


def _named(causes: Sequence[str]) -> str:
    return f"{len(causes):,}: {'; '.join(causes)}"


def _encoded(document: Baseline) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document)) + b"\n"
