"""A small address space in which one entry at a time is changed."""

from dataclasses import dataclass
from functools import lru_cache

from crosswalk.walker.context import CR0, CR4, PagingContext
from crosswalk.walker.entry import LEVELS, Entry
from crosswalk.walker.memory import FRAME

__all__ = ["FAR", "KEY", "OPEN", "OTHER_ROOT", "RAM", "Fixture"]

RAM = ((0, 32 << 30),)
OPEN = int(Entry.P | Entry.RW | Entry.US | Entry.A | Entry.D)
"""The flags of an entry that allows everything, and that a walk doesn't change."""

KEY = 1 << 59
"""Protection key 1, the one that PKRU denies."""

_CR0 = 0x8001_0033
_CR4 = int(CR4.PAE | CR4.PGE | CR4.PKE)
OTHER_ROOT = 0xF000
"""A root table that maps nothing under test."""

# Indices of the address under test from level 1 up. The emulator indexes its TLB by the low bits of
# the page number: these differ from those of the runner's own pages.
_INDICES = (58, 7, 5, 3, 9)
FAR = 0x2000_0000_0000
"""An unmapped address in another slot of the root."""

_NEAR = 4
_CHAIN = 0x10_0000  # Where tables begin that entries lead to after a change.


@dataclass(frozen=True, slots=True)
class Fixture:
    """An address space of `levels` levels with one page, its leaf in a table of level `leaf`.

    Each entry of the path has two versions; the second one leads to another page by tables of its
    own. `near` is an address four 4-KiB pages further: in the same page where that is large, else
    in another one under the same tables.
    """

    leaf: int
    levels: int = 4

    @property
    def va(self) -> int:
        """The address under test."""
        return _ADDRESSES[self.levels]

    @property
    def near(self) -> int:
        """The address four 4-KiB pages further."""
        return self.va + _NEAR * FRAME

    @property
    def root(self) -> int:
        """The root table's address."""
        return FRAME

    def entry_pa(self, level: int) -> int:
        """Return the physical address of the entry of this level that translates `va`."""
        return self._table(level) + 8 * LEVELS[level].index(self.va)

    def entry(self, level: int, flags: int = OPEN, *, other: bool = False) -> int:
        """Return an entry of this level with these flags; `other` for the second version."""
        if level == self.leaf:
            return int(self.page(int(other)) | flags | (Entry.PS if level > 1 else 0))
        return int((self._other(level, level - 1) if other else self._table(level - 1)) | flags)

    def page(self, number: int, level: int | None = None) -> int:
        """Return the address of one of the pages of the leaf's size, or of another level's."""
        level = self.leaf if level is None else level
        return {1: 1 << 24, 2: 2 << 30, 3: 8 << 30}[level] + number * LEVELS[level].span

    def entries(self) -> dict[int, int]:
        """Return the words of all tables, those of second versions included."""
        return dict(_entries(self))

    def context(
        self, *, cr4: int = 0, clear: int = 0, wp: bool = True, pkru: int = 0b1100, pcid: int = 0
    ) -> PagingContext:
        """Return the control state: WP, NXE, PGE and PKE set, key 1 denied.

        `cr4` are further bits to set, `clear` bits to clear.
        """
        levels = CR4.LA57 if self.levels == 5 else 0
        return PagingContext(
            cr0=_CR0 if wp else _CR0 & ~CR0.WP,
            cr3=self.root | pcid,
            cr4=int(_CR4 | levels | cr4) & ~clear,
            pkru=pkru,
        )

    def _table(self, level: int) -> int:
        return FRAME * (1 + self.levels - level)

    def _other(self, changed: int, level: int) -> int:
        """Return the table of `level` behind the second version of an entry."""
        return _CHAIN + FRAME * (8 * changed + level)

    def second(self, changed: int) -> dict[int, int]:
        """Return the words that the second version of the entry of level `changed` leads to."""
        words = {}
        for level in range(self.leaf, changed):
            at = self._other(changed, level) + 8 * LEVELS[level].index(self.va)
            if level > self.leaf:
                words[at] = self._other(changed, level - 1) | OPEN
                continue
            words[at] = int(self.page(1 + changed) | OPEN | (Entry.PS if level > 1 else 0))
            if level == 1:
                words[at + 8 * _NEAR] = self.page(6 + changed) | OPEN
        return words


@lru_cache
def _entries(fixture: Fixture) -> tuple[tuple[int, int], ...]:
    levels = range(fixture.leaf, fixture.levels + 1)
    words = {fixture.entry_pa(level): fixture.entry(level) for level in levels}
    if fixture.leaf == 1:
        words[fixture.entry_pa(1) + 8 * _NEAR] = fixture.page(2) | OPEN
    for changed in levels[1:]:
        words |= fixture.second(changed)
    return tuple(words.items())


_ADDRESSES = {
    levels: sum(index << LEVELS[at].shift for at, index in enumerate(_INDICES[:levels], 1))
    for levels in (4, 5)
}
