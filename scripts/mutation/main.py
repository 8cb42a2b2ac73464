"""Removes every rule of the walker, one at a time, and reports what notices."""

import argparse
import sys
import time
from collections.abc import Callable, Collection, Sequence

from crosswalk.emu.workers.pool import Pool, in_order
from scripts.mutation.explained import load_table, unexplained, unfounded
from scripts.mutation.judge import killed, samples
from scripts.mutation.mutants import ROOT, Mutant, constants_of, mutants_of, path_of
from scripts.mutation.pairs import (
    EPT_MODULES,
    KeptJudged,
    kept_judged,
    kept_pairs,
    killed_in_guest_mode,
    killed_under_ept,
)
from scripts.mutation.product import lines_of_both, noticed_by
from scripts.mutation.shared import DATA, SHARED
from scripts.mutation.suite import MODULES, NESTED, TESTED, fails_tests
from scripts.mutation.tally import Tally, run_by, show, write_json

_ALL = tuple(dict.fromkeys((*MODULES, *SHARED, *TESTED)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table of mutants killed, and survivors; status 1 unless all of them are explained."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="which combinations are drawn (0)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    parser.add_argument("--module", choices=_ALL, action="append", help="only this (all)")
    parser.add_argument("--shared", action="store_true", help="only what both sides run")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="one mutant of N (1)")
    parser.add_argument(
        "--with", dest="judge", metavar="J", help="ask this about EPT, too: bochs[:PATH]"
    )
    parser.add_argument("--json", action="store_true", help="print one document as JSON")
    options = parser.parse_args(arguments)
    if options.every < 1 or options.jobs < 1:
        parser.error("--every and --jobs are at least 1")
    modules = options.module or (SHARED if options.shared else _ALL)
    tally = judge_all(
        modules,
        options.seed,
        options.jobs,
        options.every,
        shared=options.shared,
        judge=options.judge,
    )
    if options.json:
        write_json(tally)
    else:
        show(tally)
    return 0 if tally.good else 1


def judge_all(
    modules: Sequence[str],
    seed: int,
    jobs: int,
    every: int = 1,
    *,
    shared: bool = False,
    judge: str | None = None,
) -> Tally:
    """Make the mutants of these modules, one of `every`, and see which are noticed.

    With `shared`, those alone that are on lines which both sides run.

    What the prediction and the observation both run is for the product's own commands to judge, and
    for nothing else: a survivor there is something both get wrong in one way. The rest is for the
    CPU's answers to a sample, where they tell, and then for tests; of `TESTED` no CPU tells,
    but of EPT the machine that `judge` names.
    """
    began = time.monotonic()
    named = [module for module in modules if module in SHARED]
    lines = lines_of_both(named) if named else set()
    ruling = set() if shared else set(modules) & _judged_by_cpus(judge)
    taken = samples(seed) if ruling - set(EPT_MODULES) else []
    under_ept = _kept_under_ept(ruling, seed, judge)
    kept = kept_pairs(seed) if NESTED in ruling else []
    both, others, told = [], [], []
    for module in modules:
        source = (ROOT / path_of(module)).read_text("utf-8")
        if module in DATA:
            both += constants_of(module, source)
        for mutant in mutants_of(module, source):
            if run_by(mutant, lines):
                both.append(mutant)
            elif module in ruling:
                others.append(mutant)
            elif module in TESTED and not shared:
                told.append(mutant)
    both, others, told = both[::every], others[::every], told[::every]
    mutants = [*both, *others, *told]

    def noticed(mutant: Mutant) -> bool:
        if mutant.module in EPT_MODULES:
            amd = mutant.module == NESTED and killed_in_guest_mode(mutant, kept)
            return amd or killed_under_ept(mutant, under_ept)
        return killed(mutant, taken)

    agreed = _alive(jobs, both, lambda each: noticed_by(each) is not None, "by the product")
    left = [*_alive(jobs, others, noticed, "by the CPU"), *told]
    survivors = [*agreed, *_alive(jobs, left, fails_tests, "by tests")]
    table = [row for row in load_table() if row.module in modules]
    if shared:
        table = [row for row in table if any(row.fits(mutant) for mutant in both)]
    return Tally(
        mutants,
        both,
        left,
        survivors,
        unexplained(survivors, table),
        unfounded(table, mutants, survivors) if every == 1 else [],
        time.monotonic() - began,
    )


def _judged_by_cpus(judge: str | None) -> set[str]:
    """Return the modules that state rules of which a CPU can be asked."""
    return {*MODULES, *(EPT_MODULES if judge is not None else ())}


def _kept_under_ept(ruling: Collection[str], seed: int, judge: str | None) -> list[KeptJudged]:
    """Return what the machine answered under EPT, where mutants of that are to be judged."""
    asked = judge is not None and not set(EPT_MODULES).isdisjoint(ruling)
    return kept_judged(judge, seed) if judge is not None and asked else []


def _alive(
    jobs: int, mutants: list[Mutant], noticed: Callable[[Mutant], bool], how: str
) -> list[Mutant]:
    """Return the mutants that aren't noticed, in order; says on standard error how far it is."""
    alive = []
    with Pool(lambda number: noticed(mutants[number]), jobs, who="a judge of mutants") as pool:
        for number, result in in_order(pool, range(len(mutants))):
            if not result():
                alive.append(mutants[number])
            done = number + 1
            if done % 50 == 0 or done == len(mutants):
                print(f"{done} of {len(mutants)} judged {how}, {len(alive)} left", file=sys.stderr)
    return alive


if __name__ == "__main__":
    sys.exit(main())
