import pytest

from crosswalk.emu.findings.signature import Signature, lost_signature
from crosswalk.emu.fuzz.campaign import Plan
from crosswalk.emu.fuzz.coverage import CoverageMap
from crosswalk.emu.fuzz.executor import Executor
from crosswalk.emu.fuzz.generate import generate
from tests.emu.fuzz.hunted_bugs import HUNTED


def signatures(bug, seeds=range(3), accesses=512):
    executor = Executor(predict=bug.predict)
    return {
        signature
        for seed in seeds
        for signature in executor.findings(
            Plan(seed=seed, accesses=accesses).layout(1, CoverageMap().pack())
        ).signatures
    }


def bug_named(name):
    (bug,) = [bug for bug in HUNTED if bug.name == name]
    return bug


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("SMAP ignored", {"SMAP"}),
        ("canonical not checked", {"canonical addresses"}),
        ("offset in a 2-MiB page lost", {"address of a 2-MiB page"}),
        ("R/W of a PTE ignored", {"R/W of a PTE"}),
        (
            "low address bits of a large page not reserved",
            {"reserved in a PDE: low address bits", "reserved in a PDPTE: low address bits"},
        ),
    ],
)
def test_a_bug_is_named_by_its_rule_whatever_the_addresses(name, rules):
    found = {signature.rule for signature in signatures(bug_named(name), range(8))}
    assert found
    assert found <= rules
    assert {"walker"} == {each.witness for each in signatures(bug_named(name), range(8))}


def test_without_a_bug_there_is_no_signature():
    executor = Executor()
    assert set() == executor.findings(generate(0, 1, accesses=512)).signatures


def test_a_slug_is_a_file_name_of_its_own():
    one = Signature("walker", "R/W of a PDE, PTE: and more", "ok", "#PF")
    assert one.slug.startswith("r-w-of-a-pde-pte-and-more-")
    others = [
        Signature("peer:x", one.rule, "ok", "#PF"),
        Signature("walker", one.rule, "ok", "#GP"),
        Signature("walker", one.rule, "#PF", "#PF"),
        Signature("walker", "R/W of a PDE, PTE: and less", "ok", "#PF"),
    ]
    slugs = {each.slug for each in (one, *others)}
    assert 5 == len(slugs)
    assert all(len(slug) < 64 and "/" not in slug and slug.islower() for slug in slugs)
    assert one.slug == Signature("walker", one.rule, "ok", "#PF").slug


def test_what_is_lost_is_told_apart_by_how_and_not_by_its_numbers():
    same = [lost_signature("error", f"no outcome at {at:#x}, {at} times") for at in (1, 0xABC)]
    assert same[0] == same[1]
    others = [lost_signature(how) for how in ("hang", "crash, SIGSEGV", "crash, SIGABRT")]
    assert 4 == len({each.slug for each in (same[0], *others)})
    assert (True, False) == (
        Signature("peer:x", "r", "s", "t").of_target, others[0].of_target,
    )  # fmt: skip
