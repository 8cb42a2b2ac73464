"""Answers of an image read back: whole, cut, garbled, somebody else's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosswalk.guest.boot import log
from crosswalk.guest.boot.programs import BootLog, ProgramResult, RunResult, StepResult
from crosswalk.guest.boot.screen import on_screen
from crosswalk.walker.errors import BadInput


def record(kind, number, *words):
    head = log.MARK | len(words) << 16 | kind << 32 | number << 40
    head |= ((head & (1 << 56) - 1) * 0x9E3779B97F4A7C15 & (1 << 64) - 1) >> 56 << 56
    checksum = 0xCBF29CE484222325
    for word in (head, *words):
        checksum = (checksum ^ word) * 0x100000001B3 & (1 << 64) - 1
    return b"".join(word.to_bytes(8, "little") for word in (head, *words, checksum))


TAG = 0x123456789ABCDEF0
ANSWERED = (
    record(log.Kind.GREETING, 0, 1, 0, 0, 0, 0)
    + record(log.Kind.CPU, 1, *[0] * 20)
    + record(log.Kind.RAM, 2, 0x10_0000, 0x8000_0000)
    + record(log.Kind.RUN, 3, 0, TAG)
)


def word(value):
    return value.to_bytes(8, "little")


def test_a_record_in_memory_that_was_begun_ends_the_log():
    begun = word(0) + word(6)
    found = log.read_log(ANSWERED + begun)
    assert 1 == len(found.runs)
    assert () == found.runs[0].programs
    assert not found.complete


@pytest.mark.parametrize("head", [0x99, log.MARK, log.Kind.PROGRAM])
def test_what_no_record_begins_with_is_damage(head):
    with pytest.raises(BadInput, match="record 4 is missing or broken"):
        log.read_log(ANSWERED + word(head) + word(6))


STEP = (0x0E | 5 << 8 | 0x17 << 32, 0x40_0010)
WHOLE = (
    ANSWERED
    + record(log.Kind.PROGRAM, 4, 1 | 1 << 16 | 1 << 32, *STEP, 0x1000, 0x67, 0x2000, 0x1)
    + record(log.Kind.REFUSED, 5, log.Refusal.CR4, 0x20)
    + record(log.Kind.END, 6)
)
RESULT = ProgramResult(
    (StepResult(14, 0x17, 0x40_0010, at_access=True),), {0x1000: 0x67}, {0x2000: 0x1}
)


def test_a_log_says_what_was_written():
    found = log.read_log(WHOLE, digest=bytes(32))
    assert (RunResult((RESULT,), "CR4 = 0x20 refused", TAG),) == found.runs
    assert (True, None) == (found.complete, found.ended)
    assert ((0x10_0000, 0x8000_0000),) == found.cpu.ram


def test_a_log_of_another_image_is_refused():
    with pytest.raises(BadInput, match="of another image"):
        log.read_log(WHOLE, digest=bytes(31) + b"!")


def test_text_around_a_log_and_zeros_behind_it_are_no_part_of_it():
    assert log.read_log(WHOLE) == log.read_log(b"SeaBIOS\r\n\x1b[2J" + WHOLE)
    assert log.read_log(WHOLE) == log.read_log(WHOLE + bytes(4096))
    assert log.read_log(WHOLE) == log.read_log(WHOLE + b"login: ")


def test_a_machine_that_starts_again_is_said_to():
    found = log.read_log(WHOLE + b"SeaBIOS\r\n" + WHOLE)
    assert (1, True, "started again") == (len(found.runs), found.complete, found.ended)


def test_the_log_of_another_image_behind_one_is_none_of_its_own():
    other = record(log.Kind.GREETING, 0, 1, 9, 9, 9, 9) + WHOLE[len(record(1, 0, *[0] * 5)) :]
    found = log.read_logs(b"GRUB\r\n" + WHOLE + b"SeaBIOS\r\n" + other + b"login: ")

    assert [bytes(32), (b"\x09" + bytes(7)) * 4] == [each.digest for each in found]
    assert [True, True] == [each.complete for each in found]
    assert [None, None] == [each.ended for each in found]
    assert log.read_log(WHOLE).runs == found[1].runs


def test_damage_in_any_of_some_logs_is_found():
    garbled = WHOLE[:200] + b"[  0.1] Linux\n" + WHOLE[200:]
    for logs in (garbled + WHOLE, WHOLE + garbled):
        with pytest.raises(BadInput, match="the log is damaged: record"):
            log.read_logs(logs)


def test_lines_of_a_screen_are_a_log():
    assert [log.read_log(WHOLE)] == log.read_logs(on_screen(WHOLE).encode())


def test_a_log_cut_anywhere_is_what_came_before_it():
    whole = log.read_log(WHOLE)
    named = len(ANSWERED) - len(record(log.Kind.RUN, 3, 0, TAG))
    for size in range(named):
        with pytest.raises(BadInput, match=r"no answer|before it names the CPU"):
            log.read_log(WHOLE[:size])
    for size in range(named, len(WHOLE)):
        found = log.read_log(WHOLE[:size])
        assert not found.complete
        assert found.runs in (
            (),
            (RunResult(tag=TAG),),
            (RunResult((RESULT,), tag=TAG),),
            whole.runs,
        )


def test_each_bit_that_flips_is_found():
    for at in range(8 * len(WHOLE)):
        garbled = bytearray(WHOLE)
        garbled[at // 8] ^= 1 << at % 8
        with pytest.raises(BadInput):
            log.read_log(bytes(garbled))


def test_each_byte_that_is_lost_is_found():
    last = len(WHOLE) - len(record(log.Kind.END, 6))
    for at in range(last):
        with pytest.raises(BadInput):
            log.read_log(WHOLE[:at] + WHOLE[at + 1 :])


@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_are_a_log_or_bad_input(data, behind):
    try:
        found = log.read_log(ANSWERED + data if behind else data)
    except BadInput:
        return
    assert isinstance(found, BootLog)


@given(st.integers(0, 9), st.lists(st.integers(0, (1 << 64) - 1), max_size=12))
def test_records_that_no_runner_writes_are_bad_input(kind, words):
    try:
        found = log.read_log(ANSWERED + record(kind, 4, *words))
    except BadInput:
        return
    assert isinstance(found, BootLog)


def test_programs_that_say_more_or_less_than_they_hold_are_damage():
    for words in ((1,), (1, *STEP, 0), (1 | 1 << 16, *STEP, 0x1000), (0xFFFF_FFFF_FFFF,)):
        with pytest.raises(BadInput, match="no runner writes record 4"):
            log.read_log(ANSWERED + record(log.Kind.PROGRAM, 4, *words))
