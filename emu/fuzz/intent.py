"""The third witness: what a layout's accesses were meant to come to, as outcomes to compare."""

from dataclasses import replace

import numpy as np

from emu.fuzz.layout import Layout, Meaning
from walker.columns import Kind, Outcomes
from walker.outcome import ErrorCode

__all__ = ["meant_outcomes"]

_CODES = np.zeros(len(Meaning), np.uint16)
_CODES[Meaning.RESERVED] = ErrorCode.P | ErrorCode.RSVD
_CODES[Meaning.PROTECTION] = ErrorCode.P
_CODES[Meaning.KEY] = ErrorCode.P | ErrorCode.PK

_KINDS = np.full(len(Meaning), Kind.PAGE_FAULT, np.uint8)
_KINDS[Meaning.OK] = Kind.OK
_KINDS[Meaning.NOT_CANONICAL] = Kind.GENERAL_PROTECTION


def meant_outcomes(layout: Layout, truth: Outcomes) -> Outcomes:
    """Return the outcomes that were meant; where nothing was, or no more, those of `truth`.

    Intentions say nothing of A and D, nor of the bits of an error code that tell the access.
    """
    meaning = layout.meant.meaning
    known = meaning != Meaning.UNKNOWN
    kind = np.where(known, _KINDS[meaning], truth.kind)
    fault = kind == Kind.PAGE_FAULT
    about = truth.error_code & np.uint16(ErrorCode.WR | ErrorCode.US | ErrorCode.ID)
    code = np.where(known, about | _CODES[meaning], truth.error_code)
    return replace(
        truth,
        kind=kind,
        pa=np.where(known, np.where(kind == Kind.OK, layout.meant.pa, 0), truth.pa),
        error_code=np.where(fault, code, 0).astype(np.uint16),
        cr2=np.where(known & fault, layout.accesses.va, truth.cr2 * fault),
    )
