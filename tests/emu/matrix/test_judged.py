"""The matrix put to judges: faults planted in them are found, and what they lack is counted."""

import json
from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.cli import main
from crosswalk.emu.fuzz import judged as judging
from crosswalk.emu.fuzz.generate.portable import PORTABLE_RAM, in_portable_ram
from crosswalk.emu.fuzz.judged import JudgeExecutor
from crosswalk.emu.judges.judge import Reason, Unjudged
from crosswalk.emu.judges.unicorn import UnicornJudge
from crosswalk.emu.matrix import judged
from crosswalk.emu.matrix.asking import Asking
from crosswalk.emu.matrix.judged import JudgeWorker
from crosswalk.emu.matrix.run import results_of
from crosswalk.emu.matrix.section import HIGH_RAM
from crosswalk.emu.matrix.select import (
    ACCESS_SECTIONS,
    chosen_units,
    parse_choice,
    sections_of,
)
from crosswalk.emu.matrix.summary import Summary, load_summary, reduced_cases
from crosswalk.emu.matrix.text import summary_lines, verdict
from crosswalk.emu.workers.process import ProcessLost
from crosswalk.walker.access import AccessType
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.case import parse_case
from tests.emu.fuzz.planted_judges import PlantedJudge
from tests.emu.matrix.running import all_of

UNICORN = Asking("unicorn", "Unicorn 0", portable=True)
RESERVED = "section=reserved-1g,cr0.wp=1,efer.nx=1,access=read,cpl=3"
NO_P = "P in the error code at a present entry: judge:unicorn says clear, it is set"


class Without(UnicornJudge):
    """Has no outcome for fetches, for a reason."""

    def __init__(self, kind):
        super().__init__()
        self._reason = Reason(kind, "by plan")

    def accesses(self, questions):
        return [
            self._without(question, each)
            for question, each in zip(questions, super().accesses(questions), strict=True)
        ]

    def _without(self, question, each):
        fetch = question.accesses.type == AccessType.EXECUTE
        why = np.where(fetch, np.uint8(len(each.reasons) + 1), each.why)
        return replace(each, why=why, reasons=(*each.reasons, self._reason))

    def sequences(self, sequences):
        return [replace(each, answer=self._reason) for each in super().sequences(sequences)]


def judged_by(judge, text, name="unicorn", asking=UNICORN):
    """The summary of all units of a choice, put to a judge that the command line calls `name`."""
    choice = parse_choice(text)
    worker = JudgeWorker(sections_of(asking), choice, JudgeExecutor(judge, name))
    summary = Summary(text, replaced(asking, name))
    for unit in chosen_units(choice, asking):
        summary.add(worker.do(unit))
    return summary


def replaced(asking, name):
    return Asking(name, asking.version, asking.portable, asking.pairs)


@pytest.fixture
def planted(monkeypatch):
    """A judge with planted faults, for whoever opens one."""
    judging._executor.cache_clear()
    monkeypatch.setattr(judging, "open_judge", lambda _: PlantedJudge())
    yield
    judging._executor.cache_clear()


@pytest.mark.parametrize(
    "text",
    [
        "section=keys-4k,cr4.smap=1,efer.nx=1,cr0.wp=1",
        "section=32bit-large,cr4.smap=0",
        pytest.param("section=pae-pdpte,access=read", marks=pytest.mark.slow),
        pytest.param("section=rmw-4k,cr4.pke=0,cr4.smap=0,cr0.wp=1", marks=pytest.mark.slow),
        "section=twice-4k,cr4.smap=0,cr0.wp=0,access=twice:read+write",
        "section=tlb-leaf,change=rw-0",
    ],
)
def test_the_emulated_cpu_as_a_judge_says_what_it_says_otherwise(text):
    summary, usual = judged_by(UnicornJudge(), text, asking=Asking("unicorn")), all_of(text)
    assert 0 == summary.divergent == summary.tlb.violations
    assert summary.outcomes == usual.outcomes
    assert summary.tlb.sections == usual.tlb.sections
    assert (summary.known, summary.tlb.known) == (usual.known, usual.tlb.known)
    assert summary.probes + summary.tlb.accesses > 100


def test_a_lost_bit_is_found_grouped_and_made_small_with_the_judge(planted):
    summary = judged_by(PlantedJudge(), RESERVED)
    assert 1 == verdict(summary)[0]
    assert [NO_P] == [group.signature for group in summary.groups.values()]
    ((slug, text),) = reduced_cases(summary)
    case = parse_case(text.encode(), slug)
    assert 1 == len(case.probes)
    assert case.note is None or "judge:unicorn" in case.note


def test_what_is_registered_for_a_judge_is_known_of_that_one():
    summary = judged_by(PlantedJudge(), RESERVED, "qemu")
    assert 0 == summary.divergent
    assert any("reserved-fault-without-p" in name for name in summary.known)
    assert "known judge divergence" in "\n".join(summary_lines(summary))


def test_who_ends_at_an_access_is_found_with_its_case():
    summary = judged_by(Without(Unjudged.ENDED), "section=junk-pte,cr4.smap=0,cpl=3")
    signature = "an outcome of an execute is due: judge:unicorn: by plan"
    (group,) = [each for each in summary.groups.values() if each.signature == signature]
    assert group.count == summary.divergent == summary.combinations["junk-pte"] // 3
    assert 1 == len(parse_case(group.case.encode(), "group").probes)


@pytest.mark.parametrize("kind", [Unjudged.NOT_SHOWN, Unjudged.NOT_EXPORTABLE])
def test_what_has_no_outcome_is_no_agreement(kind):
    summary = judged_by(Without(kind), "section=junk-pte,cr4.smap=0,cpl=3")
    count = summary.combinations["junk-pte"]
    name = kind.name.lower()
    assert {"by plan": count // 3} == getattr(summary, name)
    assert summary.agreements == count - count // 3
    status, text = verdict(summary)
    assert 0 == status
    assert (
        f"agreement on {count - count // 3:,} of {count:,} probes; {kind}: {count // 3:,}" == text
    )
    nothing = judged_by(Without(kind), "section=junk-pte,cr4.smap=0,cpl=3,access=execute")
    assert 2 == verdict(nothing)[0]
    assert verdict(nothing)[1].startswith("nothing asked")


def test_sequences_without_an_answer_are_counted_apart():
    summary = judged_by(Without(Unjudged.NOT_SHOWN), "section=tlb-leaf,change=rw-0")
    (row,) = summary.tlb.sections.values()
    assert {"by plan": row[0]} == summary.tlb.not_shown
    assert 0 == summary.tlb.accesses
    assert 2 == verdict(summary)[0]


def test_a_machine_that_others_end_has_said_nothing():
    with pytest.raises(ProcessLost, match="by plan"):
        judged_by(Without(Unjudged.LOST), "section=junk-pte,cr4.smap=0,cpl=3")


def test_results_dont_depend_on_what_is_asked_together(monkeypatch):
    whole = judged_by(PlantedJudge(), RESERVED)
    monkeypatch.setattr(judged, "AT_ONCE", 1000)
    assert whole == judged_by(PlantedJudge(), RESERVED)


def test_results_dont_depend_on_processes(planted, monkeypatch):
    monkeypatch.setattr("crosswalk.emu.matrix.unit.UNIT", 1000)
    choice = parse_choice(RESERVED)
    units = chosen_units(choice, UNICORN)
    assert len(units) > 1
    one, two = (list(results_of(units, choice, jobs, UNICORN)) for jobs in (1, 2))
    assert one == two
    assert sum(each.divergent for each in one) > 0


@pytest.mark.parametrize(
    "section", sections_of(UNICORN)[: len(ACCESS_SECTIONS)], ids=lambda each: each.name
)
def test_tables_of_portable_sections_are_where_machines_have_ram(section):
    if section.highest:
        assert HIGH_RAM == section.ram
        return
    assert PORTABLE_RAM == section.ram
    for shape in section.shapes(section, {}):
        assert in_portable_ram(shape.frames, np.full(len(shape.frames), 4096, np.uint64)).all()
    roots = {context.cr3 & 0xFFFF_F000 for context in section.contexts({})}
    assert roots <= set(shape.frames.tolist())


def test_pages_of_1_gib_are_in_ram_where_that_is_asked_for():
    text = "section=large-1g,cr0.wp=1,efer.nx=1,cr4.smap=0,cr4.smep=0,cr4.pke=0,access=read,cpl=0"
    summary = judged_by(UnicornJudge(), text)
    assert 0 == summary.divergent
    assert summary.agreements == summary.probes > 1000


def test_a_state_of_another_judge_is_refused(tmp_path):
    path = tmp_path / "state.json"
    whole = judged_by(UnicornJudge(), "section=vendor-fetch")
    path.write_bytes(whole.dump())
    for other in (Asking(), Asking("qemu", "Unicorn 0", portable=True), Asking("unicorn")):
        with pytest.raises(BadInput, match="a state of --judge unicorn"):
            load_summary(path, whole.select, 9, other)


def test_the_command_names_the_judge_and_what_it_lacks(run_main):
    words = ["matrix", "--judge", "unicorn", "--pairs", "--select", "section=pks-2m", "--json"]
    status, out = run_main(*words, "--jobs", "1")
    document = json.loads(out)
    assert 0 == status
    assert "unicorn" == document["judge"]
    assert "Unicorn" in document["judge_version"]
    lacking = sum(document["not_shown"].values())
    assert lacking > 0
    assert document["agreements"] == document["probes"] > 0
    assert document["probes"] + lacking == document["sections"]["pks-2m"]


def test_a_list_is_of_all_there_is(capsys):
    for more in (["--judge", "unicorn"], ["--pairs"], ["--portable"]):
        assert 2 == main(["matrix", "--list", *more])
        assert "not with --judge" in capsys.readouterr().err
    assert 2 == main(["matrix", "--judge", "log:FILE"])
    assert "one image alone" in capsys.readouterr().err
    assert 2 == main(["matrix", "--judge", "nobody"])
    assert "no judge" in capsys.readouterr().err


@pytest.mark.slow
def test_qemu_agrees_but_for_what_is_registered(qemu, run_main):
    names = ("reserved-2m", "32bit-rights", "pae-pdpte", "large-1g")
    select = ",".join(f"section={name}" for name in names)
    words = ["matrix", "--judge", qemu, "--pairs", "--jobs", "1", "--json", "--select", select]
    status, out = run_main(*words)
    document = json.loads(out)
    assert 0 == status
    assert 0 == document["divergences"]
    assert {} == document["not_shown"] == document["not_exportable"]
    assert document["agreements"] > 1500
    assert {"reserved-fault-without-p", "pae-pdpte-accessed"} <= set(document["known"])


@pytest.fixture
def run_main(capsys):
    def run(*words):
        judging._executor.cache_clear()
        status = main(list(words))
        return status, capsys.readouterr().out

    return run
