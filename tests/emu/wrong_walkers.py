"""Walkers under test with one thing wrong each: some list mappings, some translate."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from crosswalk.emu.targets.capabilities import parse_claims
from crosswalk.emu.targets.python import Function
from crosswalk.emu.targets.questions import Course, put
from crosswalk.walker.bulk import linear_addresses
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import PagingMode

P, RW, US, PS, G, XD = 1, 2, 4, 1 << 7, 1 << 8, 1 << 63
ADDRESS = 0x000F_FFFF_FFFF_F000


def no_leaf_below(level, entry, context):
    return level == 1 or (level < 3 + context.page1gb and bool(entry & PS) and level < 4)


def reserved(level, entry, leaf, context):
    """The bits of a present entry that have to be 0 with four and five levels."""
    wrong = ADDRESS & ~context.address_mask & ~context.encryption_mask
    if not context.nxe:
        wrong |= XD
    if level > 3:
        wrong |= PS | (G if context.vendor == "amd" else 0)
    elif level == 3 and not leaf:
        wrong |= PS
    elif level > 1 and leaf:
        wrong |= (1 << 3 + 9 * level) - (1 << 13)
    return entry & wrong


def effective(context, entries):
    """The rights that all entries together leave: uwx, a dash for each that is missing."""
    user, write = (all(entry & bit for entry in entries) for bit in (US, RW))
    run = not context.nxe or not any(entry & XD for entry in entries)
    return "".join(
        name if right else "-" for name, right in zip("uwx", (user, write, run), strict=True)
    )


def following(whole, page):
    """Whether a page goes on where a range ends, in physical addresses and with its rights."""
    return whole[1] + whole[2] == page[1] and whole[4] == page[4]


def span(level):
    return 1 << 3 + 9 * level


@dataclass(frozen=True)
class Wrong:
    """A walker of 4- and 5-level paging; each field is a rule, which a wrong one has otherwise."""

    name: str
    claims: str = "leaves"
    present: Callable = lambda level, entry: entry & P
    leaf: Callable = no_leaf_below
    reserved: Callable = reserved
    address: Callable = lambda level, address: address & -(1 << 3 + 9 * level)
    size: Callable = lambda level: 1 << 3 + 9 * level
    flags: Callable = lambda level, entry: entry & ~(ADDRESS & -(1 << 3 + 9 * level))
    followed: Callable = lambda level, index, entries: True
    indices: range = range(512)
    rights: Callable = effective
    follows: Callable = following

    def target(self):
        """The walker, as an executor asks it."""
        lists = "leaves" in self.claims
        function = self.list if lists else self.translate
        modes = frozenset({PagingMode.LEVEL4, PagingMode.LEVEL5})
        return InProcess(self.name, Function(function, parse_claims(self.claims, "here"), modes))

    def entry(self, memory, context, level, table, index):
        """The entry of a table if it is present and well formed: (entry, whether it is a leaf)."""
        entry = memory.table(table)[index]
        leaf = self.leaf(level, entry, context)
        good = self.present(level, entry) and not self.reserved(level, entry, leaf, context)
        if good and self.followed(level, index, memory.table(table)):
            return entry, leaf
        return None

    def list(self, memory, context, va, end):
        """List the mappings that touch [va, end)."""
        if not context.mode.long:
            return NotImplemented
        pages = self._below(memory, context, context.levels, context.root, 0, va, end)
        listed = [
            (at, pa, size, flags, self.rights(context, entries))
            for at, pa, size, flags, entries in pages
        ]
        return list(self._merged(listed)) if "ranges" in self.claims else listed

    def _merged(self, pages):
        """Neighbours as one, where `follows` says so."""
        whole = None
        for page in pages:
            if whole is not None and whole[0] + whole[2] == page[0] and self.follows(whole, page):
                whole = (*whole[:2], whole[2] + page[2], *whole[3:])
                continue
            if whole is not None:
                yield whole
            whole = page
        if whole is not None:
            yield whole

    def _below(self, memory, context, level, table, base, va, end, above=()):
        entries = memory.table(table)
        for index in self.indices:
            if not entries[index]:
                continue
            at = base + index * span(level)
            if level == context.levels and index >= 256:
                at += (1 << 64) - (1 << 12 + 9 * level)
            if at + span(level) <= va or at >= end:
                continue
            found = self.entry(memory, context, level, table, index)
            if found is None:
                continue
            entry, leaf = found
            way = (*above, entry)
            if leaf or level == 1:
                pa = self.address(level, entry & context.address_mask)
                yield at, pa, self.size(level), self.flags(level, entry), way
            else:
                below = entry & context.address_mask
                yield from self._below(memory, context, level - 1, below, at, va, end, way)

    def translate(self, memory, context, access):
        """Say where an address leads, whatever the rights."""
        if not context.mode.long:
            return NotImplemented
        va = int(linear_addresses(context, Accesses.of([access]))[0])
        if not context.canonical(va):
            return None
        table = context.root
        for level in range(context.levels, 0, -1):
            found = self.entry(memory, context, level, table, va >> 3 + 9 * level & 511)
            if found is None:
                return None
            entry, leaf = found
            if leaf or level == 1:
                return self.address(level, entry & context.address_mask) | va & self.size(level) - 1
            table = entry & context.address_mask
        return None


class Cached:
    """Memory of which each table is read once: a list goes through many of them again and again."""

    def __init__(self, memory):
        self._memory, self._tables = memory, {}

    def __getattr__(self, name):
        return getattr(self._memory, name)

    def table(self, pa):
        """The 512 entries of a table."""
        if pa not in self._tables:
            (self._tables[pa],) = self._memory.tables(np.array([pa], np.uint64)).tolist()
        return self._tables[pa]


class InProcess:
    """A walker under test that is asked in this process."""

    def __init__(self, name, function):
        self.name, self._function = name, function
        self.claims, self.modes = function.claims, function.modes

    def answer(self, memory, context, accesses, ranges=None):
        cached = Cached(memory)

        def ask(questions):
            course = Course()
            return self._function.answer(cached, context, questions, course), course.refused

        return put(self.claims, memory, context, accesses, ask, ranges)

    def close(self):
        pass


def nothing(level, entry, leaf, context):
    return 0


def wide(level, entry, leaf, context):
    return reserved(level, entry & ~ADDRESS | entry & context.address_mask, leaf, context)


def if_present(level, entry, leaf, context):
    return reserved(level, entry, leaf, context) if entry & P else 0


def no_gib(level, entry, context):
    return level == 1 or (level == 2 and entry & PS)


def only_gib(level, entry, context):
    return level == 1 or (level == 3 and context.page1gb and entry & PS)


def flags(level, entry):
    return entry & ~(ADDRESS & -span(level))


def without_xd(level, entry):
    return flags(level, entry) & ~XD


def without_pat(level, entry):
    return entry & ~ADDRESS


def of_the_leaf(context, entries):
    return effective(context, entries[-1:])


def of_any_entry(context, entries):
    user = "u" if any(entry & US for entry in entries) else "-"
    return user + effective(context, entries)[1:]


def whatever_pa(whole, page):
    return whole[4] == page[4]


def varied(level, index, entries):
    """Not in a PD or PT of which all entries are equal."""
    return level > 2 or len({*entries}) > 1


def wrapped(level, address):
    return address & (1 << 36) - 1 & -span(level)


def supervised(level, entry):
    return entry & P and (level > 1 or entry & US)


RIGHT = [
    Wrong("nothing wrong", "leaves,flags"),
    Wrong("nothing wrong", "leaves,effective,ranges"),
    Wrong("nothing wrong", "translation"),
]

LISTS = [
    Wrong("no bit is reserved", reserved=nothing),
    Wrong("MAXPHYADDR taken as 52", reserved=wide),
    Wrong("PS of a PDPTE ignored", leaf=no_gib),
    Wrong("PS of a PDE ignored", leaf=only_gib),
    Wrong("P not looked at", present=lambda level, entry: entry, reserved=if_present),
    Wrong("supervisor pages left out", present=supervised),
    Wrong("pages above 64 GiB wrap around", address=wrapped),
    Wrong("PAT of a large page is an address bit", address=lambda level, address: address),
    Wrong("1-GiB pages have 2 MiB", size=lambda level: span(min(level, 2))),
    Wrong("last entry of a table left out", indices=range(511)),
    Wrong("upper half left out", followed=lambda level, index, entries: level < 4 or index < 256),
    Wrong("tables of equal entries left out", followed=varied),
    Wrong("XD missing from the flags", "leaves,flags", flags=without_xd),
    Wrong("PAT of large pages missing from the flags", "leaves,flags", flags=without_pat),
    Wrong("effective rights of the leaf alone", "leaves,effective", rights=of_the_leaf),
    Wrong("U/S of one entry is enough", "leaves,effective", rights=of_any_entry),
    Wrong("ranges merged whatever lies there", "leaves,ranges", follows=whatever_pa),
]
"""List mappings, with flags, effective rights, as ranges, and one thing is wrong."""

TRANSLATIONS = [
    Wrong("no bit is reserved", "translation", reserved=nothing),
    Wrong("tables of equal entries left out", "translation", followed=varied),
    Wrong("pages above 64 GiB wrap around", "translation", address=wrapped),
]
"""Translate, and one thing is wrong."""
