"""The keyboard controller, as drivers probe it."""

import pytest

from crosswalk.emu.pc.keyboard import Keyboard

DATA, STATUS = 0, 1
FULL = 0x01


@pytest.fixture
def pulled():
    return []


@pytest.fixture
def keyboard(pulled):
    return Keyboard(lambda: pulled.append(True))


def answers(keyboard):
    found = []
    while keyboard.read(STATUS) & FULL:
        found.append(keyboard.read(DATA))
    return found


def test_it_is_ready_with_nothing_to_say(keyboard):
    assert 0x14 == keyboard.read(STATUS)
    assert (0, False) == (keyboard.read(DATA), keyboard.interrupting)


@pytest.mark.parametrize(
    ("command", "answer"),
    [(0xAA, 0x55), (0xAB, 0x00), (0x20, 0x45), (0xD0, 0x03), (0xA9, 0x01)],
    ids=["self-test", "keyboard's test", "mode", "output port", "mouse's test"],
)
def test_a_command_is_answered_by_a_byte(keyboard, command, answer):
    keyboard.write(STATUS, command)
    assert 0x1D == keyboard.read(STATUS)  # Full, and the last write was a command.
    assert [answer] == answers(keyboard)


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        ([0xFF], [0xFA, 0xAA]),
        ([0xF2], [0xFA, 0xAB, 0x83]),
        ([0xEE], [0xEE]),
        ([0xED, 0x07], [0xFA, 0xFA]),
        ([0xF3, 0xF4], [0xFA, 0xFA]),
        ([0xF4], [0xFA]),
        ([0x99], [0xFE]),
    ],
    ids=["reset", "identify", "echo", "lights", "rate", "enable", "unknown"],
)
def test_the_keyboard_answers_what_it_is_sent(keyboard, sent, answer):
    for byte in sent:
        keyboard.write(DATA, byte)
    assert answer == answers(keyboard)


def test_the_mode_is_written_with_a_parameter_and_decides_about_the_interrupt(keyboard):
    keyboard.write(DATA, 0xF4)
    assert keyboard.interrupting
    keyboard.write(STATUS, 0x60)
    keyboard.write(DATA, 0x44)
    assert not keyboard.interrupting
    answers(keyboard)
    keyboard.write(STATUS, 0x20)
    assert [0x44] == answers(keyboard)


def test_the_keyboard_can_be_disabled(keyboard):
    keyboard.write(STATUS, 0xAD)
    keyboard.write(STATUS, 0x20)
    assert [0x55] == answers(keyboard)
    keyboard.write(STATUS, 0xAE)
    keyboard.write(STATUS, 0x20)
    assert [0x45] == answers(keyboard)


def test_an_echo_for_the_mouse_comes_back_as_the_keyboards_for_there_is_none(keyboard):
    keyboard.write(STATUS, 0xD3)
    keyboard.write(DATA, 0x5A)
    assert 0 == keyboard.read(STATUS) & 0x20
    assert [0x5A] == answers(keyboard)


@pytest.mark.parametrize(
    "bytes_written",
    [[(STATUS, 0xFE)], [(STATUS, 0xF0)], [(STATUS, 0xD1), (DATA, 0x02)]],
    ids=["pulse", "pulse of all lines", "output port"],
)
def test_a_reset_is_asked_for_in_three_ways(keyboard, pulled, bytes_written):
    for register, value in bytes_written:
        keyboard.write(register, value)
    assert [True] == pulled


@pytest.mark.parametrize(
    "bytes_written",
    [[(STATUS, 0xFF)], [(STATUS, 0xAD)], [(DATA, 0xFE)], [(STATUS, 0xD1), (DATA, 0x03)]],
)
def test_nothing_else_resets(keyboard, pulled, bytes_written):
    for register, value in bytes_written:
        keyboard.write(register, value)
    assert [] == pulled


def test_of_a_guest_that_reads_no_answer_16_bytes_are_kept(keyboard):
    for _ in range(15):
        keyboard.write(DATA, 0xEE)
    keyboard.write(DATA, 0xF2)  # Its three bytes don't fit.
    keyboard.write(DATA, 0xEE)
    assert [0xEE] * 15 + [0xFA] == answers(keyboard)
    keyboard.write(DATA, 0xEE)
    assert [0xEE] == answers(keyboard)
