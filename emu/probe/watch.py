"""Many accesses to frames that carry no signature, in one run: a hook sees each being made."""

from unicorn import UC_HOOK_MEM_READ, UC_HOOK_MEM_WRITE, UC_MEM_WRITE

from emu.probe.bulk import SEEN, BulkRig
from emu.probe.space import NOWHERE, Space

__all__ = ["WatchRig"]


class WatchRig(BulkRig):
    """A rig for reads and writes of paging structures.

    What is found there says nothing of where it is, so the hook's physical address is what
    counts. What was stored is undone before anything else is looked at: of the word under it A
    and D stay, as the walk itself left them.
    """

    def __init__(self, space: Space, own: tuple[int, int]) -> None:
        super().__init__(space, own, fetch=False)
        self._undo: tuple[int, int] | None = None
        # Of the arena's own pages nothing is to be seen.
        for span in ((0, own[0] - 1), (own[1], (1 << 64) - 1)):
            self._engine.hook_memory(UC_HOOK_MEM_READ | UC_HOOK_MEM_WRITE, self._see, span)

    @property
    def possible(self) -> bool:
        """Whether it can be told, while the engine runs, which access is being made."""
        return self._live is not None

    def _see(
        self, _engine: object, event: int, pa: int, size: int, _value: int, _data: object
    ) -> bool:
        content = self._space.bytes
        if self._undo is not None:
            at, byte = self._undo
            content[at], self._undo = byte, None
        # The loop's own accesses are of eight bytes, and the first of them follows at once.
        if size == 1 and self._live is not None:
            self._notes.extend((self._live.quads[self._register["r15"]], 0, SEEN, 0, pa))
            if event == UC_MEM_WRITE:
                at = self._space.byte_at(pa)
                if at != NOWHERE:
                    self._undo = at, content[at]
        return True
