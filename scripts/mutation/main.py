"""Takes every rule out of the walker, one at a time, and says what notices."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.mutation.explained import Explanation, load_table, unexplained, unfounded
from scripts.mutation.judge import killed, samples
from scripts.mutation.mutants import Mutant, mutants_of
from scripts.mutation.pairs import kept_pairs, killed_in_guest_mode
from scripts.mutation.suite import MODULES, NESTED, fails_tests

_ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of the mutants: all, those that the CPU's answers leave, and those left then.

    `wrong` are explanations that don't hold, and why.
    """

    mutants: list[Mutant]
    left: list[Mutant]
    survivors: list[Mutant]
    strangers: list[Mutant]
    wrong: list[tuple[Explanation, str]]
    seconds: float

    @property
    def good(self) -> bool:
        """Whether each survivor is explained, and each explanation holds."""
        return not self.strangers and not self.wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table of mutants killed, and survivors; status 1 unless all of them are explained."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="which combinations are drawn (0)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    parser.add_argument("--module", choices=MODULES, action="append", help="only this (all)")
    parser.add_argument("--json", action="store_true", help="print one document as JSON")
    options = parser.parse_args(arguments)
    tally = take_out(options.module or MODULES, options.seed, options.jobs)
    if options.json:
        print(json.dumps(_record(tally)))
    else:
        _tell(tally)
    return 0 if tally.good else 1


def take_out(modules: Sequence[str], seed: int, jobs: int) -> Tally:
    """Make all mutants of these modules, and see which are noticed."""
    began = time.monotonic()
    table = [row for row in load_table() if row.module in modules]
    taken = samples(seed) if set(modules) - {NESTED} else []
    kept = kept_pairs(seed) if NESTED in modules else []
    mutants = [
        mutant
        for module in modules
        for mutant in mutants_of(module, (_ROOT / _path(module)).read_text("utf-8"))
    ]

    def noticed(mutant: Mutant) -> bool:
        if mutant.module == NESTED:
            return killed_in_guest_mode(mutant, kept)
        return killed(mutant, taken)

    left = _alive(jobs, mutants, noticed, "by the CPU")
    survivors = _alive(jobs, left, fails_tests, "by tests")
    return Tally(
        mutants,
        left,
        survivors,
        unexplained(survivors, table),
        unfounded(table, mutants, survivors),
        time.monotonic() - began,
    )


def _path(module: str) -> str:
    return f"walker/{module.replace('.', '/')}.py"


def _alive(
    jobs: int, mutants: list[Mutant], noticed: Callable[[Mutant], bool], how: str
) -> list[Mutant]:
    """Return the mutants that aren't noticed, in order; each is judged in a process of its own.

    Processes and no threads: what is judged forks, and a fork of one thread has the locks of all.
    """
    running: dict[int, Mutant] = {}
    alive, rest, done = set(), iter(mutants), 0
    while True:
        while len(running) < jobs and (mutant := next(rest, None)) is not None:
            running[_judge(mutant, noticed)] = mutant
        if not running:
            return [mutant for mutant in mutants if mutant in alive]
        child, status = os.wait()
        mutant, code = running.pop(child), os.waitstatus_to_exitcode(status)
        if code not in (0, 1):
            raise RuntimeError(f"{mutant} could not be judged {how}: status {code}")
        if code == 0:
            alive.add(mutant)
        done += 1
        if done % 50 == 0 or done == len(mutants):
            print(f"{done} of {len(mutants)} judged {how}, {len(alive)} left", file=sys.stderr)


def _judge(mutant: Mutant, noticed: Callable[[Mutant], bool]) -> int:
    """Start a process that ends with 1 if the mutant is noticed, 0 if not; return its id."""
    child = os.fork()
    if child == 0:
        status = 2
        try:
            status = int(noticed(mutant))
        finally:
            os._exit(status)
    return child


def _rows(tally: Tally) -> list[tuple[str, int, int, int, int]]:
    """Return for each module: mutants, killed by the CPU's answers, by tests, survivors."""
    rows = []
    for module in dict.fromkeys(mutant.module for mutant in tally.mutants):
        every, rest, alive = (
            sum(each.module == module for each in group)
            for group in (tally.mutants, tally.left, tally.survivors)
        )
        rows.append((module, every, every - rest, rest - alive, alive))
    return rows


def _record(tally: Tally) -> dict[str, object]:
    names = ("module", "mutants", "by_cpu", "by_tests", "survive")
    return {
        "modules": [dict(zip(names, row, strict=True)) for row in _rows(tally)],
        "unexplained": [_as_row(mutant) for mutant in tally.strangers],
        "unfounded": [f"{_explained(row)}: {why}" for row, why in tally.wrong],
        "seconds": round(tally.seconds, 1),
    }


def _as_row(mutant: Mutant) -> dict[str, object]:
    return {
        "module": mutant.module,
        "line": mutant.line,
        "function": mutant.function,
        "was": mutant.before,
        "became": mutant.after,
    }


def _explained(row: Explanation) -> str:
    return f"{_path(row.module)} {row.function}: {row.was} -> {row.became}"


def _tell(tally: Tally) -> None:
    print(f"{'module':<18}{'mutants':>9}{'by the CPU':>12}{'by tests':>10}{'survive':>9}")
    for module, *counts in _rows(tally):
        every, by_cpu, by_tests, alive = counts
        print(f"{module:<18}{every:>9}{by_cpu:>12}{by_tests:>10}{alive:>9}")
    for each in tally.strangers:
        place = f"{_path(each.module)}:{each.line} {each.function}"
        print(f"survives, unexplained: {place}: {each.before} -> {each.after}")
    for row, why in tally.wrong:
        print(f"explained for nothing, {why}: {_explained(row)}")
    count = len(tally.survivors) - len(tally.strangers)
    print(f"{len(tally.mutants)} mutants in {tally.seconds:.0f} s; {count} survivors explained")


if __name__ == "__main__":
    sys.exit(main())
