"""The third witness: what a layout's accesses were meant to come to, as outcomes to compare."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.findings.layout import IntendedKind, Layout
from crosswalk.emu.fuzz.generate.pointers import linear_of
from crosswalk.walker.access import AccessType
from crosswalk.walker.columns import Kind, Outcomes
from crosswalk.walker.context import Vendor
from crosswalk.walker.outcome import ErrorCode

__all__ = ["intended_outcomes"]

_CODES = np.zeros(len(IntendedKind), np.uint16)
_CODES[IntendedKind.RESERVED] = ErrorCode.P | ErrorCode.RSVD
_CODES[IntendedKind.PROTECTION] = ErrorCode.P
_CODES[IntendedKind.KEY] = ErrorCode.P | ErrorCode.PK

_KINDS = np.full(len(IntendedKind), Kind.PAGE_FAULT, np.uint8)
_KINDS[IntendedKind.OK] = Kind.OK
_KINDS[[IntendedKind.NOT_CANONICAL, IntendedKind.OTHER_HALF]] = Kind.GENERAL_PROTECTION


def intended_outcomes(layout: Layout, truth: Outcomes) -> Outcomes:
    """Return the outcomes that were meant; where nothing was, or no more, those of `truth`.

    Intentions say nothing of A and D. A fetch is told in the error code where XD is in use, and on
    Intel's processors where SMEP is (Intel SDM vol. 3A, "Page-Fault Exceptions"). CR2 has the
    address that was walked.
    """
    intended = layout.intended.kind
    known = intended != IntendedKind.UNKNOWN
    kind = np.where(known, _KINDS[intended], truth.kind)
    fault = kind == Kind.PAGE_FAULT
    code = np.where(known, _access(layout) | _CODES[intended], truth.error_code)
    linear, _, _ = linear_of(layout.context, layout.accesses)
    return replace(
        truth,
        kind=kind,
        pa=np.where(known, np.where(kind == Kind.OK, layout.intended.pa, 0), truth.pa),
        error_code=np.where(fault, code, 0).astype(np.uint16),
        cr2=np.where(known & fault, linear, truth.cr2 * fault),
    )


def _access(layout: Layout) -> NDArray[np.uint16]:
    """Return uint16[n]: the bits of an error code that tell the access."""
    context, accesses = layout.context, layout.accesses
    told = context.nxe or (context.smep and context.vendor is Vendor.INTEL)
    code = np.where(accesses.type == AccessType.WRITE, ErrorCode.WR, 0)
    code |= np.where(accesses.cpl == 3, ErrorCode.US, 0)
    if told:
        code |= np.where(accesses.type == AccessType.EXECUTE, ErrorCode.ID, 0)
    return code.astype(np.uint16)
