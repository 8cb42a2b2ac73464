"""A walker of any language: `exec:COMMAND`, JSON lines on its standard input and output."""

import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from crosswalk.emu.targets.answers import Answers, Ranges, Refused, refused_of
from crosswalk.emu.targets.capabilities import Capability, parse_claims, parse_modes
from crosswalk.emu.targets.questions import Course, Questions, listed, put
from crosswalk.emu.workers.sandbox import Failure, Limits, NoAnswer, Process, Restarted
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import Cpu
from crosswalk.walker.formats.case import ACCESS_NAMES, cpu_document
from crosswalk.walker.formats.documents import (
    AccessName,
    CpuJson,
    Document,
    Hex64,
    Words,
    hex_words,
)
from crosswalk.walker.memory import PhysicalMemory, SparseWords
from crosswalk.walker.outcome import GeneralProtection, Outcome, PageFault, Translation

__all__ = ["MESSAGES", "PROTOCOL", "JsonLines"]

PROTOCOL = "crosswalk-walker/1"

_LINE = 256  # What an answer of a line may take before it counts as output.
_CHANGES = 5
_GREETING = 10.0
"""Seconds on the clock in which a walker has to greet, if a question may not take longer."""

ModeName = Literal["32bit", "pae", "4level", "5level"]


class Greeting(Document, frozen=True):
    """What a walker says first."""

    protocol: str
    claims: list[Capability]
    modes: list[ModeName] | None = None


class Space(Document, frozen=True):
    """An address space, with the keys of a case file."""

    cpu: CpuJson
    ram: list[tuple[Hex64, Hex64]]
    entries: Words


class Question(Document, frozen=True):
    """What does this access come to?"""

    va: Hex64
    access: AccessName
    cpl: Literal[0, 3]
    ac: bool


class ListQuestion(Document, frozen=True):
    """Which pages are mapped between these addresses, both included?"""

    first: Hex64
    last: Hex64


class Answer(Document, frozen=True):
    """The answer to a `Question`.

    `ok` has a physical address; where faults are claimed, `page_fault` has its error code and CR2.
    """

    outcome: Literal["ok", "page_fault", "general_protection", "unknown"]
    pa: Hex64 | UnsetType = UNSET
    error_code: Annotated[str, msgspec.Meta(pattern=r"^0x[0-9a-fA-F]{1,4}\Z")] | UnsetType = UNSET
    cr2: Hex64 | UnsetType = UNSET
    entries: dict[Hex64, Hex64] = msgspec.field(default_factory=dict)


class Page(Document, frozen=True):
    """A mapping in a `PageList`; `rights` are effective rights, as "uwx" or "-w-"."""

    va: Hex64
    size: Annotated[int, msgspec.Meta(ge=1)]
    pa: Hex64 | None = None
    flags: Hex64 | None = None
    rights: str | None = None


class PageList(Document, frozen=True):
    """The answer to a `ListQuestion`; its outcome, in place of mappings, says that it has none."""

    mappings: list[Page] | None = None
    outcome: Literal["unknown"] | None = None


MESSAGES = (Greeting, Space, Question, ListQuestion, Answer, PageList)
"""All lines of the protocol, in the order in which they are first sent."""


class JsonLines:
    """A process that is told an address space and questions, a line each, and answers each.

    Raises `BadInput` where it can't be started or doesn't greet, and for a claim that it
    doesn't greet with.
    """

    def __init__(
        self, name: str, command: str, chosen: frozenset[Capability] | None, limits: Limits
    ) -> None:
        self.name = name
        self._limits = limits
        try:
            self._command = shlex.split(command)
        except ValueError as error:
            raise BadInput(f"{name}: {error}") from error
        if not self._command or shutil.which(self._command[0]) is None:
            there = bool(self._command) and Path(self._command[0]).exists()
            reason = "it can't be executed" if there else "there is no such command"
            raise BadInput(f"{name}: {reason}")
        self._process = Restarted(name, self._start)
        try:
            able = parse_claims(",".join(self._process.ask(lambda _: self._hello.claims)), name)
        except NoAnswer as failure:
            raise BadInput(f"{name}: {failure}, instead of a greeting") from failure
        if chosen is not None and not chosen <= able:
            self.close()
            raise BadInput(f"--claims: {name} answers {', '.join(sorted(able))} only")
        self.claims = able if chosen is None else chosen
        modes = self._hello.modes
        self.modes = None if modes is None else parse_modes(",".join(modes), name)

    def answer(
        self,
        memory: PhysicalMemory,
        context: PagingContext,
        accesses: Accesses,
        ranges: Ranges | None = None,
    ) -> Answers:
        """Return what the walker says of each access, and where it fails to."""
        space = _space(memory, context)

        def ask(questions: Questions) -> tuple[Answers, Refused]:
            lines = [space, *_questions(questions.accesses), *_list_questions(questions.ranges)]
            place = [0]

            def exchange(process: Process) -> tuple[Answers, Refused]:
                said = self._exchange(process, lines, len(questions), place)
                course = Course(place)
                faults = Capability.FAULTS in self.claims
                answers = _answers(context, questions, said, course, faults=faults)
                return answers, refused_of(answers, memory) | course.refused

            try:
                return self._process.ask(exchange)
            except NoAnswer as failure:
                failure.at = place[0] if failure.at is None else failure.at
                raise

        return put(self.claims, memory, context, accesses, ask, ranges)

    def close(self) -> None:
        """Kill the process, and those that it started."""
        self._process.close()

    def _start(self) -> Process:
        process = Process(self._limits, lambda: None, self._command)
        seconds = min(max(_GREETING, self._limits.seconds), self._limits.wall)
        (line,) = self._exchange(process, [], 1, [0], seconds)
        try:
            self._hello = msgspec.json.decode(line, type=Greeting)
        except msgspec.MsgspecError as error:
            process.close()
            raise _nonsense("no greeting", line, str(error)) from error
        if self._hello.protocol != PROTOCOL:
            process.close()
            raise _nonsense("another protocol", line, f"not {PROTOCOL}")
        return process

    def _exchange(
        self,
        process: Process,
        lines: list[bytes],
        count: int,
        place: list[int],
        wall: float | None = None,
    ) -> list[bytes]:
        """Write lines and return as many answers, a line each; `place` counts those that came.

        That may take `wall` seconds on the clock, by default as many as an address space.
        """
        place[0] = 0

        def whole(part: bytes) -> bool:
            place[0] += part.count(b"\n")
            return place[0] >= count

        question = b"".join(line + b"\n" for line in lines)
        said = process.talk(question, whole, self._limits.output + _LINE * count, wall)
        found = said.split(b"\n")
        if len(found) != count + 1 or found.pop():
            process.close()
            message = f"{len(found)} answers to {count} questions"
            raise NoAnswer(Failure.NONSENSE, "more answers than questions", message)
        return found


def _space(memory: PhysicalMemory, context: PagingContext) -> bytes:
    """Return an address space as a line, with the keys of a case file."""
    if not isinstance(memory, SparseWords):
        raise BadInput("only memory of sparse words can be told to a process")
    return msgspec.json.encode(
        Space(
            cpu_document(Cpu.from_context(context)),
            [(hex(start), hex(size)) for start, size in memory.ranges],
            hex_words(memory.words()),
        )
    )


def _questions(accesses: Accesses) -> list[bytes]:
    columns = (accesses.va, accesses.type, accesses.cpl, accesses.ac)
    return [
        msgspec.json.encode(Question(hex(va), ACCESS_NAMES[kind], cpl, ac))
        for va, kind, cpl, ac in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _answers(
    context: PagingContext, questions: Questions, said: list[bytes], course: Course, *, faults: bool
) -> Answers:
    """Return what lines say; `faults`: an answer has to say all of a fault."""
    answers = Answers.none(len(questions.accesses))
    for row, line in enumerate(said[: len(questions.accesses)]):
        course.place[0] = row  # Behind a line that is none, the others needn't be whose they seem.
        answer = _answer(line)
        lacking = _lacking(answer, faults=faults)
        outcome = None if lacking else _outcome(answer)
        if lacking:
            kind = f"{answer.outcome} without {lacking}"
            course.refused[row] = NoAnswer(Failure.NONSENSE, kind, kind)
        if outcome is not None:
            answers.fill(row, outcome)
    lists = iter(said[len(questions.accesses) :])
    return replace(
        answers,
        listing=listed(context, questions, lambda _va, _end: _mappings(next(lists)), course),
    )


def _list_questions(ranges: Ranges | None) -> list[bytes]:
    if ranges is None:
        return []
    bounds = zip(ranges.first.tolist(), ranges.last.tolist(), strict=True)
    return [msgspec.json.encode(ListQuestion(hex(first), hex(last))) for first, last in bounds]


def _answer(line: bytes) -> Answer:
    """Return the answer to an access that a line is."""
    try:
        said = msgspec.json.decode(line, type=Answer)
    except msgspec.MsgspecError as error:
        raise _nonsense("no answer to an access", line, str(error)) from error
    if len(said.entries) > _CHANGES:
        raise _nonsense("no answer to an access", line, f"over {_CHANGES} entries")
    return said


def _lacking(said: Answer, *, faults: bool) -> str:
    """Return which keys an answer lacks that it has to have, empty for none."""
    needed = {"pa": said.pa} if said.outcome == "ok" else {}
    if faults and said.outcome == "page_fault":
        needed = {"error_code": said.error_code, "cr2": said.cr2}
    return " and ".join(name for name, value in needed.items() if value is UNSET)


def _outcome(said: Answer) -> Outcome | None:
    """Return what an answer says of an access, None where it says that it says nothing."""
    entries = tuple((int(pa, 16), int(value, 16)) for pa, value in said.entries.items())
    if said.outcome == "ok":
        return Translation(_number(said.pa), entries=entries)
    if said.outcome == "page_fault":
        return PageFault(_number(said.error_code), _number(said.cr2), entries)
    if said.outcome == "general_protection":
        return GeneralProtection(entries)
    return None


def _number(text: str | UnsetType) -> int:
    return 0 if text is UNSET else int(text, 16)


def _mappings(line: bytes) -> Any:
    """Return the mappings of a list, NotImplemented where it is declined."""
    try:
        said = msgspec.json.decode(line, type=PageList)
    except msgspec.MsgspecError as error:
        raise _nonsense("no list of mappings", line, str(error)) from error
    if (said.mappings is None) == (said.outcome is None):
        raise _nonsense("no list of mappings", line, "neither mappings nor unknown, or both")
    return NotImplemented if said.mappings is None else map(_mapping, said.mappings)


def _mapping(page: Page) -> tuple[int, int | None, int, int | None, str | None]:
    pa, flags = (None if text is None else int(text, 16) for text in (page.pa, page.flags))
    return int(page.va, 16), pa, page.size, flags, page.rights


def _nonsense(kind: str, line: bytes, why: str) -> NoAnswer:
    text = line[:80].decode(errors="replace")
    return NoAnswer(Failure.NONSENSE, kind, f"{text!r} is {kind}: {why}")
