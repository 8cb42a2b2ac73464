"""`protect` without SOURCE."""

import re

import pytest


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


@pytest.mark.parametrize(
    ("option", "value"), [("--policy", "any"), ("--format", "json"), ("--cr3", "0x1000")]
)
def test_options_for_a_source_need_one(run, option, value):
    ran = run("protect", option, value)
    assert (2, "") == (ran.status, ran.out)
    assert ran.err.splitlines()[-1].startswith(f"crosswalk protect: error: {option} needs SOURCE")
