"""The second walk: what the emulated CPU does, stated exactly, and what the manuals say.

Written from the entries up over arrays, apart from `crosswalk.walker.translate` and
`crosswalk.walker.bulk`: it decodes the registers by itself and takes nothing from the walker but
types and memory. A `Rules` says how a processor walks; the departures of the emulator
(`crosswalk.emu.check.departures`) are changes of it. With none of them the second walk answers what
the walker has to predict; with all of them it answers what the emulated CPU has to be observed to
do, to the last bit.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.check.emulated_rules import Keys, LevelRules, Pages, Rules, levels_of
from crosswalk.walker.access import AccessType
from crosswalk.walker.columns import MAX_STEPS, Accesses, Kind, Outcomes
from crosswalk.walker.memory import FRAME, U64, PhysicalMemory

__all__ = ["emulated_many"]

_P, _RW, _US, _A, _D, _PS, _XD = (np.uint64(1 << bit) for bit in (0, 1, 2, 5, 6, 7, 63))
_ZERO, _BIT_63 = np.uint64(0), np.uint64(63)

_CODE_P, _CODE_WR, _CODE_US, _CODE_RSVD, _CODE_ID, _CODE_PK = (1 << bit for bit in range(6))


def emulated_many(
    memory: PhysicalMemory, rules: Rules, accesses: Accesses, *, every_choice: bool = False
) -> Outcomes:
    """Return what a processor with these rules answers to each access, each with an empty TLB.

    The words changed are those that the emulated CPU changes: where the manuals leave a choice
    to the processor, the one that it makes. With `every_choice` the words of a fault are all
    that it may change, as a prediction has them. Page sizes and rights are left 0.
    """
    parts = [
        _walk(memory, rules, accesses.take(slice(start, start + _BLOCK)), every=every_choice)
        for start in range(0, len(accesses), _BLOCK)
    ]
    return Outcomes.join(parts) if parts else Outcomes.empty(0)


_BLOCK = 1 << 16


class _Path:
    """The entries that n addresses select, a column a level from the root: uint64[n, levels].

    `word_pa` and `word` are the 8-byte words that hold them, `up` how far up in these. Beyond
    the entry at which a walk ends, all are 0. `end` int[n] is the column of that entry,
    `leaf`, `absent`, `refused` and `late` bool[n] say why it ends there: it maps a page, isn't
    present, sets a reserved bit, or one that is looked at only after A was set.
    """

    def __init__(self, memory: PhysicalMemory, rules: Rules, va: U64) -> None:
        levels = levels_of(rules)
        shape = len(va), len(levels)
        self.levels = levels
        self.word_pa, self.word, self.up, self.entry = np.zeros((4, *shape), np.uint64)
        self.end = np.zeros(len(va), np.intp)
        self.leaf, self.absent, self.refused, self.late = np.zeros((4, len(va)), np.bool_)
        rows, table = np.arange(len(va)), np.full(len(va), rules.root, np.uint64)
        for at, level in enumerate(levels):
            index = va[rows] >> np.uint64(level.shift) & np.uint64((1 << level.index_bits) - 1)
            self._read(memory, level, (rows, at), table + index * np.uint64(level.size))
            # An encryption mask is no part of what an entry says.
            entry = self.entry[rows, at] & ~np.uint64(rules.mask)
            page = _maps_page(level, entry)
            absent = entry & _P == 0
            bad = entry & np.where(page, np.uint64(level.reserved_page), np.uint64(level.reserved))
            late = page & (bad & ~np.uint64(level.late) == 0) & (bad != 0) & ~absent
            ends = absent | (bad != 0) | page
            done = rows[ends]
            self.end[done] = at
            self.absent[done] = absent[ends]
            self.refused[done] = (~absent & (bad != 0))[ends]
            self.leaf[done] = (~absent & page & (bad == 0))[ends]
            self.late[done] = late[ends]
            rows, table = rows[~ends], entry[~ends] & np.uint64(rules.frame_mask)

    def _read(
        self,
        memory: PhysicalMemory,
        level: LevelRules,
        where: tuple[NDArray[np.intp], int],
        pa: U64,
    ) -> None:
        frames, inverse = np.unique(pa & ~np.uint64(FRAME - 1), return_inverse=True)
        word = memory.tables(frames)[inverse, pa % np.uint64(FRAME) >> np.uint64(3)]
        up = pa % np.uint64(8) * np.uint64(8)
        self.word_pa[where], self.word[where], self.up[where] = pa & ~np.uint64(7), word, up
        self.entry[where] = word >> up & np.uint64((1 << 8 * level.size) - 1)

    def used(self) -> NDArray[np.bool_]:
        """Return bool[n, levels]: the entries above the one at which each walk ends."""
        used: NDArray[np.bool_] = np.arange(len(self.levels)) < self.end[:, None]
        return used

    def last(self) -> U64:
        """Return uint64[n]: the entry at which each walk ends."""
        last: U64 = np.take_along_axis(self.entry, self.end[:, None], 1)[:, 0]
        return last


def _maps_page(level: LevelRules, entry: U64) -> NDArray[np.bool_]:
    if level.pages is Pages.WITH_PS:
        page: NDArray[np.bool_] = entry & _PS != 0
        return page
    return np.full(len(entry), level.pages is Pages.ALL)


def _walk(memory: PhysicalMemory, rules: Rules, accesses: Accesses, *, every: bool) -> Outcomes:
    out = Outcomes.empty(len(accesses))
    stopped = _separated(rules, accesses)
    accesses = replace(accesses, va=_linear(rules, accesses))
    stopped |= _stopped(memory, rules, accesses)
    out.kind[stopped] = Kind.GENERAL_PROTECTION
    rows = np.flatnonzero(~stopped)
    accesses = accesses.take(rows)
    path = _Path(memory, rules, accesses.va)
    code, allowed = _judged(rules, path, accesses)
    out.kind[rows] = np.where(allowed, np.uint8(Kind.OK), np.uint8(Kind.PAGE_FAULT))
    out.pa[rows] = np.where(allowed, _reached(rules, path, accesses.va), _ZERO)
    out.error_code[rows] = np.where(allowed, np.uint16(0), code)
    out.cr2[rows] = np.where(allowed, _ZERO, accesses.va)
    bits = _marks(path, accesses, allowed, every=every)
    pa, value = _changed(path, bits)
    if every and rules.entry_size == 4:
        _add_choices(path, bits, ~allowed, (pa, value))
    out.entry_pa[rows], out.entry_value[rows] = pa, value
    return out


def _linear(rules: Rules, accesses: Accesses) -> U64:
    """Return uint64[n]: the addresses that the accesses go to, LAM or UAI done; of fetches none."""
    va = accesses.va
    data = accesses.type != AccessType.EXECUTE
    upper = va >> _BIT_63 != 0
    linear = va.copy()
    for which, bits, top in (
        (~upper, rules.lam_user, 63),
        (upper, rules.lam_supervisor, 63),
        (np.ones(len(va), np.bool_), 57 if rules.uai else 0, 64),
    ):
        if not bits:
            continue
        # Bits from `bits` up to `top` become what the bit below them is.
        above = np.uint64((1 << top) - (1 << bits))
        ones = va >> np.uint64(bits - 1) & np.uint64(1) != 0
        linear = np.where(which & data, np.where(ones, va | above, va & ~above), linear)
    return linear


def _separated(rules: Rules, accesses: Accesses) -> NDArray[np.bool_]:
    """Return bool[n]: which accesses LASS refuses, by #GP(0) and before there is a walk."""
    upper, user = accesses.va >> _BIT_63 != 0, accesses.cpl == 3
    fetch = accesses.type == AccessType.EXECUTE
    down = ~user & ~upper & (fetch | (~accesses.ac & rules.smap))
    separated: NDArray[np.bool_] = (user & upper | down) & rules.lass
    return separated


def _stopped(memory: PhysicalMemory, rules: Rules, accesses: Accesses) -> NDArray[np.bool_]:
    """Return bool[n]: which accesses raise #GP(0) before there is a walk."""
    if rules.loads_pdptes and _unloadable(memory, rules):
        return np.ones(len(accesses), np.bool_)
    if not rules.canonical_bits:
        return np.zeros(len(accesses), np.bool_)
    # All bits from the top one of the address's width up have to be equal.
    high = accesses.va >> np.uint64(rules.canonical_bits - 1)
    ones = np.uint64((1 << 65 - rules.canonical_bits) - 1)
    stopped: NDArray[np.bool_] = (high != 0) & (high != ones)
    return stopped


def _unloadable(memory: PhysicalMemory, rules: Rules) -> bool:
    """Return whether one of the four PDPTEs that MOV to CR3 loads is present and malformed."""
    (level, *_) = levels_of(rules)
    frame = memory.tables(np.array([rules.root & -FRAME], np.uint64))[0]
    first = rules.root % FRAME // 8
    entries = frame[first : first + (1 << level.index_bits)] & ~np.uint64(rules.mask)
    return bool(((entries & _P != 0) & (entries & np.uint64(level.reserved) != 0)).any())


def _judged(
    rules: Rules, path: _Path, accesses: Accesses
) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """Return the error code uint16[n] of a fault, and bool[n]: which accesses there is none for."""
    user = accesses.cpl == 3
    write = accesses.type == AccessType.WRITE
    fetch = accesses.type == AccessType.EXECUTE
    restricts = np.array([level.restricts for level in path.levels])
    counts = (np.arange(len(path.levels)) <= path.end[:, None]) & restricts
    user_page = ((path.entry & _US != 0) | ~counts).all(axis=1)
    writable = ((path.entry & _RW != 0) | ~counts).all(axis=1)
    if rules.xd_everywhere:
        no_fetch = ((path.entry & _XD != 0) | ~counts).all(axis=1)
    else:
        no_fetch = ((path.entry & _XD != 0) & counts).any(axis=1)
    refused = _forbidden(rules, accesses, user_page, writable, no_fetch)
    by_key = _by_key(rules, path, accesses, user_page)
    leaf, absent, bad = path.leaf, path.absent, path.refused
    if rules.level_by_level:
        above = _forbidden_above(rules, path, accesses)
        refused, leaf = refused | above, leaf & ~above
        absent, bad = absent & ~above, bad & ~above

    code = np.zeros(len(accesses), np.uint16)
    code[~absent & ~(bad & (not rules.reserved_present))] |= np.uint16(_CODE_P)
    code[bad] |= np.uint16(_CODE_RSVD)
    code[leaf & by_key] |= np.uint16(_CODE_PK)
    code[write] |= np.uint16(_CODE_WR)
    code[user] |= np.uint16(_CODE_US)
    code[fetch & rules.fetch_bit] |= np.uint16(_CODE_ID)
    return code, leaf & ~refused & ~by_key


def _forbidden(
    rules: Rules,
    accesses: Accesses,
    user_page: NDArray[np.bool_],
    writable: NDArray[np.bool_],
    no_fetch: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Return bool[n]: which accesses the rights forbid that their pages have."""
    user = accesses.cpl == 3
    write = accesses.type == AccessType.WRITE
    fetch = accesses.type == AccessType.EXECUTE
    forbidden: NDArray[np.bool_] = user & ~user_page
    forbidden |= write & ~writable & (user | rules.wp)
    forbidden |= fetch & (no_fetch | (user_page & ~user & rules.smep))
    forbidden |= ~fetch & user_page & ~user & ~accesses.ac & rules.smap
    return forbidden


def _forbidden_above(rules: Rules, path: _Path, accesses: Accesses) -> NDArray[np.bool_]:
    """Return bool[n]: which accesses an entry above the last forbids, as if it were that."""
    forbidden = np.zeros(len(accesses), np.bool_)
    user_page, writable = np.ones((2, len(accesses)), np.bool_)
    no_fetch = np.full(len(accesses), rules.xd_everywhere)
    for at, level in enumerate(path.levels[:-1]):
        if not level.restricts:
            continue
        entry, read = path.entry[:, at], path.end > at
        user_page, writable = user_page & (entry & _US != 0), writable & (entry & _RW != 0)
        xd = entry & _XD != 0
        no_fetch = no_fetch & xd if rules.xd_everywhere else no_fetch | xd
        forbidden |= read & _forbidden(rules, accesses, user_page, writable, no_fetch)
    return forbidden


def _by_key(
    rules: Rules, path: _Path, accesses: Accesses, user_page: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return bool[n]: which data accesses the key of their page denies."""
    user, data = accesses.cpl == 3, accesses.type != AccessType.EXECUTE
    write = accesses.type == AccessType.WRITE
    denied = np.zeros(len(accesses), np.bool_)
    key = path.last() >> np.uint64(59) & np.uint64(15)
    if rules.pkru is not None:
        pair = np.uint64(rules.pkru) >> key * np.uint64(2)
        no_access, no_write = pair & np.uint64(1) != 0, pair & np.uint64(2) != 0
        held = user_page
        if rules.user_keys is Keys.TABLES:
            held = _of_user_tables(path)
        elif rules.user_keys is Keys.ACCESSES:
            held, no_access = np.ones(len(accesses), np.bool_), no_access & user
        denied |= held & data & (no_access | (write & no_write & (user | rules.wp)))
    if rules.pkrs is not None:
        pair = np.uint64(rules.pkrs) >> key * np.uint64(2)
        no_access, no_write = pair & np.uint64(1) != 0, pair & np.uint64(2) != 0
        held = ~user_page & (~user | rules.pk_of_user_accesses)
        if rules.supervisor_keys is Keys.TABLES:
            held = ~_of_user_tables(path)
        elif rules.supervisor_keys is Keys.ACCESSES:
            held = ~user
        # WD of a supervisor page heeds CR0.WP, whoever writes.
        denied |= held & data & (no_access | (write & no_write & rules.wp))
    return denied


def _of_user_tables(path: _Path) -> NDArray[np.bool_]:
    """Return bool[n]: whether U/S is set in all entries above the one at which a walk ends."""
    above = np.arange(len(path.levels)) < path.end[:, None]
    found: NDArray[np.bool_] = ((path.entry & _US != 0) | ~above).all(axis=1)
    return found


def _reached(rules: Rules, path: _Path, va: U64) -> U64:
    """Return uint64[n]: where each address lies in the page that its last entry maps."""
    found = np.zeros(len(va), np.uint64)
    for at, level in enumerate(path.levels):
        if level.pages is Pages.NONE:
            continue
        rows = np.flatnonzero(path.leaf & (path.end == at))
        entry, within = path.entry[rows, at] & ~np.uint64(rules.mask), (1 << level.shift) - 1
        base = entry & np.uint64(rules.frame_mask & ~within)
        if level.size == 4 and level.pages is Pages.WITH_PS:
            # PSE-36: bits 20:13 of a 4-MiB page's entry are bits 39:32 of its address.
            base |= (entry >> np.uint64(13) & np.uint64(0xFF)) << np.uint64(32)
        found[rows] = base | va[rows] & np.uint64(within)
    return found


def _marks(path: _Path, accesses: Accesses, allowed: NDArray[np.bool_], *, every: bool) -> U64:
    """Return uint64[n, levels]: the bits that are set in each entry of each path."""
    bits = np.where(path.used(), _A, _ZERO)
    bits[:, [not level.accessed for level in path.levels]] = _ZERO
    last = np.where(allowed, _A, _ZERO)
    last[allowed & (accesses.type == AccessType.WRITE)] |= _D
    rows = np.arange(len(accesses))
    # Whether a page whose rights forbid the access is marked as accessed is for the processor to
    # choose (Intel SDM vol. 3A, "Interrupt 14—Page-Fault Exception (#PF)";
    # AMD APM vol. 2, "Notes on Accessed and Dirty Bits").
    early = np.array([level.early for level in path.levels])[path.end]
    last[path.leaf & ~allowed & (every | early)] = _A
    last[path.late] = _A
    bits[rows, path.end] = last
    return bits


def _changed(path: _Path, bits: U64) -> tuple[U64, U64]:
    """Return (address, value) uint64[n, 5] of the words that setting these bits changes."""
    pa, value = np.zeros((2, len(bits), MAX_STEPS), np.uint64)
    bits = bits << path.up
    rows = np.flatnonzero((bits & ~path.word != 0).any(axis=1))
    where, word, bits = path.word_pa[rows], path.word[rows], bits[rows]
    for at, before in _pairs(bits.shape[1]):
        # A table that is its own: one word is used twice, and keeps what both set.
        again = where[:, at] == where[:, before]
        bits[:, before] |= np.where(again, bits[:, at], _ZERO)
        bits[:, at] = np.where(again, _ZERO, bits[:, at])
    changes = bits & ~word != 0
    order = np.argsort(np.where(changes, where, ~_ZERO), axis=1, kind="stable")
    count = min(MAX_STEPS, bits.shape[1])
    for target, source in ((pa, where), (value, word | bits)):
        kept = np.take_along_axis(np.where(changes, source, _ZERO), order, 1)
        target[rows, :count] = kept[:, :count]
    return pa, value


def _add_choices(path: _Path, bits: U64, faults: NDArray[np.bool_], words: tuple[U64, U64]) -> None:
    """Add what a fault makes of a word if it marks but one of the two entries that lie there."""
    marked = [bits[:, at] & ~(path.word[:, at] >> path.up[:, at]) != 0 for at in (0, 1)]
    beside = (path.word_pa[:, 0] == path.word_pa[:, 1]) & (path.up[:, 0] != path.up[:, 1])
    rows = np.flatnonzero(faults & beside & marked[0] & marked[1])
    pa, value = words
    for at in (0, 1):
        pa[rows, 1 + at] = pa[rows, 0]
        value[rows, 1 + at] = path.word[rows, at] | bits[rows, at] << path.up[rows, at]
    value[rows, :3] = np.sort(value[rows, :3], axis=1)


def _pairs(count: int) -> Iterator[tuple[int, int]]:
    for at in range(count):
        for before in range(at):
            yield at, before
