import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from crosswalk.emu.report.cells import (
    Texts,
    encoded,
    hexadecimal,
    joined,
    lengths,
    padded_hexadecimal,
    spaces,
)

words = st.lists(
    st.one_of(
        st.integers(0, (1 << 64) - 1),
        st.integers(0, 63).flatmap(lambda bit: st.sampled_from([(1 << bit) - 1, 1 << bit])),
        st.just((1 << 64) - 1),
    ),
    min_size=1,
    max_size=20,
)


def texts(cell):
    return joined([cell, b"\n"], len(cell)).tobytes().decode().splitlines()


@given(words)
def test_hexadecimal_is_as_python_writes_it(numbers):
    column = np.array(numbers, np.uint64)
    assert [f"{number:x}" for number in numbers] == texts(hexadecimal(column))
    assert [f"{number:016x}" for number in numbers] == texts(padded_hexadecimal(column, 16))
    short = column & np.uint64((1 << 52) - 1)
    assert [f"{number:013x}" for number in short.tolist()] == texts(padded_hexadecimal(short, 13))


@given(words, st.lists(st.integers(0, 1 << 17), min_size=1))
def test_texts_of_numbers_are_those_that_are_made_of_each(numbers, others):
    made = Texts(lambda number: f"<{number}>")
    for some in (numbers, others, others[:1], numbers):
        found = texts(made.cell(np.array(some, np.uint64)))
        assert [f"<{number}>" for number in some] == found
    assert (0, 0) == made.cell(np.zeros(0, np.uint64))[:, :0].shape


def test_a_small_number_is_made_into_a_text_once():
    asked = []

    def text(number):
        asked.append(number)
        return str(number)

    made = Texts(text)
    for _ in range(2):
        made.cell(np.array([3, 3, 9], np.uint64))
    assert [3, 9] == asked


def test_cells_are_put_together_row_by_row_without_what_they_lack():
    cell = encoded(["a", "", "bcd"])
    assert [1, 0, 3] == lengths(cell).tolist()
    assert b"<a >\n< >\n<bcd >\n" == joined([b"<", cell, b" >\n"], 3).tobytes()
    assert ["  x", "x", " x"] == texts(
        np.concatenate([spaces(np.array([2, 0, 1])), encoded(["x"] * 3)], axis=1)
    )


def test_what_an_encoding_lacks_is_escaped():
    assert b"\\xe9" == joined([encoded(["é"], "ascii")], 1).tobytes()
    assert "é".encode() == joined([encoded(["é"])], 1).tobytes()
