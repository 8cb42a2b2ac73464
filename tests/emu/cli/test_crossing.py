import json


def test_list_shows_dimensions_sizes_and_reasons(run):
    done = run("matrix", "--list", "--select", "section=kvm-access")
    assert done.status == 0
    assert "kvm-access: 3,207,168" in done.out
    assert "left out: " in done.out


def test_list_as_records(run):
    done = run("matrix", "--list", "--json")
    records = [json.loads(line) for line in done.out.splitlines()]
    older = [record for record in records if record["mode"] in ("32bit", "pae")]
    assert sum(record["combinations"] for record in older) == 638_400
    everything = sum(record["combinations"] for record in records)
    assert everything - 638_400 == 38_355_660
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
