"""A walker under test in a process of its own, which may die, hang or never stop talking."""

import os
import pickle
import select
import signal
import struct
import time
from collections.abc import Callable

from emu.peers.claims import Claim, Failure, Limits, PeerFailure
from walker.columns import Accesses, Outcomes
from walker.context import PagingContext
from walker.memory import PhysicalMemory

__all__ = ["Answer", "Contained", "read_within"]

Answer = Callable[[PhysicalMemory, PagingContext, Accesses], Outcomes]

_LENGTH = struct.Struct("<Q")
_CHUNK = 1 << 16


def read_within(descriptor: int, size: int, deadline: float) -> bytes | None:
    """Return up to `size` bytes, b"" at the end of the pipe, None when time is up."""
    left = deadline - time.monotonic()
    if left <= 0 or not select.select([descriptor], [], [], left)[0]:
        return None
    return os.read(descriptor, min(size, _CHUNK))


class Contained:
    """Asks a function in a child process; after a failure the next question starts another child.

    `name` is what failures call it.
    """

    def __init__(self, name: str, claims: frozenset[Claim], answer: Answer, limits: Limits) -> None:
        self.name, self.claims = name, claims
        self._answer, self._limits = answer, limits
        self._child = self._to = self._from = -1

    def answer(
        self, memory: PhysicalMemory, context: PagingContext, accesses: Accesses
    ) -> Outcomes:
        """Return what the walker says of each access; raises `PeerFailure`."""
        if self._child < 0:
            self._start()
        question = pickle.dumps((memory, context, accesses))
        deadline = time.monotonic() + self._limits.seconds
        try:
            with open(self._to, "wb", closefd=False) as pipe:
                pipe.write(_LENGTH.pack(len(question)) + question)
            (length,) = _LENGTH.unpack(self._read(_LENGTH.size, deadline))
            found = pickle.loads(self._read(length, deadline))  # noqa: S301  # From our own child.
        except BrokenPipeError:
            self._died()
        if isinstance(found, PeerFailure):
            self.close()
            raise found
        return found  # type: ignore[no-any-return]  # What `_serve` wrote.

    def close(self) -> None:
        """Kill the child, if there is one."""
        if self._child >= 0:
            os.close(self._to)
            os.close(self._from)
            os.kill(self._child, signal.SIGKILL)
            os.waitpid(self._child, 0)
            self._child = -1

    def _start(self) -> None:
        question, self._to = os.pipe()
        self._from, answer = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            os.close(self._to)
            os.close(self._from)
            # What the walker prints is no answer.
            os.dup2(2, 1)
            _serve(self._answer, question, answer)
        os.close(question)
        os.close(answer)

    def _read(self, size: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = read_within(self._from, size - len(data), deadline)
            if part is None:
                self.close()
                raise PeerFailure(
                    Failure.HANG, f"{self.name}: no answer in {self._limits.seconds:g} s"
                )
            if not part:
                self._died()
            data += part
        return bytes(data)

    def _died(self) -> None:
        os.close(self._to)
        os.close(self._from)
        _, status = os.waitpid(self._child, 0)
        self._child = -1
        how = f"status {os.WEXITSTATUS(status)}"
        if os.WIFSIGNALED(status):
            how = signal.Signals(os.WTERMSIG(status)).name
        raise PeerFailure(Failure.CRASH, f"{self.name}: died of {how}")


def _serve(answer: Answer, questions: int, answers: int) -> None:
    """Answer one question after the other, until there are no more; never returns."""
    with open(questions, "rb") as asked, open(answers, "wb") as told:
        while len(head := asked.read(_LENGTH.size)) == _LENGTH.size:
            question = pickle.loads(asked.read(_LENGTH.unpack(head)[0]))  # noqa: S301  # From our parent.
            found: Outcomes | PeerFailure
            try:
                found = answer(*question)
            except PeerFailure as failure:
                found = failure
            except Exception as error:  # noqa: BLE001  # Whatever a walker raises, it is a result.
                text = str(error).splitlines()[:1]
                message = ": ".join([type(error).__name__, *text])
                found = PeerFailure(Failure.CRASH, message)
            data = pickle.dumps(found)
            told.write(_LENGTH.pack(len(data)) + data)
            told.flush()
    os._exit(0)
