"""A layout as a case file has it."""

import numpy as np

from crosswalk.emu.findings.layout import IntendedOutcomes, Layout
from crosswalk.walker.columns import Accesses
from crosswalk.walker.formats import Case, Cpu, Probe
from crosswalk.walker.memory import FRAME, WORDS

__all__ = ["case_layout", "layout_case"]


def layout_case(layout: Layout, *, rows: slice = slice(None)) -> Case:
    """Return the layout with all its words, and a probe for each of the chosen accesses."""
    row, at = np.nonzero(layout.words)
    addresses = layout.frames[row] + np.uint64(8) * at.astype(np.uint64)
    words = zip(addresses.tolist(), layout.words[row, at].tolist(), strict=True)
    some = layout.accesses.take(rows)
    probes = tuple(Probe.of(some[row]) for row in range(len(some)))
    return Case(
        cpu=Cpu.from_context(layout.context), ram=layout.ram, entries=dict(words), probes=probes
    )


def case_layout(case: Case) -> Layout:
    """Return a case as a layout of which nothing was meant; `BadInput` as `Case.context`."""
    pas = np.array(sorted(case.entries), np.uint64)
    frames, row = np.unique(pas // np.uint64(FRAME) * np.uint64(FRAME), return_inverse=True)
    words = np.zeros((len(frames), WORDS), np.uint64)
    values = np.array([case.entries[pa] for pa in pas.tolist()], np.uint64)
    words[row, (pas % np.uint64(FRAME) // np.uint64(8)).astype(np.intp)] = values
    accesses = Accesses.of([probe.asked for probe in case.probes])
    count = len(accesses)
    nothing = IntendedOutcomes.nothing(count)
    return Layout(case.context(), case.ram, frames, words, accesses, nothing)
