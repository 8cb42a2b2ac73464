"""Sequences compiled into runs of a boot image, and its results made into outcomes.

A sequence is one program, which begins with an empty TLB. The runner's own pages show in two slots
of each root that it loads, which no address of it selects at any level. Behind each access the
words of the tables are looked at, and behind a write what it may have written, which is put back:

    access ─► look at each word of the tables ─► of a write: look at each page, put it back

A page is signed by an instruction that puts the number of its frame into EAX: to be executed, read
and written. Which outcomes are right, nothing here knows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from crosswalk.emu.judges.answers import Answered, fault_of, name_of, refusal_reason
from crosswalk.emu.judges.asked import (
    Asked,
    Part,
    Refusals,
    Registers,
    run_of,
    whole_refusal,
    wish_of,
)
from crosswalk.emu.judges.compiling import OPS
from crosswalk.emu.judges.judge import ELSEWHERE, JudgedSequence, Reason, Unjudged
from crosswalk.emu.judges.lending import Loan
from crosswalk.emu.judges.markers import fetch_number, fetch_word
from crosswalk.emu.judges.parts import NO_SLOT
from crosswalk.emu.judges.ways import Ram
from crosswalk.emu.machines.machine import CpuWish
from crosswalk.emu.probe.control import ADDRESS, CR4_PKE, Control
from crosswalk.emu.probe.paths import PagingFormat, format_of
from crosswalk.guest.boot.programs import CpuFacts, Op, Program, ProgramResult, StepResult
from crosswalk.guest.boot.programs import Step as RunnerStep
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.architecture import Vector
from crosswalk.walker.columns import Kind
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import FRAME
from crosswalk.walker.outcome import GeneralProtection, Outcome, PageFault, Translation
from crosswalk.walker.tlb.steps import (
    Halted,
    Invlpg,
    Invpcid,
    MovCr0,
    MovCr3,
    MovCr4,
    Step,
    Store,
    Wrpkru,
)
from crosswalk.walker.tlb.steps import Sequence as TlbSequence

__all__ = ["CompiledSequence", "wish_of_sequence"]

_UNALIGNED = Reason(
    Unjudged.NOT_EXPORTABLE, "an access of a sequence that isn't at a multiple of 8"
)
_STRUCTURE = Reason(Unjudged.NOT_EXPORTABLE, "a sequence that may reach a paging structure")
_NO_ROOT = Reason(Unjudged.NOT_EXPORTABLE, "CR3 points to no RAM of the case")
_NO_INVPCID = Reason(Unjudged.NOT_SHOWN, "the CPU has no INVPCID")
_LONG = Reason(Unjudged.NOT_EXPORTABLE, "more steps, words and pages than a program can have")
_STORED_AND_FAULTED = Reason(Unjudged.ENDED, "a store that faulted was made")
_KEY_FIRST = Reason(Unjudged.ENDED, "MOV to CR4 that clears PKE raised an exception")
_REGISTERS = Reason(Unjudged.NOT_SHOWN, "a CPU of its vendor takes no such sequence")

_STORED = 0xA5
"""The byte that a write stores: not the first one of a page's word."""

_PRESENT, _LARGE = 1 << 0, 1 << 7
_MOST_STEPS = 1 << 14
_RAN = frozenset({int(Vector.DB), int(Vector.BP)})


def wish_of_sequence(sequence: TlbSequence) -> CpuWish:
    """Return the CPU that a sequence is for, in all states that it comes to."""
    wish = wish_of(sequence.context, sequence.ram)
    features = {name for each in set(sequence.contexts()) for name in wish_of(each).features}
    return replace(wish, features=frozenset(features | (_features(sequence) & {"invpcid"})))


def _features(sequence: TlbSequence) -> set[str]:
    """Return the features of a CPU that a sequence needs, in any of its states."""
    states = map(Registers.of, set(sequence.contexts()))
    found = {name for state in states for name, _ in state.features}
    return found | {"invpcid"} if _invalidates(sequence) else found


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a sequence needs: roots that it loads, frames, words that are looked at, pages.

    `frames` are those of its tables; `words` all that it gives a value, ever; `pages` the words
    that its accesses may reach.
    """

    roots: tuple[int, ...]
    frames: tuple[int, ...]
    words: tuple[int, ...]
    pages: tuple[int, ...]


class CompiledSequence:
    """A sequence as a run, and how to read what becomes of it."""

    def __init__(self, sequence: TlbSequence, ram: Ram, facts: CpuFacts | None) -> None:
        self._sequence = sequence
        self.parts: list[Part] = []
        self._plan: _Plan
        self.refused = Refusals(1)
        refused = self._compile(ram, facts)
        if refused is not None:
            self.refused.add(0, refused)

    @property
    def _key_first(self) -> bool:
        """Whether CR4.PKE, which WRPKRU needs, is clear before the sequence, and set in it.

        It is then set before the program begins, and cleared by its first step.
        """
        keyed = [bool(each.cr4 & CR4_PKE) for each in self._sequence.contexts()]
        return not keyed[0] and any(keyed)

    def judged(self, context: PagingContext, answers: Sequence[Answered]) -> JudgedSequence:
        """Return what became of its accesses; `answers` has what came of the run, if there is."""
        try:
            replace(self._sequence, context=context)
        except BadInput:
            context = self._sequence.context
            self.refused.add(0, _REGISTERS)
        if self.refused.reasons:
            return JudgedSequence(context, self.refused.reasons[0])
        (answer,) = answers
        if answer.refused is not None:
            return JudgedSequence(context, refusal_reason(answer.refused))
        (result,) = answer.programs
        found = result if isinstance(result, Reason) else self._answer(result)
        return JudgedSequence(context, found)

    def nothing(self, context: PagingContext, reason: Reason) -> JudgedSequence:
        """Return that there is no answer, for this reason."""
        return JudgedSequence(context, reason)

    def _compile(self, ram: Ram, facts: CpuFacts | None) -> Reason | None:
        """Make the run; return why there is none."""
        sequence = self._sequence
        context = sequence.context
        roots = _roots(sequence)
        backed = all(_is_backed(sequence, root) for root in roots)
        for each in dict.fromkeys(sequence.contexts()):
            refused = whole_refusal(each, facts, tables_backed=True)
            if refused is not None:
                return refused
        if facts is not None and "invpcid" not in facts.features and _invalidates(sequence):
            return _NO_INVPCID
        if not backed:
            return _NO_ROOT
        if any(access.va % 8 for access in sequence.accesses):
            return _UNALIGNED
        form = format_of(Control.of(context))
        width = context.maxphyaddr if facts is None else facts.maxphyaddr
        tables, pages, beyond = _reached(sequence, form, roots, width)
        words = sorted({*sequence.entries, *_stored(sequence)})
        frames = tables | {pa & -FRAME for pa in words if pa >> width == 0}
        self._plan = plan = _Plan(roots, tuple(sorted(frames)), tuple(words), tuple(sorted(pages)))
        refused = _place_refusal(plan, ram)
        loan = _loan(form, sequence, roots)
        steps = tuple(self._steps())
        if refused is not None or loan is None or len(steps) > _MOST_STEPS:
            return refused or (NO_SLOT if loan is None else _LONG)
        clear = np.array(sorted({*frames, *(pa & -FRAME for pa in pages)}), np.uint64)
        held = {**sequence.entries, **{pa: fetch_word(pa) for pa in pages}}
        pkru = 0
        for step in sequence.steps:
            pkru |= step.value if isinstance(step, Wrpkru) else 0
        content = np.array(sorted(held.items()), np.uint64).reshape(-1, 2)
        registers = Registers.of(context)
        if self._key_first:
            registers = replace(registers, cr4=registers.cr4 | CR4_PKE, pkru=context.pkru)
        run = run_of(
            registers,
            (clear, content),
            [Program(steps)],
            pkru=pkru,
            maxphyaddr=min(map(int.bit_length, beyond), default=1) - 1 if facts is None else 0,
        )
        run = replace(run, needs=tuple(sorted(_features(sequence))))
        asked = Asked(run=run, form=form, roots=roots, loan=loan, taken=clear)
        self.parts.append(Part(asked, np.zeros(1, np.intp)))
        return None

    def _steps(self) -> Iterator[RunnerStep]:
        """Yield the steps of the program."""
        contexts = self._sequence.contexts()
        first = next(contexts)
        if self._key_first:
            yield RunnerStep(Op.MOV_CR4, value=Registers.of(first).cr4)
        for step, after in zip(self._sequence.steps, contexts, strict=True):
            yield self._step(step, after)
            if not isinstance(step, Access):
                continue
            for pa in self._plan.words:
                yield RunnerStep(Op.LOOK, pa)
            for pa in self._plan.pages if step.type is AccessType.WRITE else ():
                yield RunnerStep(Op.LOOK, pa)
                yield RunnerStep(Op.STORE, pa, fetch_word(pa))

    def _step(self, step: Step, after: PagingContext) -> RunnerStep:  # noqa: PLR0911  # One for each kind.
        """Return a step as the runner takes it; `after` is the state behind it."""
        match step:
            case Store(pa, value):
                return RunnerStep(Op.STORE, pa, value)
            case Invlpg(va):
                return RunnerStep(Op.INVLPG, va)
            case Invpcid(kind, pcid, va):
                return RunnerStep(Op.INVPCID, va, pcid, kind)
            case MovCr0():
                return RunnerStep(Op.MOV_CR0, value=Registers.of(after).cr0)
            case MovCr3(value):
                return RunnerStep(Op.MOV_CR3, value=value)
            case MovCr4():
                return RunnerStep(Op.MOV_CR4, value=Registers.of(after).cr4)
            case Wrpkru(value):
                return RunnerStep(Op.WRPKRU, value=value)
            case Access(va, kind, cpl, ac):
                ac = self._sequence.context.rflags_ac if ac is None else ac
                value = _STORED if kind is AccessType.WRITE else 0
                return RunnerStep(OPS[kind], va, value, 0, cpl, ac)

    def _answer(self, result: ProgramResult) -> tuple[Outcome | Halted, ...] | Reason:
        """Return what became of each access, or why there is no answer."""
        results, found = iter(result.steps), list[Outcome | Halted]()
        if self._key_first and next(results).vector is not None:
            return _KEY_FIRST
        now = {pa: self._sequence.entries.get(pa, 0) for pa in self._plan.words}
        for at, step in enumerate(self._sequence.steps):
            made = next(results)
            if not isinstance(step, Access):
                if made.vector is not None:
                    return (*found, Halted(at, name_of(made.vector)))
                if isinstance(step, Store):
                    now[step.pa] = step.value
                continue
            changes = {}
            for pa in self._plan.words:
                seen = next(results).seen
                if seen != now[pa]:
                    changes[pa] = now[pa] = seen
            written = {}
            for pa in self._plan.pages if step.type is AccessType.WRITE else ():
                written[pa] = next(results).seen
                next(results)
            outcome = _outcome(step, made, changes, written, self._plan.pages)
            if isinstance(outcome, Reason):
                return outcome
            found.append(outcome)
        return tuple(found)


def _outcome(
    access: Access,
    made: StepResult,
    changes: Mapping[int, int],
    written: Mapping[int, int],
    pages: Sequence[int],
) -> Outcome | Reason:
    """Return the outcome of an access, by what it showed and what it changed."""
    words = tuple(sorted(changes.items()))
    stored = [pa for pa, value in written.items() if value != fetch_word(pa)]
    if not (access.type is AccessType.EXECUTE and made.vector in _RAN):
        fault = fault_of(made)
        if fault is not None and stored:
            return _STORED_AND_FAULTED
        if isinstance(fault, Reason):
            return fault
        if fault is not None:
            faults = fault.kind is Kind.PAGE_FAULT
            return (
                PageFault(fault.error_code, fault.cr2, words)
                if faults
                else GeneralProtection(words)
            )
    reached = ELSEWHERE
    if access.type is AccessType.WRITE:
        if len(stored) == 1 and written[stored[0]] == fetch_word(stored[0]) & ~0xFF | _STORED:
            reached = stored[0]
    elif not made.torn:
        sign = fetch_number if access.type is AccessType.EXECUTE else fetch_word
        reached = next((pa for pa in pages if made.seen == sign(pa)), ELSEWHERE)
    return Translation(reached, entries=words)


def _invalidates(sequence: TlbSequence) -> bool:
    """Return whether a sequence has INVPCID in it."""
    return any(isinstance(step, Invpcid) for step in sequence.steps)


def _stored(sequence: TlbSequence) -> dict[int, list[int]]:
    """Return the values that are stored to each word."""
    found: dict[int, list[int]] = {}
    for step in sequence.steps:
        if isinstance(step, Store):
            found.setdefault(step.pa, []).append(step.value)
    return found


def _roots(sequence: TlbSequence) -> tuple[int, ...]:
    """Return the root tables that a sequence loads, each once."""
    loaded = (step.value & ADDRESS for step in sequence.steps if isinstance(step, MovCr3))
    return tuple(dict.fromkeys([Control.of(sequence.context).root, *loaded]))


def _is_backed(sequence: TlbSequence, pa: int) -> bool:
    return any(start <= pa < start + size for start, size in sequence.ram)


def _reached(
    sequence: TlbSequence, form: PagingFormat, roots: Sequence[int], width: int
) -> tuple[set[int], set[int], set[int]]:
    """Return the frames of tables that walks may come to, and the words that accesses may reach.

    The third are addresses from 1 << `width` on, taken for reserved bits. A walk may use any value
    that an entry ever had, in any combination: caches keep them.
    """
    stored = _stored(sequence)
    tables, pages, beyond = set(roots), set[int](), set[int]()
    for va in {access.va for access in sequence.accesses}:
        at = set(roots)
        for level, (shift, bits) in enumerate(form.levels):
            below = set()
            for table in at:
                word = table + (va >> shift & (1 << bits) - 1) * 8
                for value in {sequence.entries.get(word, 0), *stored.get(word, ())}:
                    target = value & form.address
                    if not value & _PRESENT:
                        continue
                    if target >> width:
                        beyond.add(target)
                        continue
                    last = level + 1 == len(form.levels)
                    if last or (shift in form.large and value & _LARGE):
                        span = 1 << shift
                        pages.add(target & -span | va & span - 1)
                    else:
                        below.add(target)
            tables |= below
            at = below
    return tables, pages, beyond


def _place_refusal(plan: _Plan, ram: Ram) -> Reason | None:
    """Return why the tables and pages of a sequence can't be in a machine's memory."""
    if any(pa & -FRAME in plan.frames for pa in plan.pages):
        return _STRUCTURE
    kind = Unjudged.NOT_SHOWN if ram.known else Unjudged.NOT_EXPORTABLE
    for frames, text in (
        (plan.frames, "no RAM where a table is"),
        (sorted({pa & -FRAME for pa in plan.pages}), "no RAM where the access may lead"),
    ):
        if not ram.has(np.array(frames, np.uint64)).all():
            return Reason(kind, text)
    return None


def _loan(form: PagingFormat, sequence: TlbSequence, roots: Sequence[int]) -> Loan | None:
    """Return slots of all roots that are empty for good, and that no address selects anywhere."""
    slots = form.root_bytes // 8
    taken = {
        access.va >> shift & slots - 1 for access in sequence.accesses for shift, _ in form.levels
    }
    stored = _stored(sequence)
    free = [
        slot
        for slot in range(1, slots - 1)
        if slot not in taken
        and not any(
            sequence.entries.get(pa) or pa in stored for pa in (root + 8 * slot for root in roots)
        )
    ]
    upper = [slot for slot in free if slot >= slots // 2]
    lower = [slot for slot in free if slot < slots // 2]
    return Loan(upper[-1], lower[-1]) if upper and lower else None
