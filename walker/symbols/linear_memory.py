"""Memory by linear address: read through an address space's tables, a page at a time."""

from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.leaves import walk_leaves
from crosswalk.walker.memory import FRAME, PhysicalMemory

__all__ = ["LinearMemory"]

_MOST = 1 << 14
"""The most frames that are kept: 64 MiB."""


class LinearMemory:
    """Reads memory by linear address, whatever the rights; keeps the frames that it has read."""

    def __init__(self, memory: PhysicalMemory, context: PagingContext) -> None:
        self._memory, self._context = memory, context
        self._held: dict[int, bytes] = {}

    def read(self, va: int, size: int) -> bytes:
        """Return `size` bytes from `va`; `BadInput` where an address isn't mapped, or not backed.

        The address space's tables decide, and the frame has to be in memory.
        """
        found = bytearray()
        while len(found) < size:
            at = va + len(found)
            frame = self._frame(at & -FRAME)
            found += frame[at % FRAME : at % FRAME + size - len(found)]
        return bytes(found)

    def word(self, va: int) -> int:
        """Return the 8-byte word at `va`; `BadInput` as `read` does."""
        return int.from_bytes(self.read(va, 8), "little")

    def _frame(self, va: int) -> bytes:
        held = self._held.get(va)
        if held is None:
            pa = self.pa(va)
            if pa is None:
                raise BadInput(f"nothing is mapped at {va:#x}")
            if len(self._held) >= _MOST:
                self._held.clear()
            held = self._held[va] = self._memory.read(pa, FRAME)
        return held

    def pa(self, va: int) -> int | None:
        """Return the physical address that a linear one is translated to; None for none."""
        for leaves in walk_leaves(self._memory, self._context, va, va + 1):
            return int(leaves.pa[0]) + va - int(leaves.va[0])
        return None
