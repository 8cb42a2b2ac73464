"""A machine's virtualisation as a judge of accesses under pairs of tables.

question ──► workspace ──► commands ──► monitor ──► answers ──► outcomes
 tables,     marks, what     for each               how the guest was left,
 accesses    is lent         access                 what has changed in memory

The guest's and the host's tables are in the machine's memory as they are meant; after every access
all of it is compared with a copy, and put back. The answers to each are written down, so that it is
known which access ends a machine. Then another one is begun, and goes on behind that access.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from crosswalk.emu.judges.judge import Reason, Unjudged
from crosswalk.emu.judges.nested.backend import Backend
from crosswalk.emu.judges.nested.code import access_at, code_pages, done_at, start_at
from crosswalk.emu.judges.nested.outcomes import (
    Left,
    Made,
    canonical,
    outcome_of,
    sign_of,
    stored_byte,
)
from crosswalk.emu.judges.nested.workspace import Lending, Workspace, make_workspace
from crosswalk.emu.monitor.machines import HostMachine
from crosswalk.emu.monitor.monitor import Monitor, MonitorEnded
from crosswalk.emu.workers.process import ProcessLost
from crosswalk.guest.monitor.commands import REGISTERS, Answer, Command, flush, restore, write
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.architecture import Vector
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import FRAME, PhysicalMemory
from crosswalk.walker.nested.context import NestedContext
from crosswalk.walker.nested.outcome import NestedOutcome
from crosswalk.walker.outcome import Entries

__all__ = ["OWN_FRAMES", "NestedJudge", "NestedJudged", "NestedQuestion"]

OWN_FRAMES = 0xC00_0000
"""Where a judge has what it needs besides the pair: four frames of the backend's, what is lent."""

_LENT, _COPY = OWN_FRAMES + (1 << 20), OWN_FRAMES + (2 << 20)
_END = OWN_FRAMES + (8 << 20)

_TRIES = 3
"""How often a machine is begun that somebody else kills."""

_SECONDS = 30.0
"""CPU time for what is put to a machine at once: accesses take milliseconds, one may hang it."""

_MOST_DEATHS = 64
"""After so many deaths at the accesses of one pair, the rest isn't asked."""

_LISTED = 64
"""Words that an access may change: more is a finding of its own."""

_CPLS = (0, 3)
_RFLAGS, _TRAP, _AC = 2, 1 << 8, 1 << 18
_NOWHERE = 0x5555_5555_D555_5555
"""What registers hold that instructions of no mark may use: an address that isn't canonical."""

_MANY = Reason(Unjudged.LOST, f"not asked: the machine had ended {_MOST_DEATHS} times before")
_CHANGED = Reason(Unjudged.ENDED, f"the access changed more than {_LISTED} words")
_NO_CODE = Reason(
    Unjudged.NOT_SHOWN, "the guest's first table can't be reached, nor by it the code that accesses"
)


@dataclass(frozen=True, slots=True)
class NestedQuestion:
    """A pair of tables in `memory`, and accesses, each from this state with an empty TLB.

    `tables` are the addresses of the frames that hold tables of either dimension, `slots` the
    numbers of the words in them that are entries: the judge may change what other words hold. None:
    any may be one.
    """

    memory: PhysicalMemory
    context: NestedContext
    accesses: Sequence[Access]
    tables: Collection[int] | None = None
    slots: Collection[int] | None = None


@dataclass(frozen=True, slots=True)
class NestedJudged:
    """What a machine says of the accesses of a question, in order: outcomes, or why there is none.

    Predictions have to be made for `memory`, what the machine had in the pair's memory and in
    frames that it was lent, with marks where no tables are; and for `context`, with its CPU's
    features.
    """

    memory: PhysicalMemory
    context: NestedContext
    answers: tuple[NestedOutcome | Reason, ...]
    space: Workspace | None = None

    def shows(self, access: Access, pa: int) -> bool:
        """Return whether the machine can show that an access has reached this address.

        Where a prediction is a translation to one that it can't show, a translation proves nothing,
        and nor does anything that a fetch there may end in.
        """
        return self.space is not None and self.space.shows(access, pa)


@dataclass(frozen=True, slots=True)
class _Ask:
    """What is asked at once; with `again` twice as many commands, as `Made` has it."""

    commands: tuple[Command, ...]
    again: bool = False


@dataclass(frozen=True, slots=True)
class _Baseline:
    """What the way to the code changes that accesses; or why there is no such way."""

    changed: Entries = ()
    reason: Reason | None = None


class NestedJudge:
    """Asks a machine for the outcomes of accesses under pairs of tables.

    To be closed, or used in a `with`. The machine is begun with the first question.
    """

    def __init__(self, machine: HostMachine, backend: Backend) -> None:
        self.name, self._machine, self._backend = machine.name, machine, backend
        self._monitor: Monitor | None = None
        self.deaths = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def version(self) -> str:
        """What the machine says of itself, and the CPU that it had."""
        return f"{self._machine.version}, {self._backend.version}"

    def close(self) -> None:
        """End the machine."""
        monitor, self._monitor = self._monitor, None
        if monitor is not None:
            monitor.close()

    def ask(self, questions: Iterable[NestedQuestion]) -> Iterator[NestedJudged]:
        """Yield what the machine says of each question, in order.

        Raises `BadInput` where the machine can't be had, or has no RAM where a pair has some;
        `ProcessLost` where others go on to kill it.
        """
        for question in questions:
            self._begun()
            yield self._judge(question)

    def _judge(self, question: NestedQuestion) -> NestedJudged:
        backend = self._backend
        refused = backend.refuses(question.context)
        if refused is not None:
            none = tuple(refused for _ in question.accesses)
            return NestedJudged(question.memory, question.context, none)
        context = backend.met(question.context)
        space = make_workspace(
            question.memory,
            context,
            question.tables,
            Lending(
                backend.form,
                code_pages(),
                _LENT,
                backend.host_root(context),
                guest_too=not backend.keeps_code,
            ),
            question.slots,
        )
        self._require_room(question.memory)
        setting = [*_loading(space), *backend.enter(context)]
        idle = [] if backend.keeps_code else [self._idle(space, cpl) for cpl in _CPLS]
        stored = [stored_byte(space, access.va) for access in question.accesses]
        asks = [
            self._ask(space, access, byte)
            for access, byte in zip(question.accesses, stored, strict=True)
        ]
        made = self._made(setting, [*idle, *asks])
        baseline = dict.fromkeys(_CPLS, _Baseline())
        baseline |= {
            cpl: _baseline(each) for cpl, each in zip(_CPLS, made[: len(idle)], strict=False)
        }
        answers = tuple(
            self._outcome(space, access, each, byte, baseline[access.cpl])
            for access, each, byte in zip(question.accesses, made[len(idle) :], stored, strict=True)
        )
        return NestedJudged(space.memory, context, answers, space)

    def _outcome(
        self,
        space: Workspace,
        access: Access,
        made: Made | Reason,
        stored: int,
        baseline: _Baseline,
    ) -> NestedOutcome | Reason:
        if isinstance(made, Reason):
            return made
        fetched = access.type is AccessType.EXECUTE
        jumped = fetched and not self._begins_at(access)
        if baseline.reason is not None and (jumped or not fetched):
            return baseline.reason
        changed = baseline.changed if jumped or not fetched else ()
        return outcome_of(space, access, made, stored, jumped=jumped, baseline=changed)

    def _begins_at(self, access: Access) -> bool:
        """Return whether the guest begins with what is at the address under test."""
        here = self._backend.enters_anywhere or canonical(access.va)
        return here and access.type is AccessType.EXECUTE

    def _idle(self, space: Workspace, cpl: int) -> _Ask:
        """Return a run without an access: it shows what the way to the code changes."""
        at = done_at(Access(0, AccessType.READ, cpl))
        run = self._backend.run(at, cpl, quiet=False, rflags=_RFLAGS, registers={})
        return _Ask((*run, _restoring(space)))

    def _ask(self, space: Workspace, access: Access, stored: int) -> _Ask:
        """Return the commands that make an access, and what more is needed to see where it went."""
        commands = self._making(space, access, stored)
        if access.type is AccessType.EXECUTE:
            if not self._begins_at(access):
                return _Ask(commands)
            again = Access(sign_of(access.va), access.type, access.cpl, access.ac)
        elif access.type is AccessType.WRITE and access.va % 8 < 2:
            again = Access(access.va + 2, access.type, access.cpl, access.ac)
        else:
            return _Ask(commands)
        more = self._making(space, again, stored_byte(space, again.va))
        return _Ask((*commands, *more), again=True)

    def _making(self, space: Workspace, access: Access, stored: int) -> tuple[Command, ...]:
        context, backend = space.context, self._backend
        ac = context.guest.rflags_ac if access.ac is None else access.ac
        rflags = _RFLAGS | (_AC if ac else 0)
        if self._begins_at(access):
            rip, rflags = access.va, rflags | _TRAP
            registers = dict.fromkeys(REGISTERS, _NOWHERE)
        else:
            rip = start_at(access) if backend.keeps_code else access_at(access)
            registers = {
                "rax": stored,
                "rbx": access.va,
                "rdi": sign_of(access.va),
                "r8": context.guest.cr3,
            }
        quiet = backend.keeps_code and not self._begins_at(access)
        run = backend.run(rip, access.cpl, quiet=quiet, rflags=rflags, registers=registers)
        return (*run, _restoring(space))

    def _made(self, setting: Sequence[Command], asks: Sequence[_Ask]) -> list[Made | Reason]:
        """Return what came of all that is asked; `setting` are commands that have to come first."""
        found: list[Made | Reason] = []
        deaths, lost = 0, 0
        while len(found) < len(asks):
            left = asks[len(found) :]
            if deaths == _MOST_DEATHS:
                return [*found, *(_MANY for _ in left)]
            commands = [*setting, *(each for ask in left for each in (*ask.commands, flush()))]
            try:
                answers = self._begun().perform(*commands)
            except MonitorEnded as ended:
                self.close()
                found += self._read(ended.answers[len(setting) :], left)
                found.append(Reason(Unjudged.ENDED, ended.ended))
                deaths, self.deaths = deaths + 1, self.deaths + 1
            except ProcessLost:
                self.close()
                lost += 1
                if lost == _TRIES:
                    raise
            else:
                found += self._read(answers[len(setting) :], left)
        return found

    def _read(self, answers: Sequence[Answer], asks: Sequence[_Ask]) -> Iterator[Made | Reason]:
        """Yield what came of each ask, as far as there are answers."""
        at = 0
        for ask in asks:
            end = at + len(ask.commands)
            if end > len(answers):
                return
            yield self._one(answers[at:end], again=ask.again)
            at = end + 1  # That to FLUSH.

    def _one(self, answers: Sequence[Answer], *, again: bool) -> Made | Reason:
        half = len(answers) // (2 if again else 1)
        found: list[tuple[Left, Entries]] = []
        for at in range(0, len(answers), half):
            ran, put_back = answers[at + half - 2], answers[at + half - 1]
            count, *words = put_back.words
            if count > _LISTED:
                return _CHANGED
            changed = tuple(zip(words[::2], words[1::2], strict=True))
            found.append((self._backend.left(ran), changed))
        second = Made(*found[1]) if again else None
        return Made(*found[0], second)

    def _begun(self) -> Monitor:
        """Return the monitor, in a machine that is begun if none runs."""
        for left in reversed(range(_TRIES)):
            if self._monitor is not None:
                break
            try:
                monitor = Monitor(self._machine, seconds=_SECONDS)
            except ProcessLost:
                if not left:
                    raise
                continue
            self._monitor = monitor
            if not monitor.greeting.free(OWN_FRAMES, _END - OWN_FRAMES):
                raise BadInput(f"{self.name}: no RAM at {OWN_FRAMES:#x} for the judge's own")
            self._backend.learn(monitor.perform(*self._backend.began(monitor.greeting)))
        assert self._monitor is not None  # noqa: S101  # The last try has raised else.
        return self._monitor

    def _require_room(self, memory: PhysicalMemory) -> None:
        """Raise `BadInput` unless the machine has all of the memory free."""
        free = self._begun().greeting.free
        for start, size in memory.ranges:
            own = start < _END and start + size > OWN_FRAMES
            if own or not free(start, size):
                why = "the judge has its own there" if own else "the machine has none"
                raise BadInput(f"{self.name}: a pair has memory at {start:#x}, and {why}")


def _baseline(made: Made | Reason) -> _Baseline:
    if isinstance(made, Reason):
        return _Baseline(reason=made)
    if made.left.vector != Vector.UD:
        other = made.left.other
        return _Baseline(reason=Reason(Unjudged.ENDED, other) if other else _NO_CODE)
    return _Baseline(made.changed)


def _loading(space: Workspace) -> list[Command]:
    """Return what puts a pair into memory, and into the copy."""
    found = []
    for start, first, count in space.runs:
        words = space.words[first : first + count].ravel()
        found += [write(start, words), write(_COPY + first * FRAME, words)]
    return found


def _restoring(space: Workspace) -> Command:
    parts = (
        (start, _COPY + first * FRAME, count * FRAME // 8) for start, first, count in space.runs
    )
    return restore(parts, _LISTED)
