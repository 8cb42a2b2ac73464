import sys

import pytest
from pyarrow import feather, parquet

from crosswalk.emu.cli import walk as listing
from tests.emu.cli.running import refused

LISTS = [("walk",), ("walk", "--coalesce"), ("frames",)]


@pytest.mark.parametrize("command", LISTS, ids=" ".join)
@pytest.mark.parametrize("form", [(), ("--json",), ("--format", "json")], ids=" ".join)
def test_a_file_has_what_would_stand_on_standard_output(run, small_case, tmp_path, command, form):
    path = tmp_path / "list"
    shown = run(*command, small_case, *form).out
    ran = run(*command, small_case, *form, "-o", path)
    assert (0, "") == (ran.status, ran.out)
    # What is said about frames goes to standard error then, as it does of records.
    lines = path.read_text()
    assert lines
    assert lines == shown[: len(lines)]
    assert ("W^X" in shown) == (command == ("frames",) and not form)
    assert ("W^X" in ran.err) == (command == ("frames",))


@pytest.mark.parametrize("command", LISTS, ids=" ".join)
def test_tables_have_a_row_for_each_record(run, small_case, tmp_path, command):
    records = run(*command, small_case, "--json").records
    for form, read in (("parquet", parquet.read_table), ("arrow", feather.read_table)):
        path = tmp_path / form
        assert 0 == run(*command, small_case, "--format", form, "--output", path).status
        assert [int(each["pa"], 16) for each in records] == read(path)["pa"].to_pylist()
    ran = run(*command, small_case, "--format", "csv")
    assert len(records) + 1 == len(ran.out.splitlines())


def test_roots_that_are_named_have_a_column(run, small_case, tmp_path):
    path = tmp_path / "list"
    assert 0 == run("walk", small_case, "--roots", "0x1000", "--format", "arrow", "-o", path).status
    table = feather.read_table(path)
    assert {0x1000} == set(table["root"].to_pylist())
    assert "mode" not in table.schema.names


def test_a_list_that_ends_in_an_error_leaves_no_file(run, small_case, tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "_LIMIT", 2)
    for form in ("text", "parquet"):
        path = tmp_path / form
        line = refused(run("walk", small_case, "--format", form, "-o", path))
        assert "stopped after 2 lines" in line
        assert [] == list(tmp_path.glob(f"{form}*"))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--json", "--format", "csv"), "--json and --format csv: choose one of them"),
        (("--format", "arrow", "--watch", "1"), "--watch and --format: choose one of them"),
        (("--legend", "--watch", "1"), "--watch and --legend: choose one of them"),
        (("-o", "-"), "standard output is no file"),
    ],
)
def test_what_does_not_go_together_is_refused(run, small_case, options, reason):
    assert reason in refused(run("walk", small_case, *options))
    assert reason in refused(run("frames", small_case, *options))


@pytest.mark.parametrize(
    ("options", "name"),
    [(("-o", "list"), "--output"), (("--format", "csv"), "--format"), (("--legend",), "--legend")],
)
def test_expectations_list_nothing(run, small_case, options, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = refused(run("walk", small_case, "--expect", "no wx", *options))
    assert line.endswith(f"--expect lists nothing: {name} is for a listing")


def test_source_is_not_overwritten(run, small_case):
    before = small_case.read_bytes()
    assert "is read" in refused(run("walk", small_case, "-o", small_case))
    assert before == small_case.read_bytes()


@pytest.mark.parametrize("form", ["csv", "parquet", "arrow"])
def test_without_pyarrow_an_error_names_what_installs_it(run, small_case, form, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "crosswalk.emu.report.table_files", raising=False)
    line = refused(run("walk", small_case, "--format", form))
    assert line.endswith(
        "this needs pyarrow, which is not installed: pip install 'crosswalk-x86[arrow]'"
    )


@pytest.mark.parametrize("command", LISTS, ids=" ".join)
def test_a_legend_explains_on_standard_error_and_changes_nothing_else(run, small_case, command):
    plain, explained = run(*command, small_case), run(*command, small_case, "--legend")
    assert plain.out == explained.out
    added = [line for line in explained.err.splitlines() if line not in plain.err.splitlines()]
    heading = added[0].split()
    assert "SUP" in heading
    columns = added[added.index("columns:") + 1 : added.index("rights:")]
    assert heading == [line.split()[0] for line in columns]
    assert ("flags:" in added) == (command == ("walk",))


def test_a_legend_names_all_flags_of_lines(run, small_case):
    explained = run("walk", small_case, "--legend").err
    flags = explained[explained.index("flags:") :]
    for line in run("walk", "guest:4level").out.splitlines():
        for flag in line[48:].split():
            assert f"\n  {flag.partition('=')[0]}" in flags
