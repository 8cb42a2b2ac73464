"""Where intentions differ from the rules, and intentions that are wrong."""

from dataclasses import replace

import numpy as np

from crosswalk.emu.check.compare import differing_fields
from crosswalk.emu.findings.layout import IntendedKind
from crosswalk.emu.fuzz.generate.intended import intended_outcomes
from crosswalk.walker.bulk import translate_many


def differing(layout):
    truth = translate_many(layout.memory(), layout.context, layout.accesses)
    fields = differing_fields(intended_outcomes(layout, truth), truth)
    return np.logical_or.reduce(list(fields.values()))


WRONG = {
    "a page at another address": lambda intended: replace(
        intended, pa=intended.pa ^ np.uint64(1 << 12)
    ),
    "what is denied is meant to be allowed": lambda intended: replace(
        intended,
        kind=np.where(
            intended.kind == IntendedKind.PROTECTION, IntendedKind.OK, intended.kind
        ).astype(np.uint8),
    ),
    "what is reserved is meant to be absent": lambda intended: replace(
        intended,
        kind=np.where(
            intended.kind == IntendedKind.RESERVED, IntendedKind.NOT_PRESENT, intended.kind
        ).astype(np.uint8),
    ),
    "keys are taken for rights": lambda intended: replace(
        intended,
        kind=np.where(
            intended.kind == IntendedKind.KEY, IntendedKind.PROTECTION, intended.kind
        ).astype(np.uint8),
    ),
    "what isn't canonical is meant to be absent": lambda intended: replace(
        intended,
        kind=np.where(
            intended.kind == IntendedKind.NOT_CANONICAL, IntendedKind.NOT_PRESENT, intended.kind
        ).astype(np.uint8),
    ),
}
