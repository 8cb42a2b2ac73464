"""A guest of a few frames, and an EPT beneath, to be spoilt entry by entry."""

from crosswalk.walker.context import PagingContext
from crosswalk.walker.nested.context import EptContext, NestedContext
from tests.emu.probe.nested.two_stages import GUEST, HOST, PAGE, SHIFT, TwoStages
from tests.tables import OPEN, A

R, W, X, XU = 1, 2, 4, 1 << 10
WB, PS, EPT_A, EPT_D = 6 << 3, 1 << 7, 1 << 8, 1 << 9
ALL = R | W | X | XU
_ACCESSED_DIRTY = 1 << 6


class TwoEptStages(TwoStages):
    """As `TwoStages`, with an EPT for the nested tables; all entries have all rights, A and D."""

    def __init__(self, *, mbec=False, accessed_dirty=False, **registers):
        super().__init__(**registers)
        for level in (4, 3, 2):
            self.host(level, 0, HOST[level - 1] * PAGE | ALL | EPT_A)
        for frame in range(32):
            self.host(1, frame, (frame + SHIFT) * PAGE | ALL | WB | EPT_A | EPT_D)
        for level in (4, 3, 2):
            self.guest(level, 0, GUEST[level - 1] * PAGE | OPEN | A)
        marks = _ACCESSED_DIRTY if accessed_dirty else 0
        self.context = NestedContext(
            PagingContext(cr3=GUEST[4] * PAGE, **registers),
            EptContext(eptp=HOST[4] * PAGE | 3 << 3 | 6 | marks, mbec=mbec),
        )

    @property
    def tables(self):
        """The addresses of the frames that hold tables."""
        guest = {(frame + SHIFT) * PAGE for frame in GUEST.values()}
        return frozenset(guest | {frame * PAGE for frame in HOST.values()})
