"""A layout as a case file has it."""

import numpy as np

from emu.fuzz.layout import Layout
from walker.access import AccessType
from walker.source import Case, Cpu, Probe

__all__ = ["layout_case"]

_NAMES = {kind.value: kind.name.lower() for kind in AccessType}


def layout_case(layout: Layout, *, rows: slice = slice(None)) -> Case:
    """Return the layout with all its words, and a probe for each of the chosen accesses."""
    row, at = np.nonzero(layout.words)
    addresses = layout.frames[row] + np.uint64(8) * at.astype(np.uint64)
    words = zip(addresses.tolist(), layout.words[row, at].tolist(), strict=True)
    some = layout.accesses.take(rows)
    columns = (some.va, some.type, some.cpl, some.ac)
    probes = tuple(
        Probe(va=va, access=_NAMES[kind], cpl=cpl, ac=ac)  # type: ignore[arg-type]  # the names agree
        for va, kind, cpl, ac in zip(*(column.tolist() for column in columns), strict=True)
    )
    return Case(
        cpu=Cpu.from_context(layout.context), ram=layout.ram, entries=dict(words), probes=probes
    )
