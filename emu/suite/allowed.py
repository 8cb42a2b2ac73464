"""The outcomes that a case's accesses may have, by the CPU that makes them.

Three features of a CPU change what the same tables mean: its vendor, its physical address width
(MAXPHYADDR), and whether it has 1-GiB pages.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, product

import numpy as np

from crosswalk.emu.check.crosscheck import Predictor
from crosswalk.walker.access import Access
from crosswalk.walker.columns import Accesses, Kind, Outcomes
from crosswalk.walker.context import PagingContext, Vendor
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.outcome import ErrorCode
from crosswalk.walker.translate import StepKind, walk_access

__all__ = ["CPUS", "WIDTHS", "Allowed", "CpuBox", "allowed_of"]

WIDTHS = range(32, 53)
"""The values of MAXPHYADDR that a CPU may have."""


@dataclass(frozen=True, slots=True, order=True)
class CpuBox:
    """CPUs: of any of these vendors, widths from `first` to `last`, with 1-GiB pages or not."""

    first: int
    last: int
    vendors: tuple[Vendor, ...]
    page1gb: tuple[bool, ...]


CPUS = tuple(product(Vendor, (True, False), WIDTHS))
"""All of them: vendor, 1-GiB pages, width."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """What n accesses may come to.

    `classes` are sets of CPUs on which all of them come to the same, each as boxes. `sets` has for
    each access its different sets of outcomes, each a row of `Outcomes`: of a fault each of its
    words may be changed or not. `by_class` has for each access and class the set, by number; -1
    where the walk leaves the case's memory, and nothing is defined. CPUs in no class can't be in
    the case's state: its CR3 has more bits than they.
    """

    classes: tuple[tuple[CpuBox, ...], ...]
    by_class: tuple[tuple[int, ...], ...]
    sets: tuple[Outcomes, ...]


def allowed_of(
    memory: PhysicalMemory,
    context: PagingContext,
    accesses: Sequence[Access],
    predict: Predictor,
) -> Allowed:
    """Return what these accesses may come to on each CPU, by a statement of the rules."""
    columns = Accesses.of(accesses)
    states = dict(_states(context))
    answers = {cpu: predict(memory, each, columns) for cpu, each in states.items()}
    defined = {cpu: _defined(memory, states[cpu], accesses, answers[cpu]) for cpu in states}
    keys = {cpu: _keys(answers[cpu], defined[cpu]) for cpu in states}
    together: dict[tuple[bytes, ...], list[tuple[Vendor, bool, int]]] = {}
    for cpu, key in keys.items():
        together.setdefault(key, []).append(cpu)
    by_class, sets = [], []
    for row in range(len(accesses)):
        numbers: dict[bytes, int] = {}
        chosen = []
        for key, cpus in together.items():
            if key[row] and key[row] not in numbers:
                numbers[key[row]] = len(numbers)
                chosen.append(answers[cpus[0]].take(slice(row, row + 1)))
        sets.append(Outcomes.join(chosen) if chosen else Outcomes.empty(0))
        by_class.append(tuple(numbers.get(key[row], -1) for key in together))
    classes = tuple(tuple(_boxes(cpus)) for cpus in together.values())
    return Allowed(classes, tuple(by_class), tuple(sets))


def _states(context: PagingContext) -> Iterator[tuple[tuple[Vendor, bool, int], PagingContext]]:
    for vendor, page1gb, width in CPUS:
        try:
            state = replace(context, vendor=vendor, page1gb=page1gb, maxphyaddr=width)
        except BadInput:
            continue  # It has other registers, or fewer bits for CR3.
        yield (vendor, page1gb, width), state


def _defined(
    memory: PhysicalMemory, context: PagingContext, accesses: Sequence[Access], answers: Outcomes
) -> list[bool]:
    """Return for each access whether its walk stays in memory."""
    absent = (answers.kind == Kind.PAGE_FAULT) & (answers.error_code & int(ErrorCode.P) == 0)
    found = [True] * len(accesses)
    for row in np.flatnonzero(absent).tolist():
        steps = walk_access(memory, context, accesses[row]).steps
        found[row] = not steps or steps[-1].kind is not StepKind.OUTSIDE
    return found


def _keys(answers: Outcomes, defined: Sequence[bool]) -> tuple[bytes, ...]:
    """Return for each row what tells it from other outcomes, nothing where it isn't defined."""
    columns = [
        column.reshape(len(answers), -1).astype(np.uint64)
        for column in (
            *(answers.kind, answers.pa, answers.error_code, answers.cr2),
            *(answers.entry_pa, answers.entry_value),
        )
    ]
    rows = np.concatenate(columns, axis=1)
    return tuple(row.tobytes() if known else b"" for row, known in zip(rows, defined, strict=True))


def _boxes(cpus: Sequence[tuple[Vendor, bool, int]]) -> Iterator[CpuBox]:
    """Yield boxes that hold exactly these CPUs, in order."""
    runs: dict[tuple[int, int], list[tuple[Vendor, bool]]] = {}
    for kind, some in groupby(cpus, key=lambda cpu: cpu[:2]):
        widths = [width for _, _, width in some]
        for _, run in groupby(enumerate(widths), key=lambda pair: pair[1] - pair[0]):
            numbers = [width for _, width in run]
            runs.setdefault((numbers[0], numbers[-1]), []).append(kind)
    found = []
    for (first, last), kinds in runs.items():
        by_page: dict[tuple[bool, ...], list[Vendor]] = {}
        for vendor in dict.fromkeys(vendor for vendor, _ in kinds):
            pages = tuple(page1gb for whose, page1gb in kinds if whose is vendor)
            by_page.setdefault(pages, []).append(vendor)
        found += [CpuBox(first, last, tuple(vendors), pages) for pages, vendors in by_page.items()]
    yield from sorted(found)
