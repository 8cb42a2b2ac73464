"""The walk in two dimensions against the emulated CPU, and walkers that are wrong."""

from collections import Counter
from dataclasses import replace

import pytest

from crosswalk.emu.check.nested import KINDS, check_answers, check_nested
from crosswalk.emu.check.nested_deviations import Deviation
from crosswalk.emu.fuzz.nested import make_pair
from crosswalk.emu.probe.nested import NestedProber
from crosswalk.walker.nested.translate import nested_outcomes, translate_nested
from tests.emu.check.nested.by_hand import NPT_BY_HAND, pair_by_hand
from tests.emu.check.nested.planted_bugs import WRONG, WRONG_FOR_OTHERS, one_of
from tests.emu.check.nested.simulated import answers

PAIRS, ACCESSES = 12, 60
QEMU = Deviation.BIT_8 | Deviation.EARLY | Deviation.FETCH | Deviation.NOT_PRESENT


class Recorded:
    """A prober that has each access made once, for all walkers."""

    def __init__(self):
        self.drawn = [make_pair(1, number, ACCESSES) for number in range(PAIRS)]
        self.made = [pair_by_hand(make(), access) for make, access, _ in NPT_BY_HAND.values()]
        self.pairs = [*self.drawn, *self.made]
        self._prober = NestedProber(self.pairs[0].memory, self.pairs[0].context)
        self._seen = {}

    def enter(self, pair):
        self._pair = pair

    def probe(self, access):
        key = id(self._pair), access
        if key not in self._seen:
            self._prober.enter(self._pair.memory, self._pair.context)
            self._seen[key] = self._prober.probe(access)
        return self._seen[key]

    def verdicts(self, pairs=None, **options):
        for pair in self.pairs if pairs is None else pairs:
            self.enter(pair)
            yield check_nested(self, pair.memory, pair.context, pair.accesses, **options)


@pytest.fixture(scope="module")
def recorded():
    return Recorded()


def test_the_walker_agrees_and_no_kind_of_outcome_is_missing(recorded):
    verdicts = list(recorded.verdicts(recorded.drawn))
    assert [()] * PAIRS == [verdict.divergences for verdict in verdicts]
    counts = sum((Counter(verdict.counts) for verdict in verdicts), Counter())
    assert set(KINDS) == set(counts)
    assert sum(counts.values()) == sum(verdict.probes for verdict in verdicts)
    made = sum(verdict.probes + len(verdict.fatal) for verdict in verdicts)
    assert PAIRS * ACCESSES == made
    agreed = sum(verdict.agreements for verdict in verdicts)
    assert agreed > 0.8 * sum(verdict.probes for verdict in verdicts)
    assert agreed == sum(verdict.probes - len(verdict.explained) for verdict in verdicts)


def test_the_emulated_cpu_does_what_an_entry_by_hand_asks_for(recorded):
    found = [verdict.agreements for verdict in recorded.verdicts(recorded.made)]
    assert [1] * len(NPT_BY_HAND) == found


@pytest.mark.parametrize(("make", "access", "outcome"), NPT_BY_HAND.values(), ids=NPT_BY_HAND)
def test_the_walker_says_what_the_manual_does_of_an_entry_by_hand(make, access, outcome):
    two = make()
    found = translate_nested(two.memory, two.context, access)
    assert outcome == replace(found, entries=())


@pytest.mark.parametrize("name", WRONG)
def test_a_walker_with_a_rule_broken_is_caught(recorded, name):
    assert any(verdict.divergences for verdict in recorded.verdicts(predict=one_of(WRONG[name])))


@pytest.mark.parametrize("name", WRONG_FOR_OTHERS)
def test_a_walker_that_unicorn_cannot_contradict_is_caught_by_a_machine_like_qemu(
    recorded, answered, name
):
    assert any(divergences(recorded, answered, one_of(WRONG_FOR_OTHERS[name])))


def test_a_machine_like_qemu_agrees_but_for_its_departures(recorded, answered):
    assert not any(divergences(recorded, answered))


@pytest.fixture(scope="module")
def answered(recorded):
    """What a machine made of the second statement with QEMU's departures answers."""
    return [answers(pair, QEMU) for pair in recorded.pairs]


def divergences(recorded, answered, predict=nested_outcomes):
    for pair, observed in zip(recorded.pairs, answered, strict=True):
        asked = pair.memory, pair.context, pair.accesses, observed
        yield check_answers(*asked, "qemu 7.2.22", predict=predict).divergences
