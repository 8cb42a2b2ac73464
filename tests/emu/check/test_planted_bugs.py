"""A walker with one rule broken is caught; the unbroken one isn't, on the same accesses."""

from typing import NamedTuple

import numpy as np
import pytest

from crosswalk.emu.check import Plan, check, crosscheck, make_plan
from crosswalk.emu.load.guest import Booted
from crosswalk.emu.probe import Prober
from crosswalk.guest import places
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Outcomes
from tests.emu.check.planted_bugs import ELSEWHERE, FIVE_LEVELS, GUEST

CHECK = crosscheck


class Sample(NamedTuple):
    """A guest, accesses to it, and what the CPU answered, once for all the bugs."""

    guest: Booted
    plan: Plan
    observed: Outcomes
    rows: dict
    roots: dict = {}  # noqa: RUF012  # Nobody changes it.

    def check(self, predict, monkeypatch):
        memory, context = self.guest.memory, self.guest.context
        monkeypatch.setattr(CHECK, "Prober", lambda *_: self)
        return check(memory, context, plan=self.plan, predict=predict)

    def lacking(self, accesses):
        return np.zeros(len(accesses), np.uint8)

    def probe(self, accesses, *_, **__):
        return self.observed.take(np.array([self.rows[row] for row in each(accesses)], np.intp))


def each(accesses):
    """The accesses as keys, one a row."""
    columns = (accesses.va, accesses.type, accesses.cpl, accesses.ac)
    return zip(*(column.tolist() for column in columns), strict=True)


def sample_of(guest):
    """Everything that the guest maps for a reason of its own: no direct map, no recursive slot."""
    plan = make_plan(guest.memory, guest.context)
    levels = guest.image.levels
    direct = plan.va - np.uint64(places.DIRECT_MAP[levels])
    recursive = plan.va - np.uint64(guest.image.memory_map.recursive_va)
    elsewhere = (direct >= places.RAM_SIZE) & (recursive >= np.uint64(1 << 3 + 9 * levels))
    plan = plan.take(elsewhere)
    rows = {row: at for at, row in enumerate(each(plan.accesses))}
    observed = Prober(guest.memory, guest.context).probe(plan.accesses)
    return Sample(guest, plan, observed, rows)


@pytest.fixture(scope="module")
def sample4(guest4):
    return sample_of(guest4)


@pytest.fixture(scope="module")
def sample5(guest5):
    return sample_of(guest5)


def ids(table):
    return [bug.name for bug in table]


@pytest.mark.parametrize("bug", GUEST, ids=ids(GUEST))
def test_a_bug_shows_on_the_guest(sample4, bug, monkeypatch):
    assert sample4.check(bug.predict, monkeypatch).divergent > 0


@pytest.mark.parametrize("bug", FIVE_LEVELS, ids=ids(FIVE_LEVELS))
def test_a_bug_shows_on_the_guest_with_five_levels(sample5, bug, monkeypatch):
    assert sample5.check(bug.predict, monkeypatch).divergent > 0


@pytest.mark.parametrize(("setting", "bug"), ELSEWHERE, ids=[bug.name for _, bug in ELSEWHERE])
def test_a_bug_shows_under_another_context(setting, bug):
    memory, context = setting
    assert check(memory, context, predict=bug.predict).divergent > 0


@pytest.mark.parametrize(("setting", "bug"), ELSEWHERE, ids=[bug.name for _, bug in ELSEWHERE])
def test_the_unbroken_walker_agrees_under_that_context(setting, bug):
    memory, context = setting
    verdict = check(memory, context)
    assert (0, ()) == (verdict.divergent, verdict.divergences)
    assert verdict.probes > 0


def test_the_unbroken_walker_agrees_on_the_samples(sample4, sample5, monkeypatch):
    assert () == sample4.check(translate_many, monkeypatch).divergences
    assert () == sample5.check(translate_many, monkeypatch).divergences


@pytest.mark.parametrize("levels", [4, 5])
def test_the_unbroken_walker_agrees_on_all_of_the_guest(levels, guest4, guest5):
    guest = guest4 if levels == 4 else guest5
    verdict = check(guest.memory, guest.context)
    assert () == verdict.divergences
    assert verdict.probes == verdict.agreements + sum(verdict.known.values())
    assert {"pdpte-leaf-accessed-on-fault"} == set(verdict.known)


def test_a_bug_is_gone_when_its_predictor_is_done(sample4):
    small = sample4.plan.take(slice(0, None, 20)).accesses
    memory, context = sample4.guest.memory, sample4.guest.context
    before = translate_many(memory, context, small)
    for bug in GUEST:
        bug.predict(memory, context, small)
    after = translate_many(memory, context, small)
    for column in ("kind", "pa", "error_code", "cr2", "entry_pa", "entry_value"):
        assert np.array_equal(getattr(before, column), getattr(after, column)), column


def test_every_divergence_is_counted_and_the_first_are_kept(sample4, monkeypatch):
    monkeypatch.setattr(CHECK, "KEPT_DIVERGENCES", 3)
    (bug,) = (bug for bug in GUEST if bug.name == "CR2 is the page's address")
    verdict = sample4.check(bug.predict, monkeypatch)
    assert 3 == len(verdict.divergences)
    assert verdict.divergent > 3
    first = verdict.divergences[0]
    assert None is first.known
    assert first.predicted.cr2 == first.observed.cr2 & ~4095
    assert first.walk.va == first.access.va
