"""The small address spaces of `walker try`: their outcomes are those of the emulated CPU."""

import json

import pytest

from crosswalk.emu.testing.mistakes import Seen, named
from crosswalk.emu.testing.samples import samples
from crosswalk.walker.context import PagingMode
from crosswalk.walker.formats import dump_case
from tests.emu.cli.running import crosswalk

SAMPLES = samples(PagingMode)


@pytest.mark.parametrize("case", SAMPLES, ids=lambda case: case.note.replace(" ", "-"))
def test_the_outcomes_that_are_kept_are_observed_again(case, tmp_path, capfd):
    path = tmp_path / "sample.json"
    path.write_bytes(dump_case(case))
    again = json.loads(crosswalk(capfd, "replay", path, "--json").out)
    kept = json.loads(path.read_bytes())
    assert 15 < len(kept["probes"]) < 25
    for before, after in zip(kept["probes"], again["probes"], strict=True):
        assert before["observed"] == after["observed"]
    assert 0 == crosswalk(capfd, "check", path).status


def test_there_are_two_of_4_level_paging_and_one_of_each_other_mode():
    modes = [case.context().mode for case in SAMPLES]
    assert [PagingMode.LEVEL4, *modes[1:]] == modes
    assert {mode: 2 if mode is PagingMode.LEVEL4 else 1 for mode in PagingMode} == {
        mode: modes.count(mode) for mode in PagingMode
    }
    assert [case for case in SAMPLES if case.context().levels == 5] == samples([PagingMode.LEVEL5])


def seen(va, said, right, size=4096):
    return Seen(va, True, True, said, right, size, right & -size | 7, 0x1000)


def test_one_answer_is_no_evidence():
    assert [] == named([seen(0x1123, 0x5, 0x5123)])
    assert 1 == len(named([seen(0x1123, 0x5, 0x5123), seen(0x2123, 0x6, 0x6123)]))


def test_what_one_mistake_does_not_explain_is_not_named():
    both = [seen(0x1123, 0x5, 0x5123), seen(0x2123, 0x6, 0x6123)]
    assert [] == named([*both, seen(0x3123, 0x7001, 0x7123)])
    assert 1 == len(named([*both, seen(0x3123, 0x7123, 0x7123)]))
