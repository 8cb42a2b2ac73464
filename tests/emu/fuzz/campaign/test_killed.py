"""The command, killed: nothing is lost, and the same command comes to the same files."""

import json
import os
import signal
from contextlib import suppress
from subprocess import TimeoutExpired

import pytest

from tests.emu.fuzz.campaign.running import command, corpus, finished
from tests.processes import session_processes, until

SEARCH = ("fuzz", "--cases", 40, "--accesses", 96, "--jobs", 2, "--json", "--corpus")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "corpus"
    status, out, err = finished(command("none", *SEARCH, folder))
    assert (1, "") == (status, err)
    assert sum(len(each["variants"]) for each in json.loads(out)["findings"]) > 3
    return corpus(folder)


def slay(process):
    process.kill()
    assert -signal.SIGKILL == finished(process)[0]


def written(folder):
    """Which files there are, and which writing of each."""
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*.json")
    }


def findings(folder):
    return {path.name for path in folder.glob("findings/*.json")}


def test_a_killed_campaign_loses_no_finding_leaves_no_orphan_and_goes_on(uninterrupted, tmp_path):
    folder = tmp_path / "corpus"
    process = command("none", *SEARCH, folder)
    until(lambda: len(findings(folder)) >= 2)
    slay(process)
    until(lambda: session_processes(process.pid) == [], 5)
    kept = findings(folder)
    status, _, _ = finished(command("none", *SEARCH, folder))
    assert 1 == status
    assert kept <= findings(folder)
    assert uninterrupted == corpus(folder)


def test_workers_killed_busy_or_idle_are_replaced_and_it_comes_to_the_same_files(
    uninterrupted, tmp_path
):
    folder, killed = tmp_path / "corpus", set()
    process = command("none", *SEARCH, folder)
    # Fewer than it takes to lose a layout, whichever they do; those that reduce findings, too.
    while process.poll() is None and len(killed) < 4:
        workers = set(session_processes(process.pid)) - {process.pid} - killed
        if len(findings(folder)) > len(killed) and workers:
            killed.add(min(workers))
            os.kill(min(workers), signal.SIGKILL)
        with suppress(TimeoutExpired):
            process.wait(0.005)
    assert 1 == finished(process)[0]
    assert killed
    assert uninterrupted == corpus(folder)


@pytest.mark.slow
def test_killed_again_and_again_at_any_moment_it_comes_to_the_same_files(uninterrupted, tmp_path):
    folder, kept, killed = tmp_path / "corpus", set(), 0
    for attempt in range(200):
        before = written(folder)
        process = command("none", *SEARCH, folder)
        # However fast it is: each run gets as far as its next file, and a moment further.
        until(lambda: written(folder) != before or process.poll() is not None)  # noqa: B023  # Used up here.
        with suppress(TimeoutExpired):
            finished(process, 0.05 * attempt)
            break
        process.kill()
        if finished(process)[0] != -signal.SIGKILL:
            break  # It came to its end in that very moment.
        killed += 1
        until(lambda group=process.pid: session_processes(group) == [], 5)
        assert kept <= findings(folder)
        kept = findings(folder)
    assert 1 == process.returncode
    assert killed > 3
    assert uninterrupted == corpus(folder)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after", [1, 3])
def test_an_interrupt_ends_it_in_order_and_the_same_command_goes_on(
    uninterrupted, tmp_path, number, after
):
    folder = tmp_path / "corpus"
    process = command("none", *SEARCH, folder)
    until(lambda: len(findings(folder)) >= after)
    os.kill(process.pid, number)
    status, out, err = finished(process, 20)
    assert 130 == status
    document = json.loads(out)
    assert document["interrupted"]
    assert len(document["findings"]) >= 1
    assert "what was found is kept; the same command goes on\n" in err
    assert "Traceback" not in err
    assert [] == session_processes(process.pid)
    assert 1 == finished(command("none", *SEARCH, folder))[0]
    assert uninterrupted == corpus(folder)


@pytest.mark.slow
def test_killed_while_it_reduces_it_comes_to_the_same_files(uninterrupted, tmp_path):
    folder = tmp_path / "corpus"
    assert 1 == finished(command("none", *SEARCH, folder, "--no-reduce"))[0]
    whole = corpus(folder)
    assert whole.keys() == uninterrupted.keys()
    assert whole != uninterrupted
    for _ in range(5):
        before = corpus(folder)
        process = command("none", *SEARCH, folder)
        until(lambda: corpus(folder) != before)  # noqa: B023  # Used up here.
        slay(process)
    assert 1 == finished(command("none", *SEARCH, folder))[0]
    assert uninterrupted == corpus(folder)


def test_workers_that_hang_end_with_a_killed_parent(tmp_path):
    folder = tmp_path / "corpus"
    process = command("hang", *SEARCH, folder)
    state = folder / "lock"
    until(state.exists)
    until(lambda: len(session_processes(process.pid)) > 2)
    slay(process)
    until(lambda: session_processes(process.pid) == [], 5)


def test_two_campaigns_in_one_folder_are_one_too_many(tmp_path):
    folder = tmp_path / "corpus"
    first = command("hang", *SEARCH, folder)
    until((folder / "lock").exists)
    until(lambda: len(session_processes(first.pid)) > 2)
    status, out, err = finished(command("none", *SEARCH, folder))
    assert (2, "") == (status, out)
    assert err == (
        f"crosswalk: error: {folder}: another campaign is running in it; wait, or choose another "
        "folder with --corpus\n"
    )
    slay(first)
