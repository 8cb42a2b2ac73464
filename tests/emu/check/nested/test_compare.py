import pytest

from crosswalk.emu.check.nested import agrees, restates
from crosswalk.walker.memory import SparseWords
from crosswalk.walker.nested.outcome import NestedError, NestedPageFault
from crosswalk.walker.outcome import GeneralProtection, PageFault, Translation

TABLE, FINAL = int(NestedError.TABLE), int(NestedError.FINAL)
MEMORY = SparseWords([(0, 0x4000)], {0x1000: 0x2007, 0x2000: 0x3027})
A, AD = (0x1000, 0x2027), (0x1000, 0x2067)
REACHED = Translation(0x3123, entries=(AD,))
FAULT = PageFault(0x6, 0x5123, (AD,))
NESTED = NestedPageFault(0x6 | TABLE, 0x1028, (AD,))


def nested(code, gpa=0x1028, entries=()):
    return NestedPageFault(code, gpa, entries)


@pytest.mark.parametrize(
    ("predicted", "observed"),
    [
        (REACHED, REACHED),
        (Translation(0x3123, 4096, None, (AD,)), REACHED),
        (FAULT, FAULT),
        (FAULT, PageFault(0x6, 0x5123)),
        (FAULT, PageFault(0x6, 0x5123, (A,))),
        (GeneralProtection(), GeneralProtection()),
        (NESTED, NESTED),
        (NESTED, nested(0x6)),
        (NESTED, nested(0x6, entries=(A,))),
        (nested(0x4 | FINAL), nested(0x4)),
    ],
)
def test_what_is_allowed(predicted, observed):
    assert agrees(MEMORY, predicted, observed)


@pytest.mark.parametrize(
    ("predicted", "observed"),
    [
        (REACHED, Translation(0x3124, entries=(AD,))),
        (REACHED, Translation(0x3123, entries=(A,))),
        (REACHED, Translation(0x3123)),
        (Translation(0x3123), REACHED),
        (REACHED, FAULT),
        (FAULT, GeneralProtection()),
        (FAULT, NESTED),
        (FAULT, PageFault(0x7, 0x5123)),
        (FAULT, PageFault(0x6, 0x5124)),
        (PageFault(0x6, 0x5123, (A,)), FAULT),
        (FAULT, PageFault(0x6, 0x5123, ((0x1000, 0x2003),))),
        (FAULT, PageFault(0x6, 0x5123, ((0x2000, 0x3067),))),
        (GeneralProtection(), GeneralProtection((A,))),
        (NESTED, nested(0x6 | FINAL)),
        (NESTED, nested(0x7 | TABLE)),
        (NESTED, nested(0x7)),
        (NESTED, nested(0x6 | TABLE, 0x1020)),
        (NESTED, nested(0x6 | TABLE, entries=((0x2000, 0x3067),))),
    ],
)
def test_what_is_not(predicted, observed):
    assert not agrees(MEMORY, predicted, observed)


ID = int(NestedError.ID)
OPEN = NestedPageFault(0x4 | FINAL, 0x1028, open=ID)


@pytest.mark.parametrize("code", [0x4, 0x4 | ID, 0x4 | ID | FINAL])
def test_a_bit_that_is_left_open_may_be_set_or_clear(code):
    assert agrees(MEMORY, OPEN, nested(code))


@pytest.mark.parametrize("code", [0x5 | ID, 0x6, ID])
def test_no_other_bit_is_open_beside_it(code):
    assert not agrees(MEMORY, OPEN, nested(code))


def test_a_prediction_leaves_open_what_the_manual_does_and_nothing_else():
    definite = nested(0x4 | FINAL)
    assert restates(MEMORY, (OPEN,), (OPEN,))
    assert restates(MEMORY, (definite,), (definite,))
    assert restates(MEMORY, (REACHED,), (REACHED,))
    assert not restates(MEMORY, (definite,), (OPEN,))
    assert not restates(MEMORY, (OPEN,), (definite,))
    assert not restates(MEMORY, (REACHED,), (OPEN,))
