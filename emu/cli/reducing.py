"""`reduce`: a case as small as it can be."""

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from emu.cli.output import add_json, emit, remark, write_file
from emu.cli.walkers import Chosen, add_walker, chosen_walker, replay_command
from emu.fuzz.reduce import Reduced
from emu.fuzz.reduce.same import reduced_to, signature_to_keep
from emu.fuzz.reduce.trial import Trial
from emu.fuzz.signature import Signature
from emu.peers.builtin import BUILTIN
from walker.errors import BadInput
from walker.source import Case, dump_case, load_case

__all__ = ["add_commands"]

_DESCRIPTION = """\
Make a case as small as it can be while it shows the same: the rule that two witnesses see
differently, or the crash or hang of the emulator. Probes and entries are taken away, bits and
control state made plain, tables and addresses moved low. Where a case shows several things, it is
reduced to the one that its note names, or else to the first.

The same case comes to the same bytes, and a reduced one to itself. Everything is tried in a
process of its own. It ends after 3,000 cases, or 24 that hang, and says so."""

_EPILOG = """\
exit status: 0 reduced; 2 bad usage or bad input, or a case that shows nothing; 130 interrupted.
To see the result: crosswalk replay FILE."""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `reduce`."""
    parser = commands.add_parser(
        "reduce",
        help="shrink a case while it shows the same",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
    chosen = _walker(options, case)
    signature, reduced = _reduced(case, chosen)
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
    end = "" if reduced.done else "; that is the limit, and it may not be the smallest"
    remark(f"{reduced.tries:,} cases tried{end}")
    if options.output is not None:
        remark(f"replay: {replay_command(options.output, chosen.name, chosen.claims)}")
    return 0


def _walker(options: argparse.Namespace, case: Case) -> Chosen:
    """Return the walker under test; a case may not choose what program is run here."""
    if options.walker is None and case.walker in BUILTIN:
        options.walker = case.walker
    chosen = chosen_walker(options)
    if chosen.name is None and case.walker is not None:
        again = shlex.join(["--walker", case.walker])
        raise BadInput(f"{options.case}: found with a walker under test; to run that, say {again}")
    with chosen.opened():
        pass  # Errors now, and by their name.
    return chosen


def _reduced(case: Case, chosen: Chosen) -> tuple[Signature, Reduced]:
    trial = Trial(chosen.name, chosen.claims, chosen.limits)
    try:
        signature = signature_to_keep(trial, case)
        if signature is None:
            raise BadInput("nothing diverges in this case: there is nothing to reduce to")
        reduced = reduced_to(trial, case, signature)
    finally:
        trial.close()
    if chosen.name is not None:
        reduced = replace(reduced, case=replace(reduced.case, walker=chosen.name))
    return signature, reduced
