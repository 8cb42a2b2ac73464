"""Proofs by accesses, and what they find if something is planted."""

import numpy as np
import pytest

from crosswalk.emu.protect.grants import ALL, TABLE_POOL
from crosswalk.emu.protect.probes import probe_beyond, probe_mappings
from crosswalk.guest import places
from crosswalk.guest.views import Intended
from crosswalk.walker.memory import FRAME
from crosswalk.walker.protection.pagelist import Permission

START, FRAMES = places.TEXT, 64
READ_EXECUTE = Permission.READ | Permission.EXECUTE


def mappings(world, *names):
    chosen = [each for each in world.booted.image.intended if each.name in names]
    assert len(chosen) == len(names)
    return chosen


def beyond(world):
    world.guest.host.flush()
    return probe_beyond(world.agent, world.hypervisor.granted, start=START, frames=FRAMES)


def test_own_mappings_work_and_leave_ram_as_it_was(world):
    own = mappings(world, "text", "rodata", "data", "user text", "user data", "user jit")
    before = world.guest.ram.bytes[places.USER_DATA_FRAME :][: 4 * FRAME].copy()
    proof = probe_mappings(world.agent, own)
    pages = dict(proof.probes)
    assert proof.divergent == 0
    assert pages == {
        ("read", "allowed"): 4 + 2 + 4 + 2 + 4 + 1,
        ("write", "allowed"): 4 + 4 + 1,
        ("execute", "allowed"): 4 + 2 + 1,
    }
    assert (world.guest.ram.bytes[places.USER_DATA_FRAME :][: 4 * FRAME] == before).all()


def test_pages_outside_ram_are_counted(world):
    proof = probe_mappings(world.agent, mappings(world, "user huge"))
    assert (proof.count, proof.unbacked) == (0, 1 << 18)


def test_forged_tables_reach_what_is_granted_and_no_more(world):
    proof = beyond(world)
    granted = world.hypervisor.granted[START // FRAME :][:FRAMES]
    writable = int(np.count_nonzero(granted & Permission.WRITE))
    executable = int(np.count_nonzero(granted & Permission.EXECUTE))
    assert proof.divergent == 0
    assert proof.probes["read", "allowed"] == FRAMES
    assert proof.probes["write", "nested fault"] == FRAMES - writable == 4 + 2 + 32
    assert proof.probes["execute", "allowed"] == executable


def test_a_frame_of_tables_stays_executable(world):
    start = TABLE_POOL.start * FRAME
    proof = probe_beyond(world.agent, world.hypervisor.granted, start=start, frames=4)
    assert proof.probes["execute", "allowed"] == 4


@pytest.mark.parametrize(
    ("frame", "planted", "use"),
    [
        (places.TEXT, ALL, "write"),
        (places.RODATA, Permission.READ | Permission.WRITE, "write"),
        (places.DATA + FRAME, ALL, "execute"),
    ],
)
def test_a_right_too_many_is_found(world, frame, planted, use):
    world.hypervisor.tables.set(frame, FRAME, planted)
    proof = beyond(world)
    assert proof.divergent == 1
    assert proof.divergences[0].startswith(f"{use}: {frame:#x}: not refused")


@pytest.mark.parametrize(
    ("name", "frame", "planted", "use"),
    [
        ("text", places.TEXT, Permission.READ, "execute"),
        ("data", places.DATA + FRAME, Permission.READ, "write"),
        ("rodata", places.RODATA, Permission(0), "read"),
        ("user jit", places.EXECUTABLE + 2 * FRAME, READ_EXECUTE, "write"),
        ("user text", places.EXECUTABLE + FRAME, Permission.READ, "execute"),
        ("user data", places.USER_DATA_FRAME, Permission.READ, "write"),
    ],
)
def test_a_right_too_few_is_found(world, name, frame, planted, use):
    world.hypervisor.tables.set(frame, FRAME, planted)
    world.guest.host.flush()
    proof = probe_mappings(world.agent, mappings(world, name))
    assert proof.divergent == 1
    assert proof.divergences[0].startswith(f"{use}: {name} at ")
    assert "NPF" in proof.divergences[0]


def test_the_same_is_found_through_forged_tables(world):
    world.hypervisor.tables.set(places.TEXT, FRAME, Permission.READ)
    proof = beyond(world)
    assert proof.divergent == 1
    assert proof.divergences[0].startswith(f"execute: {places.TEXT:#x}: exit NPF")


def test_another_frame_is_found(world):
    (data,) = mappings(world, "rodata")
    moved = Intended("moved", data.va, places.TEXT, FRAME, 1, "r--", "---")
    proof = probe_mappings(world.agent, [moved])
    assert proof.divergences == [f"read: moved at {data.va + 0x7E0:#x}: not what RAM has there"]


def test_no_more_than_the_first_are_told(world):
    world.hypervisor.tables.set(places.RAM_SIZE // 2, 64 * FRAME, ALL)
    world.guest.host.flush()
    granted = world.hypervisor.granted
    proof = probe_beyond(world.agent, granted, start=places.RAM_SIZE // 2, frames=64)
    assert (proof.divergent, len(proof.divergences)) == (64, 20)
