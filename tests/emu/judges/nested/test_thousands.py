"""Thousands of accesses under random pairs of tables in real machines."""

from collections import Counter

import pytest

from crosswalk.emu.fuzz.nested.judged import judged_pairs
from crosswalk.emu.judges.nested.registry import open_nested_judge
from crosswalk.walker.protection.policy import TableKind

PAIRS, ACCESSES = 40, 100


def campaign(machine, tables, fresh):
    """The verdicts on so many pairs; none diverges but as is known."""
    shown = Counter()
    with open_nested_judge(machine, tables) as judge:
        for result in judged_pairs(judge, tables, fresh, range(PAIRS), ACCESSES):
            verdict = result.verdict
            assert () == verdict.divergences, (fresh, result.number)
            assert () == verdict.ended, (fresh, result.number)
            assert () == result.survived, (fresh, result.number)
            shown["made"] += verdict.probes
            shown["agreed"] += verdict.agreements
            shown.update({reason.text: count for reason, count in verdict.not_shown.items()})
    return shown


@pytest.mark.slow
@pytest.mark.parametrize("tables", [TableKind.EPT, TableKind.EPT_MBEC])
def test_bochs_does_what_is_predicted_under_random_ept(bochs3, tables, fresh_seed):
    shown = campaign(f"bochs:{bochs3}", tables, fresh_seed)
    assert shown["made"] > 0.95 * PAIRS * ACCESSES
    assert shown["agreed"] > 0.5 * shown["made"]


@pytest.mark.slow
def test_qemu_does_what_is_predicted_under_random_nested_tables(qemu, fresh_seed):
    shown = campaign(qemu, TableKind.NPT, fresh_seed)
    unreachable = sum(count for text, count in shown.items() if "first table" in text)
    assert shown["made"] + unreachable > 0.95 * PAIRS * ACCESSES
    assert shown["agreed"] > 0.5 * shown["made"]
