"""What the guest asks for, against what its tables need."""

import numpy as np
import pytest

from crosswalk.emu.protect.agent import Agent
from crosswalk.emu.protect.grants import ALL, TABLE_POOL, Rules, permissions_of, stretches, written
from crosswalk.emu.protect.guest import FRAMES, Guest
from crosswalk.emu.protect.hypervisor import Answer, Hypervisor
from crosswalk.emu.protect.requests import ask, meant, page_entries
from crosswalk.emu.protect.snapshot import World
from crosswalk.guest import places
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.frames import collective_rights
from crosswalk.walker.memory import FRAME
from crosswalk.walker.protection.pagelist import PageEntry, Permission

RW = Permission.READ | Permission.WRITE
RX = Permission.READ | Permission.EXECUTE


def test_the_guest_means_what_its_mappings_need(guest4):
    needed = permissions_of(collective_rights(guest4.memory, guest4.context))
    assert (meant(guest4.image, guest4.status) == needed).all()


def test_text_and_rodata_are_asked_for_for_ever(guest4):
    entries = page_entries(guest4.image, guest4.status)
    assert {(each.pa, each.permission) for each in entries if each.immutable} == {
        (places.BOOT, RX),
        (places.RECORDS, Permission.READ),
        (places.TEXT, RX),
        (places.RODATA, Permission.READ),
        (places.LARGE_TEXT, RX),
    }
    assert [each.pa for each in entries if each.permission == ALL] == [
        places.EXECUTABLE + 2 * FRAME
    ]


def test_what_is_granted_is_written(world):
    granted = world.hypervisor.granted
    assert (written(world.hypervisor.tables) == granted).all()
    assert (granted[TABLE_POOL] == ALL).all()
    outside = np.delete(np.arange(FRAMES), TABLE_POOL)
    assert (granted[outside] == world.collective[outside]).all()


def test_before_the_guest_asks_everything_is_granted(own_guest):
    hypervisor = Hypervisor(Guest(own_guest))
    assert (written(hypervisor.tables) == ALL).all()
    assert (hypervisor.granted == ALL).all()


def test_a_request_beyond_the_mappings_leaves_everything_granted(own_guest):
    guest = Guest(own_guest)
    hypervisor = Hypervisor(guest)
    before = guest.host.pool.copy()
    result = ask(Agent(guest), [PageEntry(places.TEXT, places.TEXT + FRAME, RW)])
    assert result.value == (1 << 64) - 1
    assert hypervisor.replies[-1].answer is Answer.NOT_PERMITTED
    assert hypervisor.collective is None
    assert (guest.host.pool == before).all()


def test_a_world_needs_its_request_granted(own_guest, monkeypatch):
    monkeypatch.setattr(
        "crosswalk.emu.protect.snapshot.page_entries",
        lambda *_: [PageEntry(places.TEXT, places.TEXT + FRAME, ALL)],
    )
    with pytest.raises(CrosswalkError, match="isn't protected"):
        World(own_guest)


def test_a_world_that_asked_for_less_has_what_it_needs(own_guest, monkeypatch):
    asked = [PageEntry(places.DATA, places.DATA + 3 * FRAME, Permission.READ)]
    monkeypatch.setattr("crosswalk.emu.protect.snapshot.page_entries", lambda *_: asked)
    world = World(own_guest)
    assert world.more == 3
    assert world.hypervisor.granted[places.DATA // FRAME] == RW


def test_rules():
    rules = Rules()
    rules.sealed[0] = RX
    rules.both[1] = True
    collective = np.full(FRAMES, RW, np.uint8)
    collective[:4] = ALL
    assert rules.granted(collective)[:4].tolist() == [RX, ALL, RW, RW]
    assert rules.withheld(collective)[:5].tolist() == [True, False, True, True, False]
    rules.opened = 0
    assert rules.granted(collective)[0] == RW
    assert not rules.withheld(collective)[0]
    collective[0] = RX
    assert rules.granted(collective)[0] == RX


def test_stretches_are_cut_where_values_change():
    values = np.zeros(FRAMES, np.uint8)
    values[2:4] = 3
    assert list(stretches(values, [(FRAME, 4 * FRAME)])) == [
        (FRAME, FRAME, 0),
        (2 * FRAME, 2 * FRAME, 3),
        (4 * FRAME, FRAME, 0),
    ]
