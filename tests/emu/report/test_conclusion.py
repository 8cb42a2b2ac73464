"""The last word of a check: agreement only of what was asked and answered."""

from dataclasses import replace

import pytest

from crosswalk.emu.check import Verdict
from crosswalk.emu.check.verdict import Lost
from crosswalk.emu.report.conclusion import Extent, conclude
from crosswalk.walker.unfollowed import Unfollowed

VERDICT = Verdict(1000, 0, (), {}, {}, 1.0, mappings=70, checked=70)
EXTENT = Extent(mappings=70, unfollowed=Unfollowed())
LOST = Lost("the emulator died of SIGABRT", 0x1000, 0x2000, 40)


def word(verdict=None, extent=None, broken=0):
    verdict = replace(VERDICT, **(verdict or {}))
    found = conclude(verdict, replace(EXTENT, **(extent or {})), broken)
    return found.status, found.text


def test_agreement_alone_is_said_where_all_was_asked_and_answered():
    assert (0, "agreement") == word()
    assert (0, "agreement; known divergences: 3") == word({"known": {"maxphyaddr-40": 3}})
    alone = (0, "known divergences alone; known divergences: 1,000")
    assert alone == word({"known": {"maxphyaddr-40": 1000}})


@pytest.mark.parametrize(
    ("verdict", "extent", "text"),
    [
        (
            {"predicted_only": {"LAM": 12}},
            {},
            "agreement on 1,000 of 1,012 probes; predicted only: 12 (LAM)",
        ),
        (
            {"predicted_only": {"LAM": 12, "wide": 1000}},
            {},
            "agreement on 1,000 of 2,012 probes; predicted only: 12 (LAM), 1,000 (wide)",
        ),
        (
            {"predicted_only": {"LAM": 12}, "known": {"maxphyaddr-40": 100}},
            {},
            "agreement on 900 of 1,012 probes; known divergences: 100; predicted only: 12 (LAM)",
        ),
        (
            {"checked": 7, "not_asked": {"mappings, beyond the limit": 63}},
            {},
            "agreement on 7 of 70 mappings; not asked: 63 (mappings, beyond the limit)",
        ),
        (
            {"checked": 7, "predicted_only": {"UAI": 1}},
            {},
            "agreement on 1,000 of 1,001 probes, 7 of 70 mappings; predicted only: 1 (UAI)",
        ),
        ({}, {"spaces": 149}, "agreement; 1 of 149 address spaces"),
        ({}, {"between": (0x1000, 0x3000)}, "agreement; from 0x1000 to 0x2fff alone"),
        ({}, {"masked": True}, "agreement; with the mask taken off"),
        ({}, {"mappings": 0}, "agreement; no mapping"),
        (
            {"roots": {"CR3 under test": 990, "copy of the root table: CR3's high bits": 10}},
            {},
            "agreement; 10 under a copy of the root",
        ),
        ({"roots": {"CR3 under test": 1000}}, {}, "agreement"),
    ],
)
def test_what_agreement_does_not_speak_of_is_said(verdict, extent, text):
    assert (0, text) == word(verdict, extent)


@pytest.mark.parametrize(
    ("extent", "reasons"),
    [
        (
            {"unfollowed": Unfollowed(outside=3, entries=10)},
            "not asked: 3 (entries that refer to tables outside SOURCE)",
        ),
        ({"wide": 2}, "not asked: 2 (entries that need more bits than the assumed MAXPHYADDR)"),
        (
            {"unfollowed": Unfollowed(reserved=6, entries=10)},
            "most entries make no sense",
        ),
    ],
)
def test_what_could_not_be_looked_at_is_no_agreement_unless_it_may_be_partial(extent, reasons):
    extent |= {"complete": False}
    assert (2, f"not whole; 1,000 probes agree; {reasons}") == word(None, extent)
    assert (0, f"partial; 1,000 probes agree; {reasons}") == word(None, extent | {"partial": True})
    assert "--partial" in conclude(VERDICT, replace(EXTENT, **extent)).advice


def test_where_memory_is_complete_tables_outside_it_are_none():
    found = Unfollowed(outside=3, reserved=6, entries=10)
    assert (0, "agreement") == word(None, {"unfollowed": found})


def test_a_divergence_comes_before_everything_else():
    rest = {"predicted_only": {"LAM": 1}, "lost": (LOST,), "divergent": 1}
    assert (1, "FAILED") == word(rest, {"wide": 3, "complete": False, "partial": True})
    assert (1, "FAILED") == word(broken=1)


def test_a_check_that_was_not_finished_or_asked_nothing_is_no_agreement():
    lost = {"lost": (LOST,), "not_asked": {"pages, holes and entries: it died": 40}}
    assert (
        2,
        "not finished; 1,000 probes agree; not asked: 40 (pages, holes and entries: it died)",
    ) == word(lost)
    assert (2, "nothing asked; predicted only: 5 (LASS)") == word(
        {"probes": 0, "predicted_only": {"LASS": 5}}
    )
