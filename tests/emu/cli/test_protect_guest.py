"""`protect` without SOURCE."""

import re

import pytest

from tests.emu.cli.running import refused


@pytest.mark.slow
def test_the_built_in_guest_is_protected(run):
    ran = run("protect", "--json")
    record = ran.document
    assert 0 == ran.status
    assert (0, 256) == (record["divergences"], record["known_divergences"])
    assert record["probes"] > 70_000
    assert len(record["attacks"]) > 60
    assert 1_288_199 == record["pages_outside_ram_not_tried"]
    assert {"pages that are mapped outside RAM": 1_288_199} == record["not_asked"]
    assert record["mappings"] > 600
    assert {"outside", "reserved"} == set(record["unfollowed"])
    assert "crosswalk protect --json" == record["reproduce"]


@pytest.mark.slow
def test_it_is_told_in_words(run):
    ran = run("protect")
    lines = ran.out.splitlines()
    assert 0 == ran.status
    assert [line[0] for line in lines if line[:1].isdigit()] == list("1234567")
    counts = re.fullmatch(
        r"verdict: as stated: [\d,]+ accesses, (\d+) attacks stopped, (\d+) not stopped as stated, "
        r"(\d+) ended otherwise, 0 wrong, [\d.]+ s",
        lines[-2],
    )
    assert (70, 10, 2) == tuple(map(int, counts.groups()))
    assert 70 + 10 + 2 == len(run("protect", "--json").document["attacks"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "stopped", "works", "known"), [("ept", 74, 14, 0), ("ept-mbec", 77, 11, 5)]
)
def test_the_whole_scenario_runs_under_ept(run, bochs3, kind, stopped, works, known):
    ran = run("protect", "--tables", kind, "--with", f"bochs:{bochs3}", "--json")
    record = ran.document
    assert 0 == ran.status
    assert kind == record["tables"]
    assert record["machine"].startswith("Bochs 3.")
    assert (0, known) == (record["divergences"], record["known_divergences"])
    assert record["probes"] == record["agreements"] + known > 70_000
    ended = [each["outcome"] for each in record["attacks"]]
    assert works == sum(each.startswith("NOT STOPPED") for each in ended)
    assert stopped + works + 1 == len(ended)
    assert all(each["as_expected"] for each in record["attacks"])
    assert {"NOT STOPPED"} == {each["outcome"] for each in record["unprotected"]}


@pytest.mark.slow
def test_the_table_of_nested_paging_has_further_rows_where_it_is_chosen(run):
    default, chosen = (run("protect", *more, "--json") for more in ((), ("--tables", "npt")))
    assert (0, 0) == (default.status, chosen.status)
    rows = [[each["name"] for each in ran.document["attacks"]] for ran in (default, chosen)]
    assert 3 == len(set(rows[1]) - set(rows[0]))
    assert set(rows[0]) < set(rows[1])
    assert all(each["as_expected"] for each in chosen.document["attacks"])


def test_without_bochs_it_is_said_where_to_get_it(run, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    line = refused(run("protect", "--tables", "ept"))
    assert "crosswalk: error: bochs: no such command (scripts/judges fetches Bochs 3)" == line
    line = refused(run("protect", "--tables", "ept-mbec", "--with", "bochs:/nowhere/bochs"))
    assert "/nowhere/bochs: no such command" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--with", "bochs"), "--with needs --tables"),
        (
            ("--tables", "npt", "--with", "bochs"),
            "--with is for --tables ept and --tables ept-mbec",
        ),
        (("--tables", "ept", "--with", "qemu"), "--with qemu: EPT is run by bochs or bochs:PATH"),
        (("--tables", "ept", "--with", "bochs:"), "--with bochs:: EPT is run by bochs or"),
        (("guest:4level", "--tables", "ept", "--with", "bochs"), "it isn't for SOURCE"),
    ],
)
def test_a_machine_is_chosen_for_what_it_can_run(run, arguments, message):
    assert message in refused(run("protect", *arguments))


@pytest.mark.parametrize(
    ("option", "value"), [("--policy", "any"), ("--format", "json"), ("--cr3", "0x1000")]
)
def test_options_for_a_source_need_one(run, option, value):
    ran = run("protect", option, value)
    assert (2, "") == (ran.status, ran.out)
    assert ran.err.splitlines()[-1].startswith(f"crosswalk protect: error: {option} needs SOURCE")
