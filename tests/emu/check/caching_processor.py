"""A processor with a TLB, made of nothing of the walker's: what it does has to be allowed.

It caches what it walks, prefetches, evicts and picks among what it has by chance, as far as the
manual lets it; or it has a bug.
"""

import random
from dataclasses import replace
from typing import NamedTuple

from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.outcome import GeneralProtection, PageFault, Translation
from crosswalk.walker.tlb import Invlpg, Invpcid, MovCr0, MovCr3, MovCr4, Rule, Store, Wrpkru
from tests.walker.naive import ADDRESS, is_page, is_reserved

P, A, D, G = 1, 0x20, 0x40, 0x100
WP, PGE, LA57, PCIDE = 1 << 16, 1 << 7, 1 << 12, 1 << 17
SMEP, SMAP, PKE = 1 << 20, 1 << 21, 1 << 22


class Cached(NamedTuple):
    """A translation, or with a level above 0 where the entry of that level leads."""

    pcid: int
    level: int
    first: int
    size: int
    target: int
    rights: tuple
    key: int
    dirty: bool
    shared: bool


class Chip:
    def __init__(self, seed, bug=None):
        self.chance = random.Random(seed)
        self.bug = bug

    def run(self, sequence):
        """Return the outcome of each access."""
        self.context, self.words = sequence.context, dict(sequence.entries)
        self.known, self.cached = dict(self.words), []
        places = sorted({access.va for access in sequence.accesses})
        outcomes = []
        for step in sequence.steps:
            if self.chance.random() < 0.3:
                self.prefetch(self.chance.choice(places))
            if isinstance(step, Access):
                outcomes.append(self.access(step))
            else:
                self.step(step)
        return tuple(outcomes)

    @property
    def pcid(self):
        return self.context.cr3 & 0xFFF if self.context.cr4 & PCIDE else 0

    def step(self, step):
        context = self.context
        match step:
            case Store(pa, value):
                self.words[pa] = self.known[pa] = value
            case Invlpg(va):
                self.invlpg(va)
            case Invpcid():
                self.invpcid(step)
            case MovCr0(value):
                self.context = replace(context, cr0=value)
            case Wrpkru(value):
                self.context = replace(context, pkru=value)
            case MovCr3(value):
                self.cr3(value)
            case MovCr4(value):
                self.cr4(value)

    def cr3(self, value):
        self.context = replace(self.context, cr3=value & ~(1 << 63))
        now = self.pcid
        if not value >> 63:
            self.drop(Rule.CR3, lambda c: c.pcid == now and not c.shared and not c.level)
            self.drop(Rule.CR3_TABLES, lambda c: c.pcid == now and c.level)

    def cr4(self, value):
        pcid, before = self.pcid, self.context.cr4
        self.context = replace(self.context, cr4=value)
        changed = before ^ value
        if changed & PGE:
            self.drop(Rule.PGE, lambda c: True)
        if changed & before & PCIDE:
            self.drop(Rule.PCIDE, lambda c: True)
        if changed & value & SMEP:
            self.drop(Rule.SMEP, lambda c: c.pcid == pcid)

    def drop(self, rule, gone):
        if rule is not self.bug:
            self.cached = [each for each in self.cached if not gone(each)]

    def invlpg(self, va):
        here, bug = self.pcid, self.bug

        def gone(each):
            mine = each.shared or each.pcid == here
            kept = bug is Rule.INVLPG
            kept |= bug is Rule.INVLPG_GLOBAL and each.shared
            kept |= bug is Rule.INVLPG_LARGE and each.size > 4096
            return not each.level and mine and covers(each, va) and not kept

        self.cached = [each for each in self.cached if not gone(each)]
        self.drop(Rule.INVLPG_TABLES, lambda c: c.level and c.pcid == here)

    def invpcid(self, step):
        pcid = step.pcid
        if step.type == 0:
            self.drop(
                Rule.INVPCID_ADDRESS,
                lambda c: c.pcid == pcid and not c.shared and covers(c, step.va),
            )
        elif step.type == 1:
            self.drop(Rule.INVPCID_CONTEXT, lambda c: c.pcid == pcid and not c.shared)
        elif step.type == 2:
            self.drop(Rule.INVPCID_GLOBAL, lambda c: True)
        else:
            self.drop(Rule.INVPCID_ALL, lambda c: not c.shared)

    def access(self, access):
        width = 57 if self.context.cr4 & LA57 else 48
        if access.va >> width - 1 not in (0, (1 << 65 - width) - 1):
            return GeneralProtection(self.changes())
        code, pa = self.translate(access)
        if code is None:
            return Translation(pa, entries=self.changes())
        pcid, va = self.pcid, access.va
        self.drop(Rule.FAULT, lambda c: c.pcid == pcid and covers(c, va))
        return PageFault(code, va, self.changes())

    def changes(self):
        found = {pa: word for pa, word in self.words.items() if word != self.known.get(pa, 0)}
        self.known |= found
        return tuple(sorted(found.items()))

    def translate(self, access):
        """Return the error code, None for none, and the address."""
        hits = [each for each in self.hits(access.va) if not each.level]
        if hits and self.chance.random() < 0.85:
            hit = self.chance.choice(hits)
            code = self.refused(access, hit.rights, hit.key)
            if code is not None:
                return code, 0
            clean = access.type is AccessType.WRITE and not hit.dirty
            if not clean or self.bug is Rule.CLEAN:
                return None, hit.target + access.va - hit.first
        return self.walk(access)

    def hits(self, va):
        return [
            each
            for each in self.cached
            if covers(each, va) and (each.shared or each.pcid == self.pcid)
        ]

    def walk(self, access, *, prefetch=False):
        va, context = access.va, self.context
        level, table, rights = (5 if context.cr4 & LA57 else 4), context.cr3 & ADDRESS, (1, 1, 1)
        starts = [each for each in self.hits(va) if each.level]
        if starts and self.chance.random() < 0.7:
            start = self.chance.choice(starts)
            level, table, rights = start.level - 1, start.target, start.rights
        used = []
        while True:
            pa = table + 8 * (va >> 3 + 9 * level & 511)
            entry = self.words.get(pa, 0)
            if not entry & P or is_reserved(context, level, entry):
                self.mark(used if self.chance.random() < 0.5 else ())
                return (9 if entry & P else 0) | cause(access, context), 0
            here = entry >> 1 & 1, entry >> 2 & 1, 1 - (entry >> 63)
            rights = tuple(a & b for a, b in zip(rights, here, strict=True))
            size = 1 << 3 + 9 * level
            if is_page(context, level, entry):
                return self.reach(access, (pa, used, rights, size, level), prefetch=prefetch)
            used.append(pa)
            if self.chance.random() < 0.8:
                self.mark(used)
                self.keep(level, va, size, entry & ADDRESS, rights, 0)
            level, table = level - 1, entry & ADDRESS

    def reach(self, access, found, *, prefetch):
        pa, used, rights, size, _level = found
        entry, va = self.words[pa], access.va
        code = None if prefetch else self.refused(access, rights, entry >> 59 & 15)
        if code is not None:
            self.mark(used if self.chance.random() < 0.5 else ())
            return code, 0
        self.mark([*used, pa])
        if access.type is AccessType.WRITE and not prefetch:
            self.words[pa] |= D
        entry = self.words[pa]
        target = entry & ADDRESS & -size
        self.keep(0, va, size, target, rights, entry)
        return None, target + va % size

    def keep(self, level, va, size, target, rights, entry):
        self.cached.append(
            Cached(
                pcid=self.pcid,
                level=level,
                first=va & -size,
                size=size,
                target=target,
                rights=rights,
                key=entry >> 59 & 15,
                dirty=bool(entry & D),
                shared=bool(entry & G and self.context.cr4 & PGE),
            )
        )

    def mark(self, places):
        for pa in places:
            self.words[pa] |= A

    def prefetch(self, va):
        width = 57 if self.context.cr4 & LA57 else 48
        if va >> width - 1 in (0, (1 << 65 - width) - 1):
            self.walk(Access(va, AccessType.READ), prefetch=True)

    def refused(self, access, rights, key):
        """Return the error code of an access to a page, None if it is allowed."""
        context = self.context
        write, user, execute = rights
        supervisor, ac = access.cpl == 0, bool(access.ac)
        wp = context.cr0 & WP
        if access.type is AccessType.EXECUTE:
            good = execute and (not (user and context.cr4 & SMEP) if supervisor else user)
            return None if good else 1 | cause(access, context)
        writing = access.type is AccessType.WRITE
        keyed = user and context.cr4 & PKE
        denied = context.pkru >> 2 * key & 3
        if keyed and (denied & 1 or (writing and denied & 2 and (wp or not supervisor))):
            return 0x21 | cause(access, context)
        good = not writing or write or (supervisor and not wp)
        good = good and (not (user and context.cr4 & SMAP and not ac) if supervisor else user)
        return None if good else 1 | cause(access, context)


def covers(each, va):
    return each.first <= va < each.first + each.size


def cause(access, context):
    fetch = access.type is AccessType.EXECUTE and (context.efer >> 11 & 1 or context.cr4 & SMEP)
    return 2 * (access.type is AccessType.WRITE) | 4 * (access.cpl == 3) | (0x10 if fetch else 0)
