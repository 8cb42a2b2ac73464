"""`reduce`: a case as small as it can be."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from emu.cli.contain import contained
from emu.cli.output import add_json, emit, remark, write_file
from emu.cli.walkers import Chosen, add_walker, chosen_walker, names_another, replay_command
from emu.fuzz.attempt import Tester
from emu.fuzz.reduce import Reduced
from emu.fuzz.reduce.same import reduced_to, signatures_of
from emu.fuzz.signature import Signature
from walker.errors import BadInput
from walker.source import Case, dump_case, load_case

__all__ = ["add_commands"]


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `reduce`."""
    parser = commands.add_parser("reduce", help="shrink a case while it shows the same")
    parser.add_argument("case", metavar="CASE", type=Path, help="a case file with a divergence")
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="write it here (standard output)"
    )
    add_walker(parser, "none but the built-in one: what a case names isn't run unasked")
    add_json(parser, "what became smaller, as one document; needs --output,")
    parser.set_defaults(run=_reduce)


def _reduce(options: argparse.Namespace) -> int:
    if options.json and options.output is None:
        raise BadInput("--json needs --output FILE for the case")
    case = load_case(options.case)
    chosen = chosen_walker(options)
    names_another(str(options.case), case, chosen)
    signature, reduced = contained(lambda: _reduced(case, chosen))
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
        remark(f"replay: {replay_command(options.output, chosen.name, chosen.claims)}")
    return 0


def _reduced(case: Case, chosen: Chosen) -> tuple[Signature, Reduced]:
    with chosen.opened() as peer:
        tester = Tester(peer=peer)
        found = signatures_of(tester, case)
        if not found:
            raise BadInput("nothing diverges in this case: there is nothing to reduce to")
        reduced = reduced_to(tester, case, found[0])
        if chosen.name is not None:
            reduced = replace(reduced, case=replace(reduced.case, walker=chosen.name))
        return found[0], reduced
