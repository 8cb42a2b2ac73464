"""Small cases: one alone, many at once, and the Hypothesis example of docs/testing.md.

Drawn once, as files, so that all trees put the same accesses to the emulated CPU.
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from hypothesis import Phase, given, seed, settings

from crosswalk.emu.findings.layout import Layout, layout_case
from crosswalk.emu.testing.strategies import layouts
from crosswalk.walker.formats import dump_case
from scripts.benchmarks.trees import HERE, Row, Tree

__all__ = ["judge_cases", "measured_cases", "show_cases"]

_PROBES = 15  # A case.
_TIMES_ALONE, _HYPOTHESIS, _MANY = 0.4, 0.5, 1 / 8
_WORDS = 3.0
# Runs in each tree: a case after the other in one prober, and all at once where there is a way.
_WORK = """
import importlib, json, resource, sys, time
from pathlib import Path
import numpy as np
_, package, folder, rounds = sys.argv
def module(name): return importlib.import_module(package + name)
Accesses = module("walker.columns").Accesses
open_source = module("walker.formats").open_source
ProberCache = module("emu.probe").ProberCache
cases = []
for path in sorted(Path(folder).glob("*.json")):
    case = open_source(str(path)).case
    cases.append((case.memory(), case.context(), Accesses.of([each.asked for each in case.probes])))
cache = ProberCache()
def alone():
    return [cache.observe(*case) for case in cases]
expected = alone()
try:
    many = module("emu.probe.many").ManyProber()
except ImportError:
    at_once = alone
else:
    def alone():
        return [many.probe([case])[0].outcomes for case in cases]
    def at_once():
        return [each.outcomes for each in many.probe(cases)]
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
def same(these, others):
    return all(
        np.array_equal(getattr(these, name), getattr(others, name)) for name in these.__slots__
    )
found, before = alone(), peak()
for made in (found, at_once()):
    if not all(map(same, expected, made)):
        sys.exit("the outcomes of a mixed run are not those of a prober")
found = {"alone": [], "many": []}
for _ in range(int(rounds)):
    for name, work in (("alone", alone), ("many", at_once)):
        began = time.process_time()
        work()
        found[name].append(time.process_time() - began)
# What a walker in Python reads, as its own dict has it, and as the memory under test does.
memory, words = cases[0][0], dict(cases[0][0].words())
asked = [hash(pa) for pa in words] * 2000  # Equal, and not the same objects.
def looked_up(word):
    began = time.process_time()
    for pa in asked:
        word(pa)
    return (time.process_time() - began) / len(asked)
found["dict"], found["word"] = ([looked_up(f) for _ in range(3)] for f in (words.get, memory.word))
print(json.dumps({"peaks": [before, peak()], **found}))
"""
# The example's own test, with the same examples in each tree, in one process and the emulator's.
_EXAMPLE = """
import importlib, json, os, resource, sys
_, package, folder = sys.argv
sys.path.insert(0, folder)
from hypothesis import Phase, given, seed, settings
from tiny_walker import translate
checker = importlib.import_module(package + "emu.testing.checking").Checker()
layouts = importlib.import_module(package + "emu.testing.strategies").layouts
checker.start()
def used(who):
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime
@seed(0)
@settings(max_examples=300, deadline=None, database=None, phases=[Phase.generate])
@given(layout=layouts())
def run(layout):
    checker(translate, layout)
began = used(resource.RUSAGE_SELF)
run()
own = used(resource.RUSAGE_SELF) - began
checker.close()
print(json.dumps({"own": own, "emulator": used(resource.RUSAGE_CHILDREN)}))
"""


def measured_cases(rounds: int, trees: list[Tree], *, count: int) -> list[Row]:
    """Return for each tree what `count` distinct cases take: CPU time, medians, by turns."""
    with tempfile.TemporaryDirectory() as folder:
        for number, layout in enumerate(_drawn(count)):
            some = replace(layout, accesses=layout.accesses.take(slice(0, _PROBES)))
            path = Path(folder) / f"{number:04}.json"
            path.write_bytes(dump_case(layout_case(some)))
        runs: dict[str, list[tuple[Row, Row]]] = {tree.name: [] for tree in trees}
        for _ in range(rounds):
            for tree in trees:
                package = tree.module("")
                work = json.loads(tree.python(_WORK, package, folder, "3"))
                example = str(HERE / "docs" / "examples" / "your-tests")
                runs[tree.name].append((work, json.loads(tree.python(_EXAMPLE, package, example))))
    return [_row(name, count, found) for name, found in runs.items()]


def _drawn(count: int) -> list[Layout]:
    found: list[Layout] = []

    @seed(0)
    @settings(max_examples=3 * count, database=None, phases=[Phase.generate], deadline=None)
    @given(layouts())
    def draw(layout: Layout) -> None:
        if len(layout.accesses) >= _PROBES and len(found) < count:
            found.append(layout)

    draw()
    if len(found) < count:
        raise ValueError(f"only {len(found)} layouts of {_PROBES} accesses were drawn")
    return found


def _row(name: str, count: int, runs: list[tuple[Row, Row]]) -> Row:
    def seconds(kind: str) -> float:
        return float(median(taken for work, _ in runs for taken in work[kind]))

    alone, many = seconds("alone"), seconds("many")
    return {
        "tree": name,
        "cases": count,
        "probes": count * _PROBES,
        "ms_a_case_alone": alone / count * 1e3,
        "ms_a_case_of_many": many / count * 1e3,
        "probes_a_second_alone": count * _PROBES / alone,
        "probes_a_second_of_many": count * _PROBES / many,
        "peak_mib_alone": median(work["peaks"][0] for work, _ in runs),
        "peak_mib_of_many": median(work["peaks"][1] for work, _ in runs),
        "words_of_a_dict": seconds("word") / seconds("dict"),
        "hypothesis_cpu": median(each["own"] + each["emulator"] for _, each in runs),
        "hypothesis_emulator_cpu": median(each["emulator"] for _, each in runs),
    }


def show_cases(rows: list[Row]) -> None:
    """Print what was measured."""
    for row in rows:
        print(f"\n{row['tree']}: {row['cases']:,} cases, {row['probes']:,} probes, CPU time")
        for how in ("alone", "of_many"):
            print(
                f"  {how.replace('_', ' '):<8}{row[f'ms_a_case_{how}']:>8.3f} ms a case, "
                f"{row[f'probes_a_second_{how}']:>9,.0f} probes a second, "
                f"peak {row[f'peak_mib_{how}']:,.0f} MiB"
            )
        print(f"  a word of memory takes {row['words_of_a_dict']:.1f} times one of a dict")
        print(
            f"  300 examples of Hypothesis: {row['hypothesis_cpu']:.2f} s, of which the emulator's "
            f"process {row['hypothesis_emulator_cpu']:.2f}"
        )


def judge_cases(rows: list[Row]) -> Any:
    """Yield the goals, most as parts of what the other tree takes: name, found, upper bound."""
    yield {"goal": "a word, of a dict's", "found": rows[0]["words_of_a_dict"], "most": _WORDS}
    if len(rows) < 2:
        return
    here, there = rows
    for goal, column, of, most in (
        ("a case alone", "ms_a_case_alone", "ms_a_case_alone", _TIMES_ALONE),
        ("a case of many", "ms_a_case_of_many", "ms_a_case_alone", _MANY),
        ("Hypothesis", "hypothesis_cpu", "hypothesis_cpu", _HYPOTHESIS),
    ):
        yield {"goal": f"{goal}, of there", "found": here[column] / there[of], "most": most}
