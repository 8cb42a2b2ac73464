"""Cases of rules that audits found wrong: what is predicted is stated in each by hand.

`tests/cases/rules/refused` has those whose registers are refused, each for its bit.
"""

from pathlib import Path

import pytest

from crosswalk.walker import (
    Access,
    Accesses,
    AccessType,
    BadInput,
    PageFault,
    Translation,
    translate,
    translate_many,
)
from crosswalk.walker.formats import load_case
from crosswalk.walker.formats.case import OutcomeRecord

RULES = Path(__file__).parents[1] / "cases" / "rules"
CASES = sorted(RULES.glob("*.json"))
REFUSED = {
    "cr3_63": r"CR3 = 0x8\w* sets bit 63; it is no part of the register",
    "cr4_junk": r"CR4 = 0x1000000000000020 sets bit 60, which isn't known",
}


def record(outcome):
    match outcome:
        case Translation():
            return OutcomeRecord(outcome="ok", pa=outcome.pa, entries=dict(outcome.entries))
        case PageFault():
            return OutcomeRecord(
                outcome="page_fault",
                error_code=outcome.error_code,
                cr2=outcome.cr2,
                entries=dict(outcome.entries),
            )
        case _:
            return OutcomeRecord(outcome="general_protection")


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_rule_is_predicted_as_the_manual_has_it(path):
    case = load_case(path)
    accesses = [
        Access(probe.va, AccessType[probe.access.upper()], probe.cpl, probe.ac)
        for probe in case.probes
    ]
    many = translate_many(case.memory(), case.context(), Accesses.of(accesses))
    for row, (access, probe) in enumerate(zip(accesses, case.probes, strict=True)):
        assert probe.predicted == record(translate(case.memory(), case.context(), access))
        assert probe.predicted == record(many[row])
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
        access = Access(probe.va, AccessType[probe.access.upper()], probe.cpl, probe.ac)
        context = type(case)(cpu=plain, ram=case.ram).context()
        assert probe.predicted != record(translate(case.memory(), context, access))
