"""The way in: a prober for whatever paging mode the context is of."""

from collections.abc import Callable

import numpy as np

from crosswalk.emu.probe.control import Control
from crosswalk.emu.probe.frames import has_frames
from crosswalk.emu.probe.legacy import LegacyProber
from crosswalk.emu.probe.prober import LongProber
from crosswalk.emu.probe.scope import Lacking, lacking, refuse
from crosswalk.walker.columns import Accesses, Outcomes
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import PhysicalMemory

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
        control = Control.of(context)
        self.chosen: LongProber | LegacyProber | None
        if control.root & control.wide:
            if not has_frames(memory, np.array([control.root], np.uint64))[0]:
                raise BadInput(f"CR3 {control.cr3:#x} points to no RAM")
            # No emulated CPU can be given this CR3: nothing can be asked.
            self._control, self.chosen = control, None
            return
        long = control.long
        if long in self._kept:
            self._kept[long].enter(memory, context)
        else:
            self._kept[long] = (LongProber if long else LegacyProber)(memory, context)
        self._control, self.chosen = control, self._kept[long]

    def lacking(self, accesses: Accesses) -> Lacking:
        """Return uint8[n]: 0 where an access can be asked, else 1 + an index of `FEATURES`.

        Those others are what the emulated CPU lacks a feature for. `probe` refuses them; what is
        said of them is a prediction alone, and no agreement.
        """
        wide = None if self.chosen is None else self.chosen.wide
        return lacking(self._control, accesses, wide)

    @property
    def roots(self) -> dict[str, int]:
        """How many accesses have been made under the CR3 under test, and how many under a copy.

        In this address space, made again ones included, by the names in
        `crosswalk.emu.probe.lending`.
        """
        return {} if self.chosen is None else dict(sorted(self.chosen.roots.items()))

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
        the emulator did something that is no outcome; `BadInput` for accesses that `lacking`
        names.
        """
        refuse(self.lacking(accesses), accesses.va)
        if self.chosen is None:
            return Outcomes.empty(0)  # Of nothing: all else has been refused.
        return self.chosen.probe(accesses, progress, bulk=bulk)
