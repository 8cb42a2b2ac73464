import glob
import json
import os
import shlex
import signal
import subprocess
import sys

import pytest

from crosswalk.emu.cli import matrix as crossing
from crosswalk.emu.cli import output
from crosswalk.emu.matrix.summary import Group, Summary, load_summary
from tests.processes import until


def test_list_shows_dimensions_sizes_and_reasons(run):
    done = run("matrix", "--list", "--select", "section=kvm-access")
    assert 0 == done.status
    assert "kvm-access: 3,207,168" in done.out
    assert "left out: " in done.out


def test_list_as_records(run):
    done = run("matrix", "--list", "--json")
    records = [json.loads(line) for line in done.out.splitlines()]
    combinations = {True: 0, False: 0}
    for record in records:
        combinations[record.get("mode") in ("32bit", "pae")] += record.get("combinations", 0)
    assert {True: 642_432, False: 41_186_028} == combinations
    assert sum(record.get("sequences", 0) for record in records) > 60_000
    assert all(record["pruned"] for record in records)


def test_a_selection_runs_and_goes_on_from_its_state(run, tmp_path):
    state = tmp_path / "state.json"
    command = ("matrix", "--select", "section=junk-pte,access=read", "--json", "--jobs", "1")
    first = run(*command, "--state", str(state))
    assert 0 == first.status
    record = json.loads(first.out)
    assert record["probes"] == record["agreements"] == 256 * 16 * 4
    assert (0, 0) == (record["divergences"], record["known_divergences"])
    assert record["seconds"] > 0
    again = json.loads(run(*command, "--state", str(state)).out)
    assert again["probes"] == record["probes"]


def test_bad_usage_is_one_line(run, tmp_path):
    for arguments in (
        ("--select", "pte.foo=1"),
        ("--select", "section=tlb-random,number=4000"),
        ("--select", "section=keys-4k,pde.bit51=1"),
        ("--jobs", "0"),
        ("--state", str(tmp_path)),
    ):
        done = run("matrix", *arguments)
        assert 2 == done.status
        assert 1 == done.err.count("\n")


SEQUENCES = "section=tlb-size,page=4k-2m,access=read,cpl=3"


def test_sequences_are_listed_apart(run):
    done = run("matrix", "--list", "--select", SEQUENCES)
    assert 0 == done.status
    assert "tlb-size: 96 sequences" in done.out
    assert "combinations" not in done.out
    assert "left out: " in done.out


def test_sequences_are_counted_apart_and_the_run_goes_on_from_its_state(run, tmp_path):
    state = tmp_path / "state.json"
    command = ("matrix", "--select", SEQUENCES, "--jobs", "1", "--state", str(state))
    first = run(*command)
    assert 0 == first.status
    assert "96 sequences" in first.out
    assert "verdict: agreement" in first.out
    assert "combinations" not in first.out
    record = json.loads(run(*command, "--json").out)
    stale = record["tlb"]
    assert 96 == stale["sequences"]
    assert stale["stale"] > 0
    assert stale["accesses"] == stale["forced"] + stale["fresh"] + stale["stale"]
    assert (stale["accesses"], stale["accesses"]) == (record["probes"], record["agreements"])
    assert {} == record["sections"]


def test_violations_fail_and_are_written_to_be_run_again(run, tmp_path, monkeypatch):
    monkeypatch.setattr("crosswalk.emu.check.departures.DEPARTURES", ())
    chosen = "section=tlb-fault,page=4k,change=p-0,prime=read,fault=write,cpl=3"
    arguments = ("--select", chosen, "--jobs", "1", "--cases", str(tmp_path))
    done = run("matrix", *arguments)
    assert 1 == done.status
    assert "× a page fault keeps what is cached of its address" in done.out
    assert "first: crosswalk matrix --select section=tlb-fault," in done.out
    command, (path,) = hinted(done.err, "wrote 1 sequences; run: crosswalk ")
    assert 1 == run(command, path).status
    record = json.loads(run("matrix", *arguments, "--json").out)
    assert record["divergences"] == record["tlb"]["violations"] > 0
    (group,) = record["tlb"]["groups"].values()
    assert group["count"] == record["divergences"]
    assert 1 == run("sequence", group["select"]).status


def hinted(said, before):
    """What a hint says to do, as a shell would: the command, and the files that it names."""
    (hint,) = [line for line in said.splitlines() if line.startswith(before)]
    command, some = shlex.split(hint.removeprefix(before))
    return command, glob.glob(some)  # noqa: PTH207  # As a shell does.


def test_cases_and_sequences_in_one_folder_have_a_hint_each_that_works(run, tmp_path, monkeypatch):
    folder = tmp_path / "a folder"
    monkeypatch.setattr("crosswalk.emu.check.departures.DEPARTURES", ())
    for chosen in (
        "section=tlb-fault,page=4k,change=p-0,prime=read,fault=write,cpl=3",
        "section=implicit-tables,pml4e.us=1,pdpte.us=1,pte.bit51=0",
    ):
        done = run("matrix", "--select", chosen, "--jobs", "1", "--cases", folder)
    assert 1 == done.status
    command, paths = hinted(done.err, "wrote 2 cases; replay: crosswalk ")
    assert ("replay", 2) == (command, len(paths))
    assert 3 == len(list(folder.iterdir()))
    assert 1 == run(command, *paths).status


def test_list_counts_by_dimension_and_knows_composites(run):
    done = run("matrix", "--list", "--select", "access=twice,section=twice-key")
    assert 0 == done.status
    assert "twice-key: 36,864" in done.out
    assert "4 values of PKRU in between" in done.out
    assert "  cr0.wp: 0 18,432, 1 18,432" in done.out
    assert "  pte: p 36,864, rw 18,432, us 18,432, d 18,432, pk 18,432" in done.out


def test_composites_run_and_known_divergences_are_told(run):
    chosen = "section=implicit-tables,pml4e.us=1,pdpte.us=1,pte.bit51=0"
    done = run("matrix", "--jobs", "1", "--select", chosen)
    assert 0 == done.status
    assert "implicit-access-honours-ac" in done.out
    assert "verdict: agreement" in done.out


UNITS = "section=cross-4k"


def inode_of(path):
    """The number of a file, which changes when it is replaced; 0 without a file."""
    return path.stat().st_ino if path.exists() else 0


@pytest.mark.slow
def test_a_run_killed_at_any_moment_goes_on_and_comes_to_the_same(tmp_path):
    state = tmp_path / "state.json"
    command = [sys.executable, "-m", "crosswalk", "matrix", "--jobs", "2", "--json"]
    command += ["--select", UNITS]
    whole = subprocess.run(command, capture_output=True, check=True, timeout=300)
    command += ["--state", str(state)]
    seen = set()
    for _ in range(3):
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        ) as process:
            before = inode_of(state)
            until(lambda: inode_of(state) != before or process.poll() is not None)  # noqa: B023  # Used here.
            assert None is process.poll()
            os.killpg(process.pid, signal.SIGKILL)
        seen.add(load_summary(state, UNITS, 100).units)
    assert 3 == len(seen)
    done = subprocess.run(command, capture_output=True, check=True, timeout=300)
    first, last = (json.loads(each.stdout) for each in (whole, done))
    for each in (first, last):
        del each["seconds"], each["reproduce"]
    assert first == last


def test_a_line_is_said_now_and_then_with_rate_and_time_left(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(output.time, "monotonic", lambda: now[0])
    said = output.Pace("combinations", 1000)
    for step, done in ((4, 2000), (6, 3000), (5, 4000), (5, 5000)):
        now[0] += step
        said(done, 10_000)
    assert [
        "3,000 of 10,000 combinations (30 %), 200 a second, 35 s left",
        "5,000 of 10,000 combinations (50 %), 200 a second, 25 s left",
    ] == capsys.readouterr().err.splitlines()
    slow = output.Pace("pairs", 0)
    now[0] += 20
    slow(3, 12)
    assert "3 of 12 pairs (25 %), 9 a minute, 60 s left\n" == capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"select": "access=read"}', "a state of --select 'access=read', not of 'access=write'"),
        ('{"select": "access=write", "version": "0"}', "another version of Crosswalk"),
        ("nothing", "not a state of the matrix"),
    ],
)
def test_a_foreign_state_is_one_line_and_left_alone(run, tmp_path, content, message):
    state = tmp_path / "state.json"
    state.write_text(content)
    done = run("matrix", "--select", "access=write", "--state", str(state))
    assert 2 == done.status
    assert message in done.err
    assert 1 == done.err.count("\n")
    assert state.read_text() == content


def test_a_case_that_can_not_be_reduced_is_left_as_it_was_found(capsys):
    summary = Summary("", groups={"x": Group("x says this", 3, "no case")})
    crossing._reduce(summary, None)
    assert summary.groups["x"] == Group("x says this", 3, "no case")
    assert capsys.readouterr().err.startswith("cases are as they were found: x: not JSON")
