"""Judges mutants of the walk in two dimensions by the answers of a CPU in guest mode.

Of AMD's nested paging that is the emulated CPU, of EPT a machine that has it.
"""

import importlib
from dataclasses import dataclass

from crosswalk.emu.check.judged import kind_of
from crosswalk.emu.check.nested import NestedPredictor, check_answers, check_nested
from crosswalk.emu.check.nested_deviations import EMULATOR
from crosswalk.emu.check.nested_emulated import emulated
from crosswalk.emu.fuzz.nested import make_pair
from crosswalk.emu.fuzz.nested.judged import JudgedPair, judged_pairs
from crosswalk.emu.judges.nested.registry import open_nested_judge
from crosswalk.emu.probe.nested import NestedProber
from crosswalk.emu.workers.contained import contained
from crosswalk.walker.access import Access
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.nested.context import NestedContext
from crosswalk.walker.nested.outcome import NestedOutcome
from crosswalk.walker.nested.translate import nested_outcomes
from crosswalk.walker.protection.policy import TableKind
from scripts.mutation.judge import ends_badly, run_in
from scripts.mutation.mutants import ROOT, Mutant, import_name, path_of

__all__ = [
    "EPT_MODULES",
    "KeptJudged",
    "KeptPair",
    "kept_judged",
    "kept_pairs",
    "killed_in_guest_mode",
    "killed_under_ept",
]

EPT_MODULES = ("nested.ept", "nested.violations", "nested.translate")
"""What states the rules of a walk under EPT, each before those that use it."""

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


@dataclass(frozen=True, slots=True)
class KeptJudged:
    """A pair with EPT beneath, and what a machine answered to the accesses; `who` it is."""

    pair: JudgedPair
    who: str

    def contradicts(self, predict: NestedPredictor) -> bool:
        """Return whether an access diverges that no known departure of the machine explains."""
        said = self.pair.said
        return any(
            check_answers(
                said.memory,
                said.context,
                [access],
                [answer],
                self.who,
                predict=predict,
                shows=said.shows,
            ).divergences
            for access, answer in zip(self.pair.made, said.answers, strict=True)
        )


def kept_judged(given: str, seed: int) -> list[KeptJudged]:
    """Return random pairs with EPT beneath, and what the machine that `given` names answered.

    `RuntimeError` if the walker itself is contradicted.
    """
    kept = []
    for tables in (TableKind.EPT, TableKind.EPT_MBEC):
        with open_nested_judge(given, tables) as judge:
            pairs = list(judged_pairs(judge, tables, seed, range(PAIRS), _ACCESSES))
            kept += [KeptJudged(each, kind_of(judge.name, judge.version)) for each in pairs]
    if any(each.pair.verdict.divergences for each in kept):
        raise RuntimeError("the machine contradicts the walker under EPT: see `crosswalk nested`")
    return kept


def killed_under_ept(mutant: Mutant, kept: list[KeptJudged]) -> bool:
    """Return whether what a machine did under EPT contradicts the mutant, as the other does.

    The mutant lives and dies in a child process, where all that uses it is run once more.
    """

    def contradicted() -> bool:
        for module in EPT_MODULES[EPT_MODULES.index(mutant.module) :]:
            source = (ROOT / path_of(module)).read_text("utf-8")
            run_in(import_name(module), mutant.source if module == mutant.module else source)
        predict = importlib.import_module(import_name(EPT_MODULES[-1])).nested_outcomes
        return any(each.contradicts(predict) for each in kept)

    return ends_badly(contradicted)
