"""A machine as a judge: questions compiled into images, booted in batches, going on behind a death.

questions ──► runs ──► batches ──► image ──► machine ──► log ──► outcomes
                          ▲                     │
                          └─ what is behind ◄───┘ it died: the first program without an answer
                             that program         is asked once more, alone
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from crosswalk.emu.judges.answers import Answered, refusal_reason
from crosswalk.emu.judges.asked import Asked, cpu_context, wish_of
from crosswalk.emu.judges.compiling import CompiledAccesses
from crosswalk.emu.judges.composites import CompiledComposites
from crosswalk.emu.judges.judge import (
    Heard,
    Interrupted,
    Judged,
    JudgedComposites,
    JudgedSequence,
    Question,
    Reason,
    Unjudged,
    unheard,
)
from crosswalk.emu.judges.parts import Compiled
from crosswalk.emu.judges.sequences import CompiledSequence, wish_of_sequence
from crosswalk.emu.judges.ways import Ram
from crosswalk.emu.machines.machine import CpuWish, Machine, Printed
from crosswalk.emu.probe.composites import Composites
from crosswalk.guest.boot.image import Place, boot_image, digest_of, size_bound, size_of
from crosswalk.guest.boot.log import NoRecords, read_log
from crosswalk.guest.boot.programs import BootLog, CpuFacts, ProgramResult, Run
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import FRAME, PhysicalMemory
from crosswalk.walker.tlb import Sequence as TlbSequence

__all__ = ["NO_PLACE", "BootedJudge"]

Q = TypeVar("Q")
T = TypeVar("T")

_FIRST_PLACE = 0x800_0000
_STEP = 2 << 20
_TOP = 3 << 30
_LARGEST = 32 << 20
"""Bytes of an image and its results: a batch is no larger, unless one run alone is."""

_LENT = 2 * 16
"""Bytes of the entries that are lent of a root, at most."""

_TRIES = 3
"""How often a batch is booted that somebody else kills."""

_MOST_DEATHS = 64
"""After so many deaths at what is asked at once, the rest isn't asked."""

_SECONDS_EACH, _SECONDS_A_MIB = 0.005, 0.2
"""CPU time for each program, and for each MiB of the image."""

NO_PLACE = Reason(Unjudged.NOT_EXPORTABLE, "no place of the runner that the run doesn't use")
_LOST = Reason(Unjudged.LOST, "the machine was killed by somebody else")
_STOPPED = Reason(Unjudged.LOST, "interrupted")
_ONCE = Reason(Unjudged.LOST, "the machine ended at it, but not when it was asked again, alone")
_MANY = Reason(Unjudged.LOST, f"not asked: the machine had ended {_MOST_DEATHS} times before")


class BootedJudge:
    """Asks a machine that boots images."""

    def __init__(self, machine: Machine) -> None:
        self.name, self._machine = machine.name, machine
        self._facts: dict[CpuWish, CpuFacts] = {}
        self.heard: Heard = unheard

    @property
    def version(self) -> str:
        """What the machine says of itself, and the CPUs that it had."""
        widths: dict[str, set[int]] = {}
        for facts in self._facts.values():
            widths.setdefault(facts.vendor, set()).add(facts.maxphyaddr)
        cpus = (
            f"{vendor} of {', '.join(map(str, sorted(some)))} bits"
            for vendor, some in sorted(widths.items())
        )
        return ", ".join([self._machine.version, *cpus])

    def accesses(self, questions: Sequence[Question]) -> list[Judged]:
        """Return what the machine says of each question, in order."""
        contexts = [each.context for each in questions]
        wishes = [wish_of(each.context, each.memory.ranges) for each in questions]
        return self._all(questions, contexts, wishes, CompiledAccesses)

    def composites(
        self, questions: Sequence[tuple[PhysicalMemory, PagingContext, Composites]]
    ) -> list[JudgedComposites]:
        """Return what the machine says of each question, in order."""
        contexts = [context for _, context, _ in questions]
        wishes = [wish_of(context, memory.ranges) for memory, context, _ in questions]
        return self._all(questions, contexts, wishes, CompiledComposites)

    def sequences(self, sequences: Sequence[TlbSequence]) -> list[JudgedSequence]:
        """Return what the machine says of each sequence, in order."""
        contexts = [each.context for each in sequences]
        wishes = list(map(wish_of_sequence, sequences))
        return self._all(sequences, contexts, wishes, CompiledSequence)

    def close(self) -> None:
        """Give back what the machine took."""
        self._machine.close()

    def _all(
        self,
        questions: Sequence[Q],
        contexts: Sequence[PagingContext],
        wishes: Sequence[CpuWish],
        compile_: Callable[[Q, Ram, CpuFacts | None], Compiled[T]],
    ) -> list[T]:
        """Return what the machine says of questions of a kind.

        `contexts` are theirs, `wishes` the CPUs that they are for.
        """
        judged: dict[int, T] = {}
        try:
            judged.update(self._each(questions, contexts, wishes, compile_))  # One by one.
        except KeyboardInterrupt:
            raise Interrupted([judged.get(number) for number in range(len(questions))]) from None
        return [judged[number] for number in range(len(questions))]

    def _each(
        self,
        questions: Sequence[Q],
        contexts: Sequence[PagingContext],
        wishes: Sequence[CpuWish],
        compile_: Callable[[Q, Ram, CpuFacts | None], Compiled[T]],
    ) -> Iterator[tuple[int, T]]:
        """Yield the number of each question and what the machine says of it, as it comes."""
        for wish, numbers in _by_wish(list(map(self._machine.heeded, wishes))).items():
            facts = self._cpu(wish)
            ranges = [(start, end - start) for start, end in facts.ram]
            ram = Ram(ranges, self._machine.nothing_from)
            compiled = [compile_(questions[number], ram, facts) for number in numbers]
            asked = [part.asked for each in compiled for part in each.parts]
            answered, stopped = self._ask(asked, wish, facts)
            answers = iter(answered)
            for number, each in zip(numbers, compiled, strict=True):
                own = [next(answers) for _ in each.parts]
                context = cpu_context(contexts[number], facts)
                yield (
                    number,
                    (
                        each.nothing(contexts[number], context)
                        if isinstance(context, Reason)
                        else each.judged(context, own)
                    ),
                )
            if stopped:
                raise KeyboardInterrupt

    def _cpu(self, wish: CpuWish) -> CpuFacts:
        """Return what CPU and RAM the machine has when it is asked for this one."""
        if wish not in self._facts:
            printed, log = self._boot([], Place(_FIRST_PLACE), wish)
            if log is None:
                raise BadInput(
                    f"{self.name}: {printed.ended}, {_TRIES} times, before it answered: no result"
                )
            if not log.complete:
                how = _how(printed, log)
                raise BadInput(f"{self.name}: no end of an image without runs: {how}")
            self._facts[wish] = log.cpu
        return self._facts[wish]

    def _ask(
        self, asked: Sequence[Asked], wish: CpuWish, facts: CpuFacts
    ) -> tuple[list[Answered], bool]:
        """Return what came of each run, and whether that is not all because of an interrupt."""
        left = [_Left(each) for each in asked]
        try:
            self._ask_all(left, wish, facts)
        except KeyboardInterrupt:
            for each in left:
                each.give_up(_STOPPED)
            return [each.answered for each in left], True
        return [each.answered for each in left], False

    def _ask_all(self, left: Sequence["_Left"], wish: CpuWish, facts: CpuFacts) -> None:
        deaths, told = 0, 0
        while waiting := [each for each in left if each.open]:
            place, batch = _batch(waiting, facts)
            if place is None:
                batch[0].give_up(NO_PLACE)
                continue
            deaths += self._put(batch, place, wish)
            if deaths >= _MOST_DEATHS:
                for each in left:
                    each.give_up(_MANY)
            answered = sum(len(each.programs) for each in left)
            self.heard(answered - told)
            told = answered

    def _put(self, batch: Sequence["_Left"], place: Place, wish: CpuWish) -> bool:
        """Boot these runs, and take what they answer; return whether the machine died of one."""
        printed, log = self._boot([each.rest(place) for each in batch], place, wish)
        if log is None:
            for each in batch:
                each.give_up(_LOST)
            return False
        for each, result in zip(batch, log.runs, strict=False):
            each.take(result.programs, result.refused)
        # Of a run that another follows, all has been answered.
        begun = batch if log.complete else batch[: max(1, len(log.runs))]
        for each in begun if log.complete else begun[:-1]:
            each.finish()
        if not log.complete and begun[-1].open:
            begun[-1].blame(self._alone(begun[-1], place, wish, _how(printed, log)))
        return not log.complete

    def _alone(self, left: "_Left", place: Place, wish: CpuWish, how: str) -> Reason:
        """Ask the first program without an answer once more, alone; return why it has none."""
        printed, log = self._boot([left.first(place)], place, wish)
        if log is None:
            return _LOST
        if log.complete or _how(printed, log) != how:
            return _ONCE
        return Reason(Unjudged.ENDED, how)

    def _boot(
        self, runs: Sequence[Run], place: Place, wish: CpuWish
    ) -> tuple[Printed, BootLog | None]:
        """Return what an image of these runs answered, None where others killed the machine."""
        image = boot_image(runs, place, self._machine.output)
        seconds = self._machine.loads_in + _SECONDS_A_MIB * len(image) / (1 << 20)
        seconds += _SECONDS_EACH * sum(len(run.programs) for run in runs)
        for _ in range(_TRIES):
            printed = self._machine.boot(image, seconds=seconds, wish=wish)
            if not printed.by_others:
                said = f": {printed.said}" if printed.said else ""
                try:
                    return printed, read_log(printed.data, digest=digest_of(image))
                except NoRecords:
                    raise BadInput(f"{self.name}: {_unheard(printed)}{said}") from None
                except BadInput as error:
                    how = f"; it {printed.ended}" if printed.ended else ""
                    raise BadInput(f"{self.name}: {error}{how}{said}") from None
        return printed, None


@dataclass(slots=True)
class _Left:
    """A run, what its programs answered so far, and whether there is more to ask."""

    asked: Asked
    programs: list[ProgramResult | Reason] = field(default_factory=list)
    refused: str | None = None
    open: bool = True
    bound: int = field(init=False)
    """Bytes that it takes in an image at most."""

    def __post_init__(self) -> None:
        self.bound = size_bound(self.asked.run) + _LENT * len(self.asked.roots)

    @property
    def answered(self) -> Answered:
        return Answered(tuple(self.programs), self.refused)

    def rest(self, place: Place) -> Run:
        """Return the run with the programs that have no answer."""
        run = self.asked.placed(place)
        return replace(run, programs=run.programs[len(self.programs) :])

    def first(self, place: Place) -> Run:
        """Return the run with the first of them."""
        run = self.rest(place)
        return replace(run, programs=run.programs[:1])

    def take(self, programs: Sequence[ProgramResult], refused: str | None) -> None:
        """Take results; a run that is refused has no further ones."""
        self.programs += programs
        if refused is not None and self.programs:
            self.give_up(refusal_reason(refused))
        elif refused is not None:
            self.refused, self.open = refused, False
        elif self.asked.run.programs and len(self.programs) == len(self.asked.run.programs):
            self.open = False

    def finish(self) -> None:
        """Expect nothing more; a run whose end was seen has an answer to every program."""
        if self.open and len(self.programs) != len(self.asked.run.programs):
            raise BadInput("the log lacks results of a run that came to its end")
        self.open = False

    def blame(self, reason: Reason) -> None:
        """Give the first program without an answer this reason."""
        if not self.asked.run.programs:
            self.open = False
        elif len(self.programs) < len(self.asked.run.programs):
            self.programs.append(reason)
            self.open = len(self.programs) < len(self.asked.run.programs)

    def give_up(self, reason: Reason) -> None:
        """Give all programs without an answer this reason."""
        if self.open:
            self.programs += [reason] * (len(self.asked.run.programs) - len(self.programs))
            self.open = False


def _how(printed: Printed, log: BootLog) -> str:
    """Return how a boot ended before its image had."""
    return log.ended or f"the machine {printed.ended or 'ends'}"


def _unheard(printed: Printed) -> str:
    """Return how a boot ended that answered nothing, and what came instead."""
    how = "ended" if printed.ended in {None, "ends"} else printed.ended
    count = len(printed.data)
    if not count:
        return f"it {how}, and printed nothing"
    what = "1 byte that is" if count == 1 else f"{count:,} bytes that are"
    return f"it {how}, and printed {what} no record of a boot image"


def _by_wish(wishes: Sequence[CpuWish]) -> dict[CpuWish, list[int]]:
    numbers: dict[CpuWish, list[int]] = {}
    for number, wish in enumerate(wishes):
        numbers.setdefault(wish, []).append(number)
    return numbers


def _batch(left: Sequence[_Left], facts: CpuFacts) -> tuple[Place | None, list[_Left]]:
    """Return the first runs of these that go into one image, and where it can lie.

    None, with one run, where there is no place.
    """
    # Each part of an image is rounded up to pages.
    size, taken, chosen = size_of([]) + 4 * FRAME, np.zeros(0, np.uint64), list[_Left]()
    place: Place | None = None
    for each in left:
        more = size + each.bound
        frames = np.union1d(taken, each.asked.taken)
        if chosen and more > _LARGEST:
            break
        found = next(_places(more, frames, facts), None)
        if found is None:
            return (place, chosen) if chosen else (None, [each])
        size, taken, place = more, frames, found
        chosen.append(each)
    return place, chosen


def _places(size: int, taken: "np.typing.NDArray[np.uint64]", facts: CpuFacts) -> Iterator[Place]:
    """Yield places where so many bytes lie in RAM, and in none of these frames."""
    for base in (_FIRST_PLACE, *range(_STEP, _TOP, _STEP)):
        at = int(np.searchsorted(taken, np.uint64(base)))
        free = at == len(taken) or int(taken[at]) >= -(-(base + size) // FRAME) * FRAME
        if free and any(start <= base and base + size <= end for start, end in facts.ram):
            yield Place(base)
