"""Small address spaces with fixed questions, put to a walker one by one: `crosswalk walker try`.

Each is a case whose outcomes were observed on the emulated CPU, so that none has to run.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.resources import files

import numpy as np

from crosswalk.emu.report.text import outcome_text, size_text
from crosswalk.emu.targets.answers import Answers, Given, Listing
from crosswalk.emu.targets.capabilities import Capability, Target
from crosswalk.emu.targets.judge import judge
from crosswalk.emu.targets.mapping_lists import look_up, ranges_of, rights_text, true_listing
from crosswalk.emu.targets.tally import Tally
from crosswalk.emu.testing.mistakes import Number, Seen
from crosswalk.emu.workers.sandbox import Failure, NoAnswer
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Accesses, Outcomes
from crosswalk.walker.context import PagingContext, PagingMode
from crosswalk.walker.control import CR4, EFER
from crosswalk.walker.formats import Case, parse_case
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.outcome import Outcome, Translation
from crosswalk.walker.translate import translate, walk_access

__all__ = ["Reply", "ask_list", "ask_translations", "in_mode", "samples", "walked_modes"]

_NAMES = ("4level", "edges", "5level", "pae", "32bit")
_MOST_FAILURES = 3


@dataclass(frozen=True, slots=True)
class Reply:
    """One question, what the walker said, and what is right, in the words of its claims.

    `listed`: it is about a mapping of a list, or where `access` is None about a list that wasn't
    given. `said` is None where the walker said nothing: `failure` is why, unless it declined.
    `seen`, `numbers` and `hint` are what the answer shows of an adapter's mistake; `walked` are the
    other modes whose walk of the same tables gives this answer, where it is wrong.
    """

    access: Access | None
    listed: bool
    said: str | None
    right: str
    wrong: bool
    seen: Seen | None = None
    numbers: tuple[Number, ...] = ()
    failure: NoAnswer | None = None
    hint: str = ""
    walked: frozenset[PagingMode] = frozenset()


def samples(modes: Iterable[PagingMode]) -> list[Case]:
    """Return the address spaces of these modes, each with its questions and their outcomes."""
    folder, wanted = files("crosswalk.emu.testing") / "sample_spaces", set(modes)
    cases = (parse_case((folder / f"{name}.json").read_bytes(), name) for name in _NAMES)
    return [case for case in cases if case.context().mode in wanted]


def ask_translations(target: Target, case: Case, tally: Tally) -> Iterator[Reply]:
    """Yield the replies to the questions of a case, which are put one by one, and counted.

    After three failures, or one hang, the rest isn't asked.
    """
    memory, context = case.memory(), case.context()
    failures = 0
    for probe in case.probes:
        if failures >= _MOST_FAILURES or probe.observed is None:
            return
        accesses, truth = Accesses.of([probe.asked]), _column(probe.observed)
        answers, failure = _answers(target, memory, context, accesses)
        if failure is not None:
            failures += _MOST_FAILURES if failure.failure is Failure.HANG else 1
        judged = judge(target.claims, answers, memory, context, accesses, truth)
        tally += judged.tally
        verdict = judged.verdict
        said, right = verdict.reported[0], verdict.expected[0]
        silent, wrong = bool(answers.silent[0]), bool(verdict.wrong[0])
        yield Reply(
            probe.asked,
            False,
            None if silent else _text(target.claims, said),
            _text(target.claims, right),
            failure is not None or wrong,
            _seen(memory, context, probe.asked, None if silent else said, right, failure),
            failure=failure,
            walked=walked_modes(memory, context, probe.asked, said) if wrong else frozenset(),
        )


def ask_list(target: Target, case: Case, tally: Tally) -> Iterator[Reply]:
    """Yield a reply for each mapping that the walker lists, or should, in address order.

    They are counted; so are those to what it doesn't list at all.
    """
    memory, context = case.memory(), case.context()
    nothing = Accesses.of([])
    answers, failure = _answers(target, memory, context, nothing)
    listing = answers.listing
    true = true_listing(memory, context, ranges_of(memory, context, nothing))
    if failure is not None or listing is None or listing.silent.all():
        tally += _tally(target, answers, memory, context, true)
        right = f"{len(true.mappings)} mappings"
        hint = "" if failure is None else _of_failure(context, true, _number(failure))
        yield Reply(None, True, None, right, failure is not None, failure=failure, hint=hint)
        return
    begins = sorted({*listing.mappings.va.tolist(), *true.mappings.va.tolist()})
    accesses = Accesses.of([Access(va, AccessType.READ) for va in begins])
    truth = translate_many(memory, context, accesses)
    judged = judge(target.claims, answers, memory, context, accesses, truth)
    tally += judged.tally
    wrong = judged.verdict.wrong
    others = _listings_of_others(memory, context)
    for row, va in enumerate(begins):
        mine, other = _listed(listing, va), _listed(true, va)
        said = "not listed" if mine is None else mine.text(target.claims)
        seen: Seen | None = None
        numbers: tuple[Number, ...] = ()
        if other is not None and not judged.silent[row]:
            seen, numbers = _compared(memory, context, accesses[row], mine, other)
        yield Reply(
            accesses[row],
            True,
            None if judged.silent[row] else said,
            "no mapping" if other is None else other.text(target.claims),
            bool(wrong[row]),
            seen,
            numbers,
            walked=frozenset(mode for mode, one in others if _alike(mine, _listed(one, va))),
        )


def _tally(
    target: Target, answers: Answers, memory: PhysicalMemory, context: PagingContext, true: Listing
) -> Tally:
    """Return the questions to a list that wasn't given: one for each mapping that there is."""
    accesses = Accesses.of([Access(va, AccessType.READ) for va in true.mappings.va.tolist()])
    truth = translate_many(memory, context, accesses)
    return judge(target.claims, answers, memory, context, accesses, truth).tally


def walked_modes(
    memory: PhysicalMemory, context: PagingContext, access: Access, said: Outcome
) -> frozenset[PagingMode]:
    """Return the other modes in which a walk of the same tables comes to what was said.

    It may have checked the linear address, or taken the bits that it needs of it. Where a physical
    address was said, rights are left out of account, since they may be wrong besides.
    """
    found = set()
    for mode in PagingMode:
        if mode is context.mode:
            continue
        other = in_mode(context, mode)
        mask = (1 << other.va_bits) - 1
        top = mode.long and access.va >> other.va_bits - 1 & 1
        cut = replace(access, va=access.va & mask | (~mask & (1 << 64) - 1 if top else 0))
        if isinstance(said, Translation):
            page = translate(memory, other, replace(cut, type=AccessType.READ, cpl=0))
            alike = isinstance(page, Translation) and page.pa == said.pa
        else:
            asked = (access, cut) if mode.long else (cut,)  # Others have no longer addresses.
            walks = (translate(memory, other, each) for each in asked)
            alike = not all(isinstance(each, Translation) for each in walks)
        if alike:
            found.add(mode)
    return frozenset(found)


def in_mode(context: PagingContext, mode: PagingMode) -> PagingContext:
    """Return the context as it is in another mode, with all else as before."""
    cr4 = context.cr4 & ~(CR4.PAE | CR4.LA57)
    cr4 |= 0 if mode is PagingMode.BIT32 else CR4.PAE
    cr4 |= CR4.LA57 if mode is PagingMode.LEVEL5 else 0
    efer = context.efer & ~(EFER.LME | EFER.LMA) | (EFER.LME | EFER.LMA if mode.long else 0)
    return replace(context, cr4=cr4, efer=efer)


def _listings_of_others(
    memory: PhysicalMemory, context: PagingContext
) -> list[tuple[PagingMode, Listing]]:
    """Return what a walk in each of the other modes would list of the same tables."""
    nothing = Accesses.of([])
    others = ((mode, in_mode(context, mode)) for mode in PagingMode if mode is not context.mode)
    return [
        (mode, true_listing(memory, other, ranges_of(memory, other, nothing)))
        for mode, other in others
    ]


def _answers(
    target: Target, memory: PhysicalMemory, context: PagingContext, accesses: Accesses
) -> tuple[Answers, NoAnswer | None]:
    try:
        answers = target.answer(memory, context, accesses)
    except NoAnswer as failure:
        return Answers.none(len(accesses)), failure
    return answers, answers.failures[0].failure if answers.failures else None


def _column(outcome: Outcome) -> Outcomes:
    one = Answers.none(1)
    one.fill(0, outcome)
    return one.outcomes


def _seen(
    memory: PhysicalMemory,
    context: PagingContext,
    access: Access,
    said: Outcome | None,
    right: Outcome,
    failure: NoAnswer | None,
) -> Seen | None:
    """Return what an answer shows of an adapter; a failure does by the number that it names."""
    named = said.pa if isinstance(said, Translation) else None
    if said is None:
        named = None if failure is None else _number(failure)
        if named is None:
            return None
    step = walk_access(memory, context, access).steps[-1:]
    mapped = isinstance(right, Translation)
    return Seen(
        access.va,
        mapped,
        named is not None,
        named,
        right.pa if isinstance(right, Translation) else 0,
        _size_of(memory, context, access) if mapped else 0,
        step[0].entry if mapped else 0,
        step[0].pa if mapped else 0,
    )


def _size_of(memory: PhysicalMemory, context: PagingContext, access: Access) -> int:
    """Return the size of the page that an access reaches, in bytes."""
    found = translate(memory, context, replace(access, type=AccessType.READ, cpl=0))
    return found.page_size or 0 if isinstance(found, Translation) else 0


@dataclass(frozen=True, slots=True)
class _Listed:
    """One mapping of a list."""

    pa: int
    size: int
    flags: int
    rights: int
    given: int

    def text(self, claims: frozenset[Capability]) -> str:
        parts = [f"pa {self.pa:#x}"] if self.given & Given.PA else []
        parts.append(size_text(self.size))
        if Capability.FLAGS in claims and self.given & Given.FLAGS:
            parts.append(f"flags {self.flags:#x}")
        if Capability.EFFECTIVE in claims and self.given & Given.RIGHTS:
            parts.append(f"rights {rights_text(self.rights)}")
        return ", ".join(parts)


def _alike(said: _Listed | None, walked: _Listed | None) -> bool:
    """Return whether a mapping that was listed, or none, is that of a walk."""
    if said is None or walked is None:
        return said is walked
    return said.size == walked.size and (said.pa == walked.pa or not said.given & Given.PA)


def _listed(listing: Listing, va: int) -> _Listed | None:
    """Return the mapping that begins at an address, or the one around it, None for none."""
    row, found = look_up(listing, np.array([va], np.uint64))
    if not found[0]:
        return None
    one = listing.mappings.take(row)
    columns = one.pa, one.size, one.flags, one.rights, one.given
    return _Listed(*(int(column[0]) for column in columns))


def _compared(
    memory: PhysicalMemory,
    context: PagingContext,
    access: Access,
    said: _Listed | None,
    right: _Listed,
) -> tuple[Seen, tuple[Number, ...]]:
    """Return what a listed mapping, None for none, shows of an adapter, beside the true one."""
    (*_, step) = walk_access(memory, context, access).steps
    named = said.pa if said is not None and said.given & Given.PA else None
    found = said is not None
    seen = Seen(access.va, True, found, named, right.pa, right.size, step.entry, step.pa)
    if said is None:
        return seen, ()
    numbers = [Number("size", said.size, right.size, access.va, step.entry)]
    if said.given & Given.FLAGS:
        numbers.append(Number("flags", said.flags, right.flags, access.va, step.entry))
    return seen, tuple(each for each in numbers if each.said != each.right)


def _number(failure: NoAnswer) -> int | None:
    """Return the number that a failure names: the address that can't be one."""
    found = re.search(r"0x[0-9a-f]+\b", str(failure))
    return None if failure.failure is not Failure.NONSENSE or found is None else int(found[0], 16)


def _of_failure(context: PagingContext, true: Listing, number: int | None) -> str:
    """Return the mistake that a list which was refused for one number gives away, if any."""
    if number is None:
        return ""
    begins, bits = true.mappings.va.tolist(), context.va_bits
    if number >> bits == 0 and number - (1 << bits) + (1 << 64) in begins:
        return (
            "addresses of the upper half are listed without their upper bits: they are canonical, "
            "all bits above the linear address width copy its top bit"
        )
    return ""


def _text(claims: frozenset[Capability], outcome: Outcome) -> str:
    """Return an answer in the words of the claims."""
    if Capability.FAULTS in claims:
        return outcome_text(outcome, may=Capability.MARKS in claims)
    yes, no = ("allowed", "refused") if Capability.RIGHTS in claims else ("mapped", "not mapped")
    return f"{yes}, pa {outcome.pa:#x}" if isinstance(outcome, Translation) else no
