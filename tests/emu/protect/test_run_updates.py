"""The guest's life after protection, and what is found where the host doesn't follow it."""

import pytest

from crosswalk.emu.protect.actions import addresses, report
from crosswalk.emu.protect.agent import Operation
from crosswalk.emu.protect.attack import do
from crosswalk.emu.protect.hypervisor import Answer, Hypervisor
from crosswalk.emu.protect.results import GuestFault
from crosswalk.emu.protect.run_updates import live
from crosswalk.emu.protect.updates import STAGES, Stage
from crosswalk.guest import places
from crosswalk.walker.tracker import RightsTracker


def wrong(staged):
    return [line for each in staged for line in each.wrong]


def test_every_stage_ends_as_stated(world):
    staged = live(world, STAGES)
    assert wrong(staged) == []
    assert [each.changed for each in staged] == [
        *(0, 1, 1, 1, 2, 0),
        *(1, 0, 1),
        *(0, 0, 0, 0),
        *(512, 511, 1),
    ]


def test_nested_tables_left_as_they_were_are_found(world, monkeypatch):
    write = Hypervisor.write

    def stale(self, ranges=None):
        write(self, [] if ranges is not None else None)

    monkeypatch.setattr(Hypervisor, "write", stale)
    staged = live(world, STAGES[:3])
    assert staged[1].wrong[0].startswith("nested tables aren't those built afresh: 1 frames")
    assert any(line.startswith("write: 0x30000: not refused") for line in staged[1].wrong)
    assert any("a trial ended in" in line for line in staged[1].wrong)


def test_a_change_the_tracker_misses_is_found(world, monkeypatch):
    monkeypatch.setattr(RightsTracker, "update", lambda _self, _entries: [])
    assert "collective rights aren't those of a fresh computation" in wrong(live(world, STAGES[:2]))


def test_a_report_of_what_is_no_entry_changes_nothing(world):
    wild = addresses(places.TEXT, 0x123, places.RAM_SIZE, (1 << 64) - 8, places.POOL + 8)
    (staged,) = live(world, [Stage("", wild)])
    assert (staged.wrong, staged.changed) == ((), 0)


def test_an_answer_that_isnt_due_is_found(world):
    (staged,) = live(world, [Stage("", STAGES[0].steps, Answer.NOT_PERMITTED)])
    assert staged.wrong[0].startswith("answered DONE")


def test_a_trial_that_ends_otherwise_is_found(world):
    trial = (do(Operation.LOAD, places.KERNEL + places.RODATA), GuestFault(3))
    (staged,) = live(world, [Stage("", STAGES[0].steps, trials=(trial,))])
    assert staged.wrong[0].startswith("a trial ended in NOT STOPPED, not in the guest's own #PF")


def test_a_report_of_entries_below_no_table_is_an_error(world):
    with pytest.raises(Exception, match="no table of level 1"):
        live(world, [Stage("", report((0x7000_0000_0000, 1)))])
