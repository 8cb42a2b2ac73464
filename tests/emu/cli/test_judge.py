"""What other machines say of cases: each status comes out, and agreement is of answers alone."""

import json
from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.cli import judge as judging
from crosswalk.emu.cli import judge_asking
from crosswalk.emu.judges.answers import refusal_reason
from crosswalk.emu.judges.judge import Interrupted, Reason, Unjudged
from crosswalk.emu.judges.registry import JUDGES
from crosswalk.emu.judges.unicorn import UnicornJudge
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import load_case, parse_case
from crosswalk.walker.tlb import parse_sequence
from tests.emu.case_files import (
    CASES,
    COMPOSITE_CASES,
    JUDGES_CASES,
    KNOWN_CASES,
    KNOWN_SEQUENCE_FILES,
)
from tests.emu.judges.planted import Liar, LosesA, Right, Unplaced, Without, WithoutP

SEQUENCE = KNOWN_SEQUENCE_FILES / "fault-keeps-tlb.json"
COMPOSITE = COMPOSITE_CASES / "locked-rmw-reads-first.json"
RESERVED = JUDGES_CASES / "reserved-fault-without-p.json"


@pytest.fixture
def planted(monkeypatch):
    """Has `--with NAME` open these judges, and Unicorn's as ever."""

    def plant(**judges):
        opened = judging.open_judge
        given = {name.replace("_", ":"): judge for name, judge in judges.items()}
        monkeypatch.setattr(judging, "open_judge", lambda name: given.get(name) or opened(name))

    return plant


def with_(*names):
    return [word for name in names for word in ("--with", name)]


def verdict(ran):
    (line,) = [each for each in ran.out.splitlines() if each.startswith("verdict: ")]
    return line.removeprefix("verdict: ")


def test_a_judge_that_agrees_is_named_with_its_version(run, small_case, planted):
    planted(log=Right())
    ran = run("judge", small_case, *with_("log"))
    assert 0 == ran.status
    assert f"{small_case}: 4 probes: log 4 agreed" in ran.out
    assert "agreement; by Planted 1.0, TCG, AuthenticAMD, 40 bits" == verdict(ran)
    assert "divergence" not in ran.out


def test_a_lost_a_bit_is_a_divergence_with_its_rule_and_walk(run, small_case, planted):
    planted(log=LosesA())
    case = replace(
        load_case(small_case), probes=(replace(load_case(small_case).probes[0], access="read"),)
    )
    small_case.write_bytes(judging.dump_case(case))
    ran = run("judge", small_case, *with_("log"))
    assert 1 == ran.status
    assert "log: divergence: read of 0x400123 at CPL 0" in ran.out
    assert "A of a leaf, A of a table's entry" in ran.out
    assert "  predicted: ok, pa 0x8123; changes" in ran.out
    assert "PML4E[0]" in ran.out
    assert verdict(ran).startswith("FAILED: 0 of 1 probes agree; diverged: 1; by Planted")


def test_a_judge_that_has_another_cpu_than_it_says_diverges(run, planted):
    planted(log=Liar(cpu={"maxphyaddr": 39}), exec=Right(cpu={"maxphyaddr": 46}))
    case = KNOWN_CASES / "maxphyaddr-40.json"
    liar, right = (run("judge", case, *with_(name)) for name in ("log", "exec"))
    assert (1, 0) == (liar.status, right.status)
    assert "MAXPHYADDR 39" in liar.out
    assert "agreement; by " in right.out


def test_what_is_known_of_a_judge_is_no_failure_and_no_agreement(run, planted):
    planted(qemu=WithoutP())
    ran = run("judge", RESERVED, *with_("qemu"))
    assert 0 == ran.status
    assert "qemu: known, reserved-fault-without-p: read of 0x0 at CPL 0" in ran.out
    assert "1 known, reserved-fault-without-p: A fault for a reserved bit has P clear" in ran.out
    assert verdict(ran).startswith("known divergences alone; known divergences: 1; by Planted")


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (Unjudged.NOT_SHOWN, 2),
        (Unjudged.NOT_EXPORTABLE, 2),
        (Unjudged.ENDED, 1),
        (Unjudged.LOST, 2),
    ],
)
def test_a_judge_that_gives_no_outcome_has_agreed_with_nothing(
    run, small_case, planted, kind, status
):
    planted(log=Without(reason=Reason(kind, "it was so"), every=True))
    ran = run("judge", small_case, COMPOSITE, SEQUENCE, *with_("log"))
    assert status == ran.status
    assert f"6 {kind}: it was so" in ran.out
    assert "agreement" not in ran.out
    assert f"{kind}: 6; by Planted" in verdict(ran)


def test_of_a_judge_that_ends_at_some_the_others_count(run, small_case, planted):
    died = Reason(Unjudged.ENDED, "died of SIGABRT")
    planted(log=Without(reason=died))
    fetch = load_case(small_case)
    probes = (fetch.probes[0], replace(fetch.probes[0], access="execute"))
    small_case.write_bytes(judging.dump_case(replace(fetch, probes=probes)))
    ran = run("judge", small_case, *with_("log"))
    assert 1 == ran.status
    assert "log: ended: execute of 0x400123 at CPL 0: died of SIGABRT" in ran.out
    assert verdict(ran).startswith("FAILED: 1 of 2 probes agree; diverged: 0; ended: 1; by")


def test_agreement_on_a_part_says_so(run, small_case, planted):
    planted(log=Without())
    case = load_case(small_case)
    probes = (case.probes[0], replace(case.probes[0], access="execute"))
    small_case.write_bytes(judging.dump_case(replace(case, probes=probes)))
    ran = run("judge", small_case, *with_("log"))
    assert 0 == ran.status
    assert verdict(ran).startswith("agreement on 1 of 2 probes; not shown: 1; by Planted")
    assert "  1 not shown: no such feature" in ran.out


def test_an_address_that_wasnt_shown_is_counted_apart(run, small_case, planted):
    planted(log=Unplaced())
    ran = run("judge", small_case, *with_("log"))
    assert 0 == ran.status
    assert "1 agreed in all but the address, which can't be shown" in ran.out
    assert "agreement; without the address: 1; by" in verdict(ran)


def test_a_judge_that_agrees_refutes_unicorn_where_the_same_is_predicted(run, planted):
    planted(log=Right(), exec=Right(cpu={"maxphyaddr": 46}))
    case = KNOWN_CASES / "maxphyaddr-40.json"
    ran = run("judge", case, *with_("log", "exec", "unicorn"))
    assert 0 == ran.status
    assert "log 1 agreed; exec 1 agreed; unicorn 1 known (maxphyaddr-40)" in ran.out
    assert 1 == ran.out.count("refutes unicorn on 1 probe: maxphyaddr-40")
    assert 3 == ran.out.count("verdict: ")


def test_the_table_has_a_row_by_judge(run, small_case, planted):
    planted(log=Right(), exec=LosesA())
    ran = run("judge", small_case, KNOWN_CASES, *with_("log", "exec"))
    lines = ran.out.splitlines()
    at = next(at for at, line in enumerate(lines) if line.startswith("judge "))
    assert ["judge", "probes", "agreed", "diverged"] == lines[at].split()
    assert ["log", "10", "10", "0"] == lines[at + 1].split()


def test_as_json_each_probe_has_what_every_judge_said(run, small_case, planted):
    planted(
        log=Right(cpu={"maxphyaddr": 46}),
        qemu=WithoutP(),
        exec=Without(reason=Reason(Unjudged.NOT_SHOWN, "no RAM there"), every=True),
    )
    ran = run("judge", RESERVED, "--json", *with_("log", "qemu", "exec", "unicorn"))
    document = json.loads(ran.out)
    (probe,) = document["probes"]
    fault = {"outcome": "page_fault", "error_code": "0x9", "cr2": "0x0"}
    assert fault == probe["predicted"] == probe["observed"]
    assert {
        "log": {**fault, "verdict": "agreed"},
        "qemu": {**fault, "error_code": "0x8", "verdict": "known", "known": RESERVED.stem},
        "exec": {"outcome": "not_shown", "why": "no RAM there"},
        "unicorn": {**fault, "verdict": "agreed"},
    } == probe["judged"]
    cpu = {"vendor": "intel", "maxphyaddr": 46, "page1gb": True}
    assert {"version": Right().version, "cpu": cpu} == document["judges"]["log"]
    assert "verdict: " in ran.err
    # What was written is a case: it is read, and judged again to the same.
    case = parse_case(ran.out.encode(), "answer")
    assert ran.out.encode() == judging.dump_case(case)


def test_a_prediction_for_another_cpu_stands_beside_what_was_judged(run, planted):
    planted(log=Right(cpu={"maxphyaddr": 46}))
    path = KNOWN_CASES / "maxphyaddr-40.json"
    (probe,) = run("judge", path, "--json", *with_("log")).document["probes"]
    absent = {"outcome": "page_fault", "error_code": "0x0", "cr2": "0x0"}
    assert "0x9" == probe["predicted"]["error_code"]
    assert {**absent, "verdict": "agreed", "predicted": absent} == probe["judged"]["log"]


def test_composites_and_sequences_are_judged_too(run):
    ran = run("judge", COMPOSITE, SEQUENCE, *with_("unicorn"))
    assert 0 == ran.status
    assert "unicorn: diverges: rmw:xadd at 0x123, CPL 0" in ran.out
    assert "VIOLATION: a page fault keeps what is cached of its address" in ran.out
    texts = run("judge", COMPOSITE, SEQUENCE, "--json", *with_("unicorn")).out
    decoder = json.JSONDecoder()
    composite, end = decoder.raw_decode(texts)
    sequence = json.loads(texts[end:])
    judged = composite["judged"]["unicorn"]
    assert ("known", COMPOSITE.stem) == (judged["verdict"], judged["known"])
    assert "0x0" == judged["outcomes"][0]["error_code"]
    judged = sequence["judged"]["unicorn"]
    assert ("known", 3) == (judged["verdict"], len(judged["outcomes"]))
    assert ["a page fault keeps what is cached of its address"] == judged["causes"]
    assert parse_sequence(texts[end:].strip().encode(), "answer").sequence.steps


def test_composites_and_sequences_that_no_departure_explains_fail(run, monkeypatch):
    monkeypatch.setattr("crosswalk.emu.check.departures.DEPARTURES", ())
    ran = run("judge", COMPOSITE, SEQUENCE, *with_("unicorn"))
    assert 1 == ran.status
    assert "1 diverged: rmw:xadd: none of the outcomes allowed" in ran.out
    assert "1 diverged: a page fault keeps what is cached of its address" in ran.out


def test_a_wrong_prediction_that_the_judge_shares_is_crosswalks_own_error(
    run, small_case, planted, monkeypatch
):
    def wrong(memory, registers, accesses):
        said = judging.translate_many(memory, registers, accesses)
        return replace(said, cr2=said.cr2 ^ np.uint64(said.error_code != 0))

    class Same(Right):
        def changed(self, question, judged):
            said = wrong(question.memory, judged.context, question.accesses)
            return replace(judged, outcomes=replace(judged.outcomes, cr2=said.cr2))

    verdicts = judge_asking.access_verdicts
    monkeypatch.setattr(
        judge_asking, "access_verdicts", lambda *given: verdicts(*given, predict=wrong)
    )
    planted(log=Same())
    ran = run("judge", small_case, *with_("log"))
    assert 1 == ran.status
    assert "Crosswalk's own two walks differ" in ran.out


def test_with_verbose_each_probe_is_shown(run, small_case):
    ran = run("judge", small_case, "--verbose", *with_("unicorn"))
    assert 4 == ran.out.count("unicorn: agreed: ")


def test_a_bad_file_is_a_line_and_status_2_whatever_the_others_come_to(run, small_case, tmp_path):
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    ran = run("judge", bad, small_case, CASES / "rules" / "refused", *with_("unicorn"))
    assert 2 == ran.status
    assert f"{bad}: " in ran.err
    assert "cr3_63.json: CR3 = " in ran.err
    assert "verdict: agreement" in ran.out


def test_a_case_without_probes_is_asked_nothing(run, small_case):
    small_case.write_bytes(judging.dump_case(replace(load_case(small_case), probes=())))
    ran = run("judge", small_case, *with_("unicorn"))
    assert 2 == ran.status
    assert "nothing asked: no probes" in ran.err
    assert "agreement" not in ran.out + ran.err


@pytest.mark.parametrize(
    ("names", "error"),
    [
        (["unicorn", "unicorn"], "--with unicorn: given twice"),
        (["nobody"], "nobody: no judge; there are unicorn, qemu"),
        (["exec"], "exec: needs a colon and what it is"),
        (["exec:"], "exec:: nothing behind the colon"),
    ],
)
def test_judges_that_cant_be_had_are_refused(run, small_case, names, error):
    ran = run("judge", small_case, *with_(*names))
    assert (2, "") == (ran.status, ran.out)
    assert error in ran.err


def test_judges_are_closed_also_after_an_error(run, small_case, planted):
    class Failing(Right):
        closed = False

        def accesses(self, questions):
            raise BadInput("it can't be started")

        def close(self):
            self.closed = True

    judge = Failing()
    planted(log=judge)
    ran = run("judge", small_case, *with_("log"))
    assert (2, True) == (ran.status, judge.closed)
    assert "it can't be started" in ran.err


class Broken(Right):
    """Fails at once, with its name before the reason, as judges do."""

    def accesses(self, questions):
        raise BadInput(f"{self.name}: it printed nothing")


def test_a_judge_that_fails_among_others_is_told_once_and_has_no_row(run, small_case, planted):
    planted(exec_true=Broken(name="exec:true"), qemu=Right())
    ran = run("judge", small_case, *with_("exec:true", "qemu"))
    assert 2 == ran.status
    assert 1 == (ran.out + ran.err).count("it printed nothing")
    assert "\nexec: not asked: it printed nothing\n  given as exec:true\n" in ran.out
    at = ran.out.splitlines().index("judge  probes  agreed  diverged")
    assert ["qemu", "4", "4", "0"] == ran.out.splitlines()[at + 1].split()
    assert "verdict: not asked; by exec" in ran.out.splitlines()


def test_judges_that_all_fail_are_each_a_line(run, small_case, planted):
    planted(exec_true=Broken(name="exec:true"), exec_false=Broken(name="exec:false"))
    ran = run("judge", small_case, *with_("exec:true", "exec:false"))
    assert (2, "") == (ran.status, ran.out)
    assert "exec: it printed nothing\nexec-2: it printed nothing\n" == ran.err


def test_lines_have_short_names_and_what_was_given_once(run, small_case, planted):
    case = load_case(small_case)
    probes = (replace(case.probes[0], access="read"),)
    small_case.write_bytes(judging.dump_case(replace(case, probes=probes)))
    names = ["exec:a -m 1 {image}", "exec:b -m 2 {image}", "log:x/pc.log", "unicorn"]
    planted(**{name.replace(":", "_"): LosesA() for name in names[:3]})
    ran = run("judge", small_case, *with_(*names))
    texts = "exec 1 diverged; exec-2 1 diverged; log:pc.log 1 diverged; unicorn 1 agreed"
    assert f"{small_case}: 1 probe: {texts}" in ran.out
    assert "judge:exec-2 says" in ran.out
    assert "  refutes log:pc.log on 1 probe: " in ran.out
    for name in names[:3]:
        assert 1 == (ran.out + ran.err).count(name)
    assert "given as unicorn" not in ran.out
    # For machines it is as given.
    document = run("judge", small_case, "--json", *with_(*names)).document
    assert sorted(names) == sorted(document["judges"]) == sorted(document["probes"][0]["judged"])


def test_each_rule_is_shown_once_and_what_is_like_it_counted(run, tmp_path, small_case, planted):
    died = Reason(Unjudged.ENDED, "died of SIGABRT")
    planted(qemu=WithoutP(), log_l=LosesA(), exec_x=Without(reason=died, every=True))
    folder = tmp_path / "cases"
    folder.mkdir()
    case = load_case(small_case)
    reads = replace(case, probes=(replace(case.probes[0], access="read"),) * 2)
    for number in range(5):
        (folder / f"{number}.json").write_bytes(RESERVED.read_bytes())
        (folder / f"{number}-read.json").write_bytes(judging.dump_case(reads))
    ran = run("judge", folder, *with_("qemu", "log:l", "exec:x"))
    lines = ran.out.splitlines()
    known, read = "qemu: known, reserved-fault-without-p: read", "log:l: divergence: read"
    assert 1 == ran.out.count(known) == ran.out.count(read)
    assert "qemu: and 4 more known, reserved-fault-without-p" in lines
    (more,) = [each for each in lines if each.startswith("log:l: and ")]
    assert more.startswith("log:l: and 8 more of this rule: A of a leaf, A of a table")
    assert "exec: and 13 more ended: died of SIGABRT" in lines
    assert 10 == sum(each.startswith(str(folder)) for each in lines)
    ran = run("judge", folder, "--verbose", *with_("qemu", "log:l"))
    assert (5, 10) == (ran.out.count(known), ran.out.count(read))
    assert ": and " not in ran.out


def test_with_verbose_a_reason_has_the_values_that_are_left_out_of_counts(run, small_case, planted):
    refused = refusal_reason("CR0 = 0x80010033 refused")
    planted(log_l=Without(reason=refused, every=True))
    ran = run("judge", small_case, COMPOSITE, SEQUENCE, "--verbose", *with_("log:l"))
    assert 6 == ran.out.count(": the machine says: CR0 = 0x80010033 refused\n")
    assert "  6 not shown: the machine says: CR0 = … refused" in ran.out.splitlines()
    assert "0x80010033" not in run("judge", small_case, *with_("log:l")).out


class Stopped(Right):
    """Is interrupted behind the first of what it is asked."""

    def accesses(self, questions):
        first, *rest = questions
        raise Interrupted([self.judged(first), *[None for _ in rest]])


def copies(folder, case, count):
    """A folder with a case several times."""
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.json").write_bytes(case.read_bytes())
    return folder


def test_an_interrupt_shows_what_was_answered_before(run, tmp_path, small_case, planted):
    planted(qemu=Right(), log_l=Stopped(), exec_x=Right())
    folder = copies(tmp_path / "cases", small_case, 3)
    ran = run("judge", folder, *with_("qemu", "log:l", "exec:x"))
    assert 130 == ran.status
    assert "interrupted: what follows is of what was answered" in ran.err
    lines = ran.out.splitlines()
    assert f"{folder}/0.json: 4 probes: qemu 4 agreed; log:l 4 agreed" in lines
    assert f"{folder}/2.json: 4 probes: qemu 4 agreed" in lines
    assert ["qemu", "12", "12", "0"] in [each.split() for each in lines]
    assert ["log:l", "4", "4", "0"] in [each.split() for each in lines]
    version = Right().version
    assert f"log:l: {version}; not asked further: interrupted" in lines
    assert "exec: not asked: interrupted" in lines
    assert f"verdict: agreement; by {version}" in lines
    assert f"verdict: not asked to the end; 4 of 4 probes agree; by {version}" in lines
    assert "verdict: not asked; by exec" in lines


def test_an_interrupt_between_what_is_asked_together_leaves_no_judge_whole(
    run, tmp_path, small_case, planted, monkeypatch
):
    class Later(Right):
        calls = 0

        def accesses(self, questions):
            self.calls += 1
            if self.calls == 2:
                raise KeyboardInterrupt
            return super().accesses(questions)

    monkeypatch.setattr(judging, "_TOGETHER", 1)
    planted(qemu=Right(), log_l=Later())
    ran = run("judge", copies(tmp_path / "cases", small_case, 3), *with_("qemu", "log:l"))
    assert 130 == ran.status
    assert 2 == ran.out.count("not asked further: interrupted")
    assert "verdict: not asked to the end; 8 of 8 probes agree" in ran.out
    assert "verdict: not asked to the end; 4 of 4 probes agree" in ran.out
    assert "agreement" not in ran.out


def test_an_interrupt_before_any_answer_is_said(run, small_case, planted):
    class Never(Right):
        def accesses(self, questions):
            raise KeyboardInterrupt

    planted(log_l=Never())
    ran = run("judge", small_case, *with_("log:l"))
    assert (130, "") == (ran.status, ran.out)
    assert "log:l: interrupted" in ran.err.splitlines()


def test_how_far_a_judge_is_is_a_line_now_and_then(run, small_case, planted, monkeypatch):
    class Slow(Right):
        def accesses(self, questions):
            self.heard(3)
            return super().accesses(questions)

    planted(log_l=Slow())
    assert "" == run("judge", small_case, *with_("log:l")).err
    monkeypatch.setattr("crosswalk.emu.cli.output.EVERY", 0)
    lines = run("judge", small_case, *with_("log:l")).err.splitlines()
    shares = ("0 of 4 probes by log:l (0 %)", "3 of 4", "4 of 4 probes by log:l (100 %)")
    for share, line in zip(shares, lines, strict=True):
        assert line.startswith(share)


def test_reports_have_each_finding_with_its_judge_case_and_command(
    run, small_case, planted, tmp_path, monkeypatch
):
    monkeypatch.setattr("crosswalk.emu.check.departures.DEPARTURES", ())
    died = Reason(Unjudged.ENDED, "died of SIGABRT")
    planted(log=LosesA(), exec=Without(reason=died, every=True))
    case = load_case(small_case)
    probes = (replace(case.probes[0], access="read"), *case.probes[1:])
    small_case.write_bytes(judging.dump_case(replace(case, probes=probes)))
    page, sarif = tmp_path / "report.md", tmp_path / "report.sarif"
    names = with_("log", "exec", "unicorn")
    given = ("judge", small_case, COMPOSITE, SEQUENCE, *names, "--report", page, "--report", sarif)
    ran = run(*given, "--github")
    assert 1 == ran.status
    text = page.read_text()
    for part in (
        "Findings about log",
        "Findings about exec",
        "died of SIGABRT",
        "rmw:xadd: none of the outcomes allowed",
        "a page fault keeps what is cached of its address",
        f"crosswalk judge {small_case} --with log",
        "verdict: FAILED",
    ):
        assert part in text
    runs = json.loads(sarif.read_text())["runs"]
    assert sum(len(each["results"]) for each in runs) >= 4
    assert "::error" in ran.err


def test_the_help_names_every_judge(run):
    shown = " ".join(run("judge", "--help").out.split())
    assert f"{', '.join(JUDGES[:-1])}, or {JUDGES[-1]}" in shown


def test_unicorn_is_asked_in_a_process_of_its_own():
    judge = judging.open_judge("unicorn")
    assert isinstance(judge, UnicornJudge)
    assert judge._seconds
