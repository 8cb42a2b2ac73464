"""The suite: the same bytes each time; what is planted in it, a judge or a walker is found."""

import hashlib
import json
import subprocess
from pathlib import Path

import jsonschema
import pytest

from crosswalk.emu.cli.given_cases import given_cases
from crosswalk.emu.suite.results import ResultsJson, results_name, results_of, table_of
from crosswalk.emu.suite.suite import INDEX, Amounts, checked, digest_of_suite, suite_files
from crosswalk.guest.boot.image import digest_of
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import Case
from crosswalk.walker.formats.documents import read_document
from scripts.upkeep.suite import main
from tests.emu.judges.planted import LosesA, Right

ROOT = Path(__file__).parents[3]
SECTIONS = frozenset({"rights-4k", "cross-4k"})
AMOUNTS = Amounts(states=1, probes=16, composites=1, layouts=2, layout_probes=12, sections=SECTIONS)


def rewritten(source, target, **members):
    """Write a case file again, with other members."""
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(json.loads(source.read_bytes()) | members), "utf-8")


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """A folder with case files, one twice with another note, and one with XD in an upper entry."""
    folder, here = tmp_path_factory.mktemp("cases"), ROOT / "tests" / "cases"
    for name in ("known/maxphyaddr-40.json", "rules/leaf1g.json"):
        rewritten(here / name, folder / name)
    rewritten(here / "rules" / "leaf1g.json", folder / "twice" / "again.json", note="Another.")
    accesses = [
        {"va": "0x0", "access": access, "cpl": cpl, "ac": False}
        for access in ("read", "write", "execute")
        for cpl in (0, 3)
    ]
    upper = here / "found" / "gdb-pt-dump-effective-rights.json"
    rewritten(upper, folder / "upper" / "xd.json", probes=accesses)
    return folder


@pytest.fixture(scope="module")
def files(cases):
    return suite_files(cases, "0.0", AMOUNTS)


def written(files, folder):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def suite(files, tmp_path):
    return written(files, tmp_path)


def test_the_same_cases_give_the_same_bytes(cases, files):
    assert files == suite_files(cases, "0.0", AMOUNTS)
    assert digest_of_suite(files) == hashlib.sha256(files[INDEX]).hexdigest()


def test_each_state_is_there_once_and_each_kind_of_case(files):
    folders = {path.split("/")[1] for path in files if path.startswith("cases/")}
    assert {"known", "rules", "upper", "matrix", "matrix-composite", "layouts"} == folders
    assert 2 == sum(path.startswith("cases/layouts/") for path in files)


def test_its_files_are_those_of_the_schemas(files):
    for path in (INDEX, "cases/known/maxphyaddr-40.json", "cases/layouts/layout-0.json"):
        document = json.loads(files[path])
        name = f"{document['format'].replace('/', '-')}.json"
        schema = json.loads((ROOT / "docs" / "schemas" / name).read_bytes())
        jsonschema.validate(document, schema)


def test_its_images_are_boot_images_named_by_what_they_need(files):
    images = {path: data for path, data in files.items() if path.startswith("images/")}
    assert "images/plain.img" in images
    assert all(len(digest_of(data)) == 32 for data in images.values())


def test_commands_take_its_cases(suite):
    (given,) = given_cases([str(suite / "cases" / "known" / "maxphyaddr-40.json")])
    assert isinstance(given.content, Case)
    assert 1 == len(given.content.probes)


def test_a_suite_is_as_the_second_walk_has_it(suite):
    assert [] == list(checked(suite))


def test_a_wrong_outcome_is_found_though_the_index_has_it(files, tmp_path, capsys):
    path = "cases/known/maxphyaddr-40.json"
    wrong = files[path].replace(b'"error_code": "0x9"', b'"error_code": "0x8"')
    assert wrong != files[path]
    digests = [hashlib.sha256(data).hexdigest().encode() for data in (files[path], wrong)]
    index = files[INDEX].replace(*digests)
    suite = written(files | {path: wrong, INDEX: index}, tmp_path)
    assert 1 == main(["--check", str(suite)])
    lines = capsys.readouterr().out.splitlines()
    assert [f"{path}: line 8 isn't what the second walk says", "the suite is wrong"] == lines


def test_a_file_that_is_changed_missing_or_too_many_is_found(suite):
    (suite / "README.md").write_text("Another.", "utf-8")
    (suite / "images" / "plain.img").unlink()
    (suite / "cases" / "more.json").write_text("{}", "utf-8")
    assert [
        "README.md: isn't what the index says, by its SHA-256",
        "images/plain.img: is in the index, and not there",
        "cases/more.json: isn't in the index",
    ] == list(checked(suite))


def test_an_index_that_leads_elsewhere_is_refused(files, tmp_path):
    index = files[INDEX].replace(b'"README.md"', b'"../README.md"')
    suite = written(files | {INDEX: index}, tmp_path)
    with pytest.raises(BadInput, match="no path in the suite"):
        list(checked(suite))


def test_a_judge_that_is_right_agrees_and_one_that_loses_a_bits_does_not(files):
    probes = 0
    for judge, wrong in ((Right(), False), (LosesA(), True)):
        data = results_of(judge, files)
        found = read_document(data, ResultsJson)
        judge.close()
        probes = sum(found.verdicts.values())
        assert wrong == ("diverged" in found.verdicts)
        others = [other for each in found.cases.values() for other in each.others]
        assert wrong == bool(others)
        assert data == results_of(judge, files)
        assert f"| Planted 1.0, TCG, AuthenticAMD, 40 bits | {probes:,} |" in table_of([found])
        judge.close()


@pytest.mark.parametrize(
    ("version", "name"),
    [
        (
            "QEMU 7.2.22, TCG, AuthenticAMD of 36, 40 bits, GenuineIntel of 40 bits",
            "qemu-7.2.22-tcg",
        ),
        ("Bochs 3.1, GenuineIntel of 40 bits", "bochs-3.1"),
        ("Unicorn 2.1.4", "unicorn-2.1.4"),
    ],
)
def test_results_are_named_by_judge_and_version(version, name):
    assert f"results/{name}.json" == results_name(version)


def walked(suite, *options):
    """How many probes of a suite the walker in C was asked, and how many it got wrong."""
    source, walker = ROOT / "docs" / "examples" / "suite_walker.c", suite / "walker"
    command = ["cc", "-Wall", "-Wextra", "-Werror", *options, "-o", walker, source]
    subprocess.run(command, check=True)
    paths = sorted(map(str, suite.glob("cases/**/*.json")))
    ran = subprocess.run([walker, *paths], capture_output=True, text=True, check=False)
    probes, wrong = (int(word) for word in ran.stdout.split()[-4:] if word.isdecimal())
    assert ran.returncode == int(wrong > 0)
    return probes, wrong


def test_a_walker_in_c_is_tested_and_a_bug_in_it_is_found(suite):
    probes, wrong = walked(suite)
    assert probes > 20
    assert 0 == wrong
    assert 0 < walked(suite, "-DFORGETS_XD")[1]


@pytest.mark.slow
def test_the_whole_suite_is_as_the_second_walk_and_a_walker_in_c_have_it(tmp_path):
    suite = written(suite_files(ROOT / "tests" / "cases", "0.0"), tmp_path)
    assert [] == list(checked(suite))
    probes, wrong = walked(suite)
    assert probes > 3000
    assert 0 == wrong


def test_a_folder_with_other_files_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine").touch()
    assert 2 == main(["-o", str(tmp_path)])
    assert "has files, and is no suite" in capsys.readouterr().err


def test_a_suite_without_results_has_no_table(suite, capsys):
    assert 2 == main(["--table", str(suite)])
    assert "has no results" in capsys.readouterr().err


def test_results_of_another_suite_are_refused(suite, files, capsys):
    judge = Right()
    data = results_of(judge, files)
    judge.close()
    (suite / "results").mkdir()
    (suite / "results" / "planted.json").write_bytes(data)
    assert 0 == main(["--table", str(suite)])
    assert "| Planted 1.0" in capsys.readouterr().out
    (suite / INDEX).write_bytes(files[INDEX] + b"\n")
    assert 2 == main(["--table", str(suite)])
    assert "results/planted.json: of another suite" in capsys.readouterr().err
