"""Translations in bulk: the rules of `crosswalk.walker.translate`, stated over arrays."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.access import AccessType
from crosswalk.walker.columns import MAX_STEPS, Accesses, Kind, Outcomes, merge_changes
from crosswalk.walker.context import PagingContext, PagingMode
from crosswalk.walker.entry import (
    ADDRESS_FIELD,
    PSE36_DISTANCE,
    PSE36_HIGH,
    PSE36_LOW,
    SHIFT_4MIB,
    Entry,
    Level,
    level_of,
    maps_large,
    reserved_bits,
)
from crosswalk.walker.linear import UAI_BITS
from crosswalk.walker.memory import FRAME, U64, PhysicalMemory
from crosswalk.walker.outcome import ErrorCode
from crosswalk.walker.rights import ALL_GRANTS, Grant, rights_table
from crosswalk.walker.second_level import SecondLevel, TableContext
from crosswalk.walker.tables import invalid_pdpte, read_words

__all__ = [
    "addresses_4mib",
    "are_canonical",
    "classify",
    "grants_of",
    "linear_addresses",
    "sign_extended",
    "translate_many",
]

_BLOCK = 1 << 16


def translate_many(memory: PhysicalMemory, context: PagingContext, accesses: Accesses) -> Outcomes:
    """Return what a processor of the context's vendor would answer to each access by itself.

    The same as `translate` row by row, by the same sources; `BadInput` as there.
    """
    if len(accesses):
        context.require_linear(int(accesses.va.max()))
    parts = [
        _translate_block(memory, context, accesses.take(slice(start, start + _BLOCK)))
        for start in range(0, len(accesses), _BLOCK)
    ]
    return Outcomes.join(parts) if parts else Outcomes.empty(0)


def classify(
    context: TableContext, level: int, entries: U64
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return bool[n] and bool[n]: which entries of one level are leaves, which set a reserved bit.

    Both are true of present entries only. Of a hypervisor's tables the latter are malformed in any
    way.
    """
    leaf = leaves_among(context, level, entries)
    if isinstance(context, SecondLevel):
        pages, tables = (context.malformed(level, entries, leaf=it) for it in (True, False))
        return leaf, np.where(leaf, pages, tables)
    of_leaf, of_table = (np.uint64(reserved_bits(context, level, leaf=it)) for it in (True, False))
    return leaf, (entries & np.where(leaf, of_leaf, of_table)) != 0


def leaves_among(context: TableContext, level: int, entries: U64) -> NDArray[np.bool_]:
    """Return which of these present entries of one level map a page, as bool[n]."""
    if isinstance(context, SecondLevel):
        return context.leaves_among(level, entries)
    if level == 1:
        return np.ones(len(entries), np.bool_)
    if not maps_large(context, level):
        return np.zeros(len(entries), np.bool_)
    large: NDArray[np.bool_] = (entries & np.uint64(Entry.PS)) != 0
    return large


def addresses_4mib(leaves: U64) -> U64:
    """Return the physical addresses of the 4-MiB pages that these entries map, uint64[n]."""
    high = (leaves & np.uint64(PSE36_HIGH)) << np.uint64(PSE36_DISTANCE)
    return leaves & np.uint64(PSE36_LOW) | high


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

    accesses, walks = _linear(memory, context, accesses)
    out.kind[~walks] = Kind.GENERAL_PROTECTION
    out.kind[walks] = Kind.PAGE_FAULT

    rows = np.flatnonzero(walks)
    # Only the root of PAE paging begins within a frame.
    within = np.uint64(context.root % FRAME // 8)
    table = np.full(len(rows), context.root & -FRAME, np.uint64)
    grant = np.full(len(rows), ALL_GRANTS, np.uint8)
    rights = rights_table(context)
    for number in range(context.levels, 0, -1):
        level = level_of(context, number)
        index = accesses.va[rows] >> np.uint64(level.shift) & np.uint64(level.entries - 1)
        at = context.levels - number
        entry_pa[rows, at], word, up = _look_up(memory, level, table, within + index)
        entry = word if level.entry_size == 8 else word >> up & np.uint64(0xFFFF_FFFF)

        present = (entry & np.uint64(Entry.P)) != 0
        leaf, reserved = classify(context, number, entry)
        bad = present & reserved
        out.error_code[rows[bad]] = ErrorCode.P | ErrorCode.RSVD
        good = present & ~bad
        rows, entry, leaf, grant = rows[good], entry[good], leaf[good], grant[good]
        word, up = (entry, up) if level.entry_size == 8 else (word[good], up[good])
        before[rows, at] = word
        after[rows, at] = word | np.uint64(Entry.A if level.restricts else 0) << up
        if level.restricts:
            grant &= grants_of(entry)

        found = rows[leaf]
        denied = _judge(context, accesses.take(found), grant[leaf], entry[leaf])
        allowed = denied == _ALLOWED
        _reach(context, number, out, accesses, (found[allowed], entry[leaf][allowed]))
        out.rights[found[allowed]] = rights[grant[leaf][allowed]]
        out.error_code[found[~allowed]] = denied[~allowed] | np.uint16(ErrorCode.P)
        # Denied, the leaf may have A all the same, and nothing else; a write that succeeds adds D.
        writes = allowed & (accesses.type[found] == AccessType.WRITE)
        dirty = np.uint64(Entry.D) << (up if len(up) == 1 else up[leaf][writes])
        after[found[writes], at] |= dirty

        rows, table, grant = rows[~leaf], entry[~leaf], grant[~leaf]
        table, within = table & np.uint64(context.address_mask), np.uint64(0)

    faults = out.kind == Kind.PAGE_FAULT
    out.error_code[faults] |= _cause(context, accesses)[faults]
    out.cr2[faults] = accesses.va[faults]
    out.entry_pa[:], out.entry_value[:] = merge_changes(entry_pa, before, after)
    if context.mode is PagingMode.BIT32:
        _split_choices(out, faults & (entry_pa[:, 0] == entry_pa[:, 1]), before, after)
    return out


def _split_choices(out: Outcomes, same: NDArray[np.bool_], before: U64, after: U64) -> None:
    """List both choices, and both together, where the two entries of a fault share a word."""
    first, second = after[:, 0], after[:, 1]
    rows = same & (first != before[:, 0]) & (second != before[:, 1]) & (first != second)
    choices = np.stack([first, second, first | second], axis=1)[rows]
    out.entry_pa[rows, 1:3] = out.entry_pa[rows, :1]
    out.entry_value[rows, :3] = np.sort(choices, axis=1)


def _look_up(memory: PhysicalMemory, level: Level, frames: U64, index: U64) -> tuple[U64, U64, U64]:
    """Return where the words are that hold these entries, the words, and how far up in them.

    Two entries of four bytes share a word, one of them 32 bits up; of others it is one 0 for all.
    """
    up = np.zeros(1, np.uint64)
    if level.entry_size == 4:
        up, index = (index & np.uint64(1)) << np.uint64(5), index >> np.uint64(1)
    return frames + index * np.uint64(8), read_words(memory, frames, index), up


def _linear(
    memory: PhysicalMemory, context: PagingContext, accesses: Accesses
) -> tuple[Accesses, NDArray[np.bool_]]:
    """Return the accesses at their linear addresses, and bool[n]: which of them are walked."""
    if not context.mode.long:
        return accesses, np.full(len(accesses), invalid_pdpte(memory, context) is None)
    va, upper = linear_addresses(context, accesses), accesses.va >> np.uint64(63) == 1
    fetch = accesses.type == AccessType.EXECUTE
    walks = are_canonical(context, va)
    if context.lass:
        user = accesses.cpl == 3
        walks &= ~(user & upper)
        walks &= user | upper | ~(fetch | (context.smap & ~accesses.ac))
    return replace(accesses, va=va), walks


def linear_addresses(context: PagingContext, accesses: Accesses) -> U64:
    """Return uint64[n]: the addresses after LAM and UAI (`crosswalk.walker.linear.masked`).

    Those of fetches stay as they are. What results need not be canonical.
    """
    va, upper = accesses.va, accesses.va >> np.uint64(63) == 1
    fetch = accesses.type == AccessType.EXECUTE
    if context.uai:
        va = np.where(fetch, va, sign_extended(va, UAI_BITS))
    for half, bits in ((upper, context.lam_supervisor), (~upper, context.lam_user)):
        if bits:
            # Bit 63 stays.
            masked = sign_extended(va, bits) & ~_BIT_63 | va & _BIT_63
            va = np.where(half & ~fetch, masked, va)
    return va


def are_canonical(context: PagingContext, va: U64) -> NDArray[np.bool_]:
    """Return bool[n]: which addresses are canonical, as `PagingContext.canonical` has it."""
    found: NDArray[np.bool_] = va >> np.uint64(context.va_bits) == 0
    if context.mode.long:
        found = sign_extended(va, context.va_bits) == va
    return found


def sign_extended(va: U64, bits: int) -> U64:
    """Return addresses with the highest of their low `bits` bits copied upwards, uint64[n]."""
    shift = np.int64(64 - bits)
    return (va.astype(np.int64) << shift >> shift).astype(np.uint64)


_BIT_63 = np.uint64(1 << 63)

_ALLOWED = np.uint16(0xFFFF)


def _reach(
    context: PagingContext,
    level: int,
    out: Outcomes,
    accesses: Accesses,
    found: tuple[NDArray[np.intp], U64],
) -> None:
    rows, leaves = found
    shift = level_of(context, level).shift
    span = 1 << shift
    if shift == SHIFT_4MIB:
        base = addresses_4mib(leaves)
    else:
        base = leaves & np.uint64(context.address_mask & -span & ADDRESS_FIELD)
    out.pa[rows] = base | accesses.va[rows] & np.uint64(span - 1)
    out.page_size[rows] = span
    out.kind[rows] = Kind.OK


def _judge(
    context: PagingContext, accesses: Accesses, grant: NDArray[np.uint8], leaves: U64
) -> NDArray[np.uint16]:
    """Return `_ALLOWED`, or the error-code bits other than P and the cause, for each row."""
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
    user_keys, supervisor_keys = context.pke, context.pks
    if user_keys or supervisor_keys:
        key = (leaves >> np.uint64(59)).astype(np.uint32) & np.uint32(15)
        pkru = np.uint32(context.pkru if user_keys else 0)
        pkrs = np.uint32(context.pkrs if supervisor_keys else 0)
        denies = np.where(user_page, pkru, pkrs) >> (key * np.uint32(2))
        denies_write = ((denies & 2) != 0) & ((user_page & ~supervisor) | context.wp)
        locked = ~fetch & (((denies & 1) != 0) | (writing & denies_write))
        result[locked] = ErrorCode.PK
    return result


def _cause(context: PagingContext, accesses: Accesses) -> NDArray[np.uint16]:
    code = np.zeros(len(accesses), np.uint16)
    code[accesses.type == AccessType.WRITE] |= np.uint16(ErrorCode.WR)
    code[accesses.cpl == 3] |= np.uint16(ErrorCode.US)
    if context.reports_fetches:
        code[accesses.type == AccessType.EXECUTE] |= np.uint16(ErrorCode.ID)
    return code
