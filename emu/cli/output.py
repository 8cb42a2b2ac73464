"""Answers on standard output, everything else on standard error."""

import argparse
import functools
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from crosswalk.walker.formats.located_errors import printable

__all__ = [
    "EVERY",
    "Pace",
    "Report",
    "command_line",
    "command_text",
    "emit",
    "emit_document",
    "print_verdict",
    "progress",
    "remark",
    "styled",
]

Report = Callable[[int, int], None]
"""A function to report (done, total) to."""

EVERY = 10.0
"""Seconds between two lines of progress."""


def emit(record: dict[str, Any]) -> None:
    """Print one record for machines: one line of JSON."""
    print(json.dumps(record))


def emit_document(data: bytes) -> None:
    """Write a whole document to standard output, after what was printed there."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)


def remark(text: str) -> None:
    """Print a line of what isn't the answer; names and texts of others in it are escaped."""
    print(printable(text), file=sys.stderr)


def command_text(options: argparse.Namespace) -> str:
    """Return the command that is running, as a shell would take it."""
    return command_line(["crosswalk", *options.given])


def command_line(words: Sequence[str]) -> str:
    """Return a command as a shell takes it, in one line of characters that can be printed."""
    return " ".join(
        shlex.quote(word) if word.isprintable() else f"$'{_ansi_c(word)}'" for word in words
    )


def _ansi_c(word: str) -> str:
    """Return what stands between $' and ' for a word that has characters to escape."""
    return "".join(
        f"\\{char}"
        if char in "\\'"
        else char
        if char.isprintable()
        else "".join(f"\\x{byte:02x}" for byte in os.fsencode(char))
        for char in word
    )


def print_verdict(word: str, status: int) -> None:
    """Print the verdict of a command that ends with `status`."""
    print(styled(f"verdict: {word}", ("green", "red", "yellow")[status]))


def styled(text: str, style: str) -> str:
    """Return text in a style of rich's, where standard output is a terminal that shows it."""
    if not sys.stdout.isatty():
        return text
    before, after = _codes(style)
    return f"{before}{text}{after}"


@functools.cache
def _codes(style: str) -> tuple[str, str]:
    """Return what begins and ends a style on this terminal; NO_COLOR and TERM are heeded."""
    # Without a terminal, a tenth of a second of imports is better spent.
    from rich.console import Console  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console()
    with console.capture() as captured:
        console.print(Text("|", style), end="")
    before, _, after = captured.get().partition("|")
    return before, after


@contextmanager
def progress(title: str, done: int = 0, *, lines: bool = False) -> Iterator[Report | None]:
    """Yield a function to report (done, total) to: a bar on a terminal.

    Elsewhere, with `lines`, a line now and then, as `Pace` has it; else None.
    """
    if not sys.stderr.isatty():
        yield Pace(title, done) if lines else None
        return
    # As above.
    from rich import progress as bars  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415

    with bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task(title, total=None)

        def report(done: int, total: int) -> None:
            speed = bar.tasks[0].speed
            text = f"{title}, {_rate_text(speed)}" if speed else title
            bar.update(task, completed=done, total=total, description=text)

        yield report


def _rate_text(rate: float) -> str:
    """Return how much is done in a second; in a minute, where it is less than one."""
    return f"{rate:,.0f} a second" if rate >= 1 else f"{60 * rate:,.0f} a minute"


class Pace:
    """Prints how far something is, with rate and time left, every `EVERY` seconds."""

    def __init__(self, what: str, done: int) -> None:
        self._what, self._before = what, done
        self._began = self._printed = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Take note that `done` of `total` are done."""
        now = time.monotonic()
        if now - self._printed < EVERY:
            return
        self._printed = now
        rate = (done - self._before) / (now - self._began)
        left = f", {(total - done) / rate:.0f} s left" if rate else ""
        remark(
            f"{done:,} of {total:,} {self._what} ({100 * done // total} %), "
            f"{_rate_text(rate)}{left}"
        )
