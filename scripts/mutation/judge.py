"""Judges mutants of the walker by the CPU's answers: recorded once, compared in child processes."""

import importlib
import resource
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.check.compare import agreements
from crosswalk.emu.matrix.section import Section
from crosswalk.emu.matrix.sections import BOUNDARY_SECTIONS, SECTIONS
from crosswalk.emu.probe import ProberCache
from crosswalk.emu.workers.contained import contained
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Accesses, Outcomes
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import SparseWords
from crosswalk.walker.outcome import Outcome, Translation
from scripts.mutation.mutants import Mutant, import_name

__all__ = ["Sample", "ends_badly", "killed", "limit_cpu", "run_in", "samples"]

CONTEXTS = 4
ROWS = 2000
_READ_ONE_BY_ONE = 50
LIMIT = 60  # Seconds of the processor: a mutant may never end.
_BELOW = ("rights", "entry", "tables", "linear", "translate", "bulk")
"""The modules that state rules, each before those that use it."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Some of a section's combinations under one control state.

    `observed` is what the CPU answered, `predicted` what the walker says; `known` bool[n] is where
    they are known to differ.
    """

    memory: SparseWords
    context: PagingContext
    accesses: Accesses
    observed: Outcomes
    predicted: Outcomes
    known: NDArray[np.bool_]


def samples(seed: int) -> list[Sample]:
    """Return random combinations of each section of the matrix, at addresses within their pages."""
    chance, probers = np.random.default_rng(seed), ProberCache()
    sections = (*SECTIONS, *BOUNDARY_SECTIONS)
    return [sample for section in sections for sample in _of(section, chance, probers)]


def _of(section: Section, chance: np.random.Generator, probers: ProberCache) -> Iterator[Sample]:
    (shape,) = section.shapes(section, {})
    memory = SparseWords.of_tables(section.ram, shape.frames, shape.words)
    every = section.accesses_to(shape.va)
    contexts = list(section.contexts())
    picked = chance.choice(len(contexts), min(CONTEXTS, len(contexts)), replace=False)
    for number in sorted(picked.tolist()):
        rows = np.sort(chance.choice(len(every), min(ROWS, len(every)), replace=False))
        accesses = every.take(rows)
        # Within the page, and beyond what is canonical.
        accesses.va[:] |= chance.integers(0, 256, len(rows)).astype(np.uint64) << np.uint64(4)
        wrong = (chance.random(len(rows)) < 0.02) & section.mode.long
        accesses.va[wrong] ^= (
            np.uint64(1) << chance.integers(47, 64, len(rows)).astype(np.uint64)[wrong]
        )
        context = contexts[number]
        prober = probers.prober(memory, context)
        # What the CPU lacks a feature for it can't judge.
        accesses = accesses.take(np.flatnonzero(prober.lacking(accesses) == 0))
        observed = prober.probe(accesses)
        predicted = translate_many(memory, context, accesses)
        known = ~agreements(predicted, observed)
        yield Sample(memory, context, accesses, observed, predicted, known)


def killed(mutant: Mutant, taken: list[Sample]) -> bool:
    """Return whether the mutant's predictions differ from what the CPU did, or don't come.

    The mutant lives and dies in a child process.
    """
    return ends_badly(lambda: _differs(mutant, taken))


def ends_badly(work: Callable[[], bool]) -> bool:
    """Return whether `work` is true, raises or never ends: in a child, which it may spoil."""

    def limited() -> bool:
        limit_cpu(LIMIT)
        return work()

    try:
        return contained(limited)
    except Exception:  # noqa: BLE001  # Whatever a mutant raises, it is told from the walker.
        return True


def limit_cpu(seconds: int) -> None:
    """Have this process killed when it has used that much of the processor."""
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))


def _differs(mutant: Mutant, taken: list[Sample]) -> bool:
    _plant(mutant)
    bulk = importlib.import_module("crosswalk.walker.bulk")
    readable = importlib.import_module("crosswalk.walker.translate")
    for sample in taken:
        accesses = sample.accesses
        if mutant.module != "translate":
            predicted = bulk.translate_many(sample.memory, sample.context, accesses)
            if (~agreements(predicted, sample.observed) != sample.known).any():
                return True
        if mutant.module != "bulk":
            for row in range(0, len(accesses), max(1, len(accesses) // _READ_ONE_BY_ONE)):
                predicted_one = readable.translate(sample.memory, sample.context, accesses[row])
                if _observable(predicted_one) != _observable(sample.predicted[row]):
                    return True
    return False


def _observable(outcome: Outcome) -> Outcome:
    """Return an outcome without what can't be observed."""
    if isinstance(outcome, Translation):
        return replace(outcome, page_size=None, rights=None)
    return outcome


def _plant(mutant: Mutant) -> None:
    """Put the mutant in its module's place, and make those above it use it."""
    for name in _BELOW[_BELOW.index(mutant.module) :]:
        module = sys.modules[import_name(name)]
        source = mutant.source if name == mutant.module else _source(module.__file__)
        run_in(module.__name__, source)


def run_in(name: str, source: str) -> None:
    """Run a source in the namespace of a module that is imported, over what it has there."""
    path = f"{name.replace('.', '/')}.py"
    exec(compile(source, path, "exec"), sys.modules[name].__dict__)  # noqa: S102  # That is what a mutant is for.


def _source(path: str | None) -> str:
    if path is None:
        raise AssertionError("a module without a file")
    with open(path, encoding="utf-8") as file:  # noqa: PTH123  # Paths would be one more import in each child.
        return file.read()
