"""Child processes: how they are forked, why they end, and when they are tried again."""

import ctypes
import errno
import os
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path
from typing import TypeVar

from crosswalk.walker.errors import CrosswalkError

__all__ = [
    "TRIES",
    "Attempts",
    "Ending",
    "ProcessEnded",
    "ProcessLost",
    "adopt_orphans",
    "close_all_but",
    "die_with_parent",
    "fork",
    "how_ended",
    "is_killed",
    "is_out_of_memory",
    "parent_ends",
    "repeated",
    "signal_name",
]

Result = TypeVar("Result")

TRIES = 5
"""How often work is tried whose process others end."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_INTERRUPTS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
_BY_OTHERS = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGHUP})

_HARMLESS = sum(
    1 << each - 1
    for each in (
        signal.SIGSTOP,
        signal.SIGTSTP,
        signal.SIGTTIN,
        signal.SIGTTOU,
        signal.SIGCONT,
        signal.SIGCHLD,
    )
)

parent_ends: set[int] = set()
"""Descriptors of this process that lead to its children: closed in every child it forks."""


class Ending(Enum):
    """Why a process ended before it had answered."""

    CRASH = auto()
    """A signal that it raised itself, or an exit status."""
    HANG = auto()
    """It was killed here, at its deadline."""
    KILLED = auto()
    """A signal that other programs send, or the kernel where the machine has no memory left."""
    ITSELF = auto()
    """The same, while nothing was seen that would have sent it: it may have killed itself."""
    MEMORY = auto()
    """It asked for memory and got none."""


class ProcessEnded(CrosswalkError):
    """A child process ended before it had answered.

    `word` is the signal, the exit status, or the deadline. As text, it goes on after a subject:
    "died of SIGSEGV".
    """

    def __init__(self, ending: Ending, word: str = "") -> None:
        super().__init__(ending, word)
        self.ending, self.word = ending, word

    def __str__(self) -> str:
        """Return what happened, without a subject."""
        if self.ending is Ending.HANG:
            return f"hangs: no end after {self.word}"
        if self.ending is Ending.KILLED:
            return f"was killed ({self.word}), by another program or for want of memory"
        if self.ending is Ending.ITSELF:
            return f"killed itself, or was killed ({self.word})"
        if self.ending is Ending.MEMORY:
            return "ran out of memory"
        verb = "ended with" if self.word.startswith("status") else "died of"
        return f"{verb} {self.word}"

    @property
    def how(self) -> str:
        """What a finding calls it: "crash, SIGSEGV", "crash, status 7", "hang"."""
        return "hang" if self.ending is Ending.HANG else f"crash, {self.word}"

    @property
    def by_signal(self) -> bool:
        """Whether it died of a signal that it raised itself."""
        return self.ending is Ending.CRASH and not self.word.startswith("status")


class ProcessLost(CrosswalkError):
    """Work has no result, for a reason that isn't its own; another time it may have one."""


def signal_name(number: int) -> str:
    """Return the name of a signal: "SIGSEGV", or "signal 40" for one that has none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def how_ended(code: int) -> ProcessEnded:
    """Return how a process ended; `code` is its exit status, or a signal's number, negated."""
    if code >= 0:
        return ProcessEnded(Ending.CRASH, f"status {code}")
    ending = Ending.KILLED if -code in _BY_OTHERS else Ending.CRASH
    return ProcessEnded(ending, signal_name(-code))


def is_killed(number: int) -> bool:
    """Return whether a process, which isn't waited for yet, has ended or is sent what ends it.

    It has to ignore what it doesn't end of, but for what stops it. Always False where there is no
    procfs; proc_pid_status(5).
    """
    try:
        lines = Path(f"/proc/{number}/status").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    row = dict(line.split(":\t", 1) for line in lines.splitlines() if ":\t" in line)
    pending = int(row.get("SigPnd", "0"), 16) | int(row.get("ShdPnd", "0"), 16)
    return row["State"][0] in "ZX" or bool(pending & ~_HARMLESS)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that there is no memory, whatever the code wanted to do."""
    return isinstance(error, MemoryError) or (
        isinstance(error, OSError) and error.errno == errno.ENOMEM
    )


class Attempts:
    """Decides what is tried again, so that nothing passing is taken for a result.

    A crash or a hang is one once it came `sure` times in the same way. What others killed is
    tried `tries` times; if each of them says that it may have killed itself, that is a result.
    `who` names the process in messages.
    """

    def __init__(self, sure: int, tries: int, who: str) -> None:
        self._sure, self._tries, self._who = sure, tries, who
        self._ends: list[str] = []
        self._itself = 0

    def failed(self, ended: ProcessEnded) -> CrosswalkError | None:
        """Count an attempt that failed; return what to raise, or None to try again."""
        words = str(ended)
        self._ends.append(words)
        self._itself += ended.ending is Ending.ITSELF
        if self._itself >= self._tries:
            return ended
        by_others = ended.ending in (Ending.KILLED, Ending.ITSELF)
        if not by_others and self._ends.count(words) >= self._sure:
            return self._lost(words) if ended.ending is Ending.MEMORY else ended
        return self._lost(words) if len(self._ends) >= self._tries else None

    def _lost(self, words: str) -> ProcessLost:
        count = len(self._ends)
        return ProcessLost(f"{self._who} {words}{f', {count} times' if count > 1 else ''}")


def repeated(attempt: Callable[[], Result], who: str, tries: int = TRIES) -> Result:
    """Return what `attempt` returns, called again where others killed its process.

    Raises `ProcessLost` where they go on to, and the `ProcessEnded` of any other end.
    """
    attempts = Attempts(1, tries, who)
    while True:
        try:
            return attempt()
        except ProcessEnded as ended:
            failed = attempts.failed(ended)
            if failed is not None:
                raise failed from None


def fork(body: Callable[[], object], *, bound: bool = True) -> int:
    """Run `body` in a child process and return its number.

    The child has exit status 0 after `body`, 1 after an exception, which it shows on standard
    error. Interrupts of the terminal are left to the parent; SIGTERM ends it. Unless `bound` is
    False, the kernel kills it when its parent is gone, whatever either is doing.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    parent, child = os.getpid(), -1
    # Held back until the child has handlers of its own.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTS)
    try:
        with warnings.catch_warnings():
            # From Python 3.12 on, of threads. Those of numpy's libraries wait for work.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
    except OSError as error:
        raise CrosswalkError(f"no process can be started: {error.strerror}") from error
    finally:
        if child:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if child:
        return child
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if bound:
            die_with_parent(parent)
        for descriptor in parent_ends:
            os.close(descriptor)
        parent_ends.clear()
        body()
        status = 0
    except BaseException:  # noqa: BLE001  # It must not go on with what its parent was doing.
        sys.excepthook(*sys.exc_info())
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when `parent`, which started it, is gone.

    A process that waits for work sees its pipe end; one that hangs would stay for ever. Only
    Linux does this, prctl(2); elsewhere such a process has to be ended by hand.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # It died before it could be noticed.
            os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends, on Linux: prctl(2)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def close_all_but(*kept: int) -> None:
    """Close all descriptors of this process but these."""
    start = 0
    for descriptor in sorted(kept):
        os.closerange(start, descriptor)
        start = descriptor + 1
    os.closerange(start, os.sysconf("SC_OPEN_MAX"))
