"""One prober for all paging modes."""

from crosswalk.emu.probe import Prober
from tests.emu.accesses import columns
from tests.emu.seeded_tables import seeded_tables

SOUPS = {
    "32-bit": lambda seed: seeded_tables(seed, 60, "32-bit"),
    "PAE": lambda seed: seeded_tables(seed, 60, "PAE"),
    "long": lambda seed: seeded_tables(seed, 60),
}


def test_going_from_mode_to_mode_is_as_good_as_a_new_prober():
    memory, context, _ = SOUPS["long"](0)
    kept = Prober(memory, context)
    for seed in range(4):
        for make in SOUPS.values():
            memory, context, accesses = make(seed)
            kept.enter(memory, context)
            expected = columns(Prober(memory, context).probe(accesses))
            assert expected == columns(kept.probe(accesses))


def test_engines_are_kept_from_one_mode_to_the_next_and_back():
    memory, context, _ = SOUPS["32-bit"](0)
    kept = Prober(memory, context)
    runner = kept._engines.single._runner
    kept.enter(*SOUPS["PAE"](0)[:2])
    assert runner is kept._engines.single._runner
    kept.enter(*SOUPS["long"](0)[:2])
    assert runner is not kept._engines.single._runner
    kept.enter(*SOUPS["PAE"](0)[:2])
    assert runner is kept._engines.single._runner
