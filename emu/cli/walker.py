"""`walker try`: a walker that is asked in the open."""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import Any

from crosswalk.emu.cli.output import emit, print_verdict
from crosswalk.emu.cli.walker_options import Chosen, chosen_walker
from crosswalk.emu.report.text import access_text, context_text, count_text, walk_lines
from crosswalk.emu.targets import Target
from crosswalk.emu.targets.capabilities import LISTS, Capability
from crosswalk.emu.targets.tally import Tally
from crosswalk.emu.testing.mistakes import named
from crosswalk.emu.testing.samples import Reply, ask_list, ask_translations, samples
from crosswalk.walker.context import PagingMode
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import Case
from crosswalk.walker.formats.case import ACCESS_NAMES
from crosswalk.walker.formats.located_errors import printable
from crosswalk.walker.translate import Walk, walk_access

__all__ = ["run_try"]

_LIKELY = (PagingMode.LEVEL4, PagingMode.LEVEL5, PagingMode.PAE, PagingMode.BIT32)
_REPEATED = 20
_USUAL = frozenset({PagingMode.LEVEL4, PagingMode.LEVEL5})


@dataclass(frozen=True, slots=True)
class _Part:
    """The replies of a walker about one address space: to accesses, or to a list."""

    case: Case
    replies: tuple[Reply, ...]

    @property
    def mode(self) -> PagingMode:
        """The paging mode of the address space."""
        return self.case.context().mode

    @property
    def answered(self) -> int:
        """How many questions it answered, or failed to."""
        return sum(each.said is not None or each.failure is not None for each in self.replies)


def run_try(options: argparse.Namespace) -> int:
    """Ask the walker about fixed address spaces, show all of it, and return the exit status."""
    chosen = chosen_walker(options)
    with ExitStack() as stack:
        target = stack.enter_context(chosen.opened())
        if target is None:
            raise BadInput("no walker")
        modes = {mode for mode in PagingMode if mode.slug in options.mode}
        modes = modes or set(target.modes or _USUAL)
        cases = samples(modes)
        tally = Tally()
        parts = tuple(_asked(chosen, target, cases, tally))
    replies = [reply for part in parts for reply in part.replies]
    hints = _hints(parts)
    answered = sum(part.answered for part in parts)
    wrong = sum(reply.wrong for reply in replies)
    status = 1 if wrong else 2 if tally.unanswered else 0
    if options.json:
        emit(_record(target, parts, hints) | {"answered": answered, "wrong": wrong})
        return status
    for line in (*_lines(target, parts), *_wrong_lines(parts)):
        print(line)
    for hint in hints:
        print(f"hint: {hint}")
    if wrong:
        word = f"FAILED: {wrong} of {count_text(len(replies), 'answer')} wrong"
    elif tally.unanswered:
        word = tally.verdict
    else:
        word = f"{count_text(answered, 'answer')} right, {len(replies) - answered} declined"
    print_verdict(word, status)
    return status


def _asked(chosen: Chosen, target: Target, cases: Sequence[Case], tally: Tally) -> Iterator[_Part]:
    """Yield the replies, those to accesses and those to lists apart, and count the questions.

    A walker that answers both is opened once for each, with these claims alone.
    """
    for claims, ask in (
        (target.claims - LISTS, ask_translations),
        (target.claims & LISTS, ask_list),
    ):
        if not claims:
            continue
        with replace(chosen, claims=",".join(sorted(claims))).opened() as one:
            for case in cases:
                if one is not None:
                    yield _Part(case, tuple(ask(one, case, tally)))


def _hints(parts: Sequence[_Part]) -> list[str]:
    """Return what the wrong answers give away, a line each.

    Answers of a walk in another mode say nothing about an adapter.
    """
    walks = _other_walks(parts)
    replies = [reply for part in parts if part.mode not in walks for reply in part.replies]
    seen = [reply.seen for reply in replies if reply.seen is not None]
    numbers = [number for reply in replies for number in reply.numbers]
    found = [
        *(
            f"all that is wrong in {mode.value} paging is what a {walk.value} walk of the same "
            f'tables says: if the walker knows no other mode, let it state modes = "{walk.slug}"'
            for mode, walk in walks.items()
        ),
        *named(seen, numbers),
        *(reply.hint for reply in replies if reply.hint),
    ]
    return list(dict.fromkeys(found))


def _other_walks(parts: Sequence[_Part]) -> dict[PagingMode, PagingMode]:
    """Return, of the modes in which another mode's walk explains all that is wrong, that mode.

    At least two different physical addresses have to be among it: "not mapped" alone tells nothing.
    """
    found = {}
    for mode in PagingMode:
        replies = (reply for part in parts if part.mode is mode for reply in part.replies)
        wrong = [reply for reply in replies if reply.wrong]
        named_pages = {each.seen.said for each in wrong if each.seen is not None}
        for walk in _LIKELY:
            if len(named_pages - {None}) > 1 and all(walk in each.walked for each in wrong):
                found[mode] = walk
                break
    return found


def _wrong_lines(parts: Sequence[_Part]) -> Iterator[str]:
    """Yield the wrong answers once more, together, by address space."""
    wrong = [
        (part.case.note or "", f"    {_question(reply)}: {reply.said or 'no answer'}; {right}")
        for part in parts
        for reply in part.replies
        if reply.wrong
        for right in (_verdict(reply).removeprefix("wrong: "),)
    ]
    if not wrong:
        return
    yield ""
    yield f"{count_text(len(wrong), 'wrong answer')}:"
    for note, lines in groupby(wrong[:_REPEATED], itemgetter(0)):
        yield f"  {note}"
        yield from (line for _, line in lines)
    if len(wrong) > _REPEATED:
        yield f"    … and {len(wrong) - _REPEATED:,} more, above"


def _lines(target: Target, parts: Sequence[_Part]) -> Iterator[str]:
    """Yield the address spaces, each with its tables, questions and answers."""
    claims = ", ".join(claim.value for claim in Capability if claim in target.claims)
    stated = (
        ""
        if target.modes is None
        else "; modes " + ", ".join(mode.slug for mode in PagingMode if mode in target.modes)
    )
    yield printable(f"{target.name} claims {claims}{stated}")
    for part in parts:
        context = part.case.context()
        yield ""
        yield part.case.note or ""
        yield f"  {context_text(context)}"
        yield from walk_lines(context, _tables(part.case))
        rows = [
            (_question(reply), reply.said or "no answer", _verdict(reply)) for reply in part.replies
        ]
        widths = [max(map(len, column)) for column in zip(("", "", ""), *rows, strict=True)]
        for question, said, verdict in rows:
            yield f"  {question:<{widths[0]}}  {said:<{widths[1]}}  {verdict}".rstrip()


def _tables(case: Case) -> Walk:
    """Return all entries that the questions read and that aren't 0, in the order of memory."""
    memory, context = case.memory(), case.context()
    walks = (walk_access(memory, context, probe.asked) for probe in case.probes)
    steps = {step for walk in walks for step in walk.steps if step.entry}
    return Walk(0, tuple(sorted(steps, key=lambda step: step.pa)))


def _question(reply: Reply) -> str:
    if reply.access is None:
        return "the list"
    return f"mapping of {reply.access.va:#x}" if reply.listed else access_text(reply.access)


def _verdict(reply: Reply) -> str:
    if reply.failure is not None:
        return printable(
            f"wrong: {reply.failure.failure.value}: {reply.failure}; it is {reply.right}"
        )
    if reply.wrong:
        return f"wrong: it is {reply.right}"
    return "right" if reply.said is not None else f"declined; it is {reply.right}"


def _record(target: Target, parts: Sequence[_Part], hints: list[str]) -> dict[str, Any]:
    """Return all of it for machines."""
    modes = None if target.modes is None else sorted(mode.slug for mode in target.modes)
    return {
        "walker": target.name,
        "claims": sorted(claim.value for claim in target.claims),
        "modes": modes,
        "spaces": [
            {
                "note": part.case.note,
                "mode": part.mode.slug,
                "questions": [_answer_record(reply) for reply in part.replies],
            }
            for part in parts
        ],
        "hints": hints,
        "asked": sum(len(part.replies) for part in parts),
    }


def _answer_record(reply: Reply) -> dict[str, Any]:
    failure = None if reply.failure is None else str(reply.failure)
    said = {"said": reply.said, "right": reply.right, "wrong": reply.wrong, "failure": failure}
    if reply.access is None:
        return said
    access = reply.access
    if reply.listed:
        return {"va": hex(access.va), **said}
    kind = ACCESS_NAMES[access.type]
    return {"va": hex(access.va), "access": kind, "cpl": access.cpl, "ac": bool(access.ac), **said}
