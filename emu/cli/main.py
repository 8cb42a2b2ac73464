"""Entry point: arguments in, exit status out."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from crosswalk.emu.cli import (
    check,
    fuzz,
    info,
    matrix,
    nested,
    protect,
    reduce,
    replay,
    run_kernel,
    sequence,
    translate,
    walk,
)
from crosswalk.emu.cli.output import command_text
from crosswalk.emu.workers.contained import EmulatorCrash
from crosswalk.walker.errors import CrosswalkError

__all__ = ["main"]

_DESCRIPTION = """\
Check x86-64 page-table walkers against an emulated MMU.

SOURCE is a case file, an ELF core (as QEMU's dump-guest-memory writes it), a raw image of
physical memory, or the built-in guest, booted on the spot: guest:4level or guest:5level.
docs/sources.md says what is read, and by what else other files are."""

_EPILOG = """\
exit status: 0 agreement; 1 a divergence, or a violated policy; 2 bad usage, bad input, or nothing
found where not everything could be looked at.
Answers go to standard output, with --json for machines; progress and remarks to standard error."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 or 2, or 130 when interrupted."""
    parser = _Parser(
        prog="crosswalk",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for room in (
        check,
        run_kernel,
        info,
        walk,
        translate,
        replay,
        fuzz,
        reduce,
        matrix,
        sequence,
        nested,
        protect,
    ):
        room.add_commands(commands)
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    options.given = given
    try:
        status = int(options.run(options))
        sys.stdout.flush()
    except EmulatorCrash as error:
        again = command_text(options)
        print(f"crosswalk: error: {error}; reproduce: {again}", file=sys.stderr)
        return 2
    except CrosswalkError as error:
        print(f"crosswalk: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever read the output has seen enough; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("crosswalk: interrupted", file=sys.stderr)
        return 130
    return status
