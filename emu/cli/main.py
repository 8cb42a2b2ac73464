"""Entry point: arguments in, exit status out; whatever goes wrong is one line and a status."""

import argparse
import errno
import importlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence

from crosswalk.emu.cli.parser import make_parser, parse, release

__all__ = ["main", "run_completion", "run_help"]

_PACKAGES = {
    "unicorn": "unicorn",
    "keystone": "keystone-engine",
    "capstone": "capstone",
    "pyarrow": "'crosswalk-x86[arrow]'",
}
"""What installs what not every platform has, and extras, by the name they are imported by."""

_INTERRUPTED, _BROKEN_PIPE = 130, 141
"""What a shell reports of a process that SIGINT or SIGPIPE ended."""

_OF_WRITING = {errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC}
"""Errors of writing; all files but the standard streams are named where they are written."""

_SHRUNK = "became shorter while it was read"

_handlers: list[object] = []
"""The handler of SIGBUS, which has to outlive its registration."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 or 2; 130 and 141 as if by signal.

    Nothing is raised. What isn't an answer is one line on standard error, and status 2; with
    CROSSWALK_TRACEBACK set, the traceback before it.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _open_streams()
        _interrupt_by(signal.SIGTERM, signal.SIGHUP)
        try:
            status = _run(given)
        finally:
            _release_live_guests()
        sys.stdout.flush()
    except KeyboardInterrupt:
        status = _end(_INTERRUPTED, "interrupted")
    except BaseException as error:  # noqa: BLE001  # The last resort: nobody else would report it.
        status = _end(*_failure(error, given))
    return status


def _run(given: list[str]) -> int:
    try:
        options = parse(given)
        module, _, function = options.run.partition(":")
        run = getattr(importlib.import_module(f"crosswalk.emu.cli.{module}"), function)
        _watch_mapped_files()
        return int(run(options))
    except SystemExit as ended:  # Help, the version, or bad usage, and all of it printed.
        return int(ended.code or 0)


def _interrupt_by(*numbers: signal.Signals) -> None:
    """Have these signals end the command as an interrupt does, unless they are ignored (nohup)."""
    for number in numbers:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


def run_help(options: argparse.Namespace) -> int:
    """Print the help of a command, or of all."""
    parser, parsers = make_parser()
    name = " ".join(options.command)
    if name and name not in parsers:
        parser.error(f"no command {name!r}; there are {', '.join(parsers)}")
    parsers.get(name, parser).print_help()
    return 0


def run_completion(options: argparse.Namespace) -> int:
    """Print a script that completes commands and options in a shell."""
    import shtab  # noqa: PLC0415  # For nothing else.

    parser, _ = make_parser()
    print(shtab.complete(parser, shell=options.shell))
    return 0


def _open_streams() -> None:
    """Make standard output and error usable, however this process was started.

    What is written to a closed standard error is lost, and doesn't land in the next file that is
    opened. A character that the encoding of standard output lacks is escaped.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115  # Open to the end.
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  # The same.
        raise OSError(errno.EBADF, "closed", "standard output")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _failure(error: BaseException, given: list[str]) -> tuple[int, str | None]:
    """Return the exit status that an error means, and the line to report, if any."""
    if isinstance(error, BrokenPipeError):
        return _BROKEN_PIPE, None  # The reader of the output has seen enough.
    if isinstance(error, OSError):
        where = error.filename or ("standard output" if error.errno in _OF_WRITING else None)
        return 2, f"error: {f'{where}: ' if where else ''}{error.strerror or error}"
    if isinstance(error, MemoryError):
        return 2, "error: out of memory"
    if isinstance(error, ImportError) and not str(error.name).startswith("crosswalk"):
        name = str(error.name).partition(".")[0]
        if name in _PACKAGES:
            return (
                2,
                f"error: this needs {name}, which is not installed: pip install {_PACKAGES[name]}",
            )
        return 2, f"error: {error}"
    return _named_failure(error, given)


def _named_failure(error: BaseException, given: list[str]) -> tuple[int, str]:
    """Return the same for an error of the project's own kinds, or for a mistake in it."""
    # Not imported for help.
    from crosswalk.emu.cli.output import command_line  # noqa: PLC0415
    from crosswalk.emu.workers.contained import EmulatorCrash  # noqa: PLC0415
    from crosswalk.walker.errors import CrosswalkError  # noqa: PLC0415
    from crosswalk.walker.formats.files import shrunk_file  # noqa: PLC0415
    from crosswalk.walker.formats.located_errors import one_line, printable  # noqa: PLC0415

    command = command_line(["crosswalk", *given])
    if isinstance(error, EmulatorCrash) and (name := shrunk_file()):
        return 2, f"error: {printable(name)}: {_SHRUNK}"
    if isinstance(error, EmulatorCrash):
        return 2, f"error: {printable(str(error))}; reproduce: {command}"
    if isinstance(error, CrosswalkError):
        return 2, f"error: {printable(str(error))}"
    what = one_line(f"{type(error).__name__}: {error}")
    return 2, (
        f"internal error: {what}; please report this line: {release()}, {command} "
        "(CROSSWALK_TRACEBACK=1 shows the traceback)"
    )


def _end(status: int, line: str | None) -> int:
    """Report an end that is no answer, and see to it that the process ends with this status."""
    if os.environ.get("CROSSWALK_TRACEBACK"):
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is sys.stderr and line is not None:
                print(f"crosswalk: {line}", file=sys.stderr)
            stream.flush()
        except (OSError, ValueError):
            # What can't be written is dropped: Python would try again at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return status


def _release_live_guests() -> None:
    """Leave guests as they were found, however the command ended; `BadInput` where that fails."""
    live = sys.modules.get("crosswalk.walker.formats.gdb")
    if live is not None:
        live.release_live_guests()


def _watch_mapped_files() -> None:
    """End with one line where a mapped file is truncated while it is read, instead of by SIGBUS.

    A handler written in Python would run after the read, which never ends; one called from C runs
    at once. A child dies of SIGBUS as before: its parent reports that.
    """
    files = sys.modules.get("crosswalk.walker.formats.files")
    if files is None or _handlers:
        return
    # Not imported for help.
    import ctypes  # noqa: PLC0415

    from crosswalk.walker.formats.located_errors import printable  # noqa: PLC0415

    parent = os.getpid()

    def bus_error(_: int) -> None:
        name = files.shrunk_file() if os.getpid() == parent else None
        if name is None:
            signal.signal(signal.SIGBUS, signal.SIG_DFL)  # The read is made again, and ends it.
        else:
            os._exit(_end(2, f"error: {printable(name)}: {_SHRUNK}"))

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(bus_error)
    ctypes.CDLL(None).signal(signal.SIGBUS, handler)
    _handlers.append(handler)
