"""Whether the CPU's answers tell a mutant from the walker: recorded once, compared in children."""

import importlib
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from emu.check.compare import agreements
from emu.matrix.section import Section
from emu.matrix.sections import SECTIONS
from emu.probe import Stand
from scripts.mutation.mutants import Mutant
from walker.columns import Accesses, Outcomes
from walker.context import PagingContext
from walker.memory import SparseWords

__all__ = ["Sample", "killed", "samples"]

_CONTEXTS = 6
_ROWS = 3000
_READ_ONE_BY_ONE = 150
_LIMIT = 60  # Seconds: a mutant may never end.
_BELOW = ("rights", "entry", "tables", "translate", "bulk")
"""The modules that state rules, each before those that use it."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Some of a section's combinations under one control state, and what the CPU answered."""

    memory: SparseWords
    context: PagingContext
    accesses: Accesses
    observed: Outcomes


def samples(seed: int) -> list[Sample]:
    """Return what is drawn from each section of the matrix, and addresses beside it."""
    chance, stand = np.random.default_rng(seed), Stand()
    return [sample for section in SECTIONS for sample in _of(section, chance, stand)]


def _of(section: Section, chance: np.random.Generator, stand: Stand) -> Iterator[Sample]:
    variants = section.variants()
    memory = SparseWords.of_tables(section.ram, *section.tables(variants))
    every = section.accesses_to(section.paths(variants))
    contexts = list(section.contexts())
    picked = chance.choice(len(contexts), min(_CONTEXTS, len(contexts)), replace=False)
    for number in sorted(picked.tolist()):
        rows = np.sort(chance.choice(len(every), min(_ROWS, len(every)), replace=False))
        accesses = every.take(rows)
        # Within the page, and beyond what is canonical.
        accesses.va[:] |= chance.integers(0, 256, len(rows)).astype(np.uint64) << np.uint64(4)
        wrong = (chance.random(len(rows)) < 0.02) & section.mode.long
        accesses.va[wrong] ^= (
            np.uint64(1) << chance.integers(47, 64, len(rows)).astype(np.uint64)[wrong]
        )
        context = contexts[number]
        yield Sample(memory, context, accesses, stand.observe(memory, context, accesses))


def killed(mutant: Mutant, taken: list[Sample], known: list[np.ndarray]) -> bool:
    """Return whether the mutant's predictions differ from what the CPU did, or don't come.

    `known` bool[n] for each sample: where the walker itself is known to differ. The mutant lives
    and dies in a child process.
    """
    child = os.fork()
    if child == 0:
        signal.alarm(_LIMIT)
        os._exit(_verdict(mutant, taken, known))
    _, status = os.waitpid(child, 0)
    return status != 0


def _verdict(mutant: Mutant, taken: list[Sample], known: list[np.ndarray]) -> int:
    try:
        _plant(mutant)
        bulk = importlib.import_module("walker.bulk")
        readable = importlib.import_module("walker.translate")
        for sample, expected in zip(taken, known, strict=True):
            predicted = bulk.translate_many(sample.memory, sample.context, sample.accesses)
            if (~agreements(predicted, sample.observed) != expected).any():
                return 1
            if mutant.module != "bulk":
                rows = range(0, len(expected), max(1, len(expected) // _READ_ONE_BY_ONE))
                for row in rows:
                    said, meant = (
                        readable.translate(sample.memory, sample.context, sample.accesses[row]),
                        predicted[row],
                    )
                    if type(said).__name__ != type(meant).__name__ or said != meant:
                        return 1
    except Exception:  # noqa: BLE001  # Whatever a mutant raises, it is told from the walker.
        return 1
    return 0


def _plant(mutant: Mutant) -> None:
    """Put the mutant in its module's place, and make those above it use it."""
    for name in _BELOW[_BELOW.index(mutant.module) :]:
        module = sys.modules[f"walker.{name}"]
        source = mutant.source if name == mutant.module else _source(module.__file__)
        exec(compile(source, f"walker/{name}.py", "exec"), module.__dict__)  # noqa: S102  # That is what a mutant is for.


def _source(path: str | None) -> str:
    if path is None:
        raise AssertionError("a module without a file")
    with open(path, encoding="utf-8") as file:  # noqa: PTH123  # Paths would be one more import in each child.
        return file.read()
