"""A process of its own for what may crash or hang, where the one that asks can't fork safely.

A worker of a cluster has threads, and is a daemon that multiprocessing allows no children. Its
tasks are done by `python -m crosswalk.emu.workers.servant`, which answers one question after the
other: pickles on its standard input and output, each behind its length.
"""

import os
import pickle
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from crosswalk.emu.workers.lifetime import ProcessEnded, death, die_with_parent
from crosswalk.walker.errors import CrosswalkError

__all__ = ["Servant"]

Question = TypeVar("Question")
Answer = TypeVar("Answer")

_LENGTH = struct.Struct("<Q")


class Servant:
    """Asks a function in a child process; after a loss the next question starts another child."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None

    def ask(
        self, function: Callable[[Question], Answer], question: Question, seconds: float
    ) -> Answer:
        """Return what the function makes of the question.

        Raises `ProcessEnded` where the child ends or takes longer, and the `CrosswalkError` that
        the function raises. That is found by its name, so it has to be one of a module.
        """
        if self._child is None:
            self._child = subprocess.Popen(  # noqa: S603  # Ourselves.
                [sys.executable, "-m", __name__, str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        data = pickle.dumps((function, question))
        deadline = time.monotonic() + seconds
        try:
            self._child.stdin.write(_LENGTH.pack(len(data)) + data)  # type: ignore[union-attr]  # A pipe.
            self._child.stdin.flush()  # type: ignore[union-attr]  # The same.
            (length,) = _LENGTH.unpack(self._read(self._child, _LENGTH.size, deadline))
            failed, value = pickle.loads(self._read(self._child, length, deadline))  # noqa: S301  # From our own child.
        except (BrokenPipeError, EOFError):
            raise ProcessEnded(death(self._child_ended())) from None
        except TimeoutError:
            self.close()
            raise ProcessEnded("hang") from None
        if failed:
            raise value
        answer: Answer = value
        return answer

    def close(self) -> None:
        """Kill the child, if there is one."""
        if self._child is not None:
            self._child.kill()
            self._child_ended()

    def _child_ended(self) -> int:
        child, self._child = self._child, None
        child.stdout.close()  # type: ignore[union-attr]  # There is one, with pipes.
        with suppress(BrokenPipeError):  # The rest of a question that nobody reads.
            child.stdin.close()  # type: ignore[union-attr]  # The same.
        return child.wait()  # type: ignore[union-attr]  # The same.

    @staticmethod
    def _read(child: "subprocess.Popen[bytes]", size: int, deadline: float) -> bytes:
        answers = child.stdout.fileno()  # type: ignore[union-attr]  # A pipe.
        data = bytearray()
        while len(data) < size:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([answers], [], [], left)[0]:
                raise TimeoutError
            part = os.read(answers, size - len(data))
            if not part:
                raise EOFError
            data += part
        return bytes(data)


def _serve(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Interrupts are the parent's, which ends it.
    die_with_parent(parent)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # What is printed is no answer.
    asked = sys.stdin.buffer
    while len(head := asked.read(_LENGTH.size)) == _LENGTH.size:
        function, question = pickle.loads(asked.read(_LENGTH.unpack(head)[0]))  # noqa: S301  # From our parent.
        try:
            answer = pickle.dumps((False, function(question)))
        except CrosswalkError as error:
            answer = pickle.dumps((True, error))
        answers.write(_LENGTH.pack(len(answer)) + answer)
        answers.flush()


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
