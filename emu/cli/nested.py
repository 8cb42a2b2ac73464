"""`nested`: the walk in two dimensions, cross-checked on random pairs of layouts."""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from crosswalk.emu.check.departures import FATAL, PANIC, UNICORN, Departure, Scope, departures
from crosswalk.emu.check.judged import kind_of
from crosswalk.emu.check.nested import EPT_KINDS, KINDS, NestedDivergence
from crosswalk.emu.cli.output import (
    command_line,
    command_text,
    emit,
    print_verdict,
    progress,
    remark,
)
from crosswalk.emu.fuzz.nested import make_pair
from crosswalk.emu.fuzz.nested.campaign import PairCrash, PairResult, pair_results
from crosswalk.emu.fuzz.nested.judged import JudgedPair, judged_pairs
from crosswalk.emu.judges.nested.judge import NestedJudge
from crosswalk.emu.judges.nested.registry import NESTED_JUDGES, open_nested_judge
from crosswalk.emu.report.conclusion import agreement, counted
from crosswalk.emu.report.text import access_text, count_text
from crosswalk.emu.report.verdict import nested_divergence_lines
from crosswalk.emu.workers.process import ProcessLost
from crosswalk.walker.errors import BadInput
from crosswalk.walker.protection.policy import TableKind

__all__ = ["run"]

_SHOWN = 10
_FATAL = "would end the emulator"

Result = PairResult | PairCrash | JudgedPair


@dataclass(slots=True)
class _Sum:
    """The sum of all pairs; `who` was asked, by its name in the registry of departures."""

    tables: TableKind
    who: str = UNICORN
    pairs: int = 0
    probes: int = 0
    agreements: int = 0
    divergences: int = 0
    explained: int = 0
    fatal: int = 0
    proved: int = 0
    survived: int = 0
    crashes: int = 0
    ended: int = 0
    not_shown: Counter[str] = field(default_factory=Counter)
    known: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, result: Result) -> None:
        """Add what came of a pair."""
        self.pairs += 1
        if isinstance(result, PairCrash):
            self.crashes += 1
            return
        verdict = result.verdict
        self.probes += verdict.probes
        self.agreements += verdict.agreements
        self.divergences += len(verdict.divergences)
        self.explained += len(verdict.explained)
        self.fatal += len(verdict.fatal)
        self.proved += result.proved
        self.survived += len(result.survived)
        self.ended += len(verdict.ended)
        self.not_shown.update({each.text: n for each, n in verdict.not_shown.items()})
        self.known.update(verdict.known)
        self.counts.update(verdict.counts)

    @property
    def failed(self) -> bool:
        """Whether anything is other than foreseen."""
        return bool(self.divergences or self.crashes or self.survived or self.ended)

    @property
    def not_asked(self) -> dict[str, int]:
        """Counts of accesses without an outcome, by reason."""
        fatal = {_FATAL: self.fatal} if self.fatal else {}
        return fatal | dict(sorted(self.not_shown.items()))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of outcome that there are under these tables."""
        return KINDS if self.tables is TableKind.NPT else EPT_KINDS

    @property
    def departures(self) -> tuple[Departure, ...]:
        """What is known of who was asked."""
        return departures(Scope.NESTED, who=self.who)

    @property
    def fatal_departure(self) -> Departure | None:
        """What ends who was asked, if it is known to end at anything."""
        return next((each for each in (FATAL, PANIC) if each.shown_by(self.who)), None)


def run(options: argparse.Namespace) -> int:
    """Check pairs of layouts, report the verdict, and return the exit status."""
    only = options.pair
    numbers = range(options.pairs) if only is None else range(only, only + 1)
    show = remark if options.json else print
    total, shown, began = _Sum(TableKind(options.tables)), 0, time.monotonic()
    lost = None
    with ExitStack() as opened, progress("pairs", lines=True) as report:
        judge = _opened(options, opened)
        try:
            for result in _results(options, judge, numbers):
                total.add(result)
                if report is not None:
                    report(total.pairs, len(numbers))
                shown += _report(result, options, show, _SHOWN - shown)
                if only is not None and options.verbose:
                    _show_known(result, options, show)
        except ProcessLost as error:
            lost = error
            remark(str(lost))
        if judge is not None:
            total.who = kind_of(judge.name, judge.version)
        version = "" if judge is None else judge.version
    seconds = time.monotonic() - began
    status = 1 if total.failed else 0 if total.probes and lost is None else 2
    if options.json:
        asked = _judge_record(options, version)
        emit(_record(total, seconds) | asked | {"reproduce": command_text(options)})
    else:
        _print(total, seconds, version)
        if options.verbose:
            _explain(total)
        finished = lost is None or total.failed
        print_verdict(_word(total) if finished else f"not finished: {lost}", status)
        print(f"reproduce: {command_text(options)}")
    return status


def _opened(options: argparse.Namespace, opened: ExitStack) -> NestedJudge | None:
    """Return the machine to ask, which is closed with the stack; None for the emulated CPU."""
    tables = TableKind(options.tables)
    if options.judge in {None, UNICORN} and tables is TableKind.NPT:
        return None
    if options.judge is None:
        raise BadInput(
            f"--tables {tables}: the emulated CPU has none; "
            f"give --with {' or '.join(NESTED_JUDGES[tables])} (scripts/judges fetches machines)"
        )
    return opened.enter_context(open_nested_judge(options.judge, tables))


def _results(
    options: argparse.Namespace, judge: NestedJudge | None, numbers: Sequence[int]
) -> Iterator[Result]:
    seed, accesses = options.seed, options.accesses
    if judge is None:
        yield from pair_results(seed, numbers, accesses, options.jobs)
    else:
        yield from judged_pairs(judge, TableKind(options.tables), seed, numbers, accesses)


def _word(total: _Sum) -> str:
    """Return the verdict: agreement on no more than was asked."""
    if total.failed:
        return "FAILED"
    clauses = []
    if total.explained:
        clauses.append(f"known divergences: {total.explained:,}")
    if total.not_asked:
        clauses.append(f"not asked: {counted(total.not_asked)}")
    word = "nothing asked"
    if total.probes:
        word = agreement(total.agreements, total.probes, sum(total.not_asked.values()))
    return "; ".join([word, *clauses])


def _report(
    result: Result, options: argparse.Namespace, show: Callable[[str], None], most: int
) -> int:
    """Report up to `most` findings in a pair; return how many there are."""
    findings = list(_findings(result, options, most))
    again = _again(options, result.number)
    for lines in findings[: max(0, most)]:
        show(f"pair {result.number} of seed {options.seed}; reproduce: {again}")
        for line in lines:
            show(line)
    return len(findings)


def _findings(result: Result, options: argparse.Namespace, most: int) -> Iterator[list[str]]:
    """Yield the lines about each finding; about divergences no more than `most`."""
    if isinstance(result, PairCrash):
        alone = "; ".join(access_text(access) for access in result.accesses[:_SHOWN])
        yield [f"{result.how}; alone: {alone or 'none'}"]
        return
    yield from _with_walks(result, result.verdict.divergences[: max(0, most)], options)
    for access, reason in result.verdict.ended:
        yield [f"{access_text(access)}: the machine {reason.exact or reason.text}"]
    for access in result.survived:
        yield [f"{access_text(access)}: the emulator was to crash, and didn't"]


def _with_walks(
    result: PairResult | JudgedPair,
    divergences: Sequence[NestedDivergence],
    options: argparse.Namespace,
) -> Iterator[list[str]]:
    """Yield the lines about divergences, each with its walk in the memory that was asked about."""
    if not divergences:
        return
    if isinstance(result, JudgedPair):
        memory, context = result.said.memory, result.said.context
    else:
        pair = make_pair(options.seed, result.number, options.accesses)
        memory, context = pair.memory, pair.context
    for each in divergences:
        yield list(nested_divergence_lines(memory, context, each))


def _show_known(result: Result, options: argparse.Namespace, show: Callable[[str], None]) -> None:
    """Show every divergence of a pair that known departures explain."""
    if isinstance(result, PairCrash):
        return
    for lines in _with_walks(result, result.verdict.explained, options):
        for line in lines:
            show(line)


def _again(options: argparse.Namespace, number: int) -> str:
    """Return the command that checks one pair again."""
    tables = [] if options.tables == TableKind.NPT else ["--tables", options.tables]
    judge = [] if options.judge is None else ["--with", options.judge]
    numbers = {"--seed": options.seed, "--accesses": options.accesses, "--pair": number}
    given = [word for name, value in numbers.items() for word in (name, str(value))]
    return command_line(["crosswalk", "nested", *tables, *judge, *given])


def _record(total: _Sum, seconds: float) -> dict[str, object]:
    return {
        "pairs": total.pairs,
        "probes": total.probes,
        "agreements": total.agreements,
        "divergences": total.divergences,
        "known_divergences": total.explained,
        "known": dict(sorted(total.known.items())),
        "predicted_only": {},
        "not_asked": total.not_asked,
        "outcomes": {kind: total.counts[kind] for kind in total.kinds},
        "crashes_foreseen": total.fatal,
        "crashes_proved": total.proved - total.survived,
        "crashes_that_did_not_come": total.survived,
        "crashes_not_foreseen": total.crashes + total.ended,
        "seconds": round(seconds, 3),
    }


def _judge_record(options: argparse.Namespace, version: str) -> dict[str, object]:
    """Return which tables were asked about, and who was asked; nothing about the emulated CPU."""
    if not version:
        return {}
    return {"tables": options.tables, "judge": {"name": options.judge, "version": version}}


def _print(total: _Sum, seconds: float, version: str) -> None:
    for kind in total.kinds:
        count = total.counts[kind]
        print(f"{kind:<30} {count:>9,}  {count / max(total.probes, 1):>6.1%}")
    rate = total.probes / seconds if seconds else 0
    print()
    if version:
        print(f"asked: {version}")
    print(
        f"{count_text(total.pairs, 'pair')}, {total.probes:,} probes in {seconds:.1f} s "
        f"({rate:,.0f} a second): {total.agreements:,} agree, {total.divergences:,} diverge, "
        f"{total.explained:,} known"
    )
    for entry in total.departures:
        if total.known[entry.id]:
            known = count_text(total.known[entry.id], "known emulator divergence")
            print(f"{known}, {entry.id}: {entry.differs}")
    fatal = total.fatal_departure
    # Of the emulated CPU it is always said.
    if fatal is not None and (fatal is FATAL or total.fatal or total.proved):
        print(
            f"{total.fatal:,} accesses not made, {fatal.id}: {fatal.differs} "
            f"{total.proved - total.survived:,} of {total.proved:,} tried did."
        )
    for reason, count in sorted(total.not_shown.items()):
        accesses = "access" if count == 1 else "accesses"
        print(f"{count:,} {accesses} without an outcome: {reason}")
    if total.crashes + total.ended:
        print(f"{total.crashes + total.ended:,} crashes that were not foreseen")


def _explain(total: _Sum) -> None:
    fatal = total.fatal_departure
    ending = [fatal] if fatal is not None and total.fatal else []
    for entry in (*(each for each in total.departures if total.known[each.id]), *ending):
        print(f"{entry.id}:")
        print(f"  manual: {entry.manual}")
        print(f"  reason: {entry.reason}")
