"""Answers on standard output, everything else on standard error."""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crosswalk.walker.errors import BadInput

__all__ = [
    "Report",
    "add_json",
    "command_text",
    "emit",
    "progress_bar",
    "remark",
    "write_file",
    "write_parts",
]

Report = Callable[[int, int], None]


def add_json(parser: argparse.ArgumentParser, what: str) -> None:
    """Add --json, which prints `what`."""
    parser.add_argument("--json", action="store_true", help=f"print {what} as JSON")


def emit(record: dict[str, Any]) -> None:
    """Print one record for machines: one line of JSON."""
    print(json.dumps(record))


def remark(text: str) -> None:
    """Print something beside the answer."""
    print(text, file=sys.stderr)


def command_text(options: argparse.Namespace) -> str:
    """Return the command that is running, as a shell would take it."""
    return shlex.join(["crosswalk", *options.given])


def write_file(path: Path, content: bytes) -> None:
    """Write a file as a whole or not at all; `BadInput` where it can't be written."""
    write_parts(path, [content])


def write_parts(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file of many parts, as `write_file` does."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.writelines(parts)
        partial.replace(path)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from error


@contextmanager
def progress_bar(title: str) -> Iterator[Report | None]:
    """Yield a function to report (done, total) to; None where nobody watches a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    # Where nobody watches, a tenth of a second of imports is better spent.
    from rich import progress as bars  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415

    with bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
        task = progress.add_task(title, total=None)

        def report(done: int, total: int) -> None:
            speed = progress.tasks[0].speed
            text = f"{title}, {speed:,.0f} a second" if speed else title
            progress.update(task, completed=done, total=total, description=text)

        yield report
