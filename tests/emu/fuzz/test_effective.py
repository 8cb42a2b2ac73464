"""A walker that states the leaf's rights for those of all levels, as `fuzz` finds it."""

from dataclasses import replace

import pytest

from crosswalk.emu.findings.cause import cause_of
from crosswalk.emu.findings.findings import EXPLAINED
from crosswalk.emu.findings.layout import case_layout
from crosswalk.emu.findings.manual import manual_of
from crosswalk.emu.fuzz.executor import Executor
from crosswalk.emu.fuzz.generate import generate
from crosswalk.emu.targets import judge as judging
from crosswalk.emu.targets.registry import BUILTIN
from crosswalk.walker.bulk import grants_of
from crosswalk.walker.context import PagingMode
from crosswalk.walker.leaves import walk_leaves


class OfTheLeaf:
    """The built-in list, with the rights of each mapping's own entry."""

    name, claims, modes = "of the leaf", BUILTIN["walk"].claims, None

    def answer(self, memory, context, accesses):
        answers = BUILTIN["walk"].answer(memory, context, accesses)
        listing, columns = answers.listing, []
        for first, last in zip(listing.ranges.first, listing.ranges.last, strict=True):
            for leaves in walk_leaves(memory, context, int(first), int(last) + 1):
                columns += grants_of(leaves.entry).tolist()
        rights = listing.mappings.rights.copy()
        rights[:] = columns
        mappings = replace(listing.mappings, rights=rights)
        return replace(answers, listing=replace(listing, mappings=mappings))


def found(target, count=4):
    """The findings about a walker in the first layouts of a seed, by signature."""
    executor = Executor(target=target)
    layouts = [generate(0, index, accesses=96) for index in range(count)]
    return [
        (each.signature, each.case)
        for layout in layouts
        for each in executor.findings(layout).all()
        if each.signature.of_target
    ]


def test_rights_of_the_leaf_alone_are_found_by_the_entry_that_withholds_them():
    findings = found(OfTheLeaf())
    causes = {str(cause_of(signature)) for signature, _ in findings}
    assert {
        f"effective {right} above the leaf: says granted, it is withheld"
        for right in ("U/S", "R/W", "XD")
    } == causes
    assert all(manual_of(signature.rule, PagingMode.LEVEL4) for signature, _ in findings)
    assert [] == found(BUILTIN["walk"])


def test_a_case_of_effective_rights_shows_them_again():
    executor = Executor(target=OfTheLeaf())
    for signature, case in found(OfTheLeaf(), 2):
        assert signature in executor.findings(case_layout(case)).signatures


def test_truth_that_does_not_explain_the_cpu_is_a_finding_about_crosswalk(monkeypatch):
    def listed(*asked):
        true = true_listing(*asked)
        return replace(true, mappings=replace(true.mappings, rights=true.mappings.rights ^ 1))

    true_listing = judging.true_listing
    monkeypatch.setattr(judging, "true_listing", listed)
    signatures = Executor(target=BUILTIN["walk"]).findings(generate(0, 1, accesses=96)).signatures
    (signature,) = signatures
    assert ("crosswalk", EXPLAINED) == (signature.witness, signature.rule)


@pytest.mark.parametrize("claims", ["leaves", "effective"])
def test_every_access_is_counted_by_claim(claims):
    layout = generate(0, 1, accesses=96)
    result = Executor(target=BUILTIN["walk"]).run(lambda: layout)
    counts = result.tally.record()["claims"][claims]
    assert 0 < counts["answered"] == counts["asked"] <= len(layout.accesses)
