"""Run a walker under test in a child that may crash, hang, print without end, or leave others."""

import fcntl
import mmap
import os
import resource
import select
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from selectors import EVENT_READ, EVENT_WRITE, DefaultSelector
from typing import TypeVar

from crosswalk.emu.workers.gauges import Allowance, Gauges
from crosswalk.emu.workers.process import (
    TRIES,
    Ending,
    ProcessEnded,
    adopt_orphans,
    close_all_but,
    fork,
    how_ended,
    is_killed,
    parent_ends,
    repeated,
)
from crosswalk.walker.errors import BadInput, CrosswalkError
from crosswalk.walker.formats.located_errors import printable

__all__ = ["HANGS", "Failure", "Limits", "NoAnswer", "Process", "Restarted", "Unloadable"]

Result = TypeVar("Result")

_CHUNK = 1 << 16
_KEPT = 2048
HANGS = 5
"""How often a walker may hang in one address space before it is asked no more about it."""

_PATIENCE = 5  # Seconds in which what is killed has to be gone.
_TRIES_AGAIN = 2
"""How often a question is put to a walker that killed itself each time before."""

_STATUS = struct.Struct("<i?")
_NUMBER = struct.Struct("<i")
_GAUGES = Gauges()
_HIGH = 64  # Above the descriptors that a process is given.
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Failure(StrEnum):
    """How a walker can fail to answer."""

    CRASH = "crash"
    HANG = "hang"
    FLOOD = "flood"
    NONSENSE = "nonsense"


class NoAnswer(CrosswalkError):
    """The walker under test gave no answer: it died, ran out of time or sent what can't be.

    `kind` says what happened in words that don't depend on addresses: failures of one kind are
    one finding. Both may hold what the walker printed or raised, and are made printable. `at` is
    the number of the question that it failed at, None where that isn't known.
    """

    def __init__(self, failure: Failure, kind: str, message: str, at: int | None = None) -> None:
        super().__init__(printable(message))
        self.failure, self.kind, self.at = failure, printable(kind), at

    def __reduce__(self) -> tuple[type["NoAnswer"], tuple[Failure, str, str, int | None]]:
        """Let it come back from the process that it was raised in."""
        return type(self), (self.failure, self.kind, str(self), self.at)


class Unloadable(NoAnswer):
    """After a failure, the walker under test can't be had again: there is nobody to be asked."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a walker under test may use.

    `seconds` of CPU time, its own and that of what it starts, for one question: an address space
    with its accesses; to load or to start it has as much once more. On the clock that may take
    `patience` times as long. `output` in bytes: what it may print, or answer beyond 256 bytes an
    access, for one question. `memory` in bytes: of address space, beyond what its process begins
    with.
    """

    seconds: float = 10.0
    output: int = 1 << 26
    memory: int = 1 << 32
    patience: float = 10.0

    @property
    def wall(self) -> float:
        """The most seconds on the clock for one question."""
        return self.seconds * self.patience

    @property
    def longest(self) -> float:
        """About the most seconds on the clock for one address space, all that is tried included."""
        return (HANGS + 1) * self.wall


class Process:
    """Run `body` in a child, with questions on descriptor 3 and answers on descriptor 4.

    With `command` that is run instead: questions on its standard input, answers from its
    standard output. All other output is noise: it is bounded, and its last line is part of the
    message when the child dies.

        this process ── control ──► keeper ──► parent ── starts ──► child ──► its descendants
              ▲                       │          │ status of the child │
              └───────────────────────┴──────────┴── answers, noise ───┘

    The keeper adopts all orphans below it. When `close` says so, or when this process is gone,
    however it ended, the keeper kills all of them, whatever process group or session they went to,
    and ends itself within `_PATIENCE` seconds. Between it and the child is a process that does
    nothing but wait for the child: whoever kills or stops its own parent doesn't hit the keeper.
    An answer counts if both are alive behind it: one who kills them may answer before it dies.

    What the child answers unasked waits in a pipe, and when that is full, so does the child:
    `stepwise` after each write, until it is read, where the kernel has such pipes.
    """

    def __init__(
        self,
        limits: Limits,
        body: Callable[[], object],
        command: list[str] | None = None,
        gauges: Gauges = _GAUGES,
        *,
        stepwise: bool = False,
    ) -> None:
        self._limits, self._gauges = limits, gauges
        self._memory_kills = gauges.memory_kills()
        asked, self._ask = os.pipe()
        self._answers, answer = _stepwise_pipe() if stepwise else os.pipe()
        self._printed, noise = os.pipe()
        control, self._control = os.pipe()
        self._status, status = os.pipe()
        self._parent = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("q")  # All of them see it.
        self._ends = (self._ask, self._answers, self._printed, self._control, self._status)
        parent_ends.update(self._ends)

        def start() -> None:
            _become(limits, body, command, (asked, answer, noise))

        try:
            self._keeper = fork(lambda: _keep(control, status, self._parent, start), bound=False)
        finally:
            for descriptor in (asked, answer, noise, control, status):
                os.close(descriptor)
        for descriptor in self._ends:
            os.set_blocking(descriptor, False)
        self._ended: ProcessEnded | None = None
        self._last = b""

    def talk(
        self,
        question: bytes,
        whole: Callable[[bytes], bool],
        allowed: int,
        wall: float | None = None,
        fatal: bytes | None = None,
    ) -> bytes:
        """Return the answer to a question: bytes until `whole`, which is shown each new part.

        `allowed` bytes are no flood; `wall` seconds on the clock are no hang, by default those of
        the limits; noise that holds `fatal` is one. Raises `NoAnswer`, or `ProcessEnded` where
        others killed the process, and has closed itself then.
        """
        wall = self._limits.wall if wall is None else wall
        try:
            return self._talk(_Talk(memoryview(question), whole, fatal), allowed, wall)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Kill the child and its descendants."""
        if self._keeper < 0:
            return
        with suppress(BrokenPipeError):
            os.write(self._control, b".")
        with DefaultSelector() as ready:
            ready.register(self._status, EVENT_READ)
            deadline = time.monotonic() + 2 * _PATIENCE
            while (left := deadline - time.monotonic()) > 0 and ready.select(left):
                if not _read(self._status):
                    break
            else:
                os.kill(self._keeper, signal.SIGKILL)
        os.waitpid(self._keeper, 0)
        self._keeper = -1
        parent_ends.difference_update(self._ends)
        for descriptor in self._ends:
            os.close(descriptor)

    @property
    def noise(self) -> bytes:
        """The end of what was printed and is no answer, up to 2 KiB."""
        return self._last

    def _talk(self, talk: "_Talk", allowed: int, wall: float) -> bytes:
        if talk.left and _read(self._answers):
            message = "answers before it is asked"
            raise NoAnswer(Failure.NONSENSE, message, message)
        limits = self._limits
        allowance = Allowance(self._keeper, limits.seconds, wall, self._gauges)
        with DefaultSelector() as ready:
            ready.register(self._answers, EVENT_READ, self._on_answer)
            ready.register(self._printed, EVENT_READ, self._on_noise)
            ready.register(self._status, EVENT_READ, self._on_status)
            if talk.left:
                ready.register(self._ask, EVENT_WRITE, self._on_ask)
            while talk.left or not talk.done:
                # Once it has ended, what is in its pipes is read; others may keep them open.
                events = ready.select(0.0 if self._ended else allowance.left)
                if over := allowance.exceeded():
                    raise NoAnswer(Failure.HANG, "no answer in time", f"no answer in {over}")
                for key, _ in events:
                    if not key.data(talk):
                        ready.unregister(key.fd)
                if talk.ended or (not events and self._ended):
                    raise self._failure(talk)
                self._bound(len(talk.answer), allowed)
                self._bound(talk.noise, self._limits.output)
        if any(map(is_killed, (self._keeper, self._parent[0]))):
            raise self._failure(talk)
        return bytes(talk.answer)

    @staticmethod
    def _bound(size: int, allowed: int) -> None:
        if size > allowed:
            message = f"more than {allowed:,} bytes"
            raise NoAnswer(Failure.FLOOD, "too much output", message)

    # What is done when a descriptor is ready: whether there may be more to do.

    def _on_ask(self, talk: "_Talk") -> bool:
        try:
            talk.left = talk.left[os.write(self._ask, talk.left[:_CHUNK]) :]
        except BrokenPipeError:
            talk.left = talk.left[:0]  # It has gone; the end of its output will say how.
        return bool(talk.left)

    def _on_answer(self, talk: "_Talk") -> bool:
        part = _read(self._answers)
        if part:
            talk.answer += part
            talk.done = talk.whole(part) or talk.done
        talk.ended = part == b""
        return not talk.ended

    def _on_noise(self, talk: "_Talk") -> bool:
        part = _read(self._printed)
        talk.noise += len(part or b"")
        self._keep_last(part or b"")
        if talk.fatal is not None and talk.fatal in self._last:
            kind = "goes on to no end"
            raise NoAnswer(Failure.HANG, kind, kind)
        return part != b""

    def _keep_last(self, part: bytes) -> None:
        self._last = (self._last + part)[-_KEPT:]

    def _on_status(self, _talk: "_Talk") -> bool:
        status = _read(self._status)
        if not status:  # The keeper was killed, and the child with it.
            self._ended = how_ended(-signal.SIGKILL)
            return False
        code, of_parent = _STATUS.unpack(status[: _STATUS.size])
        self._ended = how_ended(code)
        if of_parent or self._ended.ending is Ending.KILLED:
            word = f"{self._ended.word} of its parent process" if of_parent else self._ended.word
            kills = self._gauges.memory_kills()
            itself = code < 0 and kills is not None and kills == self._memory_kills
            self._ended = ProcessEnded(Ending.ITSELF if itself else Ending.KILLED, word)
        return False

    def _failure(self, talk: "_Talk") -> CrosswalkError:
        """Return how it ended; it may have closed its output and go on for a while."""
        with DefaultSelector() as ready:
            ready.register(self._status, EVENT_READ)
            if self._ended is None and ready.select(self._limits.seconds):
                self._on_status(talk)
        while part := _read(self._printed):
            self._keep_last(part)
        if self._ended is not None and self._ended.ending in (Ending.KILLED, Ending.ITSELF):
            return self._ended
        kind = str(self._ended or "closed its output")
        last = self._last.decode(errors="replace").strip().splitlines()[-1:]
        return NoAnswer(Failure.CRASH, kind, ": ".join([kind, *last]))


class Restarted:
    """A sandboxed process that is started when it is asked, and again after a failure.

    `start` starts it and hears its greeting; `name` is what errors call it.
    """

    def __init__(self, name: str, start: Callable[[], Process]) -> None:
        self._name, self._start = name, start
        self._process: Process | None = None
        self._begun = False
        self._tries = TRIES

    def ask(self, exchange: Callable[[Process], Result]) -> Result:
        """Return what an exchange with the process returns; it is closed where that raises.

        An exchange is done again, by another process, where this one was killed. If that comes
        each time, it raises `ProcessLost` where others did it, and `NoAnswer` where it may have
        been itself: the keeper lived, and the kernel killed nothing for want of memory.
        `Unloadable` if it was started before, and can't be again.
        """

        def once() -> Result:
            try:
                if self._process is None:
                    self._process = self._started()
                return exchange(self._process)
            except BaseException:
                self.close()
                raise

        try:
            return repeated(once, self._name, self._tries)
        except ProcessEnded as ended:
            kind = f"killed itself, or was killed each time ({ended.word})"
            self._tries = _TRIES_AGAIN
            raise NoAnswer(Failure.CRASH, kind, kind) from None

    def _started(self) -> Process:
        try:
            process = self._start()
        except (BadInput, NoAnswer) as error:
            if not self._begun:
                raise
            kind = "can't be loaded once more"
            raise Unloadable(Failure.CRASH, kind, f"{kind}: {error}") from error
        self._begun = True
        return process

    def close(self) -> None:
        """Kill the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.close()


@dataclass(slots=True)
class _Talk:
    """A question that is still `left`, and what came in answer, or as noise, so far."""

    left: memoryview
    whole: Callable[[bytes], bool]
    fatal: bytes | None = None
    answer: bytearray = field(default_factory=bytearray)
    noise: int = 0
    done: bool = False
    ended: bool = False


def _stepwise_pipe() -> tuple[int, int]:
    """Return a pipe that holds what was written at once, 4 KiB, and no more; pipe(7)."""
    if sys.platform == "linux":
        with suppress(OSError):  # Old kernels, and some that only look like Linux.
            ends = os.pipe2(os.O_DIRECT | os.O_CLOEXEC)
            try:
                fcntl.fcntl(ends[0], fcntl.F_SETPIPE_SZ, mmap.PAGESIZE)
            except OSError:
                for end in ends:
                    os.close(end)
                raise
            return ends
    return os.pipe()


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
) -> None:
    """Be the child; what it inherited, but for its pipes, it doesn't keep."""
    try:
        os.setpgid(0, 0)
        nothing = os.open(os.devnull, os.O_RDONLY)
        # First out of the way of the numbers that are to be given.
        moved = [fcntl.fcntl(each, fcntl.F_DUPFD, _HIGH) for each in (nothing, *pipes)]
        nothing, asked, answer, noise = moved
        given = (
            (nothing, noise, noise, asked, answer) if command is None else (asked, answer, noise)
        )
        for number, descriptor in enumerate(given):
            os.dup2(descriptor, number)
        os.closerange(len(given), os.sysconf("SC_OPEN_MAX"))
        for number in (
            signal.SIGINT,
            signal.SIGTERM,
            signal.SIGPIPE,
            signal.SIGHUP,
            signal.SIGCHLD,
        ):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        _limit(resource.RLIMIT_CORE, 0)
        if command is None:
            _limit(resource.RLIMIT_AS, _size() + limits.memory)
            body()
        else:
            _limit(resource.RLIMIT_AS, limits.memory)
            os.execvp(command[0], command)  # noqa: S606  # No shell: it is the user's own command.
    except BaseException:  # noqa: BLE001  # The last line of it says why the walker failed.
        os.write(2, traceback.format_exc().encode())
        os._exit(1)


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    top = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (top, top))


def _size() -> int:
    """Return the size of this process' address space in bytes."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * _PAGE


def _keep(control: int, status: int, number: "memoryview[int]", start: Callable[[], None]) -> None:
    """Have the child started; say how its parent ended; kill all of the family when that is due."""
    adopt_orphans()
    ended, wake = os.pipe()
    born, tell = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(born, False)
    _deaf()
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    parent = fork(lambda: _wait_for(status, tell, number, start))
    close_all_but(control, status, ended, wake, born)
    events = select.poll()
    events.register(control, select.POLLIN)
    events.register(ended, select.POLLIN)
    reported = False
    while control not in dict(events.poll()):
        os.read(ended, _CHUNK)
        while not reported and (found := _changed(parent, os.WSTOPPED | os.WEXITED)) is not None:
            reported = found.si_code != os.CLD_STOPPED
            if reported:
                os.write(status, _STATUS.pack(_code(found), True))
            else:
                _changed(parent, os.WSTOPPED, kept=False)
                os.kill(parent, signal.SIGCONT)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_PATIENCE)  # Not even what can't be killed keeps this process.
    _kill_family(parent, _read(born) or b"")


def _wait_for(status: int, tell: int, number: "memoryview[int]", start: Callable[[], None]) -> None:
    """Start the child, say how it ended, and stay: its number is its own as long as that."""
    number[0] = os.getpid()
    _deaf()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = fork(start)
    with suppress(OSError):  # The child does the same; either may be first.
        os.setpgid(child, child)
    os.write(tell, _NUMBER.pack(child))
    close_all_but(status)
    if (found := os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)) is not None:
        os.write(status, _STATUS.pack(_code(found), False))
    while True:
        signal.pause()


def _deaf() -> None:
    """Be the head of a group, and ignore what ends groups."""
    os.setpgid(0, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _changed(child: int, changes: int, *, kept: bool = True) -> os.waitid_result | None:
    """Return what has become of a child, None for nothing; unless `kept` it isn't told again."""
    return os.waitid(os.P_PID, child, changes | os.WNOHANG | (os.WNOWAIT if kept else 0))


def _code(found: os.waitid_result) -> int:
    """Return an exit status, or the number of a signal, negated."""
    return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


def _kill_family(parent: int, child: bytes) -> None:
    """Kill the child, whose number these bytes are, its group, and all below this process."""
    if child:
        with suppress(ProcessLookupError, PermissionError):  # Nobody is left of the group.
            os.killpg(_NUMBER.unpack(child)[0], signal.SIGKILL)
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    with suppress(ChildProcessError):
        while True:
            found = children.read_text(encoding="ascii").split() if children.exists() else [parent]
            for number in map(int, found):
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            os.waitpid(-1, 0)
