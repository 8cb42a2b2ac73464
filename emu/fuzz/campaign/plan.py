"""What a campaign does: enough to repeat it, byte for byte."""

from dataclasses import dataclass

import numpy as np

from emu.fuzz.coverage import wanted
from emu.fuzz.generate import generate
from emu.fuzz.layout import Layout
from emu.peers import Limits

__all__ = ["LAG", "ROUND", "Plan"]

ROUND = 16
"""Layouts that are made with the same knowledge of what has been seen."""

LAG = 2
"""How many rounds back that knowledge lies, so that nobody has to wait for the last layout."""

_GOALS = 320
_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Plan:
    """`walker` and `claims` name the walker under test, None for the built-in one alone.

    `limits` are that walker's, and don't decide what is found.
    """

    seed: int = 0
    accesses: int = 8192
    guided: bool = True
    walker: str | None = None
    claims: str | None = None
    limits: Limits = _LIMITS

    def layout(self, index: int, seen: bytes) -> Layout:
        """Return a layout of the campaign; `seen` is what had been seen, packed."""
        goals = []
        if self.guided:
            chance = np.random.default_rng([self.seed, index, 1])
            count = min(_GOALS, max(1, self.accesses // 16))
            goals = wanted(seen, chance, count)
        return generate(self.seed, index, goals, accesses=self.accesses)
