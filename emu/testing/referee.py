"""The emulated CPU in a process of its own, so that its crash is no end of a test session."""

from collections.abc import Callable
from dataclasses import fields

import numpy as np

from emu.check.compare import agreements
from emu.check.crosscheck import compare_all, confirm
from emu.peers import Limits, PeerFailure
from emu.peers.child import Contained
from emu.probe import Stand
from walker.bulk import translate_many
from walker.columns import Accesses, Outcomes
from walker.context import PagingContext
from walker.errors import CrosswalkError
from walker.memory import PhysicalMemory

__all__ = ["EmulatorFailure", "Referee"]

_LIMITS = Limits(seconds=120.0)


class EmulatorFailure(CrosswalkError):
    """The emulator died, hung, or did what is no outcome: nothing is said of the walker."""


class Referee:
    """Says what accesses come to. The emulator is started by the first question."""

    def __init__(self) -> None:
        self._emulator = Contained("the emulator", frozenset(), _emulated(Stand()), _LIMITS)

    def truth(self, memory: PhysicalMemory, context: PagingContext, accesses: Accesses) -> Outcomes:
        """Return what the emulated CPU does; where it is known to be wrong, what a CPU does.

        `EmulatorFailure` if it gives no answer; the next question starts another one.
        """
        try:
            return self._emulator.answer(memory, context, accesses)
        except PeerFailure as failure:
            raise EmulatorFailure(str(failure)) from failure

    def close(self) -> None:
        """Stop the emulator's process, if there is one."""
        self._emulator.close()


def _emulated(
    stand: Stand,
) -> Callable[[PhysicalMemory, PagingContext, Accesses], Outcomes]:
    """Return what answers in the child; its engines are made there, and kept on the stand."""

    def answer(memory: PhysicalMemory, context: PagingContext, accesses: Accesses) -> Outcomes:
        predicted = translate_many(memory, context, accesses)
        prober = stand.prober(memory, context)
        observed = prober.probe(accesses)
        agree = agreements(predicted, observed)
        confirm(prober, accesses, observed, agree)
        different = compare_all(memory, context, accesses, predicted, observed)
        known = np.array([each.known is not None for each in different], np.bool_)
        rows = np.flatnonzero(~agree)[known]
        for field in fields(Outcomes):
            getattr(observed, field.name)[rows] = getattr(predicted, field.name)[rows]
        return observed

    return answer
