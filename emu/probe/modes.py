"""The way in: a prober for whatever paging mode the context is of."""

from collections.abc import Callable

from emu.probe.legacy import LegacyProber
from emu.probe.prober import LongProber
from walker.columns import Accesses, Outcomes
from walker.context import PagingContext
from walker.memory import PhysicalMemory

__all__ = ["Prober"]


class Prober:
    """Puts accesses to an emulated CPU under the tables of `memory` and the given context.

    `memory` is only read: its paging structures are copied into RAM of the probe's own, whose
    other frames carry signatures. CR3 has to lie within it.
    """

    def __init__(self, memory: PhysicalMemory, context: PagingContext) -> None:
        self._kept: dict[bool, LongProber | LegacyProber] = {}
        self.enter(memory, context)

    def enter(self, memory: PhysicalMemory, context: PagingContext) -> None:
        """Go on with another address space, as a new prober would.

        In a tenth of the time where its RAM lies where that of the one before did: engines and
        their memory are kept. Raises as a new prober does, and is then what it was.
        """
        long = context.mode.long
        if long in self._kept:
            self._kept[long].enter(memory, context)
        else:
            self._kept[long] = (LongProber if long else LegacyProber)(memory, context)
        self.chosen = self._kept[long]

    def probe(
        self,
        accesses: Accesses,
        progress: Callable[[int], None] | None = None,
        *,
        bulk: bool = True,
    ) -> Outcomes:
        """Make every access, each on its own, and return what was observed.

        In bulk runs, as far as those can decide; without `bulk` in one engine call each.
        `progress` is called with the number of accesses done, now and then. `ProbeError` where
        the emulator did something that is no outcome.
        """
        return self.chosen.probe(accesses, progress, bulk=bulk)
