"""A walker that is loaded and asked in a process of its own."""

import mmap
import pickle
import signal
import sys
from collections.abc import Callable
from dataclasses import fields
from typing import NoReturn, Protocol, TypeVar

import msgspec
import numpy as np

from crosswalk.emu.targets.answers import Answers, Listed, Listing, Ranges, Refused, refused_of
from crosswalk.emu.targets.capabilities import Capability, parse_claims, parse_modes
from crosswalk.emu.targets.mapping_lists import MAX_MAPPINGS
from crosswalk.emu.targets.questions import Course, Place, Questions, put
from crosswalk.emu.workers.frames import FrameReader, framed, read_frame
from crosswalk.emu.workers.sandbox import Failure, Limits, NoAnswer, Process, Restarted
from crosswalk.walker.columns import Accesses, Kind, Outcomes, Rows
from crosswalk.walker.context import PagingContext, PagingMode
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import PhysicalMemory

__all__ = ["Contained", "GiveUp", "Loaded"]

GiveUp = Callable[[NoAnswer], NoReturn]
"""Says that the walker failed and ends the process: for where nothing can be raised."""

_QUESTIONS, _ANSWERS = 3, 4
_ROW = 256  # More bytes than an answer to one access, or one mapping, takes.


class Loaded(Protocol):
    """A walker, loaded in the process that asks it."""

    @property
    def claims(self) -> frozenset[Capability]:
        """What it answers."""
        ...

    @property
    def modes(self) -> frozenset[PagingMode] | None:
        """The paging modes that it says it knows, None where it doesn't say."""
        ...

    def answer(
        self, memory: PhysicalMemory, context: PagingContext, questions: Questions, course: Course
    ) -> Answers:
        """Return what it says; keeps `course` meanwhile, and may raise anything."""
        ...


class _Greeting(msgspec.Struct, forbid_unknown_fields=True):
    claims: str = ""
    modes: str | None = None
    refused: str = ""


class _Reply(msgspec.Struct, forbid_unknown_fields=True):
    """Columns as their bytes, with answers that are none; or a failure, its kind, and a message."""

    failed: tuple[Failure, str, str] | None = None
    refused: dict[int, tuple[Failure, str, str]] = {}
    outcomes: list[bytes] = []
    silent: bytes = b""
    ranges: list[bytes] | None = None
    mappings: list[bytes] = []
    at: bytes = b""
    unlisted: bytes = b""


Form = TypeVar("Form", _Greeting, _Reply)


class Contained:
    """Loads a walker in a child, and asks it there; after a failure the next question loads anew.

    `name` is what errors call it. Raises `BadInput` where it can't be loaded: because `load`
    raises that, or fails in any other way; `ProcessLost` where others kill its process.
    """

    def __init__(self, name: str, load: Callable[[GiveUp], Loaded], limits: Limits) -> None:
        self.name = name
        self._load, self._limits = load, limits
        self._process = Restarted(name, self._start)
        try:
            self._process.ask(lambda _: None)
        except NoAnswer as failure:
            raise BadInput(f"{name}: {failure}, when it is loaded") from failure

    def answer(
        self,
        memory: PhysicalMemory,
        context: PagingContext,
        accesses: Accesses,
        ranges: Ranges | None = None,
    ) -> Answers:
        """Return what the walker says of each access, and where it fails to."""

        def ask(questions: Questions) -> tuple[Answers, Refused]:
            question = framed(pickle.dumps((memory, context, questions)))
            allowed = (len(questions) + 2 * MAX_MAPPINGS) * _ROW

            def exchange(process: Process) -> tuple[Answers, Refused]:
                self._place[0] = 0
                reply = _exchange(process, _Reply, question, allowed)
                answers = _answers(reply, questions)
                refused = {number: NoAnswer(*each) for number, each in reply.refused.items()}
                return answers, refused_of(answers, memory) | refused

            try:
                return self._process.ask(exchange)
            except NoAnswer as failure:
                failure.at = self._place[0] if failure.at is None else failure.at
                raise

        return put(self.claims, memory, context, accesses, ask, ranges)

    def close(self) -> None:
        """Kill the process, if there is one."""
        self._process.close()

    def _start(self) -> Process:
        self._place = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("q")  # Both processes see it.
        process = Process(self._limits, lambda: _serve(self._load, self._place))
        greeting = _exchange(process, _Greeting, b"", 1 << 20)
        if greeting.refused:
            process.close()
            raise BadInput(f"{self.name}: {greeting.refused}")
        self.claims = parse_claims(greeting.claims, self.name)
        self.modes = None if greeting.modes is None else parse_modes(greeting.modes, self.name)
        return process


def _exchange(process: Process, form: type[Form], question: bytes, allowed: int) -> Form:
    reader = FrameReader(allowed)
    try:
        process.talk(question, reader.add, allowed)
        return msgspec.msgpack.decode(reader.message, type=form)
    except (ValueError, msgspec.MsgspecError) as error:  # It wrote into what isn't its own.
        process.close()
        raise _garbled(str(error)) from error


def _serve(load: Callable[[GiveUp], Loaded], place: Place) -> None:
    """Load the walker and answer one question after the other, until there are no more."""
    # Whoever replaced these here had descriptors in mind that are closed by now.
    sys.stdin = open(0, encoding="utf-8")  # noqa: SIM115  # Open to the end.
    sys.stdout = sys.stderr = open(2, "w", encoding="utf-8", errors="replace")  # noqa: SIM115  # The same.
    with open(_QUESTIONS, "rb") as asked, open(_ANSWERS, "wb") as pipe:

        def send(message: _Greeting | _Reply) -> None:
            pipe.write(framed(msgspec.msgpack.encode(message)))
            pipe.flush()

        def give_up(failure: NoAnswer) -> NoReturn:
            send(_failed(failure))
            while True:
                signal.pause()  # The reader kills this process.

        try:
            walker = load(give_up)
        except BadInput as error:
            send(_Greeting(refused=str(error)))
            return
        modes = None if walker.modes is None else ",".join(sorted(m.slug for m in walker.modes))
        send(_Greeting(",".join(sorted(walker.claims)), modes))
        while (question := read_frame(asked)) is not None:
            try:
                memory, context, questions = pickle.loads(question)  # noqa: S301  # From our parent.
                course = Course(place)
                reply = _reply(walker.answer(memory, context, questions, course))
                reply.refused = {at: _words(each) for at, each in course.refused.items()}
            except NoAnswer as failure:
                reply = _failed(failure)
            except BaseException as error:  # noqa: BLE001  # Whatever it raises is a result.
                reply = _failed(_raised(error))
            send(reply)


def _raised(error: BaseException) -> NoAnswer:
    kind = f"raised {type(error).__name__}"
    return NoAnswer(Failure.CRASH, kind, ": ".join([kind, *str(error).splitlines()[:1]]))


def _words(failure: NoAnswer) -> tuple[Failure, str, str]:
    return failure.failure, failure.kind, str(failure)


def _failed(failure: NoAnswer) -> _Reply:
    return _Reply(failed=_words(failure))


def _columns(rows: Rows) -> list[bytes]:
    return [getattr(rows, field.name).tobytes() for field in fields(rows)]  # type: ignore[arg-type]  # Only dataclasses derive from it.


def _reply(answers: Answers) -> _Reply:
    outcomes, silent, listing = (
        _columns(answers.outcomes),
        answers.silent.tobytes(),
        answers.listing,
    )
    if listing is None:
        return _Reply(outcomes=outcomes, silent=silent)
    return _Reply(
        outcomes=outcomes,
        silent=silent,
        ranges=_columns(listing.ranges),
        mappings=_columns(listing.mappings),
        at=listing.at.tobytes(),
        unlisted=listing.silent.tobytes(),
    )


def _answers(reply: _Reply, questions: Questions) -> Answers:
    """Return the answers that were sent; a walker may have written where it should not.

    Raises the `NoAnswer` that was sent in their place.
    """
    if reply.failed is not None:
        raise NoAnswer(*reply.failed)
    form = Answers.none(len(questions.accesses))
    try:
        outcomes = _filled(form.outcomes, reply.outcomes)
        silent = np.frombuffer(reply.silent, np.bool_)
        listing = None
        if reply.ranges is not None:
            ranges = Ranges(*_as(reply.ranges, np.uint64, np.uint64, np.bool_))
            mappings = Listed(*_as(reply.mappings, *[np.uint64] * 4, np.uint8, np.uint8))
            unlisted = np.frombuffer(reply.unlisted, np.bool_)
            listing = Listing(ranges, mappings, np.frombuffer(reply.at, np.int64), unlisted)
    except ValueError as error:
        raise _garbled(str(error)) from error
    if any(not 0 <= number < len(questions) for number in reply.refused):
        raise _garbled("an answer to no question")
    if len(silent) != len(questions.accesses) or (outcomes.kind > max(Kind)).any():
        raise _garbled("wrong columns")
    return Answers(outcomes, silent, listing)


def _filled(form: Outcomes, columns: list[bytes]) -> Outcomes:
    pairs = zip(fields(form), columns, strict=True)
    return Outcomes(
        *(
            np.frombuffer(column, getattr(form, field.name).dtype).reshape(
                getattr(form, field.name).shape
            )
            for field, column in pairs
        )
    )


def _as(columns: list[bytes], *types: type[np.generic]) -> list[np.ndarray]:
    return [np.frombuffer(column, kind) for column, kind in zip(columns, types, strict=True)]


def _garbled(why: str) -> NoAnswer:
    kind = "its process sent garbage"
    return NoAnswer(Failure.NONSENSE, kind, f"{kind}: {why}")
