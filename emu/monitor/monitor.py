"""A monitor that runs: commands go to it in batches, and it answers each of them.

The monitor waits at its mailbox, a disk that is a file here. A batch is written there, and the
doorbell last; that the answers are in the file the machine says by port 0xE9, on standard output.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from crosswalk.emu.monitor.machines import HostMachine
from crosswalk.emu.workers.process import ProcessEnded, ProcessLost
from crosswalk.emu.workers.sandbox import Failure, Limits, NoAnswer, Process
from crosswalk.guest.monitor import commands
from crosswalk.guest.monitor.commands import Answer, Command, Damaged, Flag, Op, Refusal, Status
from crosswalk.guest.monitor.image import (
    ANSWERS_SECTOR,
    BUFFER,
    COMMANDS_SECTOR,
    DISK_SECTORS,
    MARK,
    RING,
    SECTOR,
    monitor_image,
)
from crosswalk.walker.errors import BadInput, CrosswalkError
from crosswalk.walker.memory import U64

__all__ = ["PLACE", "CommandFailed", "Greeting", "Monitor", "MonitorEnded"]

PLACE = 0x800_0000
"""Where a monitor lies, unless it is told otherwise: at 128 MiB."""

_MEMORY = 1 << 34
_OUTPUT = 1 << 20
_PATIENCE = 10.0
_RING = bytes([RING])
_KEPT = 1 << 16
"""Words of a batch that are kept free, of commands and of answers."""
_DONE, _MOST_GREETING = 2, 1024
"""Words of the end of a batch, and of a greeting at most."""
_PIECE = BUFFER // 16
"""Words of one read or write at most."""

_EXCEPTIONS = {6: "#UD", 8: "#DF", 13: "#GP", 14: "#PF"}


class CommandFailed(CrosswalkError):
    """A command was refused, raised an exception, or its VMX instruction failed.

    `answer` is its own, `answers` are those of the commands before it.
    """

    def __init__(self, answer: Answer, answers: Sequence[Answer]) -> None:
        super().__init__(f"the monitor answers {answer.op.name}: {_failure(answer)}")
        self.answer, self.answers = answer, list(answers)


class MonitorEnded(CrosswalkError):
    """The machine ended, or hangs, before all commands were answered.

    `ended` goes on after its name ("panics: …", "hangs", "died of SIGSEGV"); `answers` are those
    that were written down before (`flush`).
    """

    def __init__(self, name: str, ended: str, answers: Sequence[Answer]) -> None:
        super().__init__(f"{name} {ended}")
        self.ended, self.answers = ended, list(answers)


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a monitor says of itself: where it lies, in bytes, and RAM by the loader's map."""

    base: int
    size: int
    ram: tuple[tuple[int, int], ...]
    """Start and end of each range, the monitor's own not left out."""

    @property
    def end(self) -> int:
        """The first address behind the monitor."""
        return self.base + self.size

    def free(self, start: int, size: int) -> bool:
        """Return whether these bytes are RAM, and none of the monitor's."""
        inside = any(first <= start and start + size <= end for first, end in self.ram)
        return inside and (start + size <= self.base or self.end <= start)


class Monitor:
    """A machine with a monitor in it, to be closed, or used in a `with`.

    `base` is where the monitor lies. The machine may use `seconds` of CPU time for one batch.

    Raises `BadInput` where the machine can't be had, `MonitorEnded` where it ends before the
    monitor greets, and `ProcessLost` where others kill it, here and with every batch.
    """

    def __init__(self, machine: HostMachine, *, base: int = PLACE, seconds: float = 600.0) -> None:
        self.name, self.version, self._machine = machine.name, machine.version, machine
        self._batch, self._begun = 0, False
        self._folder = tempfile.TemporaryDirectory(prefix="crosswalk-", ignore_cleanup_errors=True)
        self._process: Process | None = None
        self._disk = -1
        try:
            folder = Path(self._folder.name)
            disk = folder / "disk"
            self._disk = os.open(disk, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.ftruncate(self._disk, DISK_SECTORS * SECTOR)
            command = machine.prepared(folder, monitor_image(base), disk)
            limits = Limits(seconds=seconds, output=_OUTPUT, memory=_MEMORY, patience=_PATIENCE)
            self._process = Process(limits, _no_body, command, stepwise=True)
            self.greeting = _greeting(self._heard(_MOST_GREETING))
            self._begun = True
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the machine, and remove what it read and wrote."""
        self._end()
        if self._disk >= 0:
            os.close(self._disk)
            self._disk = -1
        self._folder.cleanup()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.close()

    def perform(self, *asked: Command) -> list[Answer]:
        """Have commands carried out in order; return their answers.

        Raises `CommandFailed` at the first one that fails and isn't `may_fail`; none behind it is
        carried out. `BadInput` for one that is longer than a batch may be, or has a word of more
        than 64 bits.
        """
        answers: list[Answer] = []
        for batch in _batches(asked):
            answers += self._put(batch, answers)
            if len(answers) and _failed(answers[-1], batch[-1]):
                raise CommandFailed(answers[-1], answers[:-1])
        return answers

    def read(self, address: int, words: int) -> U64:
        """Return words of physical memory, uint64[n]."""
        pieces = [
            commands.read(address + 8 * at, min(_PIECE, words - at))
            for at in range(0, words, _PIECE)
        ]
        found = [answer.payload for answer in self.perform(*pieces)]
        return np.concatenate(found) if found else np.zeros(0, np.uint64)

    def write(self, address: int, words: U64) -> None:
        """Write words, uint64[n], to physical memory."""
        self.perform(
            *(
                commands.write(address + 8 * at, words[at : at + _PIECE])
                for at in range(0, len(words), _PIECE)
            )
        )

    def _put(self, batch: Sequence[Command], before: Sequence[Answer]) -> list[Answer]:
        """Return the answers to a batch, up to the first failure."""
        if self._process is None:
            raise CrosswalkError(f"{self.name}: the monitor has ended")
        words = commands.encoded(batch, self._batch + 1)
        if len(words) > BUFFER // 8:
            size = f"{len(words):,} words"
            raise BadInput(f"{self.name}: a command of {size}, where {BUFFER // 8:,} have room")
        self._batch += 1
        os.pwrite(self._disk, words.astype("<u8").tobytes(), COMMANDS_SECTOR * SECTOR)
        ring = [MARK, self._batch, len(words)]
        os.pwrite(
            self._disk, np.array([*ring, sum(ring) % (1 << 64)], "<u8").tobytes(), 0
        )  # The last of all.
        try:
            answers = self._heard(sum(map(commands.most_words, batch)))
        except MonitorEnded as ended:
            raise MonitorEnded(self.name, ended.ended, [*before, *ended.answers]) from None
        if answers and (answers[-1].status is Status.REFUSED or answers[-1].op is Op.END):
            self._end()
        for number, (answer, command) in enumerate(zip(answers, batch, strict=False)):
            if (answer.op, answer.sequence) != (command.op, number & 0xFFFF):
                raise Damaged(f"{self.name}: answer {number} is to another command")
        if len(answers) < len(batch) and (
            not answers or not _failed(answers[-1], batch[len(answers) - 1])
        ):
            raise Damaged(f"{self.name}: {len(answers)} answers to {len(batch)} commands")
        return answers

    def _heard(self, most: int) -> list[Answer]:
        """Return the answers to the batch, `most` words, when the machine says they are there."""
        process = self._process
        assert process is not None  # noqa: S101  # Its callers have seen to it.
        try:
            process.talk(b"", lambda part: _RING in part, _OUTPUT)
        except NoAnswer as failed:
            self._process = None  # It has closed itself.
            raise self._ended(failed) from None
        except ProcessEnded as killed:
            self._process = None
            raise ProcessLost(f"{self.name} {killed}") from None
        words = self._answers(min(most + _DONE, BUFFER // 8))
        try:
            return list(commands.decoded(words, self._batch))
        except Damaged as damaged:
            raise Damaged(f"{self.name}: {damaged}") from None

    def _answers(self, words: int) -> U64:
        data = os.pread(self._disk, 8 * words, ANSWERS_SECTOR * SECTOR)
        return np.frombuffer(data, "<u8").astype(np.uint64)

    def _ended(self, failed: NoAnswer) -> CrosswalkError:
        """Return how the machine ended, with the answers that it had written down."""
        last = self._machine.last_words(Path(self._folder.name))
        if last is None and not self._begun:
            return BadInput(f"{self.name} isn't started: {failed}")
        answers = list(_undamaged(self._answers(BUFFER // 8), self._batch))
        ended = f"hangs: {failed}" if failed.failure is Failure.HANG else str(failed)
        return MonitorEnded(self.name, last or ended, answers)


def _no_body() -> None:
    """Do nothing: the process is a command."""


def _batches(asked: Sequence[Command]) -> Iterator[list[Command]]:
    """Yield commands in order, as many at a time as they and their answers have room."""
    batch: list[Command] = []
    room = BUFFER // 8 - _KEPT
    sent = heard = 0
    for command in asked:
        answer = commands.most_words(command)
        if batch and (sent + command.words > room or heard + answer > room):
            yield batch
            batch, sent, heard = [], 0, 0
        batch.append(command)
        sent, heard = sent + command.words, heard + answer
    if batch:
        yield batch


def _undamaged(words: U64, batch: int) -> Iterator[Answer]:
    """Yield the answers to a batch that lie in front of what is none."""
    found = commands.decoded(words, batch)
    while True:
        try:
            yield next(found)
        except (StopIteration, Damaged):
            return


def _failed(answer: Answer, command: Command) -> bool:
    return answer.status is not Status.OK and not command.flags & Flag.MAY_FAIL


def _failure(answer: Answer) -> str:
    words = answer.words
    if answer.status is Status.FAULT:
        name = _EXCEPTIONS.get(words[0], f"vector {words[0]}")
        return f"{name}({words[1]:#x}) at {words[2]:#x}, CR2 = {words[3]:#x}"
    if answer.status is Status.VM_FAIL:
        return f"VM-instruction error {words[1]}" if words[0] & 0x40 else "VMfailInvalid"
    return f"refused, for its {Refusal(words[0]).name.lower()}"


def _greeting(answers: Sequence[Answer]) -> Greeting:
    if len(answers) != 1 or answers[0].op is not Op.GREETING:
        raise Damaged("no greeting of a monitor")
    form, base, size, *ram = answers[0].words
    if form != commands.FORMAT or answers[0].status is not Status.OK:
        raise Damaged("a greeting of another monitor")
    return Greeting(base, size, tuple(zip(ram[::2], ram[1::2], strict=True)))
