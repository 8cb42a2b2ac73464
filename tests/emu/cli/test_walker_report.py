"""What is muted is taken out before findings of one cause are joined."""

import json

import msgspec
import pytest

from crosswalk.emu.cli.campaign_findings import report_of
from crosswalk.emu.cli.walker_report import Variants, wrong_text
from crosswalk.emu.findings.baseline import Muting, read_muting
from crosswalk.emu.findings.describe import described
from crosswalk.emu.findings.signature import Signature
from crosswalk.emu.report.html import html
from crosswalk.emu.report.markdown import markdown

WALKER = "python:mine.py:mine"
ANSWERS = "mapped", "not mapped"
SAYS = ": says mapped, it is not mapped"
COUNTS = {
    "reserved in a PDPTE: PS": 3239,
    "reserved in a PTE: XD": 400,
    "reserved in a PDE: low address bits": 300,
    "reserved in a PDE: bit 8": 7,
    "reserved in a PTE: XD, bit 8": 5,
}
KINDS = ("PS", "XD", "bit 8", "low address bits")
ALL = f"reserved: {', '.join(KINDS)}{SAYS}"


def variants(counts, witness=f"peer:{WALKER}", answers=ANSWERS):
    made = []
    for rule, count in counts.items():
        signature = Signature(witness, rule, *answers)
        finding = msgspec.structs.replace(
            described(signature), count=count, reproduce=f"see {rule}", layout=count
        )
        made.append((signature, finding))
    return Variants(WALKER, made)


def judged(*ignore, baseline=None, write=None, whole=True):
    muting = read_muting(ignore, baseline, write)
    return variants(COUNTS).judged(muting, whole=whole)


def test_findings_of_one_cause_are_joined_where_nothing_is_muted():
    document, accepted = judged()
    (finding,) = document.findings
    assert (ALL, sum(COUNTS.values()), 0) == (finding.cause, finding.count, accepted.count)


@pytest.mark.parametrize(
    ("pattern", "ignored", "left"),
    [
        ("reserved: PS*", "PS", {"XD, bit 8, low address bits": 712}),
        ("*bit 8*", "bit 8", {"PS, XD, low address bits": 3944}),
        ("*low address*", "low address bits", {"PS, XD, bit 8": 3651}),
        ("reserved: XD*", "XD", {"PS, bit 8, low address bits": 3551}),
        ("reserved in a PTE: XD*", "XD", {"PS, bit 8, low address bits": 3551}),
        ("reserved in a P[DT]E: *", "XD, bit 8, low address bits", {"PS": 3239}),
        ("reserved*", ", ".join(KINDS), {}),
        (ALL, ", ".join(KINDS), {}),
    ],
)
def test_a_pattern_leaves_what_it_does_not_match_with_heading_and_count_of_its_own(
    pattern, ignored, left
):
    document, accepted = judged(pattern)
    assert {pattern: (f"reserved: {ignored}{SAYS}",)} == accepted.ignored
    assert {f"reserved: {kinds}{SAYS}": count for kinds, count in left.items()} == {
        finding.cause: finding.count for finding in document.findings
    }


def test_a_pattern_that_matches_nothing_is_named_once_the_run_is_over():
    _, accepted = judged("SMAP*", "reserved: PS*")
    assert "ignored by 'SMAP*': nothing" in list(accepted.lines())
    _, accepted = judged("SMAP*", "reserved: PS*", whole=False)
    assert ["reserved: PS*"] == list(accepted.ignored)


def test_what_is_new_is_described_without_what_the_baseline_lists(tmp_path, capsys):
    path = tmp_path / "known.json"
    judged("*bit 8*", write=path)
    assert f"{path}: a baseline of 3 causes\n" == capsys.readouterr().err
    document, accepted = judged(baseline=path)
    (finding,) = document.findings
    assert (f"reserved: bit 8{SAYS}", "reserved in a PDE: bit 8") == (finding.cause, finding.rule)
    assert ("see reserved in a PDE: bit 8", 12, 5) == (
        finding.reproduce, finding.count, finding.layout,
    )  # fmt: skip
    assert (f"reserved: PS, XD, low address bits{SAYS}",) == accepted.known


def test_a_baseline_has_what_the_patterns_leave(tmp_path):
    path = tmp_path / "known.json"
    document, accepted = judged("*XD*", write=path)
    assert [] == document.findings
    assert (f"reserved: PS, bit 8, low address bits{SAYS}",) == accepted.known
    assert [f"reserved: {kind}{SAYS}" for kind in ("PS", "bit 8", "low address bits")] == [
        each["cause"] for each in json.loads(path.read_bytes())["causes"]
    ]


def test_an_unfinished_run_writes_no_baseline(tmp_path):
    document, _ = judged(write=tmp_path / "known.json", whole=False)
    assert document.findings
    assert [] == list(tmp_path.iterdir())


def test_who_is_wrong_stands_in_the_cause_where_it_is_no_walker_under_test(tmp_path):
    path = tmp_path / "known.json"
    own = variants({"SMAP": 1}, "walker", ("ok", "#PF"))
    own.judged(Muting(write=path))
    said = "SMAP: walker says ok, it is #PF"
    assert (said,) == own.judged(read_muting(None, path))[1].known
    assert (said,) == own.judged(Muting((said,)))[1].ignored[said]
    peer = variants({"SMAP": 1}, answers=("ok", "#PF"))
    assert () == peer.judged(read_muting(None, path))[1].known


def test_a_report_in_which_all_is_accepted_says_that_nothing_new_was_found():
    for ignore, text in (((), None), (("reserved*",), "Nothing new was found.")):
        document, _ = judged(*ignore)
        for form in (html, markdown):
            page = form(report_of([document])).decode()
            assert "Nothing was found." not in page
            assert ("Nothing new was found." in page) == (text is not None)
    empty, _ = variants({}).judged(Muting())
    assert "Nothing was found." in markdown(report_of([empty])).decode()


def test_wrong_answers_are_counted_behind_the_probes():
    assert "" == wrong_text(None, 0)
    assert "; wrong answers of mine\\x1b: 1,234" == wrong_text("mine\x1b", 1234)
