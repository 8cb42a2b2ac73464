import faulthandler
import os

import pytest

from crosswalk.emu.cli import check as checking
from crosswalk.emu.cli import check_pieces as pieces
from crosswalk.emu.probe import Prober
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.formats import load_case
from tests.emu.check.planting import without_code

SUMMARY = [
    "probes",
    "agreements",
    "divergences",
    "known_divergences",
    "known",
    "predicted_only",
    "not_asked",
    "under",
    "mappings",
    "unfollowed",
    "assumed",
    "seconds",
]


@pytest.mark.parametrize("paging", ["4level", "5level"])
def test_run_checks_all_of_the_guest(run, paging):
    ran = run("run", "--paging", paging, "--json")
    document = ran.document
    assert (0, 0, 0) == (ran.status, document["divergences"], document["broken_intentions"])
    assert document["probes"] == document["agreements"] + document["known_divergences"] > 10_000
    assert document["intended_pages"] > 600
    assert f"crosswalk run --paging {paging} --json" == document["reproduce"]
    guests = ["format", "intended_pages", "broken_intentions", "guest_exceptions"]
    assert [*SUMMARY, *guests, "verdict", "reproduce"] == list(document)
    assert {"#PF": 12, "#GP": 2, "INT 0x20": 6} == document["guest_exceptions"]


def test_run_for_people_ends_with_the_verdict(run, tmp_path):
    saved = tmp_path / "guest.json"
    ran = run("run", "--save", saved)
    assert 0 == ran.status
    assert "verdict: agreement; known divergences: 56\nreproduce: crosswalk run --save" in ran.out
    assert "took 20 exceptions as intended (12 #PF, 2 #GP, 6 INT 0x20), 12 from CPL 3" in ran.err
    assert "674 intended pages, 0 mismatches" in ran.out
    assert 0 == run("check", saved, "--end", "0x10000").status


def test_check_of_a_case_a_raw_image_and_a_core_say_the_same(
    run, small_case, small_raw, small_core
):
    documents = [
        run("check", *source, "--json").document
        for source in ((small_case,), (small_raw, "--cr3", "0x1000"), (small_core,))
    ]
    for document in documents:
        assert [*SUMMARY, "verdict", "reproduce"] == list(document)
        assert 0 == document["divergences"]
        assert document["probes"] == documents[0]["probes"] > 50


def test_check_can_be_limited_to_a_range(run, small_case):
    whole = run("check", small_case, "--json").document["probes"]
    part = run("check", small_case, "--start", "0x400000", "--end", "0x401000", "--json")
    assert 0 < part.document["probes"] < whole
    assert "agreement; from 0x400000 to 0x400fff alone" == part.document["verdict"]


def test_more_mappings_than_the_default_limit_are_refused(run, small_case, monkeypatch):
    monkeypatch.setattr(pieces, "DEFAULT_LIMIT", 2)
    ran = run("check", small_case)
    assert (2, "") == (ran.status, ran.out)
    assert "crosswalk: error: 3 mappings; the limit is 2 (--limit N for the first N" in ran.err


def test_a_limit_checks_the_first_of_each_kind_and_says_of_how_many(run, small_case):
    ran = run("check", small_case, "--limit", "2")
    assert 0 == ran.status
    assert "verdict: agreement on 2 of 3 mappings; not asked: 1 (mappings, beyond the limit)" in (
        ran.out
    )
    document = run("check", small_case, "--limit", "2", "--json").document
    # Of the four holes two are left out, three addresses each.
    assert {"mappings, beyond the limit": 1, "addresses in holes, beyond the limit": 6} == (
        document["not_asked"]
    )
    whole = run("check", small_case, "--json").document
    assert {} == whole["not_asked"]
    assert 14 + 6 * 6 == whole["probes"] - document["probes"]


MANUAL = 'Intel SDM vol. 3A, "Page-Fault Exceptions"; AMD APM vol. 2, "Page-Fault Error Code"'


@pytest.fixture
def broken(monkeypatch):
    """The walker forgets W/R in its error codes."""

    def predict(memory, context, accesses):
        outcomes = translate_many(memory, context, accesses)
        outcomes.error_code[:] = without_code(2)(outcomes, accesses)["error_code"]
        return outcomes

    monkeypatch.setattr(pieces, "translate_many", predict)


def test_a_divergence_is_exit_status_1_and_is_shown_with_its_walk(run, small_case, broken):
    ran = run("check", small_case)
    assert 1 == ran.status
    lines = ran.out.splitlines()
    at = lines.index("divergence: write of 0x401000 at CPL 0")
    assert [
        "  rule:      W/R in the error code of a write: walker says none, it is W/R",
        f"  manual:    {MANUAL}",
        "  predicted: #PF, error code 0x1 (P), CR2 0x401000",
        "  observed:  #PF, error code 0x3 (P W/R), CR2 0x401000",
    ] == lines[at + 1 : at + 5]
    leaf = next(line for line in lines[at:] if line.startswith("  PTE[1] "))
    assert leaf.endswith("  leaf  <-- R/W clear")
    assert "verdict: FAILED\nreproduce: crosswalk check " in ran.out
    assert run("check", small_case, "--json").document["divergences"] > 10


def test_the_address_of_a_divergence_has_a_name(run, small_case, broken, tmp_path):
    path = tmp_path / "symbols"
    path.write_text("0000000000401000 T start\n")
    lines = run("check", small_case, "--symbols", path).out.splitlines()
    assert "divergence: write of 0x401000 at CPL 0  start" in lines


def test_divergences_become_cases_that_replay(run, small_case, broken, tmp_path):
    kept = tmp_path / "kept"
    ran = run("check", small_case, "--cases", kept, "--json")
    files = sorted(kept.iterdir())
    assert ran.err.endswith(f"replay: crosswalk replay {kept}/divergence-*.json\n")
    assert ran.document["divergences"] == len(files)
    assert "divergence-0000.json" == files[0].name
    case = load_case(files[0])
    (probe,) = case.probes
    assert probe.predicted.error_code | 2 == probe.observed.error_code
    # The walker isn't broken there: all of them agree.
    assert 0 == run("replay", *files[:10]).status


def test_a_case_of_a_divergence_shows_the_same_observation(run, small_case, broken, tmp_path):
    kept = tmp_path / "kept"
    run("check", small_case, "--cases", kept)
    for path in sorted(kept.iterdir())[:10]:
        observed = load_case(path).probes[0].observed
        assert observed == _replayed(run, path).probes[0].observed


def _replayed(run, path):
    ran = run("replay", path, "--json")
    again = path.with_suffix(".again.json")
    again.write_text(ran.out)
    return load_case(again)


def test_broken_intentions_are_exit_status_1(run, monkeypatch):
    monkeypatch.setattr(checking, "mismatches", lambda *_: ["0x1000: something"])
    ran = run("run")
    assert 1 == ran.status
    assert "mismatch: 0x1000: something" in ran.out
    assert "FAILED" in ran.out
    assert 1 == run("run", "--json").status


def test_verbose_explains_known_divergences(run):
    ran = run("run", "--verbose")
    assert " times\n  manual: Intel SDM vol. 3A" in ran.out


def test_a_crash_of_the_emulator_is_one_line(run, small_case, monkeypatch):
    def crash(*_):
        faulthandler.disable()  # The abort is meant: pytest need not show where.
        os.abort()

    monkeypatch.setattr(Prober, "probe", crash)
    ran = run("check", small_case)
    assert (2, "") == (ran.status, ran.out)
    assert ran.err.splitlines()[-1].startswith("crosswalk: error: the emulator died of SIGABRT")


def test_a_place_for_cases_that_is_no_directory_is_refused(run, small_case, broken):
    ran = run("check", small_case, "--cases", small_case)
    assert 2 == ran.status
    assert ran.err.splitlines()[-1].startswith(
        f"crosswalk check: error: argument --cases: {small_case}: Not a directory"
    )
