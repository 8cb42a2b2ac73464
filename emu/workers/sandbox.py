"""A process for what may crash, hang, never stop talking, or leave others behind."""

import fcntl
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from selectors import EVENT_READ, EVENT_WRITE, DefaultSelector
from typing import NoReturn

from crosswalk.walker.errors import CrosswalkError

__all__ = ["Failure", "Limits", "NoAnswer", "Process"]

_CHUNK = 1 << 16
_KEPT = 2048
_NAP = 0.02
_HIGH = 64  # Above the descriptors that a process is given.
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Failure(StrEnum):
    """How a walker can fail to answer."""

    CRASH = "crash"
    HANG = "hang"
    FLOOD = "flood"
    NONSENSE = "nonsense"


class NoAnswer(CrosswalkError):
    """The walker under test gave no answer: it died, ran out of time or said what can't be.

    `kind` says what happened in words that don't depend on addresses: failures of one kind are
    one finding.
    """

    def __init__(self, failure: Failure, kind: str, message: str) -> None:
        super().__init__(message)
        self.failure, self.kind = failure, kind
        self._message = message

    def __reduce__(self) -> tuple[type["NoAnswer"], tuple[Failure, str, str]]:
        """Let it come back from the process that it was raised in."""
        return type(self), (self.failure, self.kind, self._message)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a walker under test may use.

    `seconds` of wall time for one question: an address space with its accesses; to load or to
    start it has as much once more. `output` in bytes: what it may print, or answer beyond 256
    bytes an access, for one question. `memory` in bytes: of address space, beyond what its
    process begins with.
    """

    seconds: float = 10.0
    output: int = 1 << 26
    memory: int = 1 << 32


class Process:
    """Runs `body` in a child, with questions on descriptor 3 and answers to 4.

    With `command` that is run instead: questions on its standard input, answers from its
    standard output. What else it prints is noise: bounded, and the last line of it said when
    it dies. The child leads a group of its own, which is killed with it, and if this process
    dies, however it does, a guardian kills the group.
    """

    def __init__(
        self, limits: Limits, body: Callable[[], object], command: list[str] | None = None
    ) -> None:
        self._limits = limits
        asked, self._ask = os.pipe()
        self._told, tell = os.pipe()
        self._heard, noise = os.pipe()
        watched, self._alive = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self._child = os.fork()
        if self._child == 0:
            _become(limits, body, command, (asked, tell, noise))
        with suppress(OSError):  # The child does the same, whoever comes first.
            os.setpgid(self._child, self._child)
        self._guardian = os.fork()
        if self._guardian == 0:
            _guard(watched, self._child)
        for descriptor in (asked, tell, noise, watched):
            os.close(descriptor)
        for descriptor in (self._ask, self._told, self._heard):
            os.set_blocking(descriptor, False)
        self._how = ""
        self._last = b""

    def talk(self, question: bytes, whole: Callable[[bytes], bool], allowed: int) -> bytes:
        """Return the answer to a question: bytes until `whole`, which is shown each new part.

        `allowed` bytes are no flood. Raises `NoAnswer`, and has closed itself then.
        """
        try:
            return self._talk(question, whole, allowed)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Kill the child and its group."""
        if self._child < 0:
            return
        with suppress(ProcessLookupError, PermissionError):  # Nobody is left of the group.
            os.killpg(self._child, signal.SIGKILL)
        os.waitpid(self._child, 0)
        with suppress(BrokenPipeError):
            os.write(self._alive, b".")  # The guardian may go: the number can be another's soon.
        for descriptor in (self._ask, self._told, self._heard, self._alive):
            os.close(descriptor)
        os.waitpid(self._guardian, 0)
        self._child = -1

    def _talk(self, question: bytes, whole: Callable[[bytes], bool], allowed: int) -> bytes:
        deadline = time.monotonic() + self._limits.seconds
        if question and _read(self._told):
            message = "answers before it is asked"
            raise NoAnswer(Failure.NONSENSE, message, message)
        talk = _Talk(memoryview(question), whole)
        with DefaultSelector() as ready:
            ready.register(self._told, EVENT_READ, self._answered)
            ready.register(self._heard, EVENT_READ, self._printed)
            if question:
                ready.register(self._ask, EVENT_WRITE, self._asked)
            while talk.left or not talk.done:
                events = ready.select(_NAP)
                if time.monotonic() > deadline:
                    message = f"no answer in {self._limits.seconds:g} s"
                    raise NoAnswer(Failure.HANG, "no answer in time", message)
                for key, _ in events:
                    if not key.data(talk):
                        ready.unregister(key.fd)
                if talk.ended or (not events and self._dead()):
                    raise self._ended(deadline)
                self._bound(len(talk.answer), allowed)
                self._bound(talk.noise, self._limits.output)
        return bytes(talk.answer)

    @staticmethod
    def _bound(size: int, allowed: int) -> None:
        if size > allowed:
            message = f"more than {allowed:,} bytes"
            raise NoAnswer(Failure.FLOOD, "too much output", message)

    # What is done when a descriptor is ready: whether there may be more to do.

    def _asked(self, talk: "_Talk") -> bool:
        try:
            talk.left = talk.left[os.write(self._ask, talk.left[:_CHUNK]) :]
        except BrokenPipeError:
            talk.left = talk.left[:0]  # It has gone; the end of its output will say how.
        return bool(talk.left)

    def _answered(self, talk: "_Talk") -> bool:
        part = _read(self._told)
        if part:
            talk.answer += part
            talk.done = talk.whole(part) or talk.done
        talk.ended = part == b""
        return not talk.ended

    def _printed(self, talk: "_Talk") -> bool:
        part = _read(self._heard)
        talk.noise += self._hear(part or b"")
        return part != b""

    def _hear(self, part: bytes) -> int:
        self._last = (self._last + part)[-_KEPT:]
        return len(part)

    def _dead(self) -> bool:
        # Left to be waited for until its group is killed: its number stays its own.
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        if not self._how and (ended := os.waitid(os.P_PID, self._child, flags)) is not None:
            self._how = f"ended with status {ended.si_status}"
            if ended.si_code != os.CLD_EXITED:
                self._how = f"died of {signal.Signals(ended.si_status).name}"
        return bool(self._how)

    def _ended(self, deadline: float) -> NoAnswer:
        """Return how it ended; it may have closed its output and go on for a while."""
        while not self._dead() and time.monotonic() < deadline:
            time.sleep(_NAP)
        while part := _read(self._heard):
            self._hear(part)
        how = self._how or "closed its output"
        last = self._last.decode(errors="replace").strip().splitlines()[-1:]
        return NoAnswer(Failure.CRASH, how, ": ".join([how, *last]))


@dataclass(slots=True)
class _Talk:
    """A question that is still `left`, and what came in answer, or as noise, so far."""

    left: memoryview
    whole: Callable[[bytes], bool]
    answer: bytearray = field(default_factory=bytearray)
    noise: int = 0
    done: bool = False
    ended: bool = False


def _read(descriptor: int) -> bytes | None:
    """Return what is there, None for nothing yet, b"" at the end."""
    try:
        return os.read(descriptor, _CHUNK)
    except BlockingIOError:
        return None


def _become(
    limits: Limits,
    body: Callable[[], object],
    command: list[str] | None,
    pipes: tuple[int, int, int],
) -> NoReturn:
    """Be the child; what it inherited, but for its pipes, it doesn't keep."""
    status = 1
    try:
        os.setpgid(0, 0)
        nothing = os.open(os.devnull, os.O_RDONLY)
        # First out of the way of the numbers that are to be given.
        moved = [fcntl.fcntl(each, fcntl.F_DUPFD, _HIGH) for each in (nothing, *pipes)]
        nothing, asked, tell, noise = moved
        given = (nothing, noise, noise, asked, tell) if command is None else (asked, tell, noise)
        for number, descriptor in enumerate(given):
            os.dup2(descriptor, number)
        os.closerange(len(given), os.sysconf("SC_OPEN_MAX"))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        _limit(resource.RLIMIT_CORE, 0)
        if command is None:
            _limit(resource.RLIMIT_AS, _size() + limits.memory)
            body()
            status = 0
        else:
            _limit(resource.RLIMIT_AS, limits.memory)
            os.execvp(command[0], command)  # noqa: S606  # No shell: it is the user's own command.
    except BaseException:  # noqa: BLE001  # It must not go on with what its parent was doing.
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    top = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (top, top))


def _size() -> int:
    """Return the size of this process' address space in bytes."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * _PAGE


def _guard(watched: int, group: int) -> NoReturn:
    """Kill a group once this process' parent has gone without leave."""
    try:
        os.setpgid(0, 0)
        os.dup2(watched, 0)
        os.closerange(1, os.sysconf("SC_OPEN_MAX"))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if not os.read(0, 1):
            os.killpg(group, signal.SIGKILL)
    finally:
        os._exit(0)
