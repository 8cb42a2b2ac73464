"""Run a command to its end, with limits of CPU time, memory and output; keep what it printed."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass

from crosswalk.emu.workers.process import ProcessEnded
from crosswalk.emu.workers.sandbox import Failure, Limits, NoAnswer, Process
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.located_errors import one_line, printable

__all__ = ["Ran", "run_command"]

_SUCCESS = "ended with status 0"


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command printed on standard output, and how it ended.

    `ended` is None for status 0, and where the output was complete; else words that go on after
    its name: "died of SIGABRT", "ended with status 7", "hangs", "floods". With `by_others` it was
    killed by another program. `noise` is the end of what it wrote to standard error, 2 KiB.
    """

    output: bytes
    ended: str | None
    by_others: bool
    noise: bytes

    @property
    def said(self) -> str:
        """The last line on standard error, printable; an empty text for none."""
        lines = self.noise.decode(errors="replace").strip().splitlines()
        return one_line(lines[-1]) if lines else ""


def run_command(
    command: list[str],
    limits: Limits,
    *,
    complete: Callable[[bytes], bool] = lambda _part: False,
    fatal: bytes | None = None,
) -> Ran:
    """Run a command, whose standard input stays empty, until it ends or its output is complete.

    `complete` is shown each part of the output. The command, and all that it started, is killed
    then, and when a limit is exceeded: `limits.seconds` of CPU time, `limits.wall` on the clock,
    `limits.output` bytes. `fatal`, on standard error, counts as "hangs": it goes on after it, but
    to no end. Raises `BadInput` where there is no such command.
    """
    if shutil.which(command[0]) is None:
        raise BadInput(f"{printable(command[0])}: no such command")
    output = bytearray()

    def whole(part: bytes) -> bool:
        output.extend(part)
        return complete(part)

    process = Process(limits, _no_body, command)
    ended, by_others = None, False
    try:
        process.talk(b"", whole, limits.output, fatal=fatal)
    except NoAnswer as failed:
        if failed.kind != _SUCCESS:
            ended = {Failure.HANG: "hangs", Failure.FLOOD: "floods"}.get(
                failed.failure, failed.kind
            )
    except ProcessEnded as killed:
        ended, by_others = str(killed), True
    finally:
        process.close()
    return Ran(bytes(output), ended, by_others, process.noise)


def _no_body() -> None:
    """Do nothing: the process is a command."""
