"""The walk in two dimensions against the emulated CPU, and walkers that are wrong."""

from collections import Counter

import pytest

from crosswalk.emu.check.nested import KINDS, check_nested
from crosswalk.emu.fuzz.nested import make_pair
from crosswalk.emu.probe.nested import NestedProber
from tests.emu.check.nested.planted_bugs import WRONG

PAIRS, ACCESSES = 12, 60


class Recorded:
    """A prober that has each access made once, for all walkers."""

    def __init__(self):
        self.pairs = [make_pair(1, number, ACCESSES) for number in range(PAIRS)]
        self._prober = NestedProber(self.pairs[0].memory, self.pairs[0].context)
        self._seen = {}

    def enter(self, pair):
        self._pair = pair

    def probe(self, access):
        key = self._pair.number, access
        if key not in self._seen:
            self._prober.enter(self._pair.memory, self._pair.context)
            self._seen[key] = self._prober.probe(access)
        return self._seen[key]

    def verdicts(self, **options):
        for pair in self.pairs:
            self.enter(pair)
            yield check_nested(self, pair.memory, pair.context, pair.accesses, **options)


def one_of(predict):
    return lambda *given: (predict(*given),)


@pytest.fixture(scope="module")
def recorded():
    return Recorded()


def test_the_walker_agrees_and_no_kind_of_outcome_is_missing(recorded):
    verdicts = list(recorded.verdicts())
    assert [()] * PAIRS == [verdict.divergences for verdict in verdicts]
    counts = sum((Counter(verdict.counts) for verdict in verdicts), Counter())
    assert set(KINDS) == set(counts)
    assert sum(counts.values()) == sum(verdict.probes for verdict in verdicts)
    made = sum(verdict.probes + len(verdict.fatal) for verdict in verdicts)
    assert PAIRS * ACCESSES == made
    agreed = sum(verdict.agreements for verdict in verdicts)
    assert agreed > 0.8 * sum(verdict.probes for verdict in verdicts)
    assert agreed == sum(verdict.probes - len(verdict.explained) for verdict in verdicts)


@pytest.mark.parametrize("name", WRONG)
def test_a_walker_with_a_rule_broken_is_caught(recorded, name):
    assert any(verdict.divergences for verdict in recorded.verdicts(predict=one_of(WRONG[name])))
