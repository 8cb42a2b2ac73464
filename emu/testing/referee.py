"""The emulated CPU in a process of its own, so that its crash is no end of a test session."""

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.check.compare import agreements, choose, spread
from crosswalk.emu.check.crosscheck import compare_all, confirm
from crosswalk.emu.probe import ProberCache
from crosswalk.emu.targets import Capability
from crosswalk.emu.targets.answers import Answers
from crosswalk.emu.targets.loaded import Contained
from crosswalk.emu.workers.sandbox import Limits, NoAnswer
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Accesses, Outcomes
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.memory import PhysicalMemory

__all__ = ["EmulatorFailure", "Referee"]

_LIMITS = Limits(seconds=120.0, memory=1 << 44)  # Engines reserve what they never use.


class EmulatorFailure(CrosswalkError):
    """The emulator died, hung, or did what is no outcome: nothing is said of the walker."""


class Referee:
    """Says what accesses come to. The emulator is started by the first question."""

    def __init__(self) -> None:
        self._emulator: Contained | None = None

    def truth(
        self, memory: PhysicalMemory, context: PagingContext, accesses: Accesses
    ) -> tuple[Outcomes, NDArray[np.bool_]]:
        """Return what the emulated CPU does; where it is known to be wrong, what a CPU does.

        And bool[n]: which accesses it lacks a feature for, LAM for one. What those come to is the
        built-in walker's prediction, and nobody has observed it. `EmulatorFailure` if it gives no
        answer; the next question starts another one.
        """
        try:
            if self._emulator is None:
                self._emulator = Contained("the emulator", lambda _: _Emulator(), _LIMITS)
            answers = self._emulator.answer(memory, context, accesses)
        except NoAnswer as failure:
            raise EmulatorFailure(str(failure)) from failure
        return answers.outcomes, answers.silent

    def close(self) -> None:
        """Stop the emulator's process, if there is one."""
        if self._emulator is not None:
            self._emulator.close()


class _Emulator:
    """What answers in the child; its engines are made there, and kept on a probers."""

    claims = frozenset({Capability.FAULTS, Capability.MARKS})

    def __init__(self) -> None:
        self._probers = ProberCache()

    def answer(self, memory: PhysicalMemory, context: PagingContext, accesses: Accesses) -> Answers:
        predicted = translate_many(memory, context, accesses)
        prober = self._probers.prober(memory, context)
        silent = prober.lacking(accesses) != 0
        rows = np.flatnonzero(~silent)
        asked, said = accesses.take(rows), predicted.take(rows)
        observed = prober.probe(asked)
        agree = agreements(said, observed)
        confirm(prober, asked, observed, agree)
        different = compare_all(memory, context, asked, said, observed)
        known = np.zeros(len(rows), np.bool_)
        known[np.flatnonzero(~agree)] = [each.known is not None for each in different]
        truth = spread(predicted, ~silent, choose(known, said, observed))
        return Answers(truth, silent)
