import pytest

from crosswalk.emu.fuzz.campaign import Plan
from tests.emu.case_files import LINUX_CASE


def test_a_campaign_starts_from_a_file_and_goes_on_with_the_same_tables_alone(
    run, tmp_path, small_case
):
    corpus = tmp_path / "corpus"
    how = ("--jobs", "1", "--accesses", "64", "--corpus", corpus, "--json")
    ran = run("fuzz", "--from", small_case, "--cases", "32", *how)
    assert (0, 0) == (ran.status, ran.document["divergences"])
    assert ran.document["probes"] > 100
    again = run("fuzz", "--from", small_case, "--cases", "33", *how)
    assert "going on after 32 layouts" in again.err
    for other in (("--from", LINUX_CASE), ()):
        refused = run("fuzz", *other, "--cases", "33", *how)
        assert (2, "") == (refused.status, refused.out)
        assert "of another campaign" in refused.err.splitlines()[-1]


def test_any_number_of_processes_finds_the_same(run, tmp_path, small_case):
    found = []
    for jobs in ("1", "2"):
        corpus = tmp_path / jobs
        ran = run(
            *("fuzz", "--from", small_case, "--cases", "4", "--accesses", "128"),
            *("--jobs", jobs, "--corpus", corpus, "--json"),
        )
        found.append({name: ran.document[name] for name in ("probes", "agreements", "divergences")})
    assert found[0] == found[1]


@pytest.mark.parametrize("guest", ["guest:4level", "guest:5level"])
def test_a_guest_is_a_source_as_well(run, tmp_path, guest):
    how = ("--cases", "2", "--accesses", "64", "--jobs", "2", "--corpus", tmp_path / "corpus")
    ran = run("fuzz", "--from", guest, *how, "--json")
    assert (0, 0) == (ran.status, ran.document["divergences"])
    assert ran.document["probes"] > 100
    assert f"--from {guest}" in ran.document["reproduce"]


def test_a_guest_that_there_is_not_is_one_line(run, tmp_path):
    ran = run("fuzz", "--from", "guest:6level", "--corpus", tmp_path / "corpus")
    assert (2, "") == (ran.status, ran.out)
    assert (
        "crosswalk: error: guest:6level: no such guest (guest:4level, guest:5level)\n"
    ) == ran.err


def test_the_tables_are_those_of_the_guest(guest4, guest5):
    for name, booted in (("guest:4level", guest4), ("guest:5level", guest5)):
        layout = Plan(source=name, accesses=64).layout(0, b"")
        assert layout.context.cr3 == booted.context.cr3
        assert {table.pa for table in booted.status.tables} == set(layout.frames.tolist())


def test_a_source_that_cannot_be_read_is_one_line(run, tmp_path):
    ran = run("fuzz", "--from", tmp_path / "none", "--corpus", tmp_path / "corpus")
    assert (2, "") == (ran.status, ran.out)
    assert "none: no such file" in ran.err.splitlines()[-1]


def test_a_source_that_does_not_say_its_cr3_is_told_how_to_say_it(run, tmp_path, small_raw):
    how = ("--cases", "1", "--accesses", "16", "--jobs", "1", "--corpus", tmp_path / "corpus")
    ran = run("fuzz", "--from", small_raw, *how)
    said = f"crosswalk walk {small_raw} --cr3 CR3 --save-case FILE"
    expected = f"{small_raw}: doesn't say what CR3 is; `{said}` writes a case that does"
    assert (2, f"crosswalk: error: {expected}\n") == (ran.status, ran.err)
    made = tmp_path / "made.json"
    assert 0 == run("walk", small_raw, "--cr3", "0x1000", "--save-case", made).status
    assert 0 == run("fuzz", "--from", made, *how).status


def test_files_of_a_folder_that_are_not_taken_are_a_line_each(run, tmp_path, small_case):
    folder = tmp_path / "cases"
    folder.mkdir()
    (folder / "good.json").write_bytes(small_case.read_bytes())
    (folder / "bad.json").write_text("{}")
    (folder / "notes.txt").write_text("of mine")
    how = ("--cases", "1", "--jobs", "1", "--accesses", "16")
    ran = run("fuzz", "--from", folder, *how, "--corpus", tmp_path / "corpus")
    assert 0 == ran.status
    lines = [line for line in ran.err.splitlines() if line.startswith("not taken: ")]
    assert lines[0].startswith(f"not taken: {folder}/bad.json: ")
    assert [f"not taken: {folder}/notes.txt: the name of a case ends in .json"] == lines[1:]


def test_of_a_campaign_the_files_that_are_its_own_are_no_line(run, tmp_path, small_case):
    folder = tmp_path / "campaign"
    (folder / "findings").mkdir(parents=True)
    for name in ("state.json", "lock", "state.json.partial"):
        (folder / name).write_text("{}")
    (folder / "mine.json").write_text("{}")
    (folder / "findings" / "good.json").write_bytes(small_case.read_bytes())
    how = ("--cases", "1", "--jobs", "1", "--accesses", "16")
    ran = run("fuzz", "--from", folder, *how, "--corpus", tmp_path / "corpus")
    assert [f"not taken: {folder}/mine.json: it is none of the campaign's cases"] == [
        line for line in ran.err.splitlines() if line.startswith("not taken: ")
    ]
