"""The emulated CPU in a process of its own, so that its crash is no end of a test session."""

import functools
import os

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.check.compare import agreements, choose, spread
from crosswalk.emu.check.crosscheck import compare_all, confirm
from crosswalk.emu.findings.findings import error_text
from crosswalk.emu.probe.many import FEW, ManyProber
from crosswalk.emu.workers.pool import Pool
from crosswalk.emu.workers.process import ProcessEnded, ProcessLost
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Accesses, Outcomes
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.memory import PhysicalMemory

__all__ = ["EmulatorFailure", "Referee"]

_SECONDS = 120.0


class EmulatorFailure(CrosswalkError):
    """The emulator died, hung, or gave no outcome: that is no verdict on the walker."""


class Referee:
    """Returns the true outcomes of accesses. The first question starts the emulator."""

    def __init__(self) -> None:
        self._emulator = Pool(_truth, seconds=_SECONDS, sure=1, who="the emulator")

    def truth(
        self, memory: PhysicalMemory, context: PagingContext, accesses: Accesses
    ) -> tuple[Outcomes, NDArray[np.bool_]]:
        """Return what the emulated CPU does; where it is known to be wrong, what a CPU does.

        And bool[n]: which accesses it lacks a feature for, LAM for one. What those come to is the
        built-in walker's prediction, and nobody has observed it. `EmulatorFailure` if it gives no
        answer; the next question starts another one.
        """
        try:
            return self._emulator.submit((memory, context, accesses))()
        except ProcessLost as lost:
            raise EmulatorFailure(str(lost)) from lost
        except ProcessEnded as ended:
            raise EmulatorFailure(f"the emulator {ended}") from ended
        except Exception as error:
            raise EmulatorFailure(f"the emulator gave no outcome: {error_text(error)}") from error

    def close(self) -> None:
        """Stop the emulator's process, if there is one."""
        self._emulator.close()


@functools.cache
def _probers(_process: int) -> ManyProber:
    return ManyProber()  # By process: engines are made in the child, and kept there.


def _truth(
    question: tuple[PhysicalMemory, PagingContext, Accesses],
) -> tuple[Outcomes, NDArray[np.bool_]]:
    memory, context, accesses = question
    predicted = translate_many(memory, context, accesses)
    probers, case = _probers(os.getpid()), question
    few = len(accesses) <= FEW
    observation = probers.probe([case])[0] if few else probers.alone(case)
    silent = observation.lacking != 0
    rows = np.flatnonzero(~silent)
    asked, said = accesses.take(rows), predicted.take(rows)
    observed = observation.outcomes
    agree = agreements(said, observed)
    if agree.all():
        return spread(predicted, ~silent, observed), silent
    confirm(probers.prober(memory, context), asked, observed, np.flatnonzero(~agree))
    different = compare_all(memory, context, asked, said, observed)
    known = np.zeros(len(rows), np.bool_)
    known[np.flatnonzero(~agree)] = [each.known is not None for each in different]
    return spread(predicted, ~silent, choose(known, said, observed)), silent
