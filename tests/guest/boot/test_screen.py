"""What a screen showed is read back, as typed or recognised, or refused in one line."""

import random

import pytest

from crosswalk.guest.boot.screen import from_screen, on_screen
from crosswalk.walker.errors import BadInput

DATA = random.Random(15).randbytes(200)
LINES = on_screen(DATA).splitlines()


def read(lines):
    return from_screen("\n".join(lines).encode())


def test_lines_have_a_number_four_words_and_a_checksum():
    assert "0000 0000000000000000 0000000000000000 0000000000000000 0000000000000000 0000\n" == (
        on_screen(bytes(32))
    )
    assert 7 == len(LINES)


@pytest.mark.parametrize(
    "lines",
    [
        LINES,
        LINES[::-1],
        ["Photo 1:", "", *LINES, LINES[2], "that's all"],
        [line.upper() for line in LINES],
        [line.replace(" ", "") for line in LINES],
        [line.replace("0", "O").replace("1", "l").replace("5", "S") for line in LINES],
    ],
    ids=["as shown", "backwards", "among others", "capitals", "no blanks", "mistaken digits"],
)
def test_what_was_shown_is_read_back(lines):
    assert DATA.ljust(224, b"\0") == read(lines)


def test_no_other_bytes_are_taken_for_lines():
    assert None is from_screen(b"\xb0\xc5" + DATA)
    assert None is from_screen(b"SeaBIOS\nBooting from ROM...\n")
    assert None is from_screen(b"")


@pytest.mark.parametrize("digit", [0, 3, 5, 40, 73, 76])
def test_each_wrong_digit_is_found(digit):
    line = LINES[1]
    wrong = "0" if line[digit] != "0" else "1"
    broken = [LINES[0], line[:digit] + wrong + line[digit + 1 :], *LINES[2:]]

    with pytest.raises(BadInput, match="line 2 isn't as the screen showed it: its checksum"):
        read(broken)


def test_digits_left_out_and_lines_left_out_are_named():
    with pytest.raises(BadInput, match="line 1 isn't as the screen showed it"):
        read([LINES[0][:30] + LINES[0][31:], *LINES[1:]])
    with pytest.raises(BadInput, match="that the screen showed as 0002 is missing"):
        read(LINES[:2] + LINES[3:])


def test_lines_of_two_logs_are_not_mixed():
    others = on_screen(DATA[::-1]).splitlines()

    with pytest.raises(BadInput, match="line 8 is another than the line 0003 before it"):
        read([*LINES, others[3]])


def test_a_log_that_ends_early_is_that_much():
    assert DATA[:96] == read(LINES[:3])
