import pytest

from crosswalk.walker import Rights
from crosswalk.walker.rights import grant_of, rights_table, rwx
from tests.tables import OPEN, RW, US, XD, P, context

# What the entries of a page have in common, and what it grants the supervisor and the user
# (Intel SDM vol. 3A, "Determination of Access Rights"), by control bits.
TABLE = [
    ({}, P | XD, "r--", "---"),
    ({}, P | RW | XD, "rw-", "---"),
    ({}, P, "r-x", "---"),
    ({}, P | RW, "rwx", "---"),
    ({}, P | US | XD, "r--", "r--"),
    ({}, OPEN | XD, "rw-", "rw-"),
    ({}, P | US, "r-x", "r-x"),
    ({}, OPEN, "rwx", "rwx"),
    ({"wp": False}, P | XD, "rw-", "---"),
    ({"wp": False}, P, "rwx", "---"),
    ({"wp": False}, P | US, "rwx", "r-x"),
    ({"smep": True}, OPEN, "rw-", "rwx"),
    ({"smep": True}, P | RW, "rwx", "---"),
    ({"smap": True}, OPEN, "--x", "rwx"),
    ({"smap": True}, OPEN | XD, "---", "rw-"),
    ({"smap": True}, P | RW, "rwx", "---"),
    ({"smap": True, "ac": True}, OPEN, "rwx", "rwx"),
    ({"smap": True, "ac": True}, P | US, "r-x", "r-x"),
    ({"smap": True, "wp": False}, P | US, "--x", "r-x"),
    ({"smap": True, "ac": True, "wp": False}, P | US, "rwx", "r-x"),
    ({"smep": True, "smap": True}, OPEN, "---", "rwx"),
    ({"smep": True, "smap": True, "ac": True}, OPEN, "rw-", "rwx"),
    ({"pke": True, "pkru": 0xFFFF_FFFF}, OPEN, "rwx", "rwx"),
]


@pytest.mark.parametrize(("switches", "entry", "supervisor", "user"), TABLE)
def test_effective_rights_are_those_of_the_manual(switches, entry, supervisor, user):
    found = Rights(int(rights_table(context(**switches))[grant_of(entry)]))

    assert (supervisor, user) == (found.supervisor, found.user)


def test_only_rw_us_and_xd_of_an_entry_grant_anything():
    others = ~(RW | US | XD) & (1 << 64) - 1
    for entry in (P, P | RW, P | US, OPEN, OPEN | XD):
        assert grant_of(entry) == grant_of(entry | others)
    assert 4 == len({grant_of(P), grant_of(P | RW), grant_of(P | US), grant_of(P | XD)})


def test_rights_are_written_as_rwx():
    assert ["---", "r--", "-w-", "--x", "rw-", "rwx"] == [rwx(b) for b in (0, 1, 2, 4, 3, 7)]
    mixed = Rights.SUPERVISOR_WRITE | Rights.USER_READ | Rights.USER_EXECUTE
    assert ("-w-", "r-x") == (mixed.supervisor, mixed.user)
