"""What the guest asks for, against what its tables need."""

import numpy as np
import pytest

from crosswalk.emu.protect.actions import ask, intended_permissions, page_entries
from crosswalk.emu.protect.agent import Agent
from crosswalk.emu.protect.guest import Guest
from crosswalk.emu.protect.hypervisor import TABLE_POOL, Answer, Hypervisor, Rules
from crosswalk.emu.protect.machine import FRAMES
from crosswalk.emu.protect.permissions import (
    ALL,
    READ_EXECUTE,
    READ_WRITE,
    collective_permissions,
)
from crosswalk.emu.protect.subject import ProtectedGuest
from crosswalk.guest import places
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.frames import collective_rights
from crosswalk.walker.memory import FRAME
from crosswalk.walker.protection.pagelist import PageEntry, Permission
from crosswalk.walker.protection.policy import TableKind, Use


def test_the_guest_means_what_its_mappings_need(guest4):
    needed = collective_permissions(collective_rights(guest4.memory, guest4.context), FRAMES)
    assert (intended_permissions(guest4.image, guest4.status) == needed).all()


def test_text_and_rodata_are_asked_for_for_ever(guest4):
    entries = page_entries(guest4.image, guest4.status)
    assert {
        (places.BOOT, READ_EXECUTE),
        (places.RECORDS, Permission.READ),
        (places.TEXT, READ_EXECUTE),
        (places.RODATA, Permission.READ),
        (places.LARGE_TEXT, READ_EXECUTE),
    } == {(each.pa, each.permission) for each in entries if each.immutable}
    assert [places.EXECUTABLE + 2 * FRAME] == [
        each.pa for each in entries if each.permission == ALL
    ]


def test_what_is_granted_is_written(subject):
    granted = subject.hypervisor.granted
    assert (subject.hypervisor.tables.read_back() == granted).all()
    assert (granted[TABLE_POOL] == ALL).all()
    outside = np.delete(np.arange(FRAMES), TABLE_POOL)
    assert (granted[outside] == subject.collective[outside]).all()


def test_before_the_guest_asks_everything_is_granted(own_guest):
    hypervisor = Hypervisor(Guest(own_guest))
    assert (hypervisor.tables.read_back() == ALL).all()
    assert (hypervisor.granted == ALL).all()


def test_a_request_beyond_the_mappings_leaves_everything_granted(own_guest):
    guest = Guest(own_guest)
    hypervisor = Hypervisor(guest)
    before = guest.host.pool.copy()
    result = ask(Agent(guest), [PageEntry(places.TEXT, places.TEXT + FRAME, READ_WRITE)])
    assert (1 << 64) - 1 == result.value
    assert Answer.NOT_PERMITTED is hypervisor.replies[-1].answer
    assert None is hypervisor.collective
    assert (guest.host.pool == before).all()


def test_a_protected_guest_needs_its_request_granted(own_guest, monkeypatch):
    monkeypatch.setattr(
        "crosswalk.emu.protect.subject.page_entries",
        lambda *_: [PageEntry(places.TEXT, places.TEXT + FRAME, ALL)],
    )
    with pytest.raises(CrosswalkError, match="isn't protected"):
        ProtectedGuest(Guest(own_guest))


def test_a_protected_guest_that_asked_for_less_has_what_it_needs(own_guest, monkeypatch):
    asked = [PageEntry(places.DATA, places.DATA + 3 * FRAME, Permission.READ)]
    monkeypatch.setattr("crosswalk.emu.protect.subject.page_entries", lambda *_: asked)
    subject = ProtectedGuest(Guest(own_guest))
    assert 3 == subject.more
    assert READ_WRITE == subject.hypervisor.granted[places.DATA // FRAME]


def test_rules():
    rules = Rules()
    rules.sealed[0] = READ_EXECUTE
    rules.both[1] = Permission.EXECUTE
    collective = np.full(FRAMES, READ_WRITE, np.uint8)
    collective[:4] = ALL
    assert [READ_EXECUTE, ALL, READ_WRITE, READ_WRITE] == rules.granted(collective)[:4].tolist()
    assert [True, False, True, True, False] == rules.withheld(collective)[:5].tolist()
    rules.opened = 0
    assert READ_WRITE == rules.granted(collective)[0]
    assert not rules.withheld(collective)[0]
    collective[0] = READ_EXECUTE
    assert READ_EXECUTE == rules.granted(collective)[0]


def test_rules_keep_execution_of_supervisor_and_user_apart():
    rules = Rules(TableKind.EPT_MBEC)
    every, user_run = Use(15), Use.READ | Use.WRITE | Use.USER_EXECUTE
    collective = np.full(FRAMES, READ_WRITE, np.uint8)
    collective[1] = user_run
    rules.begin(collective)
    rules.sealed[0] = Use.READ | Use.SUPERVISOR_EXECUTE
    collective[:3] = every
    granted = rules.granted(collective)
    assert Use.READ | Use.SUPERVISOR_EXECUTE == granted[0]
    assert user_run == granted[1]  # The supervisor's wasn't there together with writing.
    assert READ_WRITE == granted[2]
    assert READ_WRITE == granted[TABLE_POOL.start]
    assert [True, False] == [rules.is_text(frame) for frame in range(2)]
    rules.opened = 0
    assert READ_WRITE == rules.granted(collective)[0]
