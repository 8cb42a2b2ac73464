"""Translations in bulk: the rules of `walker.translate`, stated over arrays."""

import numpy as np
from numpy.typing import NDArray

from walker.access import AccessType
from walker.columns import MAX_STEPS, Accesses, Kind, Outcomes, merge_changes
from walker.context import PagingContext
from walker.entry import ADDRESS_FIELD, LEVELS, Entry, reserved_bits
from walker.memory import U64, WORDS, PhysicalMemory
from walker.outcome import ErrorCode
from walker.rights import ALL_GRANTS, Grant, rights_table

__all__ = ["grants_of", "leaves_among", "translate_many"]

_BLOCK = 1 << 16


def translate_many(memory: PhysicalMemory, context: PagingContext, accesses: Accesses) -> Outcomes:
    """Return what an Intel 64 processor would answer to each access, each on its own.

    The same as `translate` row by row, by the same sources.
    """
    parts = [
        _translate_block(memory, context, accesses.take(slice(start, start + _BLOCK)))
        for start in range(0, len(accesses), _BLOCK)
    ]
    return Outcomes.join(parts) if parts else Outcomes.empty(0)


def leaves_among(context: PagingContext, level: int, entries: U64) -> NDArray[np.bool_]:
    """Return which of these present entries of one level map a page, as bool[n]."""
    if level == 1:
        return np.ones(len(entries), np.bool_)
    if not LEVELS[level].large or (level == 3 and not context.page1gb):
        return np.zeros(len(entries), np.bool_)
    large: NDArray[np.bool_] = (entries & np.uint64(Entry.PS)) != 0
    return large


def grants_of(entries: U64) -> NDArray[np.uint8]:
    """Return the `Grant` bits of these present entries, as uint8[n]."""
    # The bits lie in the first and the last byte of each word; eight bytes are shifted at once.
    count = len(entries)
    octets = np.ascontiguousarray(entries).view(np.uint8)
    low, high = np.zeros((2, -(-count // 8) * 8), np.uint8)
    low[:count], high[:count] = octets[::8], octets[7::8]
    grants = low.view(np.uint64) >> np.uint64(1) & _WRITE_USER
    grants |= ~high.view(np.uint64) >> np.uint64(5) & _EXECUTE
    return grants.view(np.uint8)[:count]


_WRITE_USER = np.uint64(0x0101_0101_0101_0101 * (Grant.WRITE | Grant.USER))
_EXECUTE = np.uint64(0x0101_0101_0101_0101 * Grant.EXECUTE)


def _translate_block(
    memory: PhysicalMemory, context: PagingContext, accesses: Accesses
) -> Outcomes:
    count = len(accesses)
    out = Outcomes.empty(count)
    before = np.zeros((count, MAX_STEPS), np.uint64)
    after = np.zeros((count, MAX_STEPS), np.uint64)
    entry_pa = np.zeros((count, MAX_STEPS), np.uint64)

    top = accesses.va.astype(np.int64) >> np.int64(context.va_bits - 1)
    canonical = (top == 0) | (top == -1)
    out.kind[~canonical] = Kind.GENERAL_PROTECTION
    out.kind[canonical] = Kind.PAGE_FAULT

    rows = np.flatnonzero(canonical)
    table = np.full(len(rows), context.root, np.uint64)
    grant = np.full(len(rows), ALL_GRANTS, np.uint8)
    rights = rights_table(context)
    for level in range(context.levels, 0, -1):
        index = accesses.va[rows] >> np.uint64(LEVELS[level].shift) & np.uint64(WORDS - 1)
        frames, inverse = np.unique(table, return_inverse=True)
        entry = memory.tables(frames)[inverse, index]
        at = context.levels - level
        entry_pa[rows, at] = table + index * np.uint64(8)

        present = (entry & np.uint64(Entry.P)) != 0
        leaf = leaves_among(context, level, entry)
        reserved = np.where(
            leaf,
            np.uint64(reserved_bits(context, level, leaf=True)),
            np.uint64(reserved_bits(context, level, leaf=False)),
        )
        bad = present & ((entry & reserved) != 0)
        out.error_code[rows[bad]] = ErrorCode.P | ErrorCode.RSVD
        good = present & ~bad
        rows, entry, leaf, grant = rows[good], entry[good], leaf[good], grant[good]
        before[rows, at] = entry
        after[rows, at] = entry | np.uint64(Entry.A)
        grant &= grants_of(entry)

        found = rows[leaf]
        denied = _judge(context, accesses.take(found), grant[leaf], entry[leaf])
        allowed = denied == _ALLOWED
        _reach(context, level, out, accesses, (found[allowed], entry[leaf][allowed]))
        out.rights[found[allowed]] = rights[grant[leaf][allowed]]
        out.error_code[found[~allowed]] = denied[~allowed] | np.uint16(ErrorCode.P)
        # A fault of rights leaves its own leaf alone; a write that succeeds makes it dirty.
        after[found[~allowed], at] = before[found[~allowed], at]
        written = found[allowed & (accesses.type[found] == AccessType.WRITE)]
        after[written, at] |= np.uint64(Entry.D)

        rows, table, grant = rows[~leaf], entry[~leaf], grant[~leaf]
        table = table & np.uint64(context.address_mask)

    faults = out.kind == Kind.PAGE_FAULT
    out.error_code[faults] |= _cause(context, accesses)[faults]
    out.cr2[faults] = accesses.va[faults]
    out.entry_pa[:], out.entry_value[:] = merge_changes(entry_pa, before, after)
    return out


_ALLOWED = np.uint16(0xFFFF)


def _reach(
    context: PagingContext,
    level: int,
    out: Outcomes,
    accesses: Accesses,
    found: tuple[NDArray[np.intp], U64],
) -> None:
    rows, leaves = found
    span = LEVELS[level].span
    base = leaves & np.uint64(context.address_mask & -span & ADDRESS_FIELD)
    out.pa[rows] = base | accesses.va[rows] & np.uint64(span - 1)
    out.page_size[rows] = span
    out.kind[rows] = Kind.OK


def _judge(
    context: PagingContext, accesses: Accesses, grant: NDArray[np.uint8], leaves: U64
) -> NDArray[np.uint16]:
    """Return `_ALLOWED`, or the error-code bits beside P and the cause, for each row."""
    supervisor = accesses.cpl < 3
    user_page = (grant & Grant.USER) != 0
    fetch = accesses.type == AccessType.EXECUTE
    writing = accesses.type == AccessType.WRITE
    executable = (grant & Grant.EXECUTE) != 0
    writable = ((grant & Grant.WRITE) != 0) | (supervisor & (not context.wp))

    fetch_allowed = executable & np.where(supervisor, ~(user_page & context.smep), user_page)
    smapped = user_page & context.smap & ~accesses.ac
    data_allowed = (writable | ~writing) & np.where(supervisor, ~smapped, user_page)
    allowed = np.where(fetch, fetch_allowed, data_allowed)
    result = np.where(allowed, _ALLOWED, np.uint16(0))
    if context.pke:
        key = (leaves >> np.uint64(59)).astype(np.uint32) & np.uint32(15)
        denies = np.uint32(context.pkru) >> (key * np.uint32(2))
        denies_write = ((denies & 2) != 0) & (~supervisor | context.wp)
        locked = ~fetch & user_page & (((denies & 1) != 0) | (writing & denies_write))
        result[locked] = ErrorCode.PK
    return result


def _cause(context: PagingContext, accesses: Accesses) -> NDArray[np.uint16]:
    code = np.zeros(len(accesses), np.uint16)
    code[accesses.type == AccessType.WRITE] |= np.uint16(ErrorCode.WR)
    code[accesses.cpl == 3] |= np.uint16(ErrorCode.US)
    if context.nxe or context.smep:
        code[accesses.type == AccessType.EXECUTE] |= np.uint16(ErrorCode.ID)
    return code
