"""Worker processes: a function, asked in children that may crash, hang, or be killed by others.

A pool has no threads: waiting for one result drives all of its workers.

    parent                                        child
    Pool.submit ──► question ── frame, pickled ──► serve: function(question)
    result()    ◄── answer ◄─── frame, pickled ──┘
                    end of file, or the deadline: the task is tried again, or its end is its result
"""

import os
import pickle
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from selectors import EVENT_READ, EVENT_WRITE, DefaultSelector
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from crosswalk.emu.workers.frames import FrameReader, framed, read_frame
from crosswalk.emu.workers.process import (
    TRIES,
    Attempts,
    Ending,
    ProcessEnded,
    fork,
    how_ended,
    is_out_of_memory,
    parent_ends,
)
from crosswalk.walker.errors import CrosswalkError

__all__ = ["Pool", "in_order", "serve"]

Task = TypeVar("Task")
Result = TypeVar("Result")

_LARGEST = 1 << 34
_PART = 1 << 20
_NO_MEMORY = pickle.dumps((False, None))


class Pool(Generic[Task, Result]):
    """Applies `function` to tasks, in up to `jobs` child processes at once.

    Children are forked, so that `function` may be a closure over anything; with `fresh` each is a
    new interpreter, for processes that have threads, and finds the function by its name. A child
    that ends is replaced. A task may take `seconds`. One whose process ended is tried again, in a
    process that has done nothing before, as `Attempts` says with `sure` and `tries`; `who` names
    the process in messages.
    """

    def __init__(
        self,
        function: Callable[[Task], Result],
        jobs: int = 1,
        *,
        seconds: float | None = None,
        sure: int = 2,
        tries: int = TRIES,
        fresh: bool = False,
        who: str = "a process",
    ) -> None:
        self._function, self._jobs, self._seconds, self._fresh = function, jobs, seconds, fresh
        self._policy = sure, tries, who
        self._waiting: deque[_Submitted] = deque()
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def jobs(self) -> int:
        """How many tasks are done at once."""
        return self._jobs

    def submit(self, task: Task) -> Callable[[], Result]:
        """Begin a task; what is returned waits for its result.

        That raises what the function raises; `ProcessEnded` for a crash or a hang that came again,
        `ProcessLost` where the process ended for reasons that aren't the task's.
        """
        submitted = _Submitted(framed(pickle.dumps(task)), Attempts(*self._policy))
        self._waiting.append(submitted)
        self._dispatch()
        return lambda: self._result(submitted)

    def close(self) -> None:
        """Kill all workers, whatever they are doing."""
        self._waiting.clear()
        while self._workers:
            self._workers.pop().close()

    def _result(self, submitted: "_Submitted") -> Result:
        while submitted.settled is None:
            self._dispatch()
            _advance(self._workers)
            for worker in [each for each in self._workers if each.ended is not None]:
                self._replace(worker)
        self._dispatch()
        succeeded, value = submitted.settled
        if not succeeded:
            raise value
        result: Result = value
        return result

    def _replace(self, worker: "_Worker") -> None:
        self._workers.remove(worker)
        worker.close()
        task, ended = worker.task, worker.ended
        if task is None or ended is None:
            return
        failed = task.attempts.failed(ended)
        if failed is None:
            self._start().ask(task, self._seconds)
        else:
            task.settled = False, failed

    def _dispatch(self) -> None:
        while self._waiting:
            idle = [each for each in self._workers if each.task is None]
            if not idle and len(self._workers) >= self._jobs:
                return
            worker = idle[0] if idle else self._start()
            worker.ask(self._waiting.popleft(), self._seconds)

    def _start(self) -> "_Worker":
        self._workers.append(_Worker(self._function, fresh=self._fresh))
        return self._workers[-1]


def in_order(
    pool: Pool[Task, Result], tasks: Iterable[Task], ahead: int = 3
) -> Iterator[tuple[Task, Callable[[], Result]]]:
    """Yield each task with what waits for its result, in order; `ahead` a worker are begun."""
    begun: deque[tuple[Task, Callable[[], Result]]] = deque()
    for task in tasks:
        begun.append((task, pool.submit(task)))
        if len(begun) >= pool.jobs * ahead:
            yield begun.popleft()
    while begun:
        yield begun.popleft()


class _Submitted:
    """A task: its question as it is written, and its result: whether it is one, and its value."""

    def __init__(self, question: bytes, attempts: Attempts) -> None:
        self.question, self.attempts = question, attempts
        self.settled: tuple[bool, Any] | None = None


class _Worker:
    """A child process, with the task that it does; `ended` once it does nothing any more."""

    def __init__(self, function: Callable[[Any], object], *, fresh: bool) -> None:
        questions, self.ask_end = os.pipe()
        self.answer_end, answers = os.pipe()
        self._ends = {self.ask_end, self.answer_end}
        parent_ends.update(self._ends)
        self.task: _Submitted | None = None
        self.ended: ProcessEnded | None = None
        self.unsent = memoryview(b"")
        self.deadline = float("inf")
        try:
            if fresh:
                self._child = _interpreter(questions, answers)
                self.unsent = memoryview(framed(pickle.dumps(function)))
            else:
                self._child = fork(lambda: serve(function, questions, answers))
        except BaseException:
            self._close_ends()
            raise
        finally:
            os.close(questions)
            os.close(answers)
        for end in self._ends:
            os.set_blocking(end, False)

    def ask(self, task: _Submitted, seconds: float | None) -> None:
        """Begin a task, which may take so many seconds."""
        self.task, self._seconds = task, seconds
        self._answer = FrameReader(_LARGEST)
        self.unsent = memoryview(bytes(self.unsent) + task.question)
        self.deadline = float("inf") if seconds is None else time.monotonic() + seconds
        self.write()

    def write(self) -> None:
        """Write what can be written of the question."""
        try:
            while self.unsent:
                self.unsent = self.unsent[os.write(self.ask_end, self.unsent) :]
        except BlockingIOError:
            return  # The pipe is full; the rest is written when it can take more.
        except BrokenPipeError:
            self.unsent = memoryview(b"")  # It has ended; the end of its answers says so.

    def read(self) -> None:
        """Read what there is of the answer, or that the process has ended."""
        part = os.read(self.answer_end, _PART)
        if not part:
            self.ended = self._reaped()
        elif self.task is None:
            self._spoiled()
        else:
            self._take(self.task, part)

    def _take(self, task: _Submitted, part: bytes) -> None:
        try:
            if not self._answer.add(part):
                return
            task.settled = pickle.loads(self._answer.message)  # noqa: S301  # From our own child.
        except Exception:  # noqa: BLE001  # A crash to come: its memory is not what it was.
            self._spoiled()
            return
        if task.settled == (False, None):
            task.settled = None
            self.ended = ProcessEnded(Ending.MEMORY)
        else:
            self.task, self.deadline = None, float("inf")

    def _spoiled(self) -> None:
        self.ended = ProcessEnded(Ending.CRASH, "sending what is no answer")

    def expire(self) -> None:
        """End the process where its time is over."""
        if self.ended is None and time.monotonic() >= self.deadline:
            self.ended = ProcessEnded(Ending.HANG, f"{self._seconds:g} s")

    def close(self) -> None:
        """Kill the process, and give back what it took."""
        self._close_ends()
        self._reaped()

    def _close_ends(self) -> None:
        while self._ends:
            end = self._ends.pop()
            parent_ends.discard(end)
            os.close(end)

    def _reaped(self) -> ProcessEnded | None:
        child, self._child = self._child, 0
        if not child:
            return self.ended
        with suppress(ProcessLookupError):
            if not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                os.kill(child, signal.SIGKILL)
        return how_ended(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def _advance(workers: list[_Worker]) -> None:
    """Wait until something can be read or written, or a deadline is over, and do it."""
    with DefaultSelector() as ready:
        for worker in workers:
            ready.register(worker.answer_end, EVENT_READ, worker.read)
            if worker.unsent:
                ready.register(worker.ask_end, EVENT_WRITE, worker.write)
        left = min(worker.deadline for worker in workers) - time.monotonic()
        for key, _ in ready.select(None if left == float("inf") else max(0.0, left)):
            key.data()
    for worker in workers:
        worker.expire()


def serve(function: Callable[[Any], object] | None, questions: int, answers: int) -> None:
    """Answer questions from one descriptor on another, in the child, until there are no more.

    Without a function, that is what the first message holds. Where the parent takes no answers any
    more, as when it is interrupted, there is nobody to tell.
    """
    with suppress(BrokenPipeError), open(questions, "rb") as asked, open(answers, "wb") as pipe:
        while (question := read_frame(asked)) is not None:
            if function is None:
                function = pickle.loads(question)  # noqa: S301  # From our parent.
                continue
            pipe.write(framed(_answer(function, question)))
            pipe.flush()


def _answer(function: Callable[[Any], object], question: bytes) -> bytes:
    try:
        result = function(pickle.loads(question))  # noqa: S301  # From our parent.
        if sys.stdout is not None:
            sys.stdout.flush()  # What is buffered would be lost when the process is killed.
        return pickle.dumps((True, result))
    except Exception as error:  # noqa: BLE001  # Raised where the result is waited for.
        if is_out_of_memory(error):
            return _NO_MEMORY
        try:
            answer = pickle.dumps((False, error))
            pickle.loads(answer)  # noqa: S301  # Our own.
        except Exception:  # noqa: BLE001  # One that doesn't cross: its kind and its words do.
            return pickle.dumps((False, CrosswalkError(f"{type(error).__name__}: {error}")))
        return answer


def _interpreter(questions: int, answers: int) -> int:
    """Start a Python of its own that serves the function which is written first."""
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "crosswalk.emu.workers", str(os.getpid())],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_DUP2, questions, 0),
            (os.POSIX_SPAWN_DUP2, answers, 1),
        ],
    )
