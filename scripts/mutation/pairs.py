"""Judges mutants of the nested walk by the answers of a CPU in guest mode."""

import importlib
from dataclasses import dataclass

from crosswalk.emu.check.nested import NestedPredictor, check_nested
from crosswalk.emu.check.nested_deviations import EMULATOR
from crosswalk.emu.check.nested_emulated import emulated
from crosswalk.emu.fuzz.nested import make_pair
from crosswalk.emu.probe.nested import NestedProber
from crosswalk.emu.workers.contained import contained
from crosswalk.walker.access import Access
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.nested.context import NestedContext
from crosswalk.walker.nested.outcome import NestedOutcome
from crosswalk.walker.nested.translate import nested_outcomes
from scripts.mutation.judge import ends_badly, run_in
from scripts.mutation.mutants import Mutant, import_name

__all__ = ["KeptPair", "kept_pairs", "killed_in_guest_mode"]

PAIRS, _ACCESSES = 36, 60
_PATIENCE = 300.0


@dataclass(frozen=True, slots=True)
class KeptPair:
    """A pair of layouts, and what the CPU in guest mode answered to each access made there.

    It stands in for the prober that made them.
    """

    memory: PhysicalMemory
    context: NestedContext
    observed: dict[Access, NestedOutcome]

    def probe(self, access: Access) -> NestedOutcome:
        """Return what was observed."""
        return self.observed[access]

    def contradicts(self, predict: NestedPredictor) -> bool:
        """Return whether an access diverges that no known departure of the emulator explains."""
        return any(
            check_nested(self, self.memory, self.context, [access], predict=predict).divergences
            for access in self.observed
        )


def kept_pairs(seed: int) -> list[KeptPair]:
    """Return random pairs of layouts, with what a CPU in a process of its own answered.

    Accesses that the emulator would not survive are left out. `RuntimeError` if the walker
    itself is contradicted: then its mutants can't be judged.
    """
    kept = contained(lambda: _observe(seed), _PATIENCE)
    if any(pair.contradicts(nested_outcomes) for pair in kept):
        raise RuntimeError(
            "the CPU contradicts the walker under nested paging: see `crosswalk nested`"
        )
    return kept


def _observe(seed: int) -> list[KeptPair]:
    kept = []
    for number in range(PAIRS):
        pair = make_pair(seed, number, _ACCESSES)
        prober = NestedProber(pair.memory, pair.context)
        observed = {
            access: prober.probe(access)
            for access in pair.accesses
            if emulated(pair.memory, pair.context, access, EMULATOR) is not None
        }
        kept.append(KeptPair(pair.memory, pair.context, observed))
    return kept


def killed_in_guest_mode(mutant: Mutant, kept: list[KeptPair]) -> bool:
    """Return whether what the CPU did contradicts the mutant's predictions, or they don't come.

    Compared as `crosswalk nested` does: known departures are allowed, and what the emulator agrees
    to is held against the second statement of the manual's rules. The mutant lives and dies in a
    child process.
    """

    def contradicted() -> bool:
        name = import_name(mutant.module)
        run_in(name, mutant.source)
        predict = importlib.import_module(name).nested_outcomes
        return any(pair.contradicts(predict) for pair in kept)

    return ends_badly(contradicted)
