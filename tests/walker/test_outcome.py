import pytest

from crosswalk.walker.outcome import ErrorCode, error_names


@pytest.mark.parametrize(
    ("code", "names"),
    [
        (0, "none"),
        (1, "P"),
        (2, "W/R"),
        (4, "U/S"),
        (9, "P RSVD"),
        (0x15, "P U/S I/D"),
        (0x27, "P W/R U/S PK"),
        (0x40, "0x40"),
        (0x8001, "P 0x8000"),
    ],
)
def test_error_codes_are_named_as_the_manual_names_their_bits(code, names):
    assert names == error_names(code)
    assert names == error_names(ErrorCode(code))
