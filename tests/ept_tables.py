"""A guest's tables and an EPT beneath them, built by hand.

Bits are written out here once more, from the manual; nothing of the walker's decides here.
"""

from crosswalk.walker import Access, SparseWords
from crosswalk.walker.nested import EptContext, NestedContext, nested_outcomes, walk_nested
from tests.tables import ADDRESS, KIB4, READ, PageTables, context

R, W, X, XU = 1 << 0, 1 << 1, 1 << 2, 1 << 10
IPAT, LARGE, ACCESSED, DIRTY = 1 << 6, 1 << 7, 1 << 8, 1 << 9
WB = 6 << 3
ALL = R | W | X | XU
EPTP = 0x80_0000


class EptTables:
    """An EPT that grows as pages are mapped, each table in the next free frame."""

    def __init__(self, levels=4, root=EPTP):
        self.levels, self.root = levels, root
        self.entries = {}
        self._free = root + KIB4

    def map(self, gpa, pa, flags=ALL | WB, *, level=1, upper=ALL):
        """Map the page of this level; missing tables are made with the flags `upper`."""
        for above in range(self.levels, level, -1):
            at = self.entry_pa(gpa, above)
            if at not in self.entries:
                self.entries[at] = self._free | upper
                self._free += KIB4
        large = LARGE if level > 1 else 0
        self.entries[self.entry_pa(gpa, level)] = pa | flags | large
        return self

    def entry_pa(self, gpa, level=1):
        """The physical address of the entry of this level that `gpa` selects."""
        table = self.root
        for above in range(self.levels, 0, -1):
            at = table + 8 * (gpa >> 3 + 9 * above & 511)
            if above == level:
                return at
            table = self.entries[at] & ADDRESS
        raise AssertionError(level)

    def change(self, gpa, level=1, *, add=0, drop=0):
        """Set and clear bits of the entry of this level that `gpa` selects."""
        at = self.entry_pa(gpa, level)
        self.entries[at] = self.entries[at] & ~drop | add
        return self


class EptSpace:
    """A guest under an EPT, which has its memory `shift` bytes further up in the host's."""

    def __init__(self, guest=None, *, levels=4, shift=0x40_0000):
        self.guest = guest if guest is not None else PageTables()
        self.ept = EptTables(levels)
        self.shift = shift

    def map_all(self, frames, flags=ALL | WB):
        """Map these guest-physical frames where they lie."""
        for gpa in frames:
            self.ept.map(gpa, gpa + self.shift, flags)
        return self

    @property
    def words(self):
        return {pa + self.shift: word for pa, word in self.guest.words.items()} | self.ept.entries

    @property
    def memory(self):
        return SparseWords([(0, 1 << 24)], self.words)

    def context(self, *, ad=False, mbec=False, capabilities=None, maxphyaddr=40, **guest):
        others = {} if capabilities is None else {"capabilities": capabilities}
        ept = EptContext.at(
            self.ept.root,
            levels=self.ept.levels,
            accessed_dirty=ad,
            mbec=mbec,
            maxphyaddr=maxphyaddr,
            **others,
        )
        registers = context(**{"mode": self.guest.mode, "maxphyaddr": maxphyaddr} | guest)
        return NestedContext(registers, ept)

    def all(self, va, access=READ, cpl=0, **switches):
        """All outcomes of one access of the guest's that the manual allows."""
        return nested_outcomes(self.memory, self.context(**switches), Access(va, access, cpl))

    def ask(self, va, access=READ, cpl=0, **switches):
        """The first of them."""
        return self.all(va, access, cpl, **switches)[0]

    def walk(self, va, **switches):
        return walk_nested(self.memory, self.context(**switches), va)
