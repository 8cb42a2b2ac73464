import numpy as np
import pytest

from crosswalk.emu.fuzz.generate import generate
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Kind

LAYOUTS = 48


@pytest.fixture(scope="module")
def many():
    return [generate(5, index, accesses=1024) for index in range(LAYOUTS)]


def reached(layouts, levels):
    """The page numbers, of the canonical addresses, that some access gets to."""
    found = set()
    for layout in layouts:
        if layout.context.levels == levels:
            outcomes = translate_many(layout.memory(), layout.context, layout.accesses)
            found |= set((layout.accesses.va[outcomes.kind == Kind.OK] >> np.uint64(12)).tolist())
    return found


@pytest.mark.parametrize("levels", [4, 5])
def test_the_first_and_last_pages_of_both_halves_are_reached(many, levels):
    half = 1 << 12 + 9 * levels - 1
    corners = {0, half - 4096, (1 << 64) - half, (1 << 64) - 4096}
    assert {corner >> 12 for corner in corners} <= reached(many, levels)


def test_every_protection_key_is_that_of_many_pages(many):
    keys = np.zeros(16, np.int64)
    for layout in many:
        words = layout.words[(layout.words & np.uint64(1)) != 0]
        keys += np.bincount((words >> np.uint64(59)).astype(np.intp) & 15, minlength=16)
    assert keys.min() > 32
