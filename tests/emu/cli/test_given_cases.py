"""What files, folders and standard input hold is told by the format that each document names."""

import io
import json
import os
from types import SimpleNamespace

import pytest

from crosswalk.emu.cli.given_cases import given_cases
from crosswalk.emu.report.composites import CompositeCase
from crosswalk.walker.errors import BadInput, CrosswalkError, LimitExceeded
from crosswalk.walker.formats import Case, load_case
from crosswalk.walker.tlb import SequenceRecord
from tests.emu.case_files import CASES, COMPOSITE_CASES, KNOWN_CASES, KNOWN_SEQUENCE_FILES

CASE = KNOWN_CASES / "maxphyaddr-40.json"
COMPOSITE = COMPOSITE_CASES / "locked-rmw-reads-first.json"
SEQUENCE = KNOWN_SEQUENCE_FILES / "fault-keeps-tlb.json"


def read_in(data, monkeypatch):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    return list(given_cases(["-"]))


def test_each_file_is_what_its_format_says():
    given = list(given_cases(map(str, (CASE, COMPOSITE, SEQUENCE))))
    assert [str(CASE), str(COMPOSITE), str(SEQUENCE)] == [each.name for each in given]
    assert [Case, CompositeCase, SequenceRecord] == [type(each.content) for each in given]
    assert load_case(CASE) == given[0].content


def test_a_folder_gives_its_cases_by_path_and_counts_files_of_other_kinds(tmp_path, capsys):
    for name in ("b.json", "a/z.json", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(CASE.read_bytes())
    given = list(given_cases([str(tmp_path)]))
    assert "" == capsys.readouterr().err
    (tmp_path / "state.json").write_text('{"format": "crosswalk-fuzz/1"}')
    assert given == list(given_cases([str(tmp_path)]))
    assert f"{tmp_path}: 1 file of another kind is passed over\n" == capsys.readouterr().err
    for name, text in (("none", '{"a": 1}'), ("number", '{"format": 1}'), ("list", "[]")):
        (tmp_path / f"{name}.json").write_text(text)
    assert given == list(given_cases([str(tmp_path)]))
    assert f"{tmp_path}: 4 files of other kinds are passed over\n" == capsys.readouterr().err
    assert [str(tmp_path / "a/z.json"), str(tmp_path / "b.json")] == [each.name for each in given]
    assert {Case} == {type(each.content) for each in given}


def test_every_case_of_the_tests_is_read():
    given = list(given_cases([str(CASES)]))
    assert len(given) > 50
    assert [] == [each for each in given if isinstance(each.content, CrosswalkError)]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "not JSON: "),
        (b"{", "not JSON: "),
        (CASE.read_bytes()[:100], "not JSON: "),
        (b'{"format": "crosswalk-case/9"}', "'crosswalk-case/9' is none of crosswalk-case/1, "),
        (b'{"format": "crosswalk-sequence/2"}', "'crosswalk-sequence/2' is none of "),
        (b'{"format": "crosswalk-composite"}', "'crosswalk-composite' is none of "),
        (b'{"format": "crosswalk-case/1"}', "missing required field `cpu`"),
    ],
)
def test_a_broken_case_in_a_folder_is_the_line_that_it_is_by_itself(tmp_path, content, error):
    bad = tmp_path / "bad.json"
    bad.write_bytes(content)
    (tmp_path / "good.json").write_bytes(CASE.read_bytes())
    first, second = given_cases([str(tmp_path)])
    assert isinstance(first.content, BadInput)
    assert str(next(given_cases([str(bad)])).content) == str(first.content)
    assert str(first.content).startswith(f"{bad}: ")
    assert error in str(first.content)
    assert isinstance(second.content, Case)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "not JSON"),
        (b'{"format": "crosswalk-fuzz/1"}', "'crosswalk-fuzz/1' is none of crosswalk-case/1, "),
        (b'{"format": "crosswalk-case/1"}', "missing required field `cpu`"),
        (b'{"format": "crosswalk-composite/1"}', "missing required field"),
        (b'{"format": "crosswalk-sequence/1"}', "missing required field"),
        (b'{"format": "crosswalk-case/1", ', "not JSON"),
    ],
)
def test_a_file_that_is_none_is_one_line_that_names_it_and_stops_no_other(tmp_path, content, error):
    bad = tmp_path / "bad.json"
    bad.write_bytes(content)
    first, second = given_cases([str(bad), str(CASE)])
    assert isinstance(first.content, BadInput)
    assert str(first.content).startswith(f"{bad}: ")
    assert error in str(first.content)
    assert isinstance(second.content, Case)


def test_what_cant_be_read_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    nothing, pipe, empty = given_cases([*map(str, (tmp_path / "no", tmp_path / "pipe", tmp_path))])
    assert f"{tmp_path}/no: no such file or directory" == str(nothing.content)
    assert f"{tmp_path}/pipe: not a regular file" == str(pipe.content)
    assert f"{tmp_path}: no case in this folder" == str(empty.content)


def test_standard_input_has_one_document_after_the_other(monkeypatch):
    texts = [each.read_bytes() for each in (CASE, COMPOSITE, SEQUENCE)]
    given = read_in(b"\n".join(texts), monkeypatch)
    assert [Case, CompositeCase, SequenceRecord] == [type(each.content) for each in given]
    assert "standard input, document 2" == given[1].name


def test_what_follows_a_document_that_is_none_is_not_guessed_at(monkeypatch):
    broken = json.dumps({"format": "crosswalk-case/1"})[:-1]
    given = read_in(CASE.read_bytes() + broken.encode() + CASE.read_bytes(), monkeypatch)
    assert [Case, BadInput] == [type(each.content) for each in given]
    assert str(given[1].content).startswith("standard input, document 2: not JSON")


@pytest.mark.parametrize("data", [b"", b" \n"])
def test_an_empty_standard_input_is_said_to_be(data, monkeypatch):
    (given,) = read_in(data, monkeypatch)
    assert "standard input: there is nothing in it" == str(given.content)


def test_standard_input_has_a_limit(monkeypatch):
    monkeypatch.setattr("crosswalk.emu.cli.given_cases.MAX_CASE_BYTES", 100)
    (given,) = read_in(CASE.read_bytes(), monkeypatch)
    assert isinstance(given.content, LimitExceeded)
