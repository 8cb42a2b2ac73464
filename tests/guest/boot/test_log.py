"""Answers of an image that ended in the middle of a record."""

import pytest

from crosswalk.guest.boot import log
from crosswalk.walker.errors import BadInput


def record(kind, number, *words):
    head = log.MARK | len(words) << 16 | kind << 32 | number << 40
    head |= ((head & (1 << 56) - 1) * 0x9E3779B97F4A7C15 & (1 << 64) - 1) >> 56 << 56
    checksum = 0xCBF29CE484222325
    for word in (head, *words):
        checksum = (checksum ^ word) * 0x100000001B3 & (1 << 64) - 1
    return b"".join(word.to_bytes(8, "little") for word in (head, *words, checksum))


ANSWERED = (
    record(log.Kind.GREETING, 0, 1, 0, 0, 0, 0)
    + record(log.Kind.CPU, 1, *[0] * 20)
    + record(log.Kind.RAM, 2, 0x10_0000, 0x8000_0000)
    + record(log.Kind.RUN, 3)
)


def word(value):
    return value.to_bytes(8, "little")


def test_a_record_in_memory_that_was_begun_ends_the_log():
    begun = word(log.Kind.PROGRAM) + word(6)
    found = log.read_log(ANSWERED + begun)
    assert 1 == len(found.runs)
    assert () == found.runs[0].programs
    assert not found.complete


@pytest.mark.parametrize("kind", [0x99, log.MARK])
def test_what_no_record_begins_with_is_damage(kind):
    with pytest.raises(BadInput, match="record 4 is missing or broken"):
        log.read_log(ANSWERED + word(kind) + word(6))


def test_a_record_behind_one_that_was_begun_is_damage():
    begun = word(log.Kind.PROGRAM) + word(6)
    with pytest.raises(BadInput, match="record 4 is missing or broken"):
        log.read_log(ANSWERED + begun + record(log.Kind.END, 5))
