"""KVM's memory attributes: what is written, and what a list that is read back grants."""

import struct
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosswalk.walker import BadInput, Frames, Rights, collective_rights
from crosswalk.walker.protection import attributes as under_test
from crosswalk.walker.protection.attributes import (
    AttributeSet,
    decode_attributes,
    encode_attributes,
    kvm_grants,
)
from crosswalk.walker.protection.policy import Use, protect
from tests.random_tables import random_tables
from tests.tables import KIB4, MODES
from tests.walker.protection.frame_by_frame import USES, by_frame, frames_of, wanted

HEKI, DENY = AttributeSet
SETS = pytest.mark.parametrize("attributes", AttributeSet)
READ, WRITE, SUPERVISOR, USER = Use


def handmade(*rights):
    """One frame after the other, each with these rights."""
    start = KIB4 * np.arange(len(rights), dtype=np.uint64)
    size = np.full(len(rights), KIB4, np.uint64)
    return Frames(start, size, np.array(rights, np.uint8))


RIGHTS = (
    Rights.SUPERVISOR_READ,
    Rights.SUPERVISOR_READ | Rights.SUPERVISOR_WRITE,
    Rights.SUPERVISOR_READ | Rights.SUPERVISOR_EXECUTE,
    Rights.SUPERVISOR_READ | Rights.USER_READ | Rights.USER_EXECUTE,
    Rights.SUPERVISOR_READ | Rights.SUPERVISOR_WRITE | Rights.USER_READ | Rights.USER_EXECUTE,
    Rights.USER_EXECUTE,
)


@pytest.mark.parametrize(
    ("attributes", "values"),
    [
        # READ 16, WRITE 32, EXEC 64, of the supervisor; the frame that nothing maps is the last.
        (HEKI, [0x10, 0x30, 0x50, 0x10, 0x30, 0x10, 0x30]),
        # NR 1, NW 2, NX 4, of everybody.
        (DENY, [6, 4, 2, 2, 0, 2, 4]),
    ],
)
def test_entries_are_those_of_the_patches(attributes, values):
    protection = protect(handmade(*RIGHTS), [(0, 7 * KIB4)])
    data = encode_attributes(protection, attributes)
    rows = [struct.unpack_from("<4Q", data, at) for at in range(0, len(data), 32)]
    said = {pa: value for pa, size, value, _ in rows for pa in range(pa, pa + size, KIB4)}
    assert values == [said[pa] for pa in sorted(said)]
    assert {0} == {flags for _, _, _, flags in rows}
    assert all(one[2] != other[2] for one, other in pairwise(rows))


def granted(attributes, uses):
    """What KVM grants for what is wanted, in words, by the patches' own conditions."""
    if attributes is HEKI:
        return uses | {"read", "user execute"}
    execute = {"supervisor execute", "user execute"}
    return uses | ({"read"} if uses else set()) | (execute if uses & execute else set())


def words(use):
    return frozenset(name for bit, name in zip(Use, USES, strict=True) if use & bit)


def expected(tables, attributes):
    frames = by_frame(tables.memory, tables.context)
    return {frame: granted(attributes, wanted(pages)) for frame, pages in frames.items()}


def read_back(tables, attributes):
    frames = collective_rights(tables.memory, tables.context)
    data = encode_attributes(protect(frames, tables.memory.ranges), attributes)
    return {
        frame: words(use)
        for start, size, use in decode_attributes(data, attributes)
        for frame in frames_of([(start, size)])
    }


@given(tables=random_tables(MODES), attributes=st.sampled_from(AttributeSet))
def test_a_list_that_is_read_back_grants_each_frame_of_ram_what_the_policy_does(tables, attributes):
    assert expected(tables, attributes) == read_back(tables, attributes)


@SETS
@pytest.mark.parametrize("use", range(16))
def test_what_a_list_grants_is_known_beforehand(attributes, use):
    value = int(under_test._ATTRIBUTES[attributes][use])
    data = struct.pack("<4Q", 0, KIB4, value, 0)
    assert [(0, KIB4, Use(int(kvm_grants(attributes)[use])))] == list(
        decode_attributes(data, attributes)
    )
    assert granted(attributes, words(use)) == words(int(kvm_grants(attributes)[use]))


@SETS
@pytest.mark.parametrize("bit", range(3))
def test_an_attribute_too_many_or_too_few_is_found(attributes, bit, monkeypatch):
    shift = 4 if attributes is HEKI else 0
    wrong = under_test._ATTRIBUTES[attributes] ^ np.uint64(1 << shift + bit)
    monkeypatch.setitem(under_test._ATTRIBUTES, attributes, wrong)
    protection = protect(handmade(*RIGHTS), [(0, 7 * KIB4)])
    try:
        found = list(decode_attributes(encode_attributes(protection, attributes), attributes))
    except BadInput:
        return
    grants = kvm_grants(attributes)[protection.wanted]
    right = {
        pa: int(grant)
        for start, size, grant in zip(
            protection.start.tolist(), protection.size.tolist(), grants, strict=True
        )
        for pa in range(start, start + size, KIB4)
    }
    said = {pa: int(use) for start, size, use in found for pa in range(start, start + size, KIB4)}
    assert right != said


def test_no_attribute_of_heki_is_everything_and_immutable_changes_no_right():
    data = struct.pack("<8Q", 0, KIB4, 0, 0, KIB4, KIB4, 0xD0, 0)
    assert [
        (0, KIB4, READ | WRITE | SUPERVISOR | USER),
        (KIB4, KIB4, READ | SUPERVISOR | USER),
    ] == list(decode_attributes(data, HEKI))


def test_all_attributes_of_the_other_set_are_no_access():
    data = struct.pack("<4Q", 0, KIB4, 7, 0)
    assert [(0, KIB4, Use(0))] == list(decode_attributes(data, DENY))


@pytest.mark.parametrize(
    ("attributes", "entry", "message"),
    [
        (HEKI, (1, KIB4, 0x10, 0), "at 0x1: size 0x1000: not of whole pages"),
        (HEKI, (0, 8, 0x10, 0), "not of whole pages"),
        (HEKI, (0, 0, 0x10, 0), "no range of addresses"),
        (HEKI, (2**64 - KIB4, KIB4, 0x10, 0), "no range of addresses"),
        (HEKI, (0, KIB4, 0x10, 1), "flags 0x1"),
        (HEKI, (0, KIB4, 0x18, 0), "attributes 0x18: unknown"),
        (DENY, (0, KIB4, 0x10, 0), "attributes 0x10: unknown"),
        (DENY, (0, KIB4, 1, 0), "must be readable"),
        (DENY, (0, KIB4, 3, 0), "must be readable"),
    ],
)
def test_what_kvm_refuses_is_refused(attributes, entry, message):
    good = struct.pack("<4Q", 0x1_0000, KIB4, 0, 0)
    with pytest.raises(BadInput, match=rf"^entry 1 of the list, .*{message}"):
        list(decode_attributes(good + struct.pack("<4Q", *entry), attributes))


@SETS
def test_a_list_that_ends_within_an_entry_is_refused(attributes):
    with pytest.raises(BadInput, match="33 bytes: entries have 32"):
        list(decode_attributes(bytes(33), attributes))
    assert [] == list(decode_attributes(b"", attributes))
