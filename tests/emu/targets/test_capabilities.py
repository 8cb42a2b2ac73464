import copy

import pytest

from crosswalk.emu.targets.capabilities import Capability, parse_claims
from crosswalk.emu.workers.sandbox import Failure, NoAnswer
from crosswalk.walker.errors import BadInput


def test_names_are_claims():
    assert {Capability.LEAVES, Capability.FLAGS} == parse_claims("leaves, flags", "here")
    assert {Capability.RIGHTS, Capability.MARKS} == parse_claims("rights,marks", "here")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("right", "here: 'right' is none of leaves, flags, effective, ranges, "),
        ("", "here: '' is none of "),
        ("flags", "here: flags means nothing without leaves"),
        ("effective,rights", "here: effective means nothing without leaves"),
        ("ranges", "here: ranges means nothing without leaves"),
        ("marks,translation", "here: marks means nothing without faults or rights"),
    ],
    ids=[
        "unknown",
        "empty",
        "flags of nothing",
        "effective of nothing",
        "ranges of nothing",
        "marks of nothing",
    ],
)
def test_what_can_not_be_claimed_is_bad_input(text, message):
    with pytest.raises(BadInput) as caught:
        parse_claims(text, "here")
    assert str(caught.value).startswith(message)


def test_a_failure_comes_back_whole_from_another_process():
    failure = NoAnswer(Failure.FLOOD, "too much output", "more than 3 bytes")
    again = copy.copy(failure)  # By way of __reduce__, as a pickle goes.
    assert (failure.failure, failure.kind, str(failure)) == (again.failure, again.kind, str(again))
