"""Accesses that show what is granted, and what they find if a bug is planted."""

import numpy as np
import pytest

from crosswalk.emu.protect.hypervisor import TABLE_POOL
from crosswalk.emu.protect.permissions import ALL, READ_EXECUTE
from crosswalk.emu.protect.probes import probe_forged, probe_mappings
from crosswalk.guest import places
from crosswalk.guest.intended import Intended
from crosswalk.walker.memory import FRAME
from crosswalk.walker.protection.pagelist import Permission

START, FRAMES = places.TEXT, 64


def mappings(subject, *names):
    chosen = [each for each in subject.booted.image.intended if each.name in names]
    assert len(chosen) == len(names)
    return chosen


def forged(subject):
    subject.guest.host.flush()
    return probe_forged(subject.agent, subject.hypervisor.granted, start=START, frames=FRAMES)


def test_own_mappings_work_and_leave_ram_as_it_was(subject):
    own = mappings(subject, "text", "rodata", "data", "user text", "user data", "user jit")
    before = subject.guest.ram.bytes[places.USER_DATA_FRAME :][: 4 * FRAME].copy()
    probed = probe_mappings(subject.agent, own)
    pages = dict(probed.probes)
    assert 0 == probed.divergent
    assert {
        ("read", "allowed"): 4 + 2 + 4 + 2 + 4 + 1,
        ("write", "allowed"): 4 + 4 + 1,
        ("execute", "allowed"): 4 + 2 + 1,
    } == pages
    assert (subject.guest.ram.bytes[places.USER_DATA_FRAME :][: 4 * FRAME] == before).all()


def test_pages_outside_ram_are_counted(subject):
    probed = probe_mappings(subject.agent, mappings(subject, "user huge"))
    assert (0, 1 << 18) == (probed.count, probed.unbacked)


def test_forged_tables_reach_what_is_granted_and_no_more(subject):
    probed = forged(subject)
    granted = subject.hypervisor.granted[START // FRAME :][:FRAMES]
    writable = int(np.count_nonzero(granted & Permission.WRITE))
    executable = int(np.count_nonzero(granted & Permission.EXECUTE))
    assert 0 == probed.divergent
    assert FRAMES == probed.probes["read", "allowed"]
    assert probed.probes["write", "nested fault"] == FRAMES - writable == 4 + 2 + 32
    assert probed.probes["execute", "allowed"] == executable


def test_a_frame_of_tables_stays_executable(subject):
    start = TABLE_POOL.start * FRAME
    probed = probe_forged(subject.agent, subject.hypervisor.granted, start=start, frames=4)
    assert 4 == probed.probes["execute", "allowed"]


@pytest.mark.parametrize(
    ("frame", "planted", "use"),
    [
        (places.TEXT, ALL, "write"),
        (places.RODATA, Permission.READ | Permission.WRITE, "write"),
        (places.DATA + FRAME, ALL, "execute"),
    ],
)
def test_a_right_too_many_is_found(subject, frame, planted, use):
    subject.hypervisor.tables.set(frame, FRAME, planted)
    probed = forged(subject)
    assert 1 == probed.divergent
    assert probed.divergences[0].startswith(f"{use}: {frame:#x}: not refused")


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
def test_a_right_too_few_is_found(subject, name, frame, planted, use):
    subject.hypervisor.tables.set(frame, FRAME, planted)
    subject.guest.host.flush()
    probed = probe_mappings(subject.agent, mappings(subject, name))
    assert 1 == probed.divergent
    assert probed.divergences[0].startswith(f"{use}: {name} at ")
    assert "NPF" in probed.divergences[0]


def test_the_same_is_found_through_forged_tables(subject):
    subject.hypervisor.tables.set(places.TEXT, FRAME, Permission.READ)
    probed = forged(subject)
    assert 1 == probed.divergent
    assert probed.divergences[0].startswith(f"execute: {places.TEXT:#x}: exit NPF")


def test_another_frame_is_found(subject):
    (data,) = mappings(subject, "rodata")
    moved = Intended("moved", data.va, places.TEXT, FRAME, 1, "r--", "---")
    probed = probe_mappings(subject.agent, [moved])
    assert probed.divergences == [f"read: moved at {data.va + 0x7E0:#x}: not what RAM has there"]


def test_only_the_first_are_told_in_words(subject):
    subject.hypervisor.tables.set(places.RAM_SIZE // 2, 64 * FRAME, ALL)
    subject.guest.host.flush()
    granted = subject.hypervisor.granted
    probed = probe_forged(subject.agent, granted, start=places.RAM_SIZE // 2, frames=64)
    assert (64, 20) == (probed.divergent, len(probed.divergences))
