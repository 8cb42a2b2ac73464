"""`nested`: the walk in two dimensions, cross-checked on random pairs of layouts."""

import argparse
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from crosswalk.emu.check.departures import FATAL, Scope, departures
from crosswalk.emu.check.nested import KINDS
from crosswalk.emu.cli.output import command_text, emit, print_verdict, progress, remark
from crosswalk.emu.fuzz.nested import make_pair
from crosswalk.emu.fuzz.nested.campaign import PairCrash, PairResult, pair_results
from crosswalk.emu.report.conclusion import agreement
from crosswalk.emu.report.text import access_text, count_text
from crosswalk.emu.report.verdict import nested_divergence_lines
from crosswalk.emu.workers.process import ProcessLost

__all__ = ["run"]

_SHOWN = 10
_FATAL = "would end the emulator"


@dataclass(slots=True)
class _Sum:
    pairs: int = 0
    probes: int = 0
    agreements: int = 0
    divergences: int = 0
    explained: int = 0
    fatal: int = 0
    proved: int = 0
    survived: int = 0
    crashes: int = 0
    known: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, result: PairResult | PairCrash) -> None:
        self.pairs += 1
        if isinstance(result, PairCrash):
            self.crashes += 1
            return
        verdict = result.verdict
        self.probes += verdict.probes
        self.agreements += verdict.agreements
        self.divergences += len(verdict.divergences)
        self.explained += verdict.explained
        self.fatal += len(verdict.fatal)
        self.proved += result.proved
        self.survived += len(result.survived)
        self.known.update(verdict.known)
        self.counts.update(verdict.counts)

    @property
    def failed(self) -> bool:
        return bool(self.divergences or self.crashes or self.survived)


def run(options: argparse.Namespace) -> int:
    """Check pairs of layouts, report the verdict, and return the exit status."""
    seed, accesses = options.seed, options.accesses
    only = options.pair
    numbers = range(options.pairs) if only is None else range(only, only + 1)
    show = remark if options.json else print
    total, shown, began = _Sum(), 0, time.monotonic()
    lost = None
    with progress("pairs", lines=True) as report:
        try:
            for result in pair_results(seed, numbers, accesses, options.jobs):
                total.add(result)
                if report is not None:
                    report(total.pairs, len(numbers))
                shown += _report(result, seed, accesses, show, _SHOWN - shown)
        except ProcessLost as error:
            lost = error
            remark(str(lost))
    seconds = time.monotonic() - began
    status = 1 if total.failed else 0 if total.probes and lost is None else 2
    if options.json:
        emit(_record(total, seconds) | {"reproduce": command_text(options)})
    else:
        _print(total, seconds)
        if options.verbose:
            _explain(total)
        finished = lost is None or total.failed
        print_verdict(_word(total) if finished else f"not finished: {lost}", status)
        print(f"reproduce: {command_text(options)}")
    return status


def _word(total: _Sum) -> str:
    """Return the verdict: agreement on no more than was asked."""
    if total.failed:
        return "FAILED"
    clauses = []
    if total.explained:
        clauses.append(f"known divergences: {total.explained:,}")
    if total.fatal:
        clauses.append(f"not asked: {total.fatal:,} ({_FATAL})")
    word = "nothing asked"
    if total.probes:
        word = agreement(total.agreements, total.probes, total.fatal)
    return "; ".join([word, *clauses])


def _report(
    result: PairResult | PairCrash, seed: int, accesses: int, show: Callable[[str], None], most: int
) -> int:
    """Report up to `most` findings in a pair; return how many there are."""
    findings: list[list[str]] = []
    if isinstance(result, PairCrash):
        alone = "; ".join(access_text(access) for access in result.accesses[:_SHOWN])
        findings.append([f"{result.how}; alone: {alone or 'none'}"])
    else:
        pair = make_pair(seed, result.number, accesses) if result.verdict.divergences else None
        if pair is not None:
            findings += [
                list(nested_divergence_lines(pair.memory, pair.context, each))
                for each in result.verdict.divergences[: max(0, most)]
            ]
        findings += [
            [f"{access_text(access)}: the emulator was to crash, and didn't"]
            for access in result.survived
        ]
    again = f"--seed {seed} --accesses {accesses} --pair {result.number}"
    for lines in findings[: max(0, most)]:
        show(f"pair {result.number} of seed {seed}; reproduce: crosswalk nested {again}")
        for line in lines:
            show(line)
    return len(findings)


def _record(total: _Sum, seconds: float) -> dict[str, object]:
    return {
        "pairs": total.pairs,
        "probes": total.probes,
        "agreements": total.agreements,
        "divergences": total.divergences,
        "known_divergences": total.explained,
        "known": dict(sorted(total.known.items())),
        "predicted_only": {},
        "not_asked": {_FATAL: total.fatal} if total.fatal else {},
        "outcomes": {kind: total.counts[kind] for kind in KINDS},
        "crashes_foreseen": total.fatal,
        "crashes_proved": total.proved - total.survived,
        "crashes_that_did_not_come": total.survived,
        "crashes_not_foreseen": total.crashes,
        "seconds": round(seconds, 3),
    }


def _print(total: _Sum, seconds: float) -> None:
    for kind in KINDS:
        count = total.counts[kind]
        print(f"{kind:<30} {count:>9,}  {count / max(total.probes, 1):>6.1%}")
    rate = total.probes / seconds if seconds else 0
    print()
    print(
        f"{count_text(total.pairs, 'pair')}, {total.probes:,} probes in {seconds:.1f} s "
        f"({rate:,.0f} a second): {total.agreements:,} agree, {total.divergences:,} diverge, "
        f"{total.explained:,} known"
    )
    for entry in departures(Scope.NESTED):
        if total.known[entry.id]:
            known = count_text(total.known[entry.id], "known emulator divergence")
            print(f"{known}, {entry.id}: {entry.differs}")
    print(
        f"{total.fatal:,} accesses not made, {FATAL.id}: {FATAL.differs} "
        f"{total.proved - total.survived:,} of {total.proved:,} tried did."
    )
    if total.crashes:
        print(f"{total.crashes:,} crashes that were not foreseen")


def _explain(total: _Sum) -> None:
    for entry in (*departures(Scope.NESTED), FATAL):
        if total.known[entry.id] or (entry is FATAL and total.fatal):
            print(f"{entry.id}:")
            print(f"  manual: {entry.manual}")
            print(f"  reason: {entry.reason}")
