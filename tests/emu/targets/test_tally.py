from crosswalk.emu.targets.capabilities import Capability
from crosswalk.emu.targets.tally import Tally
from crosswalk.walker.context import PagingMode

LEVEL4, LEVEL5 = PagingMode.LEVEL4, PagingMode.LEVEL5


def tally(*rows):
    """A tally of (mode, claim, answered, declined)."""
    found = Tally()
    for row in rows:
        found.add(*row)
    return found


def test_a_claim_that_was_never_answered_is_named():
    found = tally(
        (LEVEL4, None, 5, 5),
        (LEVEL4, Capability.TRANSLATION, 5, 5),
        (LEVEL4, Capability.LEAVES, 0, 10),
        (LEVEL4, Capability.FLAGS, 0, 3),
    )
    assert (Capability.LEAVES, Capability.FLAGS) == found.unanswered
    assert "nothing judged of: leaves, flags" == found.verdict


def test_one_answer_in_any_mode_is_enough_for_a_claim():
    found = tally((LEVEL4, Capability.RIGHTS, 1, 9), (LEVEL5, Capability.RIGHTS, 0, 10))
    assert ("", ()) == (found.verdict, found.unanswered)


def test_a_claim_that_was_not_asked_is_no_fault():
    assert "" == tally((LEVEL4, Capability.FLAGS, 0, 0)).verdict


def test_failures_are_asked_and_neither_answered_nor_declined():
    found = Tally()
    for claim in (None, Capability.RIGHTS):
        found.add(LEVEL4, claim, 0, 0, 7)
    assert "nothing judged of: rights" == found.verdict
    assert {
        "asked": {"4level": 7},
        "answered": {"4level": 0},
        "declined": {"4level": 0},
        "claims": {"rights": {"asked": 7, "answered": 0, "declined": 0}},
    } == found.record()


def test_the_record_is_by_mode_and_by_claim():
    found = tally((LEVEL5, None, 2, 1), (LEVEL5, Capability.RIGHTS, 2, 1))
    found += tally((PagingMode.PAE, None, 0, 4), (PagingMode.PAE, Capability.RIGHTS, 0, 4))
    assert {
        "asked": {"pae": 4, "5level": 3},
        "answered": {"pae": 0, "5level": 2},
        "declined": {"pae": 4, "5level": 1},
        "claims": {"rights": {"asked": 7, "answered": 2, "declined": 5}},
    } == found.record()


def test_modes_have_the_names_of_the_command_line():
    assert ["32bit", "pae", "4level", "5level"] == [mode.slug for mode in PagingMode]
