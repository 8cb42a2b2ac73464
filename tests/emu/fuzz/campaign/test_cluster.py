import json
import os
import signal
import subprocess
import sys
from importlib.metadata import version

import pytest

from crosswalk.emu.fuzz.campaign import Campaign, Plan
from crosswalk.emu.fuzz.campaign import cluster as dask
from crosswalk.emu.fuzz.campaign.cluster import Cluster, _do, open_pool
from crosswalk.emu.fuzz.campaign.store import Store
from crosswalk.emu.fuzz.campaign.version import fingerprint
from crosswalk.walker.errors import BadInput
from tests.emu.fuzz.campaign.campaigns import result_of, task, told
from tests.emu.fuzz.campaign.running import ROOT, corpus
from tests.emu.fuzz.campaign.tasks import ailing, slow

PEER = "python:docs/examples/broken_walker.py:translate"


@pytest.fixture(scope="module")
def cluster():
    with subprocess.Popen(
        [sys.executable, "-m", "tests.emu.fuzz.campaign.dask_cluster"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # Dask says at length that a worker was killed.
    ) as process:
        yield json.loads(process.stdout.readline())
        process.stdin.close()
        assert 0 == process.wait(60)


@pytest.fixture
def pool_of(cluster):
    pools = []

    def make(*arguments, **more):
        pools.append(Cluster(cluster["address"], *arguments, **more))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def searched(folder, pool, told=None):
    plan = Plan(accesses=64, walker=PEER)
    store = Store(folder, plan)
    try:
        campaign = Campaign(plan, store)
        campaign.run(pool, 24, None, told)
    finally:
        pool.close()
        store.close()
    return campaign


def test_a_cluster_of_which_a_worker_is_killed_finds_the_same(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    pool = Cluster(cluster["address"], slow)
    assert 2 == pool.jobs
    killed = []

    def kill(told):
        if told.layouts == 8:
            killed.append(cluster["pids"][0])
            os.kill(killed[0], signal.SIGKILL)

    there = searched(tmp_path / "there", pool, kill)
    assert 1 == len(killed)
    assert 24 == there.state.layouts
    assert len(there.state.findings) > 2
    here = searched(tmp_path / "here", open_pool(2, None))
    assert (0, 0) == (here.state.lost, there.state.lost)
    assert corpus(tmp_path / "here") == corpus(tmp_path / "there")


@pytest.mark.parametrize(
    ("index", "how"),
    [
        (3, "crash, SIGSEGV"),
        pytest.param(4, "crash, SIGABRT", marks=pytest.mark.slow),
        pytest.param(6, "crash, status 7", marks=pytest.mark.slow),
        pytest.param(7, "error", marks=pytest.mark.slow),
    ],
)
def test_what_becomes_of_a_workers_child_is_the_same_result_as_here(pool_of, index, how):
    pool = pool_of(ailing)
    results = [pool.submit(task(at)) for at in (0, index, 1)]
    assert [0, how, 1] == [result_of(result) for result in results]


@pytest.mark.slow
def test_a_hang_on_a_worker_has_a_limit(pool_of):
    pool = pool_of(ailing, 3.0)
    assert "hang" == result_of(pool.submit(task(5)))
    assert 1 == result_of(pool.submit(task(1)))


def test_an_error_of_the_projects_own_comes_back(pool_of):
    with pytest.raises(BadInput, match="that can't be"):
        pool_of(ailing).submit(task(8))()


def test_a_worker_with_another_version_is_refused_with_both():
    mine = fingerprint()
    assert mine.startswith(f"crosswalk {version('crosswalk-x86')} (")
    with pytest.raises(BadInput) as caught:
        _do(told, task(0), 1.0, "crosswalk 9.9 (0123abcd), unicorn 3, numpy 4")
    assert str(caught.value) == (
        f"--scheduler: a worker has {mine}; here is crosswalk 9.9 (0123abcd), unicorn 3, numpy 4"
    )


def test_no_cluster_at_an_address_is_one_clear_line(monkeypatch):
    monkeypatch.setattr(dask, "PATIENCE", 0.5)
    with pytest.raises(BadInput) as caught:
        Cluster("tcp://127.0.0.1:9")
    assert str(caught.value).startswith("--scheduler tcp://127.0.0.1:9: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("address", ["nonsense", "gopher://there:1", "tcp://127.0.0.1:port"])
def test_what_is_no_address_is_one_clear_line(address, monkeypatch):
    monkeypatch.setattr(dask, "PATIENCE", 0.5)
    with pytest.raises(BadInput, match=f"--scheduler {address}: "):
        Cluster(address)


def test_without_the_package_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(BadInput, match="pip install distributed first"):
        Cluster("tcp://127.0.0.1:9")


@pytest.mark.slow
def test_the_command_works_on_a_cluster(cluster, tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "crosswalk", "fuzz", "--cases", "6", "--accesses", "64"),
            *("--scheduler", cluster["address"], "--walker", PEER, "--no-reduce"),
            *("--corpus", tmp_path / "there", "--json"),
        ],
        capture_output=True,
        cwd=ROOT,
        check=False,
        timeout=60,
    )
    assert (1, b"") == (done.returncode, done.stderr)
    assert 6 == json.loads(done.stdout)["layouts"]
