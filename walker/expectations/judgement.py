"""Expectations judged: what holds, what is broken and by which mappings, what can't be said.

"Holds" is only said of what was looked at. A name that nothing has, a range without a mapping where
one is needed, tables that aren't in memory: then nothing can be said.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from itertools import chain, groupby, islice

import numpy as np

from crosswalk.walker.aliases import MAX_QUERIES, Aliases, AliasQuery
from crosswalk.walker.context import PagingContext
from crosswalk.walker.expectations.changes import Snapshot, differences
from crosswalk.walker.expectations.flaws import FlawedEntry, flawed_entries
from crosswalk.walker.expectations.search import EVERYTHING, Found, Rule, Search, Span
from crosswalk.walker.expectations.sentences import (
    Ability,
    AtMost,
    Flaw,
    FramesNever,
    Is,
    Mapped,
    Never,
    NoEntries,
    Only,
    Privilege,
    Sentence,
    Surrounded,
    TablesNever,
    Target,
    Targets,
    Unchanged,
    Unmapped,
)
from crosswalk.walker.formats.located_errors import one_line
from crosswalk.walker.frames import Frames, collective_rights
from crosswalk.walker.leaves import TOP, table_frames
from crosswalk.walker.mappings import Range, RootedMapping, coalesce_pages
from crosswalk.walker.memory import FRAME, PhysicalMemory
from crosswalk.walker.pages import Mapping, pages_of
from crosswalk.walker.rights import Rights
from crosswalk.walker.spaces import Contexts, listed_contexts
from crosswalk.walker.symbols import Names

__all__ = ["Evidence", "Judged", "Outcome", "Subject", "judge", "rule_of"]

SHOWN = 4
"""How many ranges of mappings a broken sentence names."""
_FEW, _MANY = 4096, 1_000_000
_LOOKED_UP = 256
"""Of how many ranges of frames the mappings are looked up, unless all are asked for."""
_PAGE = FRAME


class Outcome(StrEnum):
    """What a sentence comes to."""

    HOLDS = "holds"
    BROKEN = "broken"
    UNSAID = "unsaid"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Mappings that break a sentence, folded: those of `context`, which `roots` share.

    `note` says what became of them since an earlier point; empty else.
    """

    context: PagingContext
    roots: int
    range: Range
    note: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """A sentence and what it comes to.

    `reason` says why, where it doesn't simply hold. Of a broken one, `count` is the number of
    mappings that break it, or of entries, None where they aren't counted; `evidence` or `entries`
    are the first of them, or all, and `more` says that there are others, or that some frames
    weren't looked up.
    """

    sentence: Sentence
    outcome: Outcome
    reason: str = ""
    count: int | None = None
    evidence: tuple[Evidence, ...] = ()
    more: bool = False
    entries: tuple[FlawedEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class Subject:
    """Address spaces of one memory, and what is known about them.

    `names` are those of linear ranges. `complete` says that there is no memory but this, so that
    tables outside it are none. `doubt` is why nothing can be said to hold, `doubt_of_all` why
    not where a sentence is about all mappings of a frame; empty for no reason. With `partial` what
    could be looked at is enough all the same. `earlier` are the tables at points of a boot before,
    by the name of the point.
    """

    memory: PhysicalMemory
    contexts: Contexts
    names: Names
    complete: bool = True
    doubt: str = ""
    doubt_of_all: str = ""
    partial: bool = False
    earlier: dict[str, Snapshot] = field(default_factory=dict)


def judge(subject: Subject, sentences: Iterable[Sentence], *, every: bool = False) -> list[Judged]:
    """Return what each sentence comes to, in order; with `every` all mappings that break it.

    Not more than a million of them.
    """
    court = _Judge(subject, every=every)
    return [court.judge(each) for each in sentences]


class _Unsaid(Exception):  # Not an error: the answer that there is none.
    """Why nothing can be said."""


class _Judge:
    def __init__(self, subject: Subject, *, every: bool) -> None:
        self._subject, self._every = subject, every
        self._contexts = listed_contexts(subject.contexts)

    @cached_property
    def _search(self) -> Search:
        return Search(self._subject.memory, self._subject.contexts)

    @cached_property
    def _collective(self) -> Frames:
        return collective_rights(self._subject.memory, self._subject.contexts)

    def judge(self, sentence: Sentence) -> Judged:
        """Return what a sentence comes to."""
        rules: dict[type, Callable[..., Judged]] = {
            Is: self._is,
            Never: self._never,
            Unmapped: self._unmapped,
            Mapped: self._mapped,
            Surrounded: self._surrounded,
            Only: self._only,
            FramesNever: self._frames_never,
            TablesNever: self._tables_never,
            NoEntries: self._no_entries,
            AtMost: self._at_most,
            Unchanged: self._unchanged,
        }
        try:
            return rules[type(sentence.claim)](sentence, sentence.claim)
        except _Unsaid as why:
            return Judged(sentence, Outcome.UNSAID, str(why))

    def _is(self, sentence: Sentence, claim: Is) -> Judged:
        shift = 3 if claim.privilege is Privilege.USER else 0
        wrong = (np.arange(64) >> shift & 7) != claim.rights
        return self._without(sentence, self._spans(claim.targets), wrong, claim.targets)

    def _never(self, sentence: Sentence, claim: Never) -> Judged:
        targets = claim.targets
        spans = [(0, TOP)] if targets is None else self._spans(targets)
        needed = targets if targets is not None and claim.mapped else ()
        return self._without(sentence, spans, rule_of(claim.ability, claim.privilege), needed)

    def _unmapped(self, sentence: Sentence, claim: Unmapped) -> Judged:
        return self._without(sentence, self._spans(claim.targets), EVERYTHING)

    def _mapped(self, sentence: Sentence, claim: Mapped) -> Judged:
        spans = self._spans(claim.targets)
        holes = (self._search.hole(span) for span in spans)
        hole = next((each for each in holes if each is not None), None)
        if hole is None:
            return self._holds(sentence)
        lacking = self._lacking(spans)
        if lacking:
            raise _Unsaid(lacking)
        return Judged(sentence, Outcome.BROKEN, f"{hole:#x} isn't mapped")

    def _surrounded(self, sentence: Sentence, claim: Surrounded) -> Judged:
        self._require_mapped(claim.targets)
        around = []
        for start, end in (span for target in claim.targets for span in self._found(target)):
            first, last = start & -_PAGE, -(-end // _PAGE) * _PAGE
            around += [(max(first - _PAGE, 0), first), (last, min(last + _PAGE, TOP))]
        return self._without(sentence, _pages(around), EVERYTHING)

    def _only(self, sentence: Sentence, claim: Only) -> Judged:
        self._require_mapped(claim.targets)
        inside = self._spans(claim.targets)
        edges = [0, *(edge for span in inside for edge in span), TOP]
        others = [(lo, hi) for lo, hi in zip(edges[::2], edges[1::2], strict=True) if lo < hi]
        return self._without(sentence, others, rule_of(claim.ability, claim.privilege))

    def _at_most(self, sentence: Sentence, claim: AtMost) -> Judged:
        spans = [(0, TOP)] if claim.targets is None else self._spans(claim.targets)
        count = self._search.count(spans)
        if count > claim.count:
            return self._broken(sentence, spans, EVERYTHING, f"{count:,} mappings")
        return self._holds(sentence, spans)

    def _no_entries(self, sentence: Sentence, claim: NoEntries) -> Judged:
        spans = [(0, TOP)] if claim.targets is None else self._spans(claim.targets)
        if not len(table_frames(self._subject.memory, self._contexts)):
            raise _Unsaid("no table is in memory")
        found = flawed_entries(self._subject.memory, self._contexts, spans, claim.flaw)
        if not len(found):
            return self._holds(sentence, spans)
        first = tuple(islice(found, _MANY if self._every else SHOWN))
        if claim.flaw is not Flaw.RESERVED and not self._subject.complete:
            # It may be in RAM that the memory at hand lacks.
            return self._holds(sentence, spans, _away(first[0]))
        more = len(first) < len(found)
        return Judged(sentence, Outcome.BROKEN, "", len(found), (), more, first)

    def _without(
        self, sentence: Sentence, spans: Sequence[Span], wrong: Rule, needed: Targets = ()
    ) -> Judged:
        """Return a verdict that no mapping in these ranges has such rights.

        In each of the targets that are `needed` something has to be mapped.
        """
        # To count them takes another pass over all tables.
        if self._search.any(spans, wrong):
            count = self._search.count(spans, wrong)
            return self._broken(sentence, spans, wrong, "", count)
        self._require_mapped(needed)
        return self._holds(sentence, spans)

    def _broken(
        self,
        sentence: Sentence,
        spans: Sequence[Span],
        rule: Rule,
        reason: str,
        count: int | None = None,
    ) -> Judged:
        found = self._search.find(spans, rule)
        evidence, more = self._shown(_folded(found, _MANY if self._every else _FEW))
        counted = sum(each.range.count for each in evidence)
        more = more or (count is not None and counted < count)
        return Judged(sentence, Outcome.BROKEN, reason, count, evidence, more)

    def _shown(self, evidence: Iterator[Evidence]) -> tuple[tuple[Evidence, ...], bool]:
        """Return the evidence to show, and whether there is more."""
        shown = tuple(evidence if self._every else islice(evidence, SHOWN))
        return shown, next(evidence, None) is not None

    def _frames_never(self, sentence: Sentence, claim: FramesNever) -> Judged:
        if claim.targets is None:
            return self._frames(sentence, self._collective, claim)
        frames = _common(self._collective, self._search.frames(self._spans(claim.targets)))
        return self._frames(sentence, frames, claim, claim.targets)

    def _tables_never(self, sentence: Sentence, claim: TablesNever) -> Judged:
        tables = table_frames(self._subject.memory, self._contexts)
        if not len(tables):
            raise _Unsaid("no table is in memory")
        size = np.full(len(tables), FRAME, np.uint64)
        among = Frames(tables, size, np.zeros(len(tables), np.uint8))
        return self._frames(sentence, _common(self._collective, among), claim)

    def _frames(
        self,
        sentence: Sentence,
        frames: Frames,
        claim: FramesNever | TablesNever,
        targets: Targets = (),
    ) -> Judged:
        """Return a verdict that none of these frames, with their rights, has an ability.

        They are those that are mapped in the targets.
        """
        rule = rule_of(claim.ability, claim.privilege)
        wrong = np.flatnonzero(rule[frames.rights])
        if not len(wrong):
            self._require_mapped(targets)
            return self._holds(sentence, self._spans(targets))
        start, size = frames.start[wrong], frames.size[wrong]
        count = int(size.sum()) // FRAME
        what = "table" if isinstance(claim, TablesNever) else "frame"
        reason = f"{count:,} {what}{'' if count == 1 else 's'}, the first at {int(start[0]):#x}"
        # One mapping may be that of all frames, and each 64 of them take a pass over all tables.
        some = slice(None if self._every else _LOOKED_UP)
        found = self._mappings_of(start[some].tolist(), size[some].tolist(), claim)
        evidence, more = self._shown(found)
        more = more or len(start) > len(start[some])
        return Judged(sentence, Outcome.BROKEN, reason, None, evidence, more)

    def _mappings_of(
        self, starts: list[int], sizes: list[int], claim: FramesNever | TablesNever
    ) -> Iterator[Evidence]:
        """Yield the mappings by which frames have an ability; of WX those that have either half."""
        halves = [claim.ability]
        if claim.ability is Ability.WX:
            halves = [Ability.WRITABLE, Ability.EXECUTABLE]
        queries = [
            AliasQuery(start, size, _bits(half, claim.privilege))
            for start, size in zip(starts, sizes, strict=True)
            for half in halves
        ]
        seen: set[tuple[int, int]] = set()
        others: list[Iterator[Evidence]] = []
        # Of each half of WX as many.
        shown = None if self._every or len(halves) == 1 else SHOWN // 2
        for at in range(0, len(queries), MAX_QUERIES):
            some = queries[at : at + MAX_QUERIES]
            # As of several address spaces, so that each mapping says whose it is.
            finder = Aliases(self._subject.memory, self._contexts, some)
            for number in range(len(some)):
                most = _MANY if self._every else len(seen) + _FEW
                found = _folded_aliases(_fresh(finder.find_once(number), seen, most))
                yield from islice(found, shown)
                others.append(found)
        # Of one half there may be more than are shown.
        yield from chain.from_iterable(others)

    def _unchanged(self, sentence: Sentence, claim: Unchanged) -> Judged:
        before = self._subject.earlier.get(claim.point)
        if before is None:
            raise _Unsaid(f"no point {one_line(claim.point)} was looked at before")
        spans = [(0, TOP)] if claim.targets is None else self._spans(claim.targets)
        context = self._contexts[0]
        found = differences(before, Snapshot(self._subject.memory, context), spans)
        if found is None:
            raise _Unsaid("there are too many mappings to compare")
        if not found.sizes:
            self._require_mapped(claim.targets or ())
            return self._holds(sentence, spans)
        sizes = sorted(found.sizes.items())
        reason = ", ".join(f"{size >> 10:,} KiB {what}" for what, size in sizes)
        evidence, more = self._shown(Evidence(context, 1, *each) for each in found.ranges)
        return Judged(sentence, Outcome.BROKEN, reason, None, evidence, more)

    def _holds(self, sentence: Sentence, spans: Sequence[Span] = (), lacking: str = "") -> Judged:
        """Return that a sentence about these ranges holds; raise `_Unsaid` where that is in doubt.

        With `partial` it holds with the doubt as its reason. `lacking` is one that is known.
        """
        subject = self._subject
        doubt = subject.doubt or (subject.doubt_of_all if sentence.of_all else "")
        doubt = doubt or lacking or self._lacking(spans)
        if not doubt:
            return Judged(sentence, Outcome.HOLDS)
        if not subject.partial:
            raise _Unsaid(doubt)
        return Judged(sentence, Outcome.HOLDS, f"partial: {doubt}")

    def _lacking(self, spans: Sequence[Span]) -> str:
        """Return which table of these ranges isn't in memory, but might be; "" for none."""
        outside = None if self._subject.complete else self._search.outside(spans)
        return "" if outside is None else _table_away(outside)

    def _found(self, target: Target) -> list[Span]:
        """Return the ranges that a target names, as they come.

        Raise `_Unsaid` where there is none, or none that could be mapped.
        """
        found = self._named(target) if target.end is None else [(target.start, target.end)]
        if not any(map(self._search.translates, found)):
            modes = " and ".join(dict.fromkeys(each.mode.value for each in self._contexts))
            raise _Unsaid(f"{one_line(target.text)} has no address that {modes} paging translates")
        return found

    def _named(self, target: Target) -> list[Span]:
        """Return the ranges that a name stands for."""
        found = self._subject.names.find(target.text)
        if not found:
            near = self._subject.names.near(target.text)
            like = f"; there is {', '.join(map(one_line, near))}" if near else ""
            raise _Unsaid(f"no region, section or symbol {one_line(target.text)} is known{like}")
        return [(each.start, each.end) for each in found if each.start < each.end]

    def _spans(self, targets: Targets) -> list[Span]:
        """Return the ranges that targets name as whole pages, in order and without overlaps.

        What touches one touches the other, as no page is smaller.
        """
        return _pages(span for target in targets for span in self._found(target))

    def _require_mapped(self, targets: Targets) -> None:
        """Raise `_Unsaid` where nothing is mapped in one of the targets."""
        for target in targets:
            spans = _pages(self._found(target))
            if not self._search.any(spans):
                lacking = self._lacking(spans)
                raise _Unsaid(lacking or f"nothing is mapped in {one_line(target.text)}")


def _away(entry: FlawedEntry) -> str:
    """Return that what an entry leads to isn't in memory."""
    if entry.flaw is Flaw.TABLE_OUTSIDE:
        return _table_away(entry.va)
    return f"the page at {entry.va:#x} is not in memory"


def _table_away(va: int) -> str:
    return f"the table for {va:#x} is not in memory"


def rule_of(ability: Ability, privilege: Privilege | None) -> Rule:
    """Return which rights allow this to the privilege; to any, where it is None."""
    return np.array([ability.met_by(Rights(bits), privilege) for bits in range(64)])


def _bits(ability: Ability, privilege: Privilege | None) -> Rights:
    """Return the rights of which a mapping with this ability has some."""
    return Rights(sum(1 << at for at in range(6) if ability.met_by(Rights(1 << at), privilege)))


def _pages(spans: Iterable[Span]) -> list[Span]:
    """Return ranges as whole pages in order, those that touch each other as one."""
    found: list[Span] = []
    rounded = ((lo & -_PAGE, -(-hi // _PAGE) * _PAGE) for lo, hi in spans if lo < hi)
    for start, end in sorted(rounded):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


def _common(frames: Frames, others: Frames) -> Frames:
    """Return what frames have in common with others, with the rights of `frames`."""
    first = np.searchsorted(frames.start + frames.size, others.start, side="right")
    end = np.searchsorted(frames.start, others.start + others.size, side="left")
    count = np.maximum(end - first, 0)
    other = np.repeat(np.arange(len(others)), count)
    offset = np.arange(len(other)) - np.repeat(np.cumsum(count) - count, count)
    row = first[other] + offset
    start = np.maximum(frames.start[row], others.start[other])
    last = np.minimum(
        frames.start[row] + frames.size[row], others.start[other] + others.size[other]
    )
    return Frames(start, last - start, frames.rights[row])


def _folded(found: Iterator[Found], most: int) -> Iterator[Evidence]:
    """Yield mappings folded to ranges, of the first so many."""
    for (context, roots), run in groupby(
        _limited(found, most), lambda each: (each.context, each.roots)
    ):
        for ranges in coalesce_pages((each.pages for each in run), repeats=True):
            yield from (Evidence(context, roots, each) for each in ranges)


def _limited(found: Iterator[Found], most: int) -> Iterator[Found]:
    left = most
    for each in found:
        yield each._replace(pages=each.pages.take(slice(left)))
        left -= len(each.pages)
        if left <= 0:
            return


def _fresh(
    found: Iterator[Mapping], seen: set[tuple[int, int]], most: int
) -> Iterator[RootedMapping]:
    """Yield mappings that weren't seen, until `most` were: a page may hold several frames."""
    for each in found:
        if len(seen) >= most:
            return
        if isinstance(each, RootedMapping) and (each.context.root, each.va) not in seen:
            seen.add((each.context.root, each.va))
            yield each


def _folded_aliases(found: Iterator[RootedMapping]) -> Iterator[Evidence]:
    """Yield mappings of several address spaces folded to ranges."""
    for (context, roots), run in groupby(found, lambda each: (each.context, each.roots)):
        for ranges in coalesce_pages(pages_of(run), repeats=True):
            yield from (Evidence(context, roots, each) for each in ranges)
