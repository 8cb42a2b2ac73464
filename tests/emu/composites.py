"""Composites in few letters, and what the emulated CPU makes of them."""

import numpy as np

from crosswalk.emu.probe.composite import CompositeProber
from crosswalk.emu.probe.composites import NAMES, SAME_PKRU, Composites


def composite(form, va, cpl=0, *, ac=False, then=(0, False), pkru=SAME_PKRU, then_va=None):
    """One composite; `then` is CPL and AC of a second access."""
    return Composites(
        np.array([NAMES.index(form)], np.uint8),
        np.array([va], np.uint64),
        np.array([cpl], np.uint8),
        np.array([ac]),
        np.array([va if then_va is None else then_va], np.uint64),
        np.array([then[0]], np.uint8),
        np.array([then[1]]),
        np.array([pkru], np.int64),
    )


def answers(seen, row=0):
    """What was seen of one composite: (kind, pa, error code, CR2) for each access; the words."""
    columns = (seen.kind, seen.pa, seen.error_code, seen.cr2)
    outcomes = [tuple(int(column[row, at]) for column in columns) for at in (0, 1)]
    words = zip(seen.entry_pa[row].tolist(), seen.entry_value[row].tolist(), strict=True)
    return outcomes, {pa: value for pa, value in words if value}


def make(memory, context, *composites):
    """The answers to composites made one after the other by one fresh prober."""
    seen = CompositeProber(memory, context).probe(Composites.join(composites))
    return [answers(seen, row) for row in range(len(composites))]


def ok(pa):
    return (0, pa, 0, 0)


def fault(code, cr2):
    return (1, 0, code, cr2)


NOTHING = (0, 0, 0, 0)
PROTECTION = (2, 0, 0, 0)
