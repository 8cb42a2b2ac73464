"""The guest's updates after protection, and what is found where the host doesn't follow them."""

import pytest

from crosswalk.emu.protect.actions import do, report, report_addresses
from crosswalk.emu.protect.agent import Operation
from crosswalk.emu.protect.attack import GuestFault
from crosswalk.emu.protect.hypervisor import Answer, Hypervisor
from crosswalk.emu.protect.updates import UPDATES, Update, run_updates
from crosswalk.guest import places
from crosswalk.walker.tracker import RightsTracker


def wrong(updated):
    return [line for each in updated for line in each.wrong]


def test_every_update_ends_as_stated(subject):
    updated = run_updates(subject, UPDATES)
    assert [] == wrong(updated)
    assert [each.changed for each in updated] == [
        *(0, 1, 1, 1, 2, 0),
        *(1, 0, 1),
        *(0, 0, 0, 0),
        *(512, 511, 1),
    ]


def test_nested_tables_left_as_they_were_are_found(subject, monkeypatch):
    write = Hypervisor.write

    def stale(self, ranges=None):
        write(self, [] if ranges is not None else None)

    monkeypatch.setattr(Hypervisor, "write", stale)
    updated = run_updates(subject, UPDATES[:3])
    assert updated[1].wrong[0].startswith("nested tables aren't those built afresh: 1 frames")
    assert any(line.startswith("write: 0x30000: not refused") for line in updated[1].wrong)
    assert any("a trial ended in" in line for line in updated[1].wrong)


def test_a_change_the_tracker_misses_is_found(subject, monkeypatch):
    monkeypatch.setattr(RightsTracker, "update", lambda _self, _entries: [])
    assert "collective rights aren't those of a fresh computation" in wrong(
        run_updates(subject, UPDATES[:2])
    )


def test_a_report_of_what_is_no_entry_changes_nothing(subject):
    wild = report_addresses(places.TEXT, 0x123, places.RAM_SIZE, (1 << 64) - 8, places.POOL + 8)
    (updated,) = run_updates(subject, [Update("", wild)])
    assert ((), 0) == (updated.wrong, updated.changed)


def test_an_answer_that_isnt_expected_is_found(subject):
    (updated,) = run_updates(subject, [Update("", UPDATES[0].actions, Answer.NOT_PERMITTED)])
    assert updated.wrong[0].startswith("answered DONE")


def test_a_trial_that_ends_otherwise_is_found(subject):
    trial = (do(Operation.LOAD, places.KERNEL + places.RODATA), GuestFault(3))
    (updated,) = run_updates(subject, [Update("", UPDATES[0].actions, trials=(trial,))])
    assert updated.wrong[0].startswith("a trial ended in NOT STOPPED, not in the guest's own #PF")


def test_a_report_of_entries_below_no_table_is_an_error(subject):
    with pytest.raises(Exception, match="no table of level 1"):
        run_updates(subject, [Update("", report((0x7000_0000_0000, 1)))])
