import struct

import pytest

from crosswalk.guest.errors import GuestError
from crosswalk.guest.status import Table, Taken, describe_state, log_capacity, parse_status

GOOD = {
    "magic": int.from_bytes(b"CROSSWLK", "little"),
    "version": 2,
    "state": 4,
    "cr0": 0x80010011,
    "cr3": 0x800000,
    "cr4": 0x7000A0,
    "efer": 0xD00,
    "pkru": 0xC0000024,
    "proof": 0x1234,
    "count": 2,
    "entries": 7,
    "exceptions": 2,
}
TAKEN = (*range(1, 10), *range(11, 20))
LOG = (4, 0, 0x800000, 3, 0xFFFF_8880_0000_0000, 0x801000)


def block(log=LOG, **changes):
    account = struct.pack(f"<{24 * 9}Q", *TAKEN, *[0] * (24 * 9 - len(TAKEN)))
    head = struct.pack("<12Q", *(GOOD | changes).values())
    return head + account + struct.pack(f"<{len(log)}Q", *log) + bytes(64)


def test_a_good_block_is_read():
    status = parse_status(block())
    assert {
        name: GOOD[name] for name in ("cr0", "cr3", "cr4", "efer", "pkru", "proof", "entries")
    } == {
        name: getattr(status, name)
        for name in ("cr0", "cr3", "cr4", "efer", "pkru", "proof", "entries")
    }
    assert (
        Table(4, 0, 0x800000),
        Table(3, 0xFFFF_8880_0000_0000, 0x801000),
    ) == status.tables
    assert (Taken(*TAKEN[:9]), Taken(*TAKEN[9:])) == status.taken


def test_a_full_account_is_read():
    assert 24 == len(parse_status(block(exceptions=24)).taken)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (block(magic=5), "begins with 0x5, not with 0x4b4c5753534f5243"),
        (block(version=1), "version 1, not 2"),
        (block(state=0), "not done: not started"),
        (block(state=0x101), "not done: pool empty"),
        (block(state=77), "not done: unknown state 0x4d"),
        (block(state=0x103), "not done: unexpected exception"),
        (block(exceptions=25), "a log of 25 exceptions"),
        (block(count=0), "a log of 0 tables"),
        (block(count=5), "a log of 5 tables"),
        (block(log=(4, 0, 0x1000, 3, 0, 0x1000)), "a frame twice"),
        (block(log=(4, 0, 0x1008, 3, 0, 0x2000)), "an address inside a frame"),
        (b"short", "5 bytes is too short"),
    ],
)
def test_a_bad_block_is_refused_with_the_reason(bad, message):
    with pytest.raises(GuestError, match=message):
        parse_status(bad)


def test_a_state_is_described_even_where_nothing_else_is_right():
    assert "enabling paging" == describe_state(bytes(16) + b"\2" + bytes(7))


def test_the_log_takes_what_the_header_leaves():
    assert (0, 0, 1, 1, 2) == tuple(log_capacity(size) for size in (0, 1847, 1848, 1871, 1872))
