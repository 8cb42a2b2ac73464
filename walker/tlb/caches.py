"""What a processor may have cached, as sets, and what takes entries out of them.

Intel SDM vol. 3A, "Translation Lookaside Buffers (TLBs)", "Paging-Structure Caches", "Operations
that Invalidate TLBs and Paging-Structure Caches".
"""

from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

from crosswalk.walker.context import CR4, PagingContext
from crosswalk.walker.tlb.steps import (
    NO_FLUSH,
    PCIDE,
    TCE,
    Invlpg,
    Invpcid,
    MovCr3,
    MovCr4,
    Step,
    pcid_of,
)

__all__ = ["Caches", "Leaf", "Rule", "Table"]


class Rule(StrEnum):
    """A rule that narrows what is allowed; a model can do without any of them.

    The value says what a processor that breaks the rule does wrong. The narrower come first.
    """

    INVLPG_LARGE = "INVLPG keeps the TLB entry of a large page"
    INVLPG_GLOBAL = "INVLPG keeps a global TLB entry"
    INVLPG = "INVLPG keeps a TLB entry"
    INVLPG_TABLES = "INVLPG keeps entries of upper levels"
    CR3 = "MOV CR3 keeps a TLB entry"
    CR3_TABLES = "MOV CR3 keeps entries of upper levels"
    PGE = "a change of CR4.PGE keeps entries"
    PCIDE = "clearing CR4.PCIDE keeps entries"
    SMEP = "setting CR4.SMEP keeps entries"
    INVPCID_ADDRESS = "INVPCID type 0 keeps entries"
    INVPCID_CONTEXT = "INVPCID type 1 keeps entries"
    INVPCID_GLOBAL = "INVPCID type 2 keeps entries"
    INVPCID_ALL = "INVPCID type 3 keeps entries"
    FAULT = "a page fault keeps what is cached of its address"
    CLEAN = "a write through a TLB entry without D sets no D"
    WP = "rights are those from before a change of CR0.WP"
    SMAP = "rights are those from before a change of CR4.SMAP"
    PKE = "rights are those from before a change of CR4.PKE"
    PKRU = "rights are those from before a change of PKRU"


class Leaf(NamedTuple):
    """A TLB entry: pages [base, base + span) of a PCID, or of all if it is `shared` (global).

    `read` are the entries that it was made of and that weren't written to since: A is set in
    them, or it could not be cached ("Details of TLB Use").
    """

    pcid: int
    shared: bool
    base: int
    span: int
    frame: int
    grant: int
    key: int
    dirty: bool
    read: frozenset[int]

    def covers(self, va: int) -> bool:
        """Return whether the entry translates this linear address."""
        return va & -self.span == self.base


class Table(NamedTuple):
    """An entry of a paging-structure cache: what the entry of `level` leads to, for a PCID.

    `grant` is what it and all entries above let through, `table` where the next one lies,
    `read` as in a `Leaf`.
    """

    pcid: int
    level: int
    base: int
    span: int
    table: int
    grant: int
    read: frozenset[int]

    def covers(self, va: int) -> bool:
        """Return whether walks for this linear address may use the entry."""
        return va & -self.span == self.base


class Caches:
    """Every entry that may be cached: a real processor has some of them, or none."""

    def __init__(self, without: frozenset[Rule]) -> None:
        self.leaves: set[Leaf] = set()
        self.tables: set[Table] = set()
        self._without = without

    def written(self, pa: int) -> None:
        """Take note that the entry at `pa` is written to: cached ones stay, but not its A."""
        gone = frozenset({pa})
        self.leaves = {
            leaf._replace(read=leaf.read - gone) if pa in leaf.read else leaf
            for leaf in self.leaves
        }
        self.tables = {
            table._replace(read=table.read - gone) if pa in table.read else table
            for table in self.tables
        }

    def invalidate(self, context: PagingContext, step: Step) -> bool:
        """Take out what a step invalidates, made in `context`; return whether for all addresses.

        Only what has to be invalidated: processors are free to drop more at any time.
        """
        pcid = pcid_of(context)
        match step:
            case Invlpg(va):
                self._invlpg(pcid, va, narrow=bool(context.efer & TCE))
                return False
            case Invpcid():
                self._invpcid(step)
                return False
            case MovCr3(value):
                if not context.cr4 & PCIDE:
                    self._cr3(0)
                elif not value & NO_FLUSH:
                    self._cr3(value & 0xFFF)
                else:
                    return False
            case MovCr4(value):
                return self._cr4(context.cr4, value, pcid)
            case _:
                return False
        return True

    def fault(self, pcid: int, va: int) -> None:
        """Take out what a page fault at this address invalidates.

        TLB entries for its page, and the paging-structure-cache entries that it would use, of
        the current PCID: global entries of another one may stay.
        """
        self._drop(
            Rule.FAULT,
            lambda leaf: leaf.pcid == pcid and leaf.covers(va),
            lambda table: table.pcid == pcid and table.covers(va),
        )

    def _invlpg(self, pcid: int, va: int, *, narrow: bool) -> None:
        without = self._without

        def gone(leaf: Leaf) -> bool:
            if not leaf.covers(va) or not (leaf.shared or leaf.pcid == pcid):
                return False
            kept = Rule.INVLPG in without
            kept |= leaf.shared and Rule.INVLPG_GLOBAL in without
            kept |= leaf.span > 4096 and Rule.INVLPG_LARGE in without
            return not kept

        self.leaves = {leaf for leaf in self.leaves if not gone(leaf)}
        self._drop(
            Rule.INVLPG_TABLES,
            None,
            lambda table: table.pcid == pcid and (table.covers(va) or not narrow),
        )

    def _cr3(self, pcid: int) -> None:
        self._drop(Rule.CR3, lambda leaf: leaf.pcid == pcid and not leaf.shared, None)
        self._drop(Rule.CR3_TABLES, None, lambda table: table.pcid == pcid)

    def _cr4(self, before: int, value: int, pcid: int) -> bool:
        changed = before ^ value
        if changed & CR4.PGE:
            self._drop(Rule.PGE, lambda _: True, lambda _: True)
        if changed & before & PCIDE:
            self._drop(Rule.PCIDE, lambda _: True, lambda _: True)
            # What is left, without the rule, is of the PCID that is now the only one.
            self.leaves |= {leaf._replace(pcid=0) for leaf in self.leaves if leaf.pcid == pcid}
            self.tables |= {table._replace(pcid=0) for table in self.tables if table.pcid == pcid}
        if changed & value & CR4.SMEP:
            self._drop(Rule.SMEP, lambda leaf: leaf.pcid == pcid, lambda table: table.pcid == pcid)
        return bool(changed & CR4.PGE or changed & before & PCIDE or changed & value & CR4.SMEP)

    def _invpcid(self, step: Invpcid) -> None:
        pcid, va = step.pcid, step.va
        if step.type == 0:
            self._drop(
                Rule.INVPCID_ADDRESS,
                lambda leaf: leaf.pcid == pcid and not leaf.shared and leaf.covers(va),
                lambda table: table.pcid == pcid and table.covers(va),
            )
        elif step.type == 1:
            self._drop(
                Rule.INVPCID_CONTEXT,
                lambda leaf: leaf.pcid == pcid and not leaf.shared,
                lambda table: table.pcid == pcid,
            )
        elif step.type == 2:
            self._drop(Rule.INVPCID_GLOBAL, lambda _: True, lambda _: True)
        else:
            self._drop(Rule.INVPCID_ALL, lambda leaf: not leaf.shared, lambda _: True)

    def _drop(
        self,
        rule: Rule,
        leaves: Callable[[Leaf], bool] | None,
        tables: Callable[[Table], bool] | None,
    ) -> None:
        if rule in self._without:
            return
        if leaves is not None:
            self.leaves = {leaf for leaf in self.leaves if not leaves(leaf)}
        if tables is not None:
            self.tables = {table for table in self.tables if not tables(table)}
