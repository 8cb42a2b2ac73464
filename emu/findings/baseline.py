"""Findings that don't fail: those that a pattern names, and those that a baseline lists.

A finding is known here by texts alone, before those of one cause are joined: what it is headed by
depends on what else was found, and one text of several must not hide the others.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Generic, Literal, TypeVar

import msgspec

from crosswalk.emu.findings.cause import Part, is_listed, names_of
from crosswalk.emu.findings.signature import RESERVED
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.documents import Document, read_document
from crosswalk.walker.formats.files import read_file, write_file
from crosswalk.walker.formats.located_errors import errors_named, printable

__all__ = ["Accepted", "Baseline", "BaselineEntry", "Muting", "Sorted", "read_muting"]

T = TypeVar("T")

_KINDS = re.compile(rf"({RESERVED}(?: in [^:]*)?: )([^*]+)(\*?)", re.IGNORECASE)
"""Where a pattern names kinds of reserved bits, as a heading does."""


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
    """The causes of the findings of a run that don't fail, in words.

    `ignored` are those that a pattern matches, by pattern, also by one that matches none; `known`
    those of the baseline. `vanished` are causes of the baseline that the run didn't find.
    """

    ignored: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    known: tuple[str, ...] = ()
    vanished: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many findings don't fail."""
        return len({*self.known, *(each for some in self.ignored.values() for each in some)})

    def lines(self) -> Iterator[str]:
        """Yield what isn't new, in a line for each pattern and for the baseline."""
        for pattern, causes in self.ignored.items():
            yield f"ignored by {printable(repr(pattern))}: {_named(causes)}"
        if self.known:
            yield f"known from the baseline: {_named(self.known)}"
        if self.vanished:
            yield f"in the baseline, and not found any more: {_named(self.vanished)}"

    def record(self) -> dict[str, object]:
        """Return the same for a JSON document."""
        return {
            "ignored": {name: list(causes) for name, causes in self.ignored.items()},
            "baseline": list(self.known),
            "vanished": list(self.vanished),
        }


@dataclass(frozen=True, slots=True)
class Sorted(Generic[T]):
    """Findings of a run, each of one signature: `new` are those that fail.

    `ignored` has under each pattern those of the others that it has a part in, `known` those that
    only the baseline has all of. `unlisted` are texts for a baseline: what no pattern ignores.
    """

    new: tuple[T, ...]
    ignored: Mapping[str, tuple[T, ...]]
    known: tuple[T, ...]
    vanished: tuple[str, ...]
    unlisted: frozenset[str]


@dataclass(frozen=True, slots=True)
class Muting:
    """What isn't to fail, as a command's options say; `write` is where a baseline is to be written.

    `ignore` are patterns as file names have them (`*`, `?`, `[…]`), whose case doesn't matter.
    """

    ignore: tuple[str, ...] = ()
    baseline: Baseline | None = None
    write: Path | None = None

    def sort(self, found: Iterable[tuple[T, Sequence[Part]]]) -> Sorted[T]:
        """Return which findings of a run are new, and which aren't; each comes with its parts.

        A pattern matches a part by its rule, or its cause, or the name that this has together with
        its other half. A finding whose parts are all matched is ignored; it is known where the
        baseline lists what isn't matched.
        """
        listed = {entry.cause for entry in self.baseline.causes} if self.baseline else set()
        new: list[T] = []
        known: list[T] = []
        ignored: dict[str, list[T]] = {pattern: [] for pattern in self.ignore}
        unlisted, seen = set[str](), set[str]()
        for item, parts in found:
            matching = [[each for each in self.ignore if _ignores(each, part)] for part in parts]
            rest = [part.text for part, some in zip(parts, matching, strict=True) if not some]
            unlisted.update(rest)
            seen.update(each for each in listed for part in parts if is_listed(part.text, {each}))
            if not rest:
                for pattern in {each: None for some in matching for each in some}:
                    ignored[pattern].append(item)
            elif all(is_listed(text, listed) for text in rest):
                known.append(item)
            else:
                new.append(item)
        return Sorted(
            tuple(new),
            {pattern: tuple(some) for pattern, some in ignored.items()},
            tuple(known),
            tuple(sorted(listed - seen)),
            frozenset(unlisted),
        )

    def write_baseline(self, texts: Collection[str]) -> None:
        """Write a baseline of these causes; the notes of those that were listed before stay."""
        if self.write is None:
            return
        notes = {each.cause: each.note for each in self.baseline.causes} if self.baseline else {}
        causes = [BaselineEntry(each, notes.get(each, "")) for each in sorted(texts)]
        write_file(self.write, _encoded(Baseline("crosswalk-baseline/1", causes)))


def read_muting(
    ignore: Sequence[str] | None, baseline: Path | None, write: Path | Literal[True] | None = None
) -> Muting:
    """Return what the options `--ignore`, `--baseline` and `--write-baseline` say.

    True for `write` is the file of `baseline`; that may be missing where it is to be written. An
    empty pattern takes back those before it.
    Raises `BadInput` for a file that is no baseline, and where it isn't said which to write.
    """
    if write is True and baseline is None:
        raise BadInput("--write-baseline: which FILE? Neither it nor --baseline says so")
    target = baseline if write is True else write or None
    patterns: list[str] = []
    for pattern in ignore or ():
        patterns = [*patterns, pattern] if pattern else []
    chosen = tuple(dict.fromkeys(patterns))
    if baseline is None:
        return Muting(chosen, None, target)
    if not baseline.exists():
        if target == baseline:
            return Muting(chosen, None, target)
        raise BadInput(f"{baseline}: no such file; --write-baseline writes it")
    data = read_file(baseline)
    with errors_named(str(baseline)):
        try:
            known = read_document(data, Baseline)
        except BadInput as error:
            expected = Baseline.__annotations__["format"].__args__[0]
            raise BadInput(f"not a baseline ({expected}): {error}") from None
    return Muting(chosen, known, target)


def _ignores(pattern: str, part: Part) -> bool:
    names = (part.rule, *names_of(part.text))
    return any(_matches(name, each) for each in _patterns(pattern) for name in names)


def _patterns(pattern: str) -> tuple[str, ...]:
    """Return a pattern, and those of its parts if it is a heading that names several kinds."""
    rule, says, answers = pattern.partition(": says ")
    found = _KINDS.fullmatch(rule)
    if found is None or ", " not in found[2]:
        return (pattern,)
    head, names, end = found.groups()
    return (pattern, *(f"{head}{name}{end}{says}{answers}" for name in names.split(", ")))


def _matches(text: str, pattern: str) -> bool:
    return fnmatchcase(text.lower(), pattern.lower())


def _named(causes: Sequence[str]) -> str:
    return f"{len(causes):,}: {'; '.join(causes)}" if causes else "nothing"


def _encoded(document: Baseline) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document)) + b"\n"
