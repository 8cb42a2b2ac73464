"""`reduce`: a case as small as it can be."""

import argparse
import shlex
import sys
from pathlib import Path

from emu.cli.contain import contained
from emu.cli.output import add_json, emit, remark, write_file
from emu.fuzz.attempt import Tester
from emu.fuzz.reduce import Reduced
from emu.fuzz.reduce.same import reduced_to, signatures_of
from emu.fuzz.signature import Signature
from emu.peers.opening import KINDS, open_peer
from walker.errors import BadInput
from walker.source import Case, dump_case, load_case

__all__ = ["add_commands", "add_walker", "walker_option"]


def add_walker(parser: argparse.ArgumentParser, otherwise: str) -> None:
    """Add --walker and --claims."""
    parser.add_argument(
        "--walker", metavar="W", help=f"the walker under test: {KINDS} ({otherwise})"
    )
    parser.add_argument(
        "--claims", help="what it answers: leaves, translation, rights, faults, marks"
    )


def walker_option(walker: str | None) -> str:
    """Return the option that names a walker, for a command to be shown."""
    return "" if walker is None else f" --walker {shlex.quote(walker)}"


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `reduce`."""
    parser = commands.add_parser("reduce", help="shrink a case while it shows the same")
    parser.add_argument("case", metavar="CASE", type=Path, help="a case file with a divergence")
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="write it here (standard output)"
    )
    add_walker(parser, "the case's own, or the built-in one")
    add_json(parser, "what became smaller, as one document; needs --output,")
    parser.set_defaults(run=_reduce)


def _reduce(options: argparse.Namespace) -> int:
    if options.json and options.output is None:
        raise BadInput("--json needs --output FILE for the case")
    case = load_case(options.case)
    walker = options.walker or case.walker
    signature, reduced = contained(lambda: _reduced(case, walker, options.claims))
    data = dump_case(reduced.case)
    if options.output is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
    else:
        write_file(options.output, data)
    sizes = {
        "entries": (len(case.entries), len(reduced.case.entries)),
        "probes": (len(case.probes), len(reduced.case.probes)),
    }
    if options.json:
        emit(
            {
                "signature": str(signature),
                **{name: {"before": was, "after": now} for name, (was, now) in sizes.items()},
                "tries": reduced.tries,
                "minimal": reduced.done,
            }
        )
        return 0
    remark(str(signature))
    for name, (was, now) in sizes.items():
        remark(f"{name}: {was:,} to {now:,}")
    remark(f"{reduced.tries:,} cases tried{'' if reduced.done else ', the most there may be'}")
    if options.output is not None:
        remark(f"replay: crosswalk replay {options.output}{walker_option(walker)}")
    return 0


def _reduced(case: Case, walker: str | None, claims: str | None) -> tuple[Signature, Reduced]:
    peer = None if walker is None else open_peer(walker, claims=claims)
    tester = Tester(peer=peer)
    try:
        found = signatures_of(tester, case)
        if not found:
            raise BadInput("nothing diverges in this case: there is nothing to reduce to")
        return found[0], reduced_to(tester, case, found[0])
    finally:
        if peer is not None:
            peer.close()
