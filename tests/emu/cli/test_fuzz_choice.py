"""`fuzz` in chosen modes, with assumptions, and of a selection: who is asked what."""

import pytest

from crosswalk.walker.formats import Case, Cpu, dump_case
from tests.tables import GIB1, PS, RW, P, PageTables, context

WALKER = """\
from dataclasses import replace
from crosswalk.walker import Translation
from crosswalk.walker.translate import translate as right

def translate(memory, context, access):
    return right(memory, context, access)

def stated(memory, context, access):
    return right(memory, context, access)

stated.modes = "32bit,pae"

def low(memory, context, access):
    outcome = right(memory, context, access)
    # Without the address bits 39:32 of a page of 4 MiB.
    if context.levels == 2 and isinstance(outcome, Translation):
        return replace(outcome, pa=outcome.pa & 0xFFFFFFFF)
    return outcome

translate.claims = stated.claims = low.claims = "rights"
"""


@pytest.fixture
def fuzz(run, tmp_path):
    (tmp_path / "mine.py").write_text(WALKER)

    def search(*more, walker=None, cases=16, folder="corpus", jobs=1):
        under_test = () if walker is None else ("--walker", f"python:{tmp_path}/mine.py:{walker}")
        return run(
            *("fuzz", "--cases", cases, "--accesses", 96, "--jobs", jobs, "--json"),
            *("--corpus", tmp_path / folder, *under_test, *more),
        )

    return search


def test_a_walker_that_states_no_modes_is_asked_in_4_and_5_level_paging(fuzz):
    ran = fuzz(walker="translate")
    assert 0 == ran.status
    assert {"4level", "5level"} == set(ran.document["asked"])
    assert all(ran.document["asked"].values())


def test_a_walker_that_states_its_modes_is_asked_in_those_alone(fuzz):
    ran = fuzz(walker="stated")
    assert 0 == ran.status
    assert {"32bit", "pae"} == set(ran.document["asked"])
    assert {"32bit": 0, "pae": 0} == ran.document["declined"]


@pytest.mark.parametrize("walker", ["translate", "stated"])
def test_chosen_modes_are_asked_whatever_a_walker_states(fuzz, walker):
    ran = fuzz("--mode", "pae,5level", walker=walker, cases=6)
    assert 0 == ran.status
    assert {"pae", "5level"} == set(ran.document["asked"])


def test_a_bug_of_32_bit_paging_is_found_in_that_mode_alone(fuzz):
    assert 0 == fuzz(walker="low").status
    ran = fuzz("--mode", "32bit", walker="low", folder="other")
    assert 1 == ran.status
    (found,) = ran.document["findings"]
    assert "address of a 4-MiB page" in found["signature"]
    assert "--mode 32bit" in ran.document["reproduce"]


def test_a_bug_of_32_bit_paging_is_found_from_a_kernel_at_3_gib(fuzz, tmp_path):
    tables = PageTables("32-bit", ram=((0, 1 << 24),)).map(0, 0x8000)
    tables.map(3 * GIB1, 1 << 13, P | RW | PS, level=2)
    case = Case(
        cpu=Cpu.from_context(context("32-bit")), ram=tables.ram, entries=tables.words, probes=()
    )
    (tmp_path / "kernel.json").write_bytes(dump_case(case))
    source = ("--from", tmp_path / "kernel.json")
    assert 0 == fuzz(*source, folder="right").status
    ran = fuzz(*source, "--mode", "32bit", walker="low")
    assert 1 == ran.status
    assert {"address of a 4-MiB page"} == {
        each["signature"].split(":")[0] for each in ran.document["findings"]
    }
    assert 2 == fuzz(*source, "--mode", "4level", folder="none").status


def test_any_number_of_jobs_comes_to_the_same(fuzz):
    more = ("--mode", "32bit,pae,4level,5level", "--assume", "wellformed,tree", "--select", "cpl=3")
    one, other = (fuzz(*more, jobs=jobs, folder=str(jobs)).document for jobs in (1, 3))
    for document in (one, other):
        for name in ("seconds", "parts", "reproduce"):
            document.pop(name, None)
    assert one == other
    assert one["probes"] > 200


def test_what_is_assumed_is_not_asked(fuzz):
    plain = fuzz("--coverage").document["coverage"]["reserved bits"]["seen"]
    assumed = fuzz("--assume", "wellformed", "--coverage", folder="other").document["coverage"]
    assert 0 == assumed["reserved bits"]["seen"] < plain


def test_a_selection_that_leaves_nothing_asked_nothing(fuzz):
    ran = fuzz("--select", "pte.key5=1,pte.key6=1", cases=4)
    assert 2 == ran.status
    assert 0 == ran.document["probes"]
    assert "nothing asked" in ran.err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--mode", "32-bit"), "'32-bit' is none of 32bit, pae, 4level, 5level"),
        (("--assume", "shallow"), "'shallow' is none of wellformed, canonical, tree"),
        (("--select", "section=rights-4k"), "section is a dimension of the matrix alone"),
        (("--mode", "pae", "--select", "mode=32bit"), "leaves nothing in --mode pae"),
    ],
)
def test_what_there_is_not_is_one_line(fuzz, more, words):
    ran = fuzz(*more)
    assert 2 == ran.status
    assert words in ran.err
