"""What a case's note says comes back from it, whatever the names in it."""

from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.findings.note import (
    Note,
    answer_text,
    claimed_text,
    failure_text,
    listed_text,
    note_of,
    note_text,
    signature_in,
    signature_text,
    with_detail,
)
from crosswalk.emu.findings.signature import (
    Signature,
    failed_signature,
    failure_signature,
    lost_signature,
)
from crosswalk.emu.targets.answers import Unanswered, Unplaced
from crosswalk.emu.targets.capabilities import parse_claims
from crosswalk.emu.workers.sandbox import Failure, NoAnswer
from crosswalk.walker import GeneralProtection, PageFault, Rights, Translation
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.columns import Accesses

ODD = "python:a.py:f says it, it is due: walker says (layout 3)"
WRONG = Signature("peer:c:./its.so", "R/W of a PDE: PS", "allowed", "refused")
HANG = NoAnswer(Failure.HANG, "no answer", "x")
LISTED = Translation(0x5000, 1 << 21, Rights.USER_READ | Rights.SUPERVISOR_EXECUTE)


@pytest.mark.parametrize(
    ("signature", "walker"),
    [
        (WRONG, "c:./its.so"),
        (Signature("walker", "SMAP", "ok", "#PF, P"), "volatility3"),
        (Signature("second walk", "cross:read", "ok and ok", "#GP"), None),
        (Signature("meant", "P of a PDE", "ok", "#PF, not present"), None),
        (lost_signature("error", "no outcome at 0x1"), "c:./its.so"),
        (failed_signature("a layout that can be made", "OSError: it is not there"), None),
        (failure_signature(ODD, NoAnswer(Failure.CRASH, "raised: it is", "x")), ODD),
        (Signature(f"peer:{ODD}", "SMAP", "ok", "#PF, P"), ODD),
        (Signature("peer:f", "SMEP", "allowed", "refused"), None),
        (failure_signature("f", HANG), None),
    ],
    ids=lambda value: "" if value is None else str(value)[:40],
)
@pytest.mark.parametrize("detail", ["", "mapped, pa 0x5000, a page of 2 MiB", "x (layout 9)"])
def test_a_note_comes_back(signature, walker, detail):
    if "(layout" in detail + str(signature):
        # Who calls a walker so gets a note that may be read otherwise; its signature isn't lost.
        assert signature == signature_in(str(signature), walker)
        return
    note = Note(signature, 7, detail or None)
    assert note == note_of(note_text(signature, 7, detail), walker)
    assert Note(signature, None, None) == note_of(str(signature), walker)


@pytest.mark.parametrize("signature", [WRONG, failure_signature("c:./its.so", HANG)], ids=str)
def test_a_note_has_the_name_of_the_walker_as_the_case_has_it(signature):
    walker = "c:./its.so"
    text = note_text(signature, 7, "x", walker)
    assert "peer:" not in text
    assert walker in text
    assert Note(signature, 7, "x") == note_of(text, walker)
    assert note_of(note_text(signature, 7, "x"), walker) == note_of(text, walker)
    assert text == with_detail(note_text(signature, 7), walker, "x")
    # A case that doesn't name it, and a name that is somebody else's, keep the mark.
    assert str(signature) == signature_text(signature, None) == signature_text(signature, "f")
    of_meant = replace(signature, witness="peer:meant")
    assert of_meant == signature_in(signature_text(of_meant, "meant"), "meant")


@pytest.mark.parametrize("text", [None, "", "by hand", "a page: it says nothing (layout 3)"])
def test_other_words_are_no_note_of_a_finding(text):
    assert None is note_of(text, "c:./its.so")
    assert text == with_detail(text, "c:./its.so", "another")


def test_only_a_walkers_answer_is_replaced():
    text = note_text(WRONG, 3, "before")
    after = note_text(WRONG, 3, "after", "c:./its.so")
    assert after == with_detail(text, "c:./its.so", "after")
    assert after == with_detail(after, "c:./its.so", "after")
    assert note_text(WRONG, 3, "", "c:./its.so") == with_detail(text, "c:./its.so", "")
    lost = note_text(lost_signature("hang"), 3, "why")
    assert lost == with_detail(lost, "c:./its.so", "after")


@pytest.mark.parametrize(
    ("rule", "said", "truth", "outcome", "text"),
    [
        ("P of a PDE", "mapped", "not mapped", LISTED, "mapped, pa 0x5000, a page of 2 MiB"),
        ("R/W of a PDE", "allowed", "refused", Translation(0x5000), "allowed, pa 0x5000"),
        ("P of a PDE", "not mapped", "mapped", PageFault(0, 0), "not mapped"),
        (
            "size of a 4-KiB page", "another", "this", LISTED,
            "mapped, pa 0x5000, a page of 2 MiB; another size",
        ),
        (
            "effective XD of a 2-MiB page", "granted", "withheld", LISTED,
            "mapped, pa 0x5000, a page of 2 MiB, rights u-x; effective XD: granted",
        ),
        ("SMAP", "ok", "#PF, P", GeneralProtection(), "#GP(0)"),
        ("an outcome", "hang", "due", None, "hang"),
    ],
)  # fmt: skip
def test_an_answer_in_words(rule, said, truth, outcome, text):
    assert text == answer_text(Signature("peer:it", rule, said, truth), outcome)


def test_a_note_has_the_answers_that_no_case_can_hold():
    listed = Signature("peer:it", "size of a 4-KiB page", "another", "this")
    assert "mapped, pa 0x5000, a page of 2 MiB; another size" == listed_text(listed, LISTED)
    unplaced = Unplaced(0x5000, 1 << 21)
    assert "mapped, a page of 2 MiB; another size" == listed_text(listed, unplaced)
    assert "" == listed_text(listed, Translation(0x5000))
    assert "" == listed_text(listed, PageFault(0, 0))
    assert "" == listed_text(Signature("walker", "SMAP", "ok", "#PF"), LISTED)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (1, "crash: raised ValueError: of " + "x" * 278),
        (3, "; when 3 accesses are asked together, and none of them shows it alone"),
    ],
)
def test_a_failure_is_told_in_the_walkers_words_and_where_no_access_shows_it(count, text):
    failure = NoAnswer(Failure.CRASH, "raised", "raised ValueError: of " + "x" * 1000)
    accesses = Accesses.of([Access(va, AccessType.READ) for va in range(count)])
    found = failure_text(Unanswered(failure, accesses, np.arange(count)))
    assert found.endswith(text)
    assert len(found) < 400


@pytest.mark.parametrize(
    ("claims", "outcome", "text"),
    [
        ("translation", LISTED, "mapped, pa 0x5000"),
        ("leaves", LISTED, "mapped, pa 0x5000, a page of 2 MiB"),
        ("leaves,effective", LISTED, "mapped, pa 0x5000, a page of 2 MiB, rights u-x"),
        ("leaves", Unplaced(0x5000, 1 << 21), "mapped, a page of 2 MiB"),
        ("rights", PageFault(3, 1), "refused"),
        ("leaves", PageFault(0, 0), "not mapped"),
        ("rights,faults", PageFault(3, 1), "#PF, error code 0x3 (P W/R), CR2 0x1"),
    ],
)
def test_an_answer_is_told_as_far_as_it_is_claimed(claims, outcome, text):
    assert text == claimed_text(parse_claims(claims, "here"), outcome)
