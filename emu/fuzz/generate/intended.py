"""The intended outcomes of accesses, stated from a layout's plan and apart from the walker.

What the processor does to an address before the walk is decided from the registers' bits:
linear-address masking, upper-address ignore, linear-address-space separation, canonicality. Source:
Intel SDM vol. 3A, "Linear-Address Masking (LAM)", "Linear-Address-Space Separation (LASS)"; AMD APM
vol. 2, "Upper Address Ignore".
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.findings.layout import IntendedKind, IntendedOutcomes, Layout
from crosswalk.emu.fuzz.generate.build_tables import TABLE, BuiltTables
from crosswalk.emu.fuzz.generate.formats import format_of
from crosswalk.emu.fuzz.target import End
from crosswalk.walker.access import AccessType
from crosswalk.walker.columns import Accesses, Kind, Outcomes
from crosswalk.walker.context import PagingContext, Vendor
from crosswalk.walker.memory import U64
from crosswalk.walker.outcome import ErrorCode

__all__ = [
    "IntendedPaths",
    "ignores_bits",
    "intended_of",
    "intended_outcomes",
    "intended_paths",
    "linear_of",
    "sign_extended",
]

Bools = NDArray[np.bool_]

_WRITE, _USER, _EXECUTE = 1, 2, 4
_PDPT = 3
_G = np.uint64(1 << 8)
_LAM_U57, _LAM_U48 = 61, 62  # Of CR3.
_SMEP, _SMAP, _PKE, _PKS, _LASS, _LAM_SUP = 20, 21, 22, 24, 27, 28  # Of CR4.
_UAIE = 20  # Of EFER.
_SIGN = np.uint64(63)

_CODES = np.zeros(len(IntendedKind), np.uint16)
_CODES[IntendedKind.RESERVED] = ErrorCode.P | ErrorCode.RSVD
_CODES[IntendedKind.PROTECTION] = ErrorCode.P
_CODES[IntendedKind.KEY] = ErrorCode.P | ErrorCode.PK

_KINDS = np.full(len(IntendedKind), Kind.PAGE_FAULT, np.uint8)
_KINDS[IntendedKind.OK] = Kind.OK
_KINDS[[IntendedKind.NOT_CANONICAL, IntendedKind.OTHER_HALF, IntendedKind.NOT_LOADED]] = (
    Kind.GENERAL_PROTECTION
)


def ignores_bits(context: PagingContext) -> bool:
    """Return whether the processor ignores upper address bits of some accesses."""
    lam = context.cr3 >> _LAM_U57 & 3 or context.cr4 >> _LAM_SUP & 1
    return bool(lam or context.efer >> _UAIE & 1)


def linear_of(context: PagingContext, accesses: Accesses) -> tuple[U64, Bools, Bools]:
    """Return linear addresses uint64[n], bool[n] of non-canonical ones, of those LASS blocks.

    Both raise #GP before any table is read. Outside IA-32e mode, addresses have 32 bits, and all of
    them are linear addresses.
    """
    form = format_of(context)
    if not form.long:
        nothing = np.zeros(len(accesses), np.bool_)
        return accesses.va, nothing, nothing
    width = form.va_bits
    va, data = accesses.va, accesses.type != AccessType.EXECUTE
    upper = va >> _SIGN != 0
    linear = va
    of_user = 57 if context.cr3 >> _LAM_U57 & 1 else 48 if context.cr3 >> _LAM_U48 & 1 else 0
    of_supervisor = width if context.cr4 >> _LAM_SUP & 1 else 0
    for kept, half in ((of_user, ~upper), (of_supervisor, upper)):
        if kept:
            # Bit 63 stays: the masked bits have to become equal to it.
            linear = np.where(data & half, sign_extended(linear, kept, 63), linear)
    if context.efer >> _UAIE & 1:
        linear = np.where(data, sign_extended(linear, 57, 64), linear)
    non_canonical = linear != sign_extended(linear, width, 64)
    blocked = np.zeros(len(va), np.bool_)
    if context.cr4 >> _LASS & 1:
        guarded = ~data | (bool(context.cr4 >> _SMAP & 1) & ~accesses.ac)
        blocked = np.where(accesses.cpl == 3, upper, ~upper & guarded)
    return linear, non_canonical, blocked


def sign_extended(va: U64, width: int, end: int) -> U64:
    """Return addresses whose bits `width` to `end` - 1 are copies of bit `width` - 1."""
    high = np.uint64((1 << end) - (1 << width))
    sign = va >> np.uint64(width - 1) & np.uint64(1)
    found: U64 = np.where(sign != 0, va | high, va & ~high)
    return found


class IntendedPaths:
    """The intentions behind n paths, as columns of n rows.

    `loaded`: whether the root is meant to be taken by MOV to CR3, for all paths.

    `known`: whether there is one; `fault`: NOT_PRESENT or RESERVED where the walk is intended to
    end without a page, else OK; `grant` as in `BuiltTables`, over all levels; `pa` is the page's
    address, `size` its bytes, `key` its protection key.
    """

    def __init__(self, count: int) -> None:
        self.loaded = True
        self.known: NDArray[np.bool_] = np.zeros(count, np.bool_)
        self.fault: NDArray[np.uint8] = np.full(count, IntendedKind.OK, np.uint8)
        self.grant: NDArray[np.uint8] = np.full(count, 7, np.uint8)
        self.pa: U64 = np.zeros(count, np.uint64)
        self.size: U64 = np.full(count, 4096, np.uint64)
        self.key: NDArray[np.uint8] = np.zeros(count, np.uint8)


def intended_paths(
    context: PagingContext, built: BuiltTables, corrupted: NDArray[np.bool_]
) -> IntendedPaths:
    """Combine the intentions along each path; `corrupted` bool[t * 512] are changed entries."""
    form, count = built.form, len(built.step)
    intended = IntendedPaths(count)
    if form.plain and context.vendor is Vendor.INTEL:
        # PAE paging: the four PDPTEs are loaded together, and one malformed entry refuses all.
        intended.loaded = not (built.kind[0, : form.counts[form.levels]] == End.RESERVED).any()
    going = np.ones(count, np.bool_)
    for level in range(form.levels, 0, -1):
        rows = np.flatnonzero(going)
        at = built.step[rows, level]
        lost = (at < 0) | corrupted[at]
        going[rows[lost]] = False
        rows, at = rows[~lost], at[~lost]
        row, index = at // form.width, at % form.width
        kind, grant = built.kind[row, index], built.grant[row, index]
        # With NXE clear XD is a reserved bit, and so is G of AMD's upper entries.
        broken = (kind == End.RESERVED) | ((grant & _EXECUTE == 0) & (not form.nxe))
        if level > _PDPT and context.vendor is Vendor.AMD:
            broken |= (built.words[row, index] & _G) != 0
        broken &= kind != End.ABSENT
        absent, outside = kind == End.ABSENT, (kind == End.OUTSIDE) & ~broken
        leaf = (kind == End.LEAF) & ~broken
        ends = absent | outside | leaf | broken
        intended.known[rows[ends]] = True
        intended.fault[rows[absent | outside]] = IntendedKind.NOT_PRESENT
        intended.fault[rows[broken]] = IntendedKind.RESERVED
        intended.grant[rows] &= grant
        intended.pa[rows[leaf]] = built.leaf_pa[row, index][leaf]
        intended.size[rows[leaf]] = 1 << form.shifts[level]
        intended.key[rows[leaf]] = (built.words[row, index][leaf] >> np.uint64(59)) & np.uint64(15)
        going[rows[ends | (kind != TABLE)]] = False
    return intended


def intended_of(
    context: PagingContext, intended: IntendedPaths, path: NDArray[np.intp], accesses: Accesses
) -> IntendedOutcomes:
    """Return the intended outcomes of n accesses; `path` is -1 for one that follows none."""
    form, of = format_of(context), np.maximum(path, 0)
    grant, key = intended.grant[of], intended.key[of].astype(np.uint32)
    user, fetch = accesses.cpl == 3, accesses.type == AccessType.EXECUTE
    writes = accesses.type == AccessType.WRITE
    user_page, bound = (grant & _USER) != 0, user | context.wp
    denied = (
        (user & ~user_page)
        | (fetch & ((grant & _EXECUTE) == 0))
        | (fetch & ~user & user_page & context.smep)
        | (~fetch & ~user & user_page & context.smap & ~accesses.ac)
        | (writes & bound & ((grant & _WRITE) == 0))
    )
    pkru, pkrs = (
        np.uint32(value if context.cr4 >> bit & 1 else 0)
        for value, bit in ((context.pkru, _PKE), (context.pkrs, _PKS))
    )
    pair = np.where(user_page, pkru, pkrs) >> (key * np.uint32(2)) & np.uint32(3)
    kept = np.where(user_page, bound, context.wp)
    locked = ((pair & 1) != 0) | (((pair & 2) != 0) & writes & kept)
    # Outside IA-32e mode pages have no keys.
    locked &= ~fetch & form.long
    kind = np.where(denied, IntendedKind.PROTECTION, IntendedKind.OK)
    kind = np.where(locked, IntendedKind.KEY, kind)
    fault = intended.fault[of]
    kind = np.where(fault == IntendedKind.OK, kind, fault)
    linear, non_canonical, blocked = linear_of(context, accesses)
    known = (path >= 0) & intended.known[of]
    kind = np.where(known, kind, IntendedKind.UNKNOWN)
    kind = np.where(blocked, IntendedKind.OTHER_HALF, kind)
    kind = np.where(non_canonical, IntendedKind.NOT_CANONICAL, kind)
    if not intended.loaded:
        kind = np.full(len(kind), IntendedKind.NOT_LOADED)
    kind = kind.astype(np.uint8)
    offset = linear & (intended.size[of] - np.uint64(1))
    pa = np.where(kind == IntendedKind.OK, intended.pa[of] | offset, np.uint64(0))
    return IntendedOutcomes(kind, pa)


def intended_outcomes(layout: Layout, truth: Outcomes) -> Outcomes:
    """Return the intended outcomes; those of `truth` where nothing is intended.

    Intentions don't cover A and D. I/D of the error code is set for a fetch with PAE and NXE and,
    on Intel's processors, with SMEP (Intel SDM vol. 3A, "Page-Fault Exceptions"). CR2 is the linear
    address that is walked.
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
    """Return uint16[n]: the bits of an error code that describe the access."""
    context, accesses = layout.context, layout.accesses
    form, smep = format_of(context), bool(context.cr4 >> _SMEP & 1)
    reports_fetch = form.nxe or (smep and context.vendor is Vendor.INTEL)
    code = np.where(accesses.type == AccessType.WRITE, ErrorCode.WR, 0)
    code |= np.where(accesses.cpl == 3, ErrorCode.US, 0)
    if reports_fetch:
        code |= np.where(accesses.type == AccessType.EXECUTE, ErrorCode.ID, 0)
    return code.astype(np.uint16)
