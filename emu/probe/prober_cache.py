"""A prober kept for one small address space after another."""

from crosswalk.emu.probe.modes import Prober
from crosswalk.walker.columns import Accesses, Outcomes
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import PhysicalMemory

__all__ = ["ProberCache"]


class ProberCache:
    """Makes accesses in any address space, with the engines of the one before if they fit."""

    def __init__(self) -> None:
        self._prober: Prober | None = None

    def prober(self, memory: PhysicalMemory, context: PagingContext) -> Prober:
        """Return a prober for this address space, good until the next one is asked for."""
        if self._prober is None:
            self._prober = Prober(memory, context)
        else:
            self._prober.enter(memory, context)
        return self._prober

    def observe(
        self, memory: PhysicalMemory, context: PagingContext, accesses: Accesses
    ) -> Outcomes:
        """Return what was observed of each access; raises as `Prober` and its `probe` do."""
        return self.prober(memory, context).probe(accesses)
