"""A guest's tables and the nested ones above them, in one memory of the host's."""

from crosswalk.walker import Access, SparseWords
from crosswalk.walker.nested import NestedContext, translate_nested, walk_nested
from tests.walker.build import KIB4, OPEN, READ, Builder, context, index

NCR3 = 0x80_0000
RAM = ((0, 1 << 24),)


class TwoDimensions:
    """`guest` has guest-physical places; `map` and `change` are the nested tables'.

    Guest-physical memory lies `shift` bytes further up in system-physical memory, where its
    words are put.
    """

    def __init__(self, guest=None, *, shift=0x40_0000):
        self.guest = guest if guest is not None else Builder()
        self.shift = shift
        self.nested = {}
        self._free = NCR3 + KIB4

    def place(self, gpa, level=1):
        table = NCR3
        for above in range(4, level, -1):
            table = self.nested[table + 8 * index(gpa, above)] & 0x000F_FFFF_FFFF_F000
        return table + 8 * index(gpa, level)

    def map(self, gpa, pa, flags=OPEN, *, level=1):
        for above in range(4, level, -1):
            place = self.place(gpa, above)
            if place not in self.nested:
                self.nested[place] = self._free | OPEN
                self._free += KIB4
        self.nested[self.place(gpa, level)] = pa | flags
        return self

    def map_all(self, frames):
        for gpa in frames:
            self.map(gpa, gpa + self.shift)
        return self

    def change(self, gpa, level=1, *, add=0, drop=0):
        place = self.place(gpa, level)
        self.nested[place] = self.nested[place] & ~drop | add
        return self

    @property
    def words(self):
        return {pa + self.shift: word for pa, word in self.guest.words.items()} | self.nested

    @property
    def memory(self):
        return SparseWords(RAM, self.words)

    def both(self, *, host=None, **switches):
        switches.setdefault("levels", self.guest.levels)
        return NestedContext(context(**switches), host or context(root=NCR3))

    def ask(self, va, access=READ, cpl=0, *, host=None, **switches):
        both = self.both(host=host, **switches)
        return translate_nested(self.memory, both, Access(va, access, cpl))

    def walk(self, va, *, host=None, **switches):
        return walk_nested(self.memory, self.both(host=host, **switches), va)
