"""`replay`: predicted and observed for every probe of a case."""

import argparse
import sys
from dataclasses import dataclass

import numpy as np

from emu.check import Divergence, compare_all
from emu.check.compare import choose
from emu.check.composite_check import CompositeStand
from emu.cli.asking import Asked, asked, asked_case, asked_lines
from emu.cli.contain import contained
from emu.cli.output import add_json, remark
from emu.cli.walkers import Chosen, add_walker, chosen_walker, names_another
from emu.peers import Peer
from emu.probe import Prober
from emu.report.composite_case import CompositeCase, dump_composite, load_composite
from emu.report.composite_text import composite_lines
from emu.report.records import access_of, replayed_case
from emu.report.text import access_text, divergence_lines, outcome_text
from walker.bulk import translate_many
from walker.columns import Accesses, Outcomes
from walker.errors import BadInput
from walker.source import Case, SourceKind, dump_case, open_source, parse_int

__all__ = ["add_commands"]

_DESCRIPTION = """\
Make every probe of a case, and say what was predicted and what was observed. With --walker that
walker is asked too: exit status 1 says then that it is wrong somewhere, and with --json
`predicted` is what it said. A walker that a case names is run only if --walker names it too."""

_EPILOG = """\
exit status: 0 agreement; 1 a divergence; 2 bad input, or the emulator crashes or hangs."""


@dataclass(frozen=True, slots=True)
class _Replayed:
    """A case's accesses, what was predicted and observed, and where those differ."""

    accesses: Accesses
    predicted: Outcomes
    observed: Outcomes
    divergences: list[Divergence]

    @property
    def divergent(self) -> int:
        """How many divergences are none of the known ones."""
        return sum(divergence.known is None for divergence in self.divergences)

    @property
    def truth(self) -> Outcomes:
        """What was observed; where the emulator is known to be wrong, what was predicted."""
        wrong = {divergence.access for divergence in self.divergences if divergence.known}
        rows = [self.accesses[row] in wrong for row in range(len(self.accesses))]
        return choose(np.array(rows, np.bool_), self.predicted, self.observed)


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `replay`."""
    parser = commands.add_parser(
        "replay",
        help="predicted and observed for each probe of a case",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("cases", metavar="CASE", nargs="+", help="a case file")
    parser.add_argument(
        "--time-limit",
        metavar="SECONDS",
        default="120",
        help="for how long a case may take before the emulator counts as hanging (120)",
    )
    add_walker(parser, "none but the built-in one")
    add_json(parser, "each case, with both outcomes filled in,")
    parser.set_defaults(run=_replay)


def _replay(options: argparse.Namespace) -> int:
    chosen = chosen_walker(options)
    limit = parse_int(options.time_limit, "--time-limit", bits=32)
    with chosen.opened() as peer:
        wrong = [_one(name, chosen, peer, limit, as_json=options.json) for name in options.cases]
    return int(any(wrong))


def _one(name: str, chosen: Chosen, peer: Peer | None, limit: int, *, as_json: bool) -> bool:
    """Replay one case and return whether something is wrong."""
    composite = load_composite(name)
    if composite is not None:
        if peer is not None:
            raise BadInput(f"{name}: a walker can't be asked for a composite")
        return _composite(name, composite, limit, as_json=as_json)
    case = open_source(name, kind=SourceKind.CASE).case
    if case is None:
        raise BadInput(f"{name}: not a case")
    names_another(name, case, chosen)
    replayed = contained(lambda: _outcomes(case), limit)
    told = None
    if peer is not None:
        told = asked(peer, case.memory(), case.context(), replayed.accesses, replayed.truth)
    if as_json:
        filled = replayed_case(case, replayed.predicted, replayed.observed)
        if told is not None:
            filled = asked_case(case, told, replayed.truth, replayed.observed)
            if told.failure is not None:
                remark(f"{name}: {told.failure}")
        sys.stdout.flush()
        sys.stdout.buffer.write(dump_case(filled))
    else:
        _tell(name, case, replayed, told)
    return bool(replayed.divergent or (told is not None and told.wrong))


def _composite(name: str, case: CompositeCase, limit: int, *, as_json: bool) -> bool:
    """Replay a composite's case, and return whether it diverges for no known reason."""
    inner = case.case
    judged = contained(
        lambda: CompositeStand().judge(inner.memory(), inner.context(), case.composite), limit
    )
    if as_json:
        sys.stdout.flush()
        sys.stdout.buffer.write(dump_composite(case, judged.claims, judged.seen))
    else:
        for line in composite_lines(name, case, judged):
            print(line)
    return bool(judged.differ[0])


def _outcomes(case: Case) -> _Replayed:
    memory, context = case.memory(), case.context()
    accesses = Accesses.of([access_of(probe) for probe in case.probes])
    predicted = translate_many(memory, context, accesses)
    observed = Prober(memory, context).probe(accesses)
    divergences = compare_all(memory, context, accesses, predicted, observed)
    return _Replayed(accesses, predicted, observed, divergences)


def _tell(name: str, case: Case, replayed: _Replayed, told: Asked | None) -> None:
    counts = f"{name}: probes {len(case.probes)}, divergences {len(replayed.divergences)}"
    print(counts if told is None else f"{counts}, wrong answers of {told.peer.name}: {told.wrong}")
    by_access = {divergence.access: divergence for divergence in replayed.divergences}
    for row in range(len(replayed.accesses)):
        access = replayed.accesses[row]
        divergence = by_access.get(access)
        if divergence is not None:
            for line in divergence_lines(divergence, case.context()):
                print(line)
            if divergence.known:
                print(f"  known emulator divergence: {divergence.known}")
        elif told is None:
            print(f"agree: {access_text(access)}: {outcome_text(replayed.observed[row])}")
    if told is not None:
        both = replayed.predicted, replayed.observed
        for line in asked_lines(case.memory(), case.context(), told, *both):
            print(line)
    if not case.probes:
        remark(f"{name}: no probes to replay")
