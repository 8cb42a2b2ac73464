"""Cases of rules that audits found wrong: what is predicted is stated in each by hand.

`tests/cases/rules/refused` has those whose registers are refused, each for its bit.
"""

from pathlib import Path

import pytest

from crosswalk.walker import (
    Accesses,
    BadInput,
    translate,
    translate_many,
)
from crosswalk.walker.formats import Probe, load_case

RULES = Path(__file__).parents[1] / "cases" / "rules"
CASES = sorted(RULES.glob("*.json"))
REFUSED = {
    "cr3_63": r"CR3 = 0x8\w* sets bit 63; it is no part of the register",
    "cr4_junk": r"CR4 = 0x1000000000000020 sets bit 60, which isn't known",
}


def observable(access, outcome):
    """An outcome without what only a prediction has: page size and rights."""
    return Probe.of(access, outcome).predicted


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_rule_is_predicted_as_the_manual_has_it(path):
    case = load_case(path)
    accesses = [probe.asked for probe in case.probes]
    memory, context = case.memory(), case.context()
    many = translate_many(memory, context, Accesses.of(accesses))
    for row, (access, probe) in enumerate(zip(accesses, case.probes, strict=True)):
        assert probe.predicted == observable(
            access, translate(case.memory(), case.context(), access)
        )
        assert probe.predicted == observable(access, many[row])
    assert case.probes


@pytest.mark.parametrize("path", sorted((RULES / "refused").iterdir()), ids=lambda path: path.stem)
def test_a_bit_that_nobody_models_is_refused_by_name(path):
    with pytest.raises(BadInput, match=REFUSED[path.stem]):
        load_case(path).context()


@pytest.mark.parametrize("name", ["cbit47_m48", "cbit51_m52", "sev-cbit47"])
def test_without_the_mask_the_case_is_answered_otherwise(name):
    case = load_case(RULES / f"{name}.json")
    plain = type(case.cpu)(
        **{field: getattr(case.cpu, field) for field in ("cr0", "cr3", "cr4", "efer", "maxphyaddr")}
    )
    for probe in case.probes:
        context = type(case)(cpu=plain, ram=case.ram).context()
        assert probe.predicted != observable(
            probe.asked, translate(case.memory(), context, probe.asked)
        )
