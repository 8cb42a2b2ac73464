"""The bugs that are planted: by what it takes to see them."""

from dataclasses import replace

import numpy as np

from crosswalk.walker.access import AccessType
from crosswalk.walker.columns import Kind
from crosswalk.walker.memory import SparseWords
from crosswalk.walker.outcome import ErrorCode
from crosswalk.walker.rights import Grant
from tests.emu.check.planting import (
    GIB1,
    MIB2,
    PAT_LARGE,
    PS,
    A,
    D,
    G,
    all_present,
    faults,
    in_accesses,
    in_bulk,
    in_context,
    in_memory,
    in_outcomes,
    judged,
    key_denies,
    low_bits_of_leaf,
    marks,
    never_leaf,
    not_inherited,
    not_reserved,
    offset_lost,
    ones_outside,
    property_is,
    reserved,
    right_ignored,
    with_fields,
    without_code,
)
from tests.tables import OPEN, RW, US, XD, P, PageTables, context

_RIGHTS = {"R/W": Grant.WRITE, "U/S": Grant.USER, "XD": Grant.EXECUTE}
_NAMES = {1: "PTE", 2: "PDE", 3: "PDPTE", 4: "PML4E", 5: "PML5E"}
_LOW_57 = np.uint64((1 << 48) - 1)


def _dirty_on_read(before, after):
    return np.where(before != after, after | np.uint64(D), after)


def _no_new(bit):
    return lambda before, after: after & ~(~before & np.uint64(bit))


def _no_mark_above_leaf(before, after):
    # Places are levels from the root down; the last one that changed is the leaf or near it.
    changed = before != after
    leaf = 4 - changed[:, ::-1].argmax(axis=1)
    kept = np.arange(5)[None, :] == leaf[:, None]
    return np.where(kept, after, before)


RIGHTS = [
    *(
        right_ignored(f"{name} of a {_NAMES[level]} ignored", bit, {level})
        for name, bit in _RIGHTS.items()
        for level in (1, 2, 3, 4)
    ),
    *(not_inherited(f"{name} not inherited", bit) for name, bit in _RIGHTS.items()),
    with_fields("WP ignored", lambda context: {"cr0": context.cr0 & ~(1 << 16)}),
    with_fields("SMEP ignored", lambda context: {"cr4": context.cr4 & ~(1 << 20)}),
    with_fields("SMAP ignored", lambda context: {"cr4": context.cr4 & ~(1 << 21)}),
    in_accesses("AC ignored", lambda rows: replace(rows, ac=np.zeros_like(rows.ac))),
    in_accesses("AC taken as set", lambda rows: replace(rows, ac=np.ones_like(rows.ac))),
    in_accesses("privilege ignored", lambda rows: replace(rows, cpl=np.zeros_like(rows.cpl))),
    in_bulk(
        "SMAP also for fetches",
        judged(
            lambda result, context, rows, grant, leaves: np.where(
                (rows.cpl == 0) & ((grant & Grant.USER) != 0) & ~rows.ac, np.uint16(0), result
            )
        ),
    ),
    in_bulk(
        "SMEP also for reads",
        judged(
            lambda result, context, rows, grant, leaves: np.where(
                (rows.cpl == 0) & ((grant & Grant.USER) != 0), np.uint16(0), result
            )
        ),
    ),
]

KEYS = [
    with_fields("protection keys ignored", lambda context: {"cr4": context.cr4 & ~(1 << 22)}),
    with_fields("write-disable ignored", lambda context: {"pkru": context.pkru & 0x5555_5555}),
    with_fields("access-disable ignored", lambda context: {"pkru": context.pkru & 0xAAAA_AAAA}),
    with_fields("key 0 for all", lambda context: {"pkru": (context.pkru & 3) * 0x5555_5555}),
    with_fields("three bits of a key", lambda context: {"pkru": (context.pkru & 0xFFFF) * 0x10001}),
    in_bulk(
        "key of a supervisor page counts",
        judged(
            lambda result, context, rows, grant, leaves: np.where(
                (rows.type != AccessType.EXECUTE)
                & ((grant & Grant.USER) == 0)
                & key_denies(context, leaves),
                np.uint16(ErrorCode.PK),
                result,
            )
        ),
    ),
    in_bulk(
        "key stops fetches",
        judged(
            lambda result, context, rows, grant, leaves: np.where(
                (rows.type == AccessType.EXECUTE) & key_denies(context, leaves),
                np.uint16(ErrorCode.PK),
                result,
            )
        ),
    ),
    in_outcomes("PK missing from the error code", without_code(ErrorCode.PK)),
]

ADDRESSES = [
    in_outcomes("offset in a 2-MiB page lost", offset_lost(MIB2)),
    in_outcomes("offset in a 1-GiB page lost", offset_lost(GIB1)),
    in_outcomes(
        "addresses of 32 bits", lambda outcomes, rows: {"pa": outcomes.pa & np.uint64(0xFFFF_FFFF)}
    ),
    in_bulk("PAT of a large page taken as address", low_bits_of_leaf(PAT_LARGE)),
    never_leaf("PS at 2 MiB ignored", 2),
    never_leaf("PS at 1 GiB ignored", 3),
    in_context("1-GiB pages not known", lambda context: replace(context, page1gb=False)),
    in_bulk("canonical for 57 bits", property_is("va_bits", 57)),
    in_bulk("canonical not checked", property_is("va_bits", 64)),
    in_outcomes(
        "#PF where the address is not canonical",
        lambda outcomes, rows: {
            "kind": np.where(
                outcomes.kind == Kind.GENERAL_PROTECTION, Kind.PAGE_FAULT, outcomes.kind
            )
        },
    ),
]

RESERVED = [
    not_reserved("no bit is reserved", lambda level, *, leaf: (1 << 64) - 1),
    with_fields("MAXPHYADDR taken as 52", lambda context: {"maxphyaddr": 52}),
    with_fields("MAXPHYADDR taken as 39", lambda context: {"maxphyaddr": 39}),
    not_reserved(
        "low address bits of a large page not reserved",
        lambda level, *, leaf: 0x3FFF_E000 if leaf else 0,
    ),
    not_reserved("PS of a PML4E not reserved", lambda level, *, leaf: PS if level == 4 else 0),
    reserved("G reserved", lambda level, *, leaf: G),
    reserved(
        "PAT of a large page reserved",
        lambda level, *, leaf: PAT_LARGE if leaf and level > 1 else 0,
    ),
    reserved("PWT and PCD reserved", lambda level, *, leaf: 3 << 3),
    reserved("software bits reserved", lambda level, *, leaf: 7 << 9 | 0x7F << 52),
    reserved("D reserved above leaves", lambda level, *, leaf: 0 if leaf else D),
    in_memory("P not looked at", all_present),
]

FAULTS = [
    in_outcomes("P missing", without_code(ErrorCode.P)),
    in_outcomes("W/R missing", without_code(ErrorCode.WR)),
    in_outcomes("U/S missing", without_code(ErrorCode.US)),
    in_outcomes("RSVD missing", without_code(ErrorCode.RSVD)),
    in_outcomes("I/D missing", without_code(ErrorCode.ID)),
    in_outcomes(
        "P set in every fault",
        lambda outcomes, rows: {
            "error_code": outcomes.error_code | faults(outcomes).astype(np.uint16)
        },
    ),
    in_outcomes(
        "CR2 is the page's address", lambda outcomes, rows: {"cr2": outcomes.cr2 & ~np.uint64(4095)}
    ),
    in_outcomes("CR2 is not sign-extended", lambda outcomes, rows: {"cr2": outcomes.cr2 & _LOW_57}),
]

MARKS = [
    in_bulk("A not set", marks(_no_new(A))),
    in_bulk("D not set", marks(_no_new(D))),
    in_bulk("D set by every access", marks(_dirty_on_read)),
    in_bulk("A set in leaves only", marks(_no_mark_above_leaf)),
    in_outcomes(
        "a fault changes nothing",
        lambda outcomes, rows: {
            "entry_pa": outcomes.entry_pa * ~faults(outcomes)[:, None],
            "entry_value": outcomes.entry_value * ~faults(outcomes)[:, None],
        },
    ),
    in_outcomes(
        "D written beside the entry",
        lambda outcomes, rows: {
            "entry_pa": np.where(outcomes.entry_pa != 0, outcomes.entry_pa ^ np.uint64(8), 0)
        },
    ),
]

GUEST = [*RIGHTS, *KEYS, *ADDRESSES, *RESERVED, *FAULTS, *MARKS]
"""Bugs that the built-in guest with four levels shows."""

FIVE_LEVELS = [
    *(right_ignored(f"{name} of a PML5E ignored", bit, {5}) for name, bit in _RIGHTS.items()),
    in_bulk("canonical for 48 bits", property_is("va_bits", 48)),
    not_reserved("PS of a PML5E not reserved", lambda level, *, leaf: PS if level == 5 else 0),
]
"""Bugs that it takes the guest with five levels to show."""


def _setting(**switches):
    """Pages of user and supervisor, closed and open; one has protection key 1."""
    builder = PageTables(ram=((0, 1 << 18),))
    kinds = (P | US | XD, OPEN, P | XD, P | RW, OPEN | 1 << 59)
    for place, flags in enumerate(kinds):
        builder.map(place << 21, (32 + place) << 12, flags)
    return builder.memory, context(**switches)


def _key_binds_supervisor(result, context, rows, grant, leaves):
    denies = context.pkru >> (2 * (leaves >> np.uint64(59) & np.uint64(15)).astype(int)) & 2 != 0
    locked = denies & (rows.type == AccessType.WRITE) & ((grant & Grant.USER) != 0)
    return np.where(locked, np.uint16(ErrorCode.PK), result)


def _outside():
    """Address 0 leads to a table where there is no RAM."""
    return SparseWords([(0x1000, 0x1000)], {0x1000: 0x8000_0000 | OPEN}), context()


_MISSING_ID = without_code(ErrorCode.ID)
ELSEWHERE = [
    (
        _setting(wp=False),
        with_fields(
            "R/W binds the supervisor with WP clear", lambda context: {"cr0": context.cr0 | 1 << 16}
        ),
    ),
    (
        _setting(nxe=False),
        not_reserved("XD not reserved with NXE clear", lambda level, *, leaf: XD),
    ),
    (
        _setting(nxe=False),
        in_outcomes(
            "I/D set with NXE and SMEP clear",
            lambda outcomes, rows: {
                "error_code": np.where(
                    faults(outcomes) & (rows.type == AccessType.EXECUTE),
                    outcomes.error_code | np.uint16(ErrorCode.ID),
                    outcomes.error_code,
                )
            },
        ),
    ),
    (_setting(nxe=False, smep=True), in_outcomes("I/D missing with SMEP alone", _MISSING_ID)),
    (_setting(smep=False), in_outcomes("I/D missing with NXE alone", _MISSING_ID)),
    (
        _setting(pke=True, pkru=8, wp=False),
        in_bulk("write-disable binds the supervisor with WP clear", judged(_key_binds_supervisor)),
    ),
    (
        _setting(smap=True, ac=True),
        in_accesses("SMAP whatever AC says", lambda rows: replace(rows, ac=np.zeros_like(rows.ac))),
    ),
    (_setting(), with_fields("SMEP taken as set", lambda context: {"cr4": context.cr4 | 1 << 20})),
    (_setting(), with_fields("SMAP taken as set", lambda context: {"cr4": context.cr4 | 1 << 21})),
    (
        _setting(pkru=4),
        with_fields("keys count with PKE clear", lambda context: {"cr4": context.cr4 | 1 << 22}),
    ),
    (
        _setting(),
        with_fields("NXE taken as clear", lambda context: {"efer": context.efer & ~(1 << 11)}),
    ),
    (_outside(), in_memory("no RAM reads as ones", ones_outside)),
]
"""Bugs that show only under other control registers: ((memory, context), bug)."""
