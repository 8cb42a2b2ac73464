import json
import os
import signal

import pytest

from crosswalk.emu.fuzz.campaign.version import source_digest
from crosswalk.emu.fuzz.executor import Executor
from crosswalk.emu.fuzz.reduce import size_of
from crosswalk.emu.fuzz.reduce.interesting import signatures_of
from crosswalk.emu.matrix.run import Crash, results_of
from crosswalk.emu.matrix.sections import SECTIONS
from crosswalk.emu.matrix.select import chosen_units, parse_choice
from crosswalk.emu.matrix.summary import Group, Summary, load_summary, reduced_cases
from crosswalk.emu.matrix.unit import Unit, Worker
from crosswalk.emu.workers.process import ProcessLost
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.case import parse_case
from tests.emu.check.planted_bugs import GUEST
from tests.emu.fuzz.planting import crash
from tests.emu.matrix.running import all_of

FEW = "section=junk-pte,access=write,cpl=3"


def test_walker_and_cpu_agree_on_a_section():
    summary = all_of("section=keys-4k,cr4.smap=1,efer.nx=1")
    assert 512 * 12 * 32 == summary.probes
    assert 0 == summary.divergent
    assert sum(summary.outcomes["keys-4k"]) == summary.probes
    assert all(summary.outcomes["keys-4k"][:2])


def test_what_the_emulator_is_known_for_is_counted_apart():
    summary = all_of("section=reserved-1g,cr0.wp=1,efer.nx=1")
    assert 0 == summary.divergent
    assert ["pdpte-leaf-accessed-on-fault"] == list(summary.known)
    assert summary.known["pdpte-leaf-accessed-on-fault"] > 100


@pytest.mark.parametrize(
    "bug",
    [
        bug
        for bug in GUEST
        if bug.name in ("R/W of a PTE ignored", "WP ignored", "D not set", "P missing")
    ],
    ids=lambda bug: bug.name,
)
def test_a_planted_bug_is_found_and_grouped(bug):
    summary = all_of("section=junk-pte,cr4.smap=0", bug.predict)
    assert summary.divergent > 0
    assert 1 <= len(summary.groups) <= 8
    assert sum(group.count for group in summary.groups.values()) <= summary.divergent


def test_the_order_of_results_is_that_of_units_with_any_number_of_processes(monkeypatch):
    monkeypatch.setattr("crosswalk.emu.matrix.unit.UNIT", 100)
    choice = parse_choice(FEW)
    units = chosen_units(choice)
    assert len(units) > 3
    one, two = (list(results_of(units, choice, jobs)) for jobs in (1, 2))
    assert [result.unit for result in one] == units
    assert one == two


@pytest.fixture
def two_units(monkeypatch):
    """A choice of two units; what is planted is done with the second one, in its process."""
    monkeypatch.setattr("crosswalk.emu.matrix.unit.UNIT", 256 * 2 * 8)
    do = Worker.do

    def plant(act):
        monkeypatch.setattr(
            Worker, "do", lambda self, unit: (unit.first and act()) or do(self, unit)
        )
        return chosen_units(parse_choice(FEW)), parse_choice(FEW)

    return plant


def test_a_unit_that_crashes_its_process_is_a_result_and_the_rest_goes_on(two_units):
    units, choice = two_units(crash)
    first, second = results_of(units, choice, 1)
    assert first.unit == units[0]
    assert second == Crash(units[1], "the process died of SIGSEGV")
    summary = Summary(FEW)
    summary.add(first)
    summary.add(second)
    assert 2 == summary.units
    assert 1 == len(summary.crashes)


def test_a_unit_whose_process_is_killed_once_is_done_again(two_units, tmp_path):
    def once():
        if not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    units, choice = two_units(lambda: None)
    whole = list(results_of(units, choice, 1))
    two_units(once)
    assert whole == list(results_of(units, choice, 1))
    assert (tmp_path / "killed").exists()


def test_a_unit_whose_process_others_go_on_to_kill_is_lost_and_no_result(two_units):
    units, choice = two_units(lambda: os.kill(os.getpid(), signal.SIGKILL))
    results = results_of(units, choice, 1)
    assert next(results).unit == units[0]
    with pytest.raises(
        ProcessLost, match=r"control states 8 to 15: a process was killed \(SIGKILL"
    ):
        next(results)


def test_a_state_goes_on_where_it_ended(tmp_path):
    whole = all_of(FEW)
    whole.version = source_digest()
    path = tmp_path / "state.json"
    path.write_bytes(whole.dump())
    assert load_summary(path, FEW, 1) == whole
    assert load_summary(tmp_path / "none", FEW, 1) == Summary(FEW, version=source_digest())


def test_wherever_a_run_ended_going_on_comes_to_the_same(monkeypatch, tmp_path):
    monkeypatch.setattr("crosswalk.emu.matrix.unit.UNIT", 5000)
    (bug,) = [bug for bug in GUEST if bug.name == "R/W of a PTE ignored"]
    choice = parse_choice(FEW)
    worker = Worker(SECTIONS, choice, bug.predict)
    results = [worker.do(unit) for unit in chosen_units(choice)]
    whole = Summary(FEW, version=source_digest())
    for result in results:
        whole.add(result)
    path = tmp_path / "state.json"
    for ended in range(len(results) + 1):
        before = Summary(FEW, version=source_digest())
        for result in results[:ended]:
            before.add(result)
        path.write_bytes(before.dump())
        again = load_summary(path, FEW, len(results))
        assert again.units == ended
        for result in results[again.units :]:
            again.add(result)
        assert whole.dump() == again.dump()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not a state of the matrix"),
        (b'{"select": "x", "units": 0}', "a state of --select 'x', not of ''"),
        (b'{"select": "", "units": 0, "version": "x"}', "another version of Crosswalk"),
        (b'{"select": "", "unknown": 1}', "unknown"),
        (b'{"select": "", "format": "other"}', "Invalid enum value 'other'"),
        (b'{"select": "", "units": -1}', ">= 0"),
        (b'{"select": "", "known": {"maxphyaddr-40": -1}}', ">= 0"),
        (b'{"select": "", "outcomes": {"rights": [1]}}', "length >= 3"),
        (b'{"select": "\xff"}', "can't decode byte 0xff"),
    ],
)
def test_a_foreign_state_is_refused(tmp_path, content, message):
    path = tmp_path / "state.json"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=message):
        load_summary(path, "", 3)


@pytest.mark.parametrize("fields", [{"known": {"bogus": 1}}, {"tlb": {"known": {"bogus": 1}}}])
def test_a_state_that_counts_what_nobody_knows_is_refused(tmp_path, fields):
    path = tmp_path / "state.json"
    path.write_text(json.dumps({"select": "", "version": source_digest(), **fields}))
    with pytest.raises(BadInput, match="not a state of the matrix: it counts 'bogus'"):
        load_summary(path, "", 3)


def test_a_group_keeps_a_case_that_shows_it(tmp_path):
    (bug,) = [bug for bug in GUEST if bug.name == "R/W of a PTE ignored"]
    summary = all_of(FEW, bug.predict)
    for group in summary.groups.values():
        case = json.loads(group.case)
        assert 4 == len(case["entries"])
        assert 1 == len(case["probes"])


def test_the_case_of_a_group_is_made_small_and_still_shows_it():
    (bug,) = [bug for bug in GUEST if bug.name == "R/W of a PTE ignored"]
    summary = all_of(FEW, bug.predict)
    small = dict(reduced_cases(summary, bug.predict))
    assert small.keys() == summary.groups.keys()
    for slug, text in small.items():
        case = parse_case(text.encode(), slug)
        found = parse_case(summary.groups[slug].case.encode(), slug)
        assert size_of(case) < size_of(found)
        assert slug in {found.slug for found in signatures_of(Executor(bug.predict), case)}
        assert max(pa for pa in case.entries) < 0x5000
        assert text == dict(reduced_cases(with_case(summary, slug, text), bug.predict))[slug]
    # What doesn't show it, as with the walker itself, stays as it was found.
    assert dict(reduced_cases(summary)) == {
        slug: each.case for slug, each in summary.groups.items()
    }


def with_case(summary, slug, text):
    """A summary of one group alone, which has this case."""
    group = summary.groups[slug]
    return Summary("", groups={slug: Group(group.signature, group.count, text)})


def test_units_cover_each_control_state_once():
    for section in SECTIONS:
        choice = parse_choice(f"section={section.name}")
        units = chosen_units(choice)
        count = len(list(section.contexts()))
        assert [unit.first for unit in units] == [0, *(unit.last for unit in units[:-1])]
        assert units[-1].last == count
        assert all(isinstance(unit, Unit) for unit in units)
