"""`replay`: predicted and observed for every probe of a case."""

import argparse
import sys

from emu.check import Divergence, compare_all
from emu.cli.contain import contained
from emu.cli.output import add_json, remark
from emu.probe import Prober
from emu.report.records import access_of, replayed_case
from emu.report.text import access_text, divergence_lines, outcome_text
from walker.bulk import translate_many
from walker.columns import Accesses, Outcomes
from walker.errors import BadInput
from walker.source import Case, SourceKind, dump_case, open_source, parse_int

__all__ = ["add_commands"]

_EPILOG = """\
exit status: 0 agreement; 1 a divergence; 2 bad input, or the emulator crashes or hangs."""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `replay`."""
    parser = commands.add_parser(
        "replay", help="predicted and observed for each probe of a case", epilog=_EPILOG
    )
    parser.add_argument("cases", metavar="CASE", nargs="+", help="a case file")
    parser.add_argument(
        "--time-limit",
        metavar="SECONDS",
        default="120",
        help="for how long a case may take before the emulator counts as hanging (120)",
    )
    add_json(parser, "each case, with both outcomes filled in,")
    parser.set_defaults(run=_replay)


def _replay(options: argparse.Namespace) -> int:
    divergent = 0
    limit = parse_int(options.time_limit, "--time-limit", bits=32)
    for name in options.cases:
        source = open_source(name, kind=SourceKind.CASE)
        case = source.case
        if case is None:
            raise BadInput(f"{name}: not a case")
        predicted, observed = contained(lambda case=case: _outcomes(case), limit)  # type: ignore[misc]
        divergences = compare_all(
            case.memory(), case.context(), _accesses(case), predicted, observed
        )
        divergent += sum(divergence.known is None for divergence in divergences)
        if options.json:
            sys.stdout.flush()
            sys.stdout.buffer.write(dump_case(replayed_case(case, predicted, observed)))
        else:
            _tell(name, case, observed, divergences)
    return 1 if divergent else 0


def _accesses(case: Case) -> Accesses:
    return Accesses.of([access_of(probe) for probe in case.probes])


def _outcomes(case: Case) -> tuple[Outcomes, Outcomes]:
    memory, context, accesses = case.memory(), case.context(), _accesses(case)
    return translate_many(memory, context, accesses), Prober(memory, context).probe(accesses)


def _tell(name: str, case: Case, observed: Outcomes, divergences: list[Divergence]) -> None:
    print(f"{name}: probes {len(case.probes)}, divergences {len(divergences)}")
    by_access = {divergence.access: divergence for divergence in divergences}
    for at, probe in enumerate(case.probes):
        access = access_of(probe)
        divergence = by_access.get(access)
        if divergence is None:
            print(f"agree: {access_text(access)}: {outcome_text(observed[at])}")
            continue
        for line in divergence_lines(divergence, case.context()):
            print(line)
        if divergence.known:
            print(f"  known emulator divergence: {divergence.known}")
    if not case.probes:
        remark(f"{name}: no probes to replay")
