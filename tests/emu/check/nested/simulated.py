"""Machines made of the second statement: what they answer to the accesses of pairs."""

from dataclasses import dataclass, field, replace

from crosswalk.emu.check.nested_deviations import MANUAL, Deviation
from crosswalk.emu.check.nested_emulated import emulated
from crosswalk.emu.judges.judge import Reason, Unjudged
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.nested.context import NestedContext
from crosswalk.walker.nested.outcome import EptViolation

BOCHS = Deviation.TABLE_WRITE | Deviation.BIT_13 | Deviation.UNCHECKED | Deviation.BIT_12
PANIC = Reason(Unjudged.ENDED, "panics: a reason")


def answer(memory, context, access, deviations):
    """What a machine with these deviations answers, with no bit left open."""
    found = emulated(memory, context, access, deviations)
    if found is None:
        return PANIC
    return replace(found, open=0) if isinstance(found, EptViolation) else found


def answers(pair, deviations):
    """What it answers to the accesses of a pair."""
    return [answer(pair.memory, pair.context, each, deviations) for each in pair.accesses]


@dataclass
class Said:
    """What `NestedJudged` has."""

    memory: PhysicalMemory
    context: NestedContext
    answers: tuple

    def shows(self, _access, _pa):
        return True


@dataclass
class SimulatedJudge:
    """A `NestedJudge` that boots nothing; `asked` are the accesses that it was asked about."""

    deviations: Deviation = BOCHS | Deviation.PANIC
    name: str = "bochs"
    version: str = "Bochs 3.0, VMX, 40 bits"
    change: object = None
    asked: list = field(default_factory=list)
    closed: bool = False

    def ask(self, questions):
        for each in questions:
            self.asked += each.accesses
            found = [
                answer(each.memory, each.context, access, self.deviations)
                for access in each.accesses
            ]
            if self.change is not None:
                found = [self.change(outcome) for outcome in found]
            yield Said(each.memory, each.context, tuple(found))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closed = True


def honest():
    """One that does as the manual says, and is no Bochs."""
    return SimulatedJudge(deviations=MANUAL, version="Bochs 9.0, VMX, 40 bits")
