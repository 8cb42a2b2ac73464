from dataclasses import replace

import pytest

from crosswalk.emu.targets.capabilities import Capability
from crosswalk.emu.targets.registry import open_target
from crosswalk.walker.columns import Kind
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import load_case
from crosswalk.walker.outcome import GeneralProtection, PageFault, Translation
from tests.emu.case_files import CASES as ALL_CASES
from tests.emu.cli.running import crosswalk
from tests.emu.targets.walkers import HOLE, LARGE, PAGE, READ_ONLY, answers, reads

CASES = ALL_CASES / "volatility3"

WRONG = {
    "equal-entries": ("a 4-KiB page that is there", "not mapped", None, Translation(0x5000)),
    "pml4e-ps": ("reserved in a PML4E: PS", "mapped", 0x5000, PageFault(0x9, 0)),
    "bit-51": (
        "reserved in a PTE: address bits above MAXPHYADDR",
        "mapped",
        0x8_0000_0000_5000,
        PageFault(0x9, 0),
    ),
    "not-canonical": ("canonical addresses", "mapped", 0x5000, GeneralProtection()),
    "large-page-above-4-gib": (
        "address of a 4-MiB page",
        "another",
        0x2000,
        Translation(0x1_0000_0000),
    ),
    "pse-clear": ("address of a 4-KiB page", "another", 0x2000, Translation(0x5000)),
}
"""By its own source and the manuals: the rule, what it says, where to, and what is true."""


def test_it_translates_pages_of_each_size_and_knows_no_rights():
    said = answers("volatility3", reads(PAGE, READ_ONLY + 5, LARGE + 0x12345, HOLE))
    assert [Kind.OK, Kind.OK, Kind.OK, Kind.PAGE_FAULT] == said.outcomes.kind.tolist()
    assert [0x20_0000, 0x20_1005, 0x61_2345, 0] == said.outcomes.pa.tolist()
    assert not said.silent.any()


def test_it_says_nothing_of_five_levels():
    assert answers("volatility3", reads(PAGE), levels=5).silent.all()


def test_it_claims_translation_and_can_claim_no_more():
    target = open_target("volatility3")
    assert {Capability.TRANSLATION} == target.claims
    target.close()
    with pytest.raises(BadInput, match="volatility3 answers translation only"):
        open_target("volatility3", claims="rights")


def test_every_case_of_it_is_here():
    assert sorted(WRONG) == sorted(path.stem for path in CASES.iterdir())


@pytest.mark.parametrize("name", sorted(WRONG))
def test_a_case_that_it_gets_wrong_shows_it(name, capfd):
    path = CASES / f"{name}.json"
    rule, said, *_ = WRONG[name]
    ran = crosswalk(capfd, "replay", path, "--walker", "volatility3")
    assert 1 == ran.status
    truth = {"not mapped": "mapped", "mapped": "not mapped", "another": "this"}[said]
    assert f"  rule:      {rule}: says {said}, it is {truth}" in ran.out.splitlines()
    assert (
        path.read_text()
        == crosswalk(capfd, "replay", path, "--walker", "volatility3", "--json").out
    )


@pytest.mark.parametrize("name", sorted(WRONG))
def test_a_case_says_what_it_says_and_what_is_observed(name):
    (probe,) = load_case(CASES / f"{name}.json").probes
    _, _, pa, truth = WRONG[name]
    assert pa == getattr(probe.predicted, "pa", None)
    assert (PageFault if pa is None else Translation) is type(probe.predicted)
    assert replace(truth, entries=probe.observed.entries) == probe.observed


@pytest.mark.parametrize("name", sorted(WRONG))
@pytest.mark.parametrize("walker", ["bulk", "translate", "walk"])
def test_the_built_in_walkers_get_the_cases_right(walker, name, capfd):
    ran = crosswalk(capfd, "replay", CASES / f"{name}.json", "--walker", walker)
    assert 0 == ran.status


@pytest.mark.fuzz
def test_the_fuzzer_finds_all_that_is_known_of_it(capfd, tmp_path):
    ran = crosswalk(
        capfd, "fuzz", "--walker", "volatility3", "--cases", 64, "--jobs", 2, "--json",
        "--corpus", tmp_path / "corpus", "--no-reduce",
    )  # fmt: skip
    assert 1 == ran.status
    found = {
        variant["signature"]: variant
        for finding in ran.document["findings"]
        for variant in finding["variants"]
    }
    for rule, said, *_ in WRONG.values():
        (signature,) = (each for each in found if each.startswith(f"{rule}: peer:volatility3"))
        assert f"says {said}, it is" in signature
        shown = crosswalk(capfd, "replay", found[signature]["case"], "--walker", "volatility3")
        assert 1 == shown.status
        assert f"  rule:      {rule}: says {said}" in shown.out


def test_it_says_nothing_under_an_encryption_mask():
    assert answers("volatility3", reads(PAGE), encryption_mask=1 << 47).silent.all()
