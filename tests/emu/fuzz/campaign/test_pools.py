import os

import pytest

from crosswalk.emu.fuzz.campaign import Plan
from crosswalk.emu.fuzz.campaign.work import Failed, work
from crosswalk.emu.fuzz.coverage import CoverageMap
from crosswalk.emu.probe import Prober
from crosswalk.emu.workers.pool import Pool
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import load_case
from tests.emu.fuzz.campaign.campaigns import real_campaign, result_of, task
from tests.emu.fuzz.campaign.running import corpus
from tests.emu.fuzz.campaign.tasks import ailing, named, once
from tests.emu.fuzz.planting import (
    bug_named,
    crash,
    hang,
    one_at_a_time,
    plant_emulator,
    plant_walker,
    sick,
)


@pytest.fixture
def pool_of():
    pools = []

    def make(jobs, function, seconds=None):
        pools.append(Pool(function, jobs, seconds=seconds))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def test_tasks_are_done_by_so_many_other_processes(pool_of):
    pool = pool_of(2, named)
    assert 2 == pool.jobs
    done = {pool.submit(task(at))().index for at in range(2)}
    done |= {result().index for result in [pool.submit(task(at)) for at in range(40)]}
    assert os.getpid() not in done
    assert len(done) <= 2


@pytest.mark.parametrize(
    ("index", "how"),
    [(3, "crash, SIGSEGV"), (4, "crash, SIGABRT"), (6, "crash, status 7"), (7, "error")],
)
def test_what_becomes_of_a_worker_is_a_result_and_the_pool_goes_on(pool_of, index, how):
    pool = pool_of(1, ailing)
    results = [pool.submit(task(at)) for at in (0, index, 1)]
    assert [0, how, 1] == [result_of(result) for result in results]


def test_a_worker_that_hangs_is_killed_and_is_a_result(pool_of):
    pool = pool_of(1, ailing, 0.3)
    results = [pool.submit(task(5)), pool.submit(task(1))]
    assert ["hang", 1] == [result_of(result) for result in results]


def test_an_error_of_the_projects_own_is_raised_here(pool_of):
    with pytest.raises(BadInput, match="that can't be"):
        pool_of(1, ailing).submit(task(8))()


def test_a_task_whose_worker_somebody_killed_is_done_by_another(pool_of, tmp_path):
    plan = Plan(walker=str(tmp_path))
    done = pool_of(1, once).submit(task(2, plan))()
    assert (tmp_path / "2").exists()
    assert 2 == done.index


@pytest.fixture
def walker_with_bug(monkeypatch):
    plant_walker(monkeypatch, bug_named("XD not inherited").predict)


def test_any_number_of_workers_finds_the_same_byte_for_byte(tmp_path, walker_with_bug):
    searched = [real_campaign(tmp_path / str(jobs), jobs, 40) for jobs in (1, 2, 3)]
    assert len(searched[0].state.findings) > 3
    one, two, three = (corpus(tmp_path / str(jobs)) for jobs in (1, 2, 3))
    assert one == two == three


def test_another_seed_finds_others(tmp_path, walker_with_bug):
    plan = Plan(seed=1, accesses=96)
    layouts = [each.layout(0, CoverageMap().pack()) for each in (plan, Plan(accesses=96))]
    assert layouts[0].words.tobytes() != layouts[1].words.tobytes()


@pytest.mark.parametrize(
    ("act", "how", "limit"), [(crash, "crash, SIGSEGV", 120.0), (hang, "hang", 1.0)]
)
def test_an_emulator_that_dies_of_a_layout_is_a_finding_with_its_case(
    tmp_path, monkeypatch, walker_with_bug, act, how, limit
):
    plant_emulator(monkeypatch, sick, act)
    state = real_campaign(tmp_path, 2, 12, limit).state
    assert 12 == state.layouts
    assert 0 < state.lost < 12
    (lost,) = [slug for slug, each in state.findings.items() if each.witness == "emulator"]
    assert f"an outcome is due: emulator: {how}" == state.findings[lost].signature
    assert state.lost == state.findings[lost].count
    case = load_case(tmp_path / "findings" / f"{lost}.json")
    assert len(case.probes) > 80
    assert len(case.entries) > 20
    # The walker's bug is found all the same.
    assert "walker" in {each.witness for each in state.findings.values()}


def test_what_is_no_outcome_is_a_finding_too(monkeypatch):
    from crosswalk.emu.probe import ProbeError  # noqa: PLC0415

    def fail(self, accesses, **more):
        raise ProbeError("no outcome at 0x1000")

    monkeypatch.setattr(Prober, "probe", fail)
    one_at_a_time(monkeypatch)
    assert Failed("error", "no outcome at 0x1000") == work(task(0, Plan(accesses=32)))
