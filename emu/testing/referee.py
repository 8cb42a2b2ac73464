"""The emulated CPU in a process of its own, so that its crash is no end of a test session."""

import numpy as np

from emu.check.compare import agreements, choose
from emu.check.crosscheck import compare_all, confirm
from emu.peers import Claim, Limits, PeerFailure
from emu.peers.answers import Answers
from emu.peers.child import Contained
from emu.probe import Stand
from walker.bulk import translate_many
from walker.columns import Accesses, Outcomes
from walker.context import PagingContext
from walker.errors import CrosswalkError
from walker.memory import PhysicalMemory

__all__ = ["EmulatorFailure", "Referee"]

_LIMITS = Limits(seconds=120.0, memory=1 << 44)  # Engines reserve what they never use.


class EmulatorFailure(CrosswalkError):
    """The emulator died, hung, or did what is no outcome: nothing is said of the walker."""


class Referee:
    """Says what accesses come to. The emulator is started by the first question."""

    def __init__(self) -> None:
        self._emulator: Contained | None = None

    def truth(self, memory: PhysicalMemory, context: PagingContext, accesses: Accesses) -> Outcomes:
        """Return what the emulated CPU does; where it is known to be wrong, what a CPU does.

        `EmulatorFailure` if it gives no answer; the next question starts another one.
        """
        try:
            if self._emulator is None:
                self._emulator = Contained("the emulator", lambda _: _Emulator(), _LIMITS)
            return self._emulator.answer(memory, context, accesses).outcomes
        except PeerFailure as failure:
            raise EmulatorFailure(str(failure)) from failure

    def close(self) -> None:
        """Stop the emulator's process, if there is one."""
        if self._emulator is not None:
            self._emulator.close()


class _Emulator:
    """What answers in the child; its engines are made there, and kept on a stand."""

    claims = frozenset({Claim.FAULTS, Claim.MARKS})

    def __init__(self) -> None:
        self._stand = Stand()

    def answer(self, memory: PhysicalMemory, context: PagingContext, accesses: Accesses) -> Answers:
        predicted = translate_many(memory, context, accesses)
        prober = self._stand.prober(memory, context)
        observed = prober.probe(accesses)
        agree = agreements(predicted, observed)
        confirm(prober, accesses, observed, agree)
        different = compare_all(memory, context, accesses, predicted, observed)
        known = np.zeros(len(accesses), np.bool_)
        known[np.flatnonzero(~agree)] = [each.known is not None for each in different]
        truth = choose(known, predicted, observed)
        return Answers(truth, np.zeros(len(accesses), np.bool_))
