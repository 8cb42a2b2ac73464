"""The outcomes that each access of a sequence is allowed: all that caching may lead to.

A processor may cache the translation of any address at any time, for prefetches too, and may use
what it has cached until it is invalidated. So the model keeps everything that may be cached, and an
access may have every outcome that follows from any of it, or from none.

Source: Intel SDM vol. 3A, "Details of TLB Use", "Caches for Paging Structures".
"""

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.columns import Kind
from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import LEVELS, Entry
from crosswalk.walker.outcome import ErrorCode, GeneralProtection, Outcome, PageFault, Translation
from crosswalk.walker.tlb.caches import Caches, Rule
from crosswalk.walker.tlb.steps import Sequence, Step, Store, after, pcid_of
from crosswalk.walker.tlb.walks import Decode, Walks, decoded, walks_to
from crosswalk.walker.translate import cause, denied

__all__ = ["Deny", "Describe", "Option", "TlbModel"]

Describe = Callable[[PagingContext, Access], int]
"""Returns the bits of a fault's error code that describe the access itself."""

Deny = Callable[[PagingContext, Access, int, int], int | None]
"""Returns the bits of a fault's error code that name why rights and key deny an access, or None."""

_A, _D = int(Entry.A), int(Entry.D)
_EVERYTHING: frozenset[Rule] = frozenset()


class Option(NamedTuple):
    """One allowed outcome.

    `marks` are the bits (physical address, A and perhaps D) that must be set after it; `fresh`
    says whether it is what the tables in memory alone lead to.
    """

    kind: Kind
    pa: int
    error_code: int
    marks: frozenset[tuple[int, int]]
    fresh: bool


class TlbModel:
    """Follows a sequence, step by step, from a state with nothing cached.

    `without` are rules that are left out, so that more is allowed. Memory is what was stored,
    with A and D as they were observed. `decode`, `describe` and `deny` replace what the
    manuals say of entries, of a fault's error code, and of rights.
    """

    def __init__(
        self,
        sequence: Sequence,
        without: frozenset[Rule] = _EVERYTHING,
        *,
        decode: Decode = decoded,
        describe: Describe = cause,
        deny: Deny = denied,
    ) -> None:
        self.context = sequence.context
        self.words = dict(sequence.entries)
        self._caches = Caches(without)
        self._without = without
        self._decode = decode
        self._describe = describe
        self._deny = deny
        # Other addresses can be cached as well, but no access uses them.
        self._watched = sorted({access.va for access in sequence.accesses})
        self._earlier: set[PagingContext] = set()
        # Entries in which a prefetch may have set A since the last access.
        self._touched: set[int] = set()
        # Walks by address, as long as neither memory, registers nor caches change; all of memory.
        self._known: dict[int, Walks] = {}
        self._memory = frozenset(self.words.items())

    def apply(self, step: Step) -> None:
        """Apply a step other than an access: a store, an invalidation, a change of registers."""
        self._fill(self._watched)
        self._known.clear()
        if isinstance(step, Store):
            self._caches.written(step.pa)
            self._touched.discard(step.pa)
            self._put({step.pa: step.value})
            return
        before, self.context = self.context, after(self.context, step)
        if self._caches.invalidate(before, step):
            self._earlier.clear()
        elif self._without and self._without & _changed(before, self.context):
            self._earlier.add(before)

    def allowed(self, access: Access) -> tuple[Option, ...]:
        """Return the outcomes that this access may have now, each once, the fresh one first.

        `LimitExceeded` for more ways to walk there than `walks_to` follows.
        """
        if not _canonical(self.context, access.va):
            return (Option(Kind.GENERAL_PROTECTION, 0, 0, frozenset(), fresh=True),)
        walks = self._walks(access.va)
        found: dict[tuple[object, ...], Option] = {}
        for context in (self.context, *self._earlier):
            for option in self._options(context, access, walks):
                key = option[:-1]
                if key not in found or option.fresh:
                    found[key] = option
        return tuple(sorted(found.values(), key=lambda option: not option.fresh))

    def explains(
        self, access: Access, options: Iterable[Option], observed: Outcome
    ) -> Option | None:
        """Return the first option that the observed outcome is an instance of, or None.

        On top of the option's marks, A may be set in every entry that a prefetch may use, but
        D in none (Intel SDM vol. 3A, "Accessed and Dirty Flags").
        """
        kind, pa, code = _facts(observed)
        if isinstance(observed, PageFault) and observed.cr2 != access.va:
            return None
        for option in options:
            if (kind, pa, code) != (option.kind, option.pa, option.error_code):
                continue
            if self._marks_agree(option, observed.entries):
                return option
        return None

    def observe(self, access: Access, observed: Outcome) -> None:
        """Continue from the observed outcome: the words that it changed, and a fault's effect."""
        if isinstance(observed, PageFault):
            self._fill(self._watched)
            self._caches.fault(pcid_of(self.context), access.va)
            self._known.clear()
        if observed.entries:
            self._known.clear()
            self._put(dict(observed.entries))
        self._touched.clear()

    def _put(self, words: dict[int, int]) -> None:
        self.words |= words
        self._memory = frozenset(self.words.items())

    def _marks_agree(self, option: Option, changes: tuple[tuple[int, int], ...]) -> bool:
        now = dict(changes)
        wanted = dict(option.marks)
        for pa, bits in wanted.items():
            if now.get(pa, self.words.get(pa, 0)) & bits != bits:
                return False
        unexpected = set()
        for pa, word in now.items():
            changed = word ^ self.words.get(pa, 0)
            if changed & ~(_A | _D) or changed & ~word:
                return False
            extra = changed & ~wanted.get(pa, 0)
            if extra & _D:
                return False
            if extra:
                unexpected.add(pa)
        if unexpected:
            self._fill(self._watched)
        return unexpected <= self._touched

    def _fill(self, addresses: Iterable[int]) -> None:
        for va in addresses:
            if va in self._known or _canonical(self.context, va):
                walks = self._walks(va)
                self._caches.tables |= walks.tables
                self._caches.leaves |= walks.leaves
                self._touched |= walks.read

    def _walks(self, va: int) -> Walks:
        """Return all ways that a walk may go, from the root or any cached entry."""
        walks = self._known.get(va)
        if walks is None:
            tables = frozenset(self._caches.tables)
            walks = walks_to(self.context, self._memory, tables, va, self._decode)
            self._known[va] = walks
        return walks

    def _options(self, context: PagingContext, access: Access, walks: Walks) -> Iterator[Option]:
        va, writes = access.va, access.type is AccessType.WRITE
        for end in walks.ends:
            found, way = end.decoded, end.way
            if found.kind is Kind.OK:
                marks = dict.fromkeys(way.read, _A)
                marks[end.pa] = _A | _D if writes else _A
                rights = way.grant & found.grant, found.key
                pa = found.frame | va & (LEVELS[end.level].span - 1)
                yield self._reached(context, access, rights, pa, marks, fresh=way.fresh)
            else:
                code = _ended(context, access, self._describe, reserved=found.reserved)
                yield Option(Kind.PAGE_FAULT, 0, code, frozenset(), way.fresh)
        pcid = pcid_of(self.context)
        for leaf in self._caches.leaves:
            if not leaf.covers(va) or not (leaf.shared or leaf.pcid == pcid):
                continue
            pa = leaf.frame | va & (leaf.span - 1)
            marks = dict.fromkeys(leaf.read, _A)
            rights = leaf.grant, leaf.key
            option = self._reached(context, access, rights, pa, marks, fresh=False)
            # D has to be set, and only a walk knows where: the walk's outcome counts.
            clean = option.kind is Kind.OK and writes and not leaf.dirty
            if not clean or Rule.CLEAN in self._without:
                yield option

    def _reached(
        self,
        context: PagingContext,
        access: Access,
        rights: tuple[int, int],
        pa: int,
        marks: dict[int, int],
        *,
        fresh: bool,
    ) -> Option:
        """Return the outcome at a page with these rights: what entries grant, and the key."""
        code = _refused(context, access, (self._describe, self._deny), *rights)
        if code is None:
            return Option(Kind.OK, pa, 0, frozenset(marks.items()), fresh)
        return Option(Kind.PAGE_FAULT, 0, code, frozenset(), fresh)


@lru_cache(1 << 10)
def _canonical(context: PagingContext, va: int) -> bool:
    return context.canonical(va)


def _changed(before: PagingContext, now: PagingContext) -> frozenset[Rule]:
    """Return the rules about what rights depend on that has changed."""
    changed = {
        Rule.WP: before.wp != now.wp,
        Rule.SMAP: before.smap != now.smap,
        Rule.PKE: before.pke != now.pke,
        Rule.PKRU: before.pkru != now.pkru,
    }
    return frozenset(rule for rule, differs in changed.items() if differs)


@lru_cache(1 << 12)
def _ended(context: PagingContext, access: Access, describe: Describe, *, reserved: bool) -> int:
    code = ErrorCode.P | ErrorCode.RSVD if reserved else ErrorCode(0)
    return int(code | describe(context, access))


@lru_cache(1 << 14)
def _refused(
    context: PagingContext, access: Access, how: tuple[Describe, Deny], grant: int, key: int
) -> int | None:
    describe, deny = how
    missing = deny(context, access, grant, key)
    return None if missing is None else int(ErrorCode.P | missing | describe(context, access))


def _facts(observed: Outcome) -> tuple[Kind, int, int]:
    match observed:
        case Translation(pa):
            return Kind.OK, pa, 0
        case PageFault(code):
            return Kind.PAGE_FAULT, 0, code
        case GeneralProtection():
            return Kind.GENERAL_PROTECTION, 0, 0
