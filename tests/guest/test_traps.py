"""The exceptions on purpose, held against the description of what is where."""

import struct
from dataclasses import replace

import pytest

from crosswalk.guest import places
from crosswalk.guest.builder import build_image
from crosswalk.guest.errors import GuestError
from crosswalk.guest.status import ACCOUNT_SLOTS, Taken
from crosswalk.guest.traps import OnPurpose, attempts, check_taken, pack_attempts

PKRU = 0xC000_0024
IST1, RSP0 = 0xFFFF_FFFF_8010_B000, 0xFFFF_FFFF_8010_E000
TEXT, STACK = 0xFFFF_FFFF_8010_1000, 0xFFFF_FFFF_8010_EFE8

levels = pytest.mark.parametrize("levels", [4, 5])


def due(image, attempt):
    """Return (vector, error code) of an access, by the layout's rights and the manual's table."""
    top = 1 << (11 + 9 * image.levels)
    if top <= attempt.va < (1 << 64) - top:
        return 13, 0
    code = {0: 0, 1: 2, 2: 16}[attempt.access] | (4 if attempt.cpl else 0)
    for raw in image.faulting:
        if raw.va <= attempt.va < raw.va + raw.size:
            return 14, code | (9 if raw.reserved else 0)
    (region,) = (
        region
        for region, meant in zip(image.memory_map.regions, image.intended, strict=True)
        if meant.va <= attempt.va < meant.va + meant.size * meant.count
    )
    rights = region.user if attempt.cpl else region.supervisor
    if "rwx"[attempt.access] not in rights:
        return 14, code | 1
    key = region.flags >> 59 & 15
    assert attempt.access is not OnPurpose.EXECUTE
    assert PKRU >> 2 * key & (1 if attempt.access is OnPurpose.READ else 3), "nothing denies it"
    return 14, code | 1 | 32


def met(tried):
    """Return what right handlers record."""
    for each in tried:
        user = bool(each.cpl)
        rip = places.USER + 7 if user else TEXT + 0x123
        if each.access is OnPurpose.EXECUTE:
            rip = each.va
        cs, ss, rsp = (0x2B, 0x23, 0x7000) if user else (0x10, 0x18, STACK)
        top = IST1 if each.vector == 13 else RSP0 if user else STACK - 8
        cr2 = each.va if each.vector == 14 else 0
        yield Taken(each.vector, each.error_code, rip, cs, 0x10002, rsp, ss, cr2, top)
        if user:
            yield Taken(0x20, 0, places.USER + 9, cs, 2, rsp, ss, 0, RSP0)


@levels
def test_what_is_meant_to_come_of_each_access_follows_from_the_layout(levels):
    image = build_image(levels)
    assert image.attempts == attempts(levels)
    for attempt in image.attempts:
        assert due(image, attempt) == (attempt.vector, attempt.error_code), attempt


@levels
def test_every_cause_is_there(levels):
    seen = {(each.cpl, each.vector, each.error_code) for each in attempts(levels)}
    assert seen == {(0, 14, code) for code in (0, 1, 2, 3, 9, 0x11)} | {
        (3, 14, code) for code in (4, 5, 7, 0x15, 0x25)
    } | {(0, 13, 0), (3, 13, 0)}


def test_attempts_are_packed_as_a_count_and_records():
    tried = attempts(4)
    data = pack_attempts(tried)
    assert struct.pack("<4Q", len(tried), tried[0].va, 0, 0) == data[:32]
    assert struct.pack("<3Q", tried[-1].va, 1, 3) == data[-24:]


def test_more_than_the_status_block_can_hold_is_refused():
    one = attempts(4)[0]
    assert pack_attempts([one] * ACCOUNT_SLOTS)
    with pytest.raises(GuestError, match="25 attempts are more than the status block can hold"):
        pack_attempts([one] * (ACCOUNT_SLOTS + 1))
    with pytest.raises(GuestError, match="13 attempts"):  # Each is followed by an INT.
        pack_attempts([replace(one, cpl=3)] * 13)


@levels
def test_a_right_account_is_as_meant(levels):
    tried = attempts(levels)
    check_taken(tried, tuple(met(tried)))


FIRST, PROTECTION, USER, LEAVE, USER_FETCH = 0, 7, 8, 9, 14


@pytest.mark.parametrize(
    ("number", "wrong", "message"),
    [
        (FIRST, {"vector": 13}, "vector 0xd, not 0xe"),
        (FIRST, {"error_code": 4}, "error code 0x4, not 0x0"),
        (FIRST, {"cr2": 0x5000}, "CR2 0x5000, not 0xffffffff8010cff8"),
        (FIRST, {"cs": 0x2B}, "CS 0x2b, not 0x10"),
        (FIRST, {"ss": 0}, "SS 0x0, not 0x18"),
        (FIRST, {"rip": TEXT - 1}, "RIP in the page at 0xffffffff80100000"),
        (FIRST, {"top": IST1}, "a stack that begins at 0xffffffff8010b000"),
        (PROTECTION, {"cr2": 1}, "CR2 0x1, not 0x0"),
        (PROTECTION, {"top": STACK - 8}, "not 0xffffffff8010b000"),
        (USER, {"cs": 0x10}, "CS 0x10, not 0x2b"),
        (USER, {"top": 0x7000}, "a stack that begins at 0x7000, not 0xffffffff8010e000"),
        (LEAVE, {"vector": 14}, "vector 0xe, not 0x20"),
        (LEAVE, {"error_code": 1}, "error code 0x1, not 0x0"),
        (USER_FETCH, {"rip": 0x40_0000}, "RIP 0x400000, not 0x406060"),
    ],
)
def test_one_wrong_value_is_noticed(number, wrong, message):
    tried = attempts(4)
    account = list(met(tried))
    account[number] = replace(account[number], **wrong)
    with pytest.raises(GuestError) as caught:
        check_taken(tried, account)
    assert f"exception {number} (" in str(caught.value)
    assert message in str(caught.value)


def test_an_exception_that_is_missing_or_one_too_many_is_noticed():
    tried = attempts(4)
    account = list(met(tried))
    with pytest.raises(GuestError, match="saw 19 exceptions, not 20"):
        check_taken(tried, account[:-1])
    with pytest.raises(GuestError, match="saw 21 exceptions, not 20"):
        check_taken(tried, [*account, account[-1]])
