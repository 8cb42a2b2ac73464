"""`replay`: predicted and observed for every probe of a case."""

import argparse
import sys

from emu.check import Divergence, compare_all
from emu.check.composite_check import CompositeStand
from emu.cli.contain import contained
from emu.cli.output import add_json, remark
from emu.probe import Prober
from emu.report.composite_case import CompositeCase, dump_composite, load_composite
from emu.report.composite_text import composite_lines
from emu.report.records import access_of, replayed_case
from emu.report.text import access_text, divergence_lines, outcome_text
from walker.bulk import translate_many
from walker.columns import Accesses, Outcomes
from walker.errors import BadInput
from walker.source import Case, SourceKind, dump_case, open_source

__all__ = ["add_commands"]


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `replay`."""
    parser = commands.add_parser("replay", help="predicted and observed for each probe of a case")
    parser.add_argument("cases", metavar="CASE", nargs="+", help="a case file")
    add_json(parser, "each case, with both outcomes filled in,")
    parser.set_defaults(run=_replay)


def _replay(options: argparse.Namespace) -> int:
    divergent = 0
    for name in options.cases:
        composite = load_composite(name)
        if composite is not None:
            divergent += _composite(name, composite, as_json=options.json)
            continue
        source = open_source(name, kind=SourceKind.CASE)
        case = source.case
        if case is None:
            raise BadInput(f"{name}: not a case")
        predicted, observed = contained(lambda case=case: _outcomes(case))  # type: ignore[misc]
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


def _composite(name: str, case: CompositeCase, *, as_json: bool) -> bool:
    """Replay a composite's case, and return whether it diverges for no known reason."""
    inner = case.case
    judged = contained(
        lambda: CompositeStand().judge(inner.memory(), inner.context(), case.composite)
    )
    if as_json:
        sys.stdout.flush()
        sys.stdout.buffer.write(dump_composite(case, judged.claims, judged.seen))
    else:
        for line in composite_lines(name, case, judged):
            print(line)
    return bool(judged.differ[0])


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
