import json


def test_list_shows_dimensions_sizes_and_reasons(run):
    done = run("matrix", "--list", "--select", "section=kvm-access")
    assert done.status == 0
    assert "kvm-access: 3,207,168" in done.out
    assert "left out: " in done.out


def test_list_as_records(run):
    done = run("matrix", "--list", "--json")
    records = [json.loads(line) for line in done.out.splitlines()]
    combinations = {True: 0, False: 0}
    for record in records:
        combinations[record.get("mode") in ("32bit", "pae")] += record.get("combinations", 0)
    assert combinations == {True: 638_400, False: 38_355_660}
    assert sum(record.get("sequences", 0) for record in records) > 60_000
    assert all(record["pruned"] for record in records)


def test_a_selection_runs_and_goes_on_from_its_state(run, tmp_path):
    state = tmp_path / "state.json"
    command = ("matrix", "--select", "section=junk-pte,access=read", "--json", "--jobs", "1")
    first = run(*command, "--state", str(state))
    assert first.status == 0
    record = json.loads(first.out)
    assert record["probes"] == record["agreements"] == 256 * 16 * 4
    again = json.loads(run(*command, "--state", str(state)).out)
    assert again["probes"] == record["probes"]


def test_bad_usage_is_one_line(run, tmp_path):
    for arguments in (
        ("--select", "pte.foo=1"),
        ("--select", "section=keys-4k,pde.bit51=1"),
        ("--jobs", "0"),
        ("--state", str(tmp_path)),
    ):
        done = run("matrix", *arguments)
        assert done.status == 2
        assert done.err.count("\n") == 1


SEQUENCES = "section=tlb-size,page=4k-2m,access=read,cpl=3"


def test_sequences_are_listed_apart(run):
    done = run("matrix", "--list", "--select", SEQUENCES)
    assert done.status == 0
    assert "tlb-size: 96 sequences" in done.out
    assert "combinations" not in done.out
    assert "left out: " in done.out


def test_sequences_are_counted_apart_and_the_run_goes_on_from_its_state(run, tmp_path):
    state = tmp_path / "state.json"
    command = ("matrix", "--select", SEQUENCES, "--jobs", "1", "--state", str(state))
    first = run(*command)
    assert first.status == 0
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
    monkeypatch.setattr("emu.check.known_sequences.KNOWN_SEQUENCES", ())
    chosen = "section=tlb-fault,page=4k,change=p-0,prime=read,fault=write,cpl=3"
    arguments = ("--select", chosen, "--jobs", "1", "--cases", str(tmp_path))
    done = run("matrix", *arguments)
    assert done.status == 1
    assert "× a page fault keeps what is cached of its address" in done.out
    assert "first: crosswalk matrix --select section=tlb-fault," in done.out
    (path,) = tmp_path.glob("*.sequence.json")
    assert run("sequence", str(path)).status == 1
    record = json.loads(run("matrix", *arguments, "--json").out)
    assert record["divergences"] == record["tlb"]["violations"] > 0
    (group,) = record["tlb"]["groups"].values()
    assert group["count"] == record["divergences"]
    assert run("sequence", group["select"]).status == 1
