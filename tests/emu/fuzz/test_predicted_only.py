"""What the emulated CPU lacks: counted apart, held against intentions, never an agreement."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.findings.findings import INTENDED, SECOND_WALK
from crosswalk.emu.findings.layout import case_layout
from crosswalk.emu.fuzz.executor import Executor
from crosswalk.emu.fuzz.generate import control, generate
from crosswalk.emu.targets import Capability
from crosswalk.emu.targets.answers import Answers, Given, Listed, Listing
from crosswalk.emu.targets.mapping_lists import ranges_of
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Kind
from crosswalk.walker.context import Vendor
from crosswalk.walker.outcome import Translation

FEATURES = {"LAM", "UAI", "LASS", "wide", "PKS"}


@pytest.fixture
def strange(monkeypatch):
    """Layouts that all have something that the emulated CPU lacks, or an encryption mask."""
    monkeypatch.setattr(control, "NOT_EMULATED", 1.0)
    return [generate(5, index, accesses=512) for index in range(40)]


def test_one_layout_in_25_has_something_that_the_emulated_cpu_lacks():
    contexts = [generate(3, index, accesses=16).context for index in range(600)]
    strange = [
        bool(
            each.encryption_mask or each.lam_user or each.lam_supervisor or each.uai or each.lass
            or each.maxphyaddr in {42, 48}
        )
        for each in contexts
    ]  # fmt: skip
    assert 0.02 < sum(strange) / len(strange) < 0.06


def test_everything_is_drawn_and_what_is_drawn_is_agreed_upon_or_predicted(strange):
    executor, predicted, masked = Executor(), Counter(), 0
    for layout in strange:
        tried = executor.run(lambda layout=layout: layout)
        assert () == tried.findings
        assert len(layout.accesses) == tried.probes + tried.predicted_only.total()
        assert tried.probes == tried.agreements + tried.divergent + tried.known.total()
        predicted += tried.predicted_only
        masked += tried.masked
    assert FEATURES == set(predicted)
    assert masked > 500
    assert {*Vendor} == {layout.context.vendor for layout in strange}


def below_2_to_the_40(*given):
    outcomes = translate_many(*given)
    return replace(outcomes, pa=outcomes.pa & np.uint64((1 << 40) - 1))


def test_a_walker_that_is_wrong_where_nobody_can_look_is_contradicted_by_the_intention(strange):
    executor = Executor(below_2_to_the_40)
    wide = [layout for layout in strange if layout.context.maxphyaddr > 40]
    tried = [executor.run(lambda layout=layout: layout) for layout in wide]
    found = [each for one in tried for each in one.findings]
    assert {INTENDED, SECOND_WALK} == {each.signature.witness for each in found}
    right = [Executor().run(lambda layout=layout: layout) for layout in wide]
    for one, other in zip(tried, right, strict=True):
        disputed = other.predicted_only.total() - one.predicted_only.total()
        assert disputed <= one.divergent <= 2 * disputed
        assert one.agreements == other.agreements
        assert one.probes == one.agreements + one.divergent + one.known.total()
    for each in found:
        (probe,) = each.case.probes
        assert (None, None) == (probe.predicted, probe.observed)
        # What was meant is known to the layout alone; the second walk is asked again.
        again = {one.witness for one in executor.findings(case_layout(each.case)).signatures}
        assert (
            again == {SECOND_WALK} & {each.signature.witness} or INTENDED == each.signature.witness
        )


def ignoring(layout, name):
    """A walker without one feature: what it says with the bits in question clear."""
    context = layout.context
    plain = replace(
        context,
        cr3=context.cr3 & ~(3 << 61 if name == "LAM" else 0),
        cr4=context.cr4 & ~{"LAM": 1 << 28, "LASS": 1 << 27, "PKS": 1 << 24}.get(name, 0),
        efer=context.efer & ~(1 << 20 if name == "UAI" else 0),
    )
    return translate_many(layout.memory(), plain, layout.accesses)


@pytest.mark.parametrize("name", ["LAM", "UAI", "LASS", "PKS"])
def test_a_walker_without_the_feature_is_contradicted_by_the_intention(strange, name):
    contradicted = 0
    for layout in strange:
        executor = Executor(lambda *_, layout=layout: ignoring(layout, name))
        found = executor.findings(layout)
        assert {INTENDED, SECOND_WALK} >= {each.witness for each in found.signatures}
        contradicted += sum(
            each.count for each in found.all() if each.signature.witness == INTENDED
        )
    assert contradicted > 20


def test_intentions_of_every_kind_are_noted_under_each_feature(strange):
    kinds = {Kind.OK: 0, Kind.PAGE_FAULT: 0, Kind.GENERAL_PROTECTION: 0}
    for layout in strange:
        outcomes = translate_many(layout.memory(), layout.context, layout.accesses)
        for kind in kinds:
            kinds[kind] += int((outcomes.kind == kind).sum())
    assert min(kinds.values()) > 100


class Lister:
    """Lists pages that aren't there, beside the one access."""

    name, claims = "lister", frozenset({Capability.LEAVES})

    def answer(self, memory, context, accesses):
        ranges = ranges_of(memory, context, accesses)
        va = ranges.first[:1] + np.array([7, 9, 11], np.uint64) * np.uint64(4096)
        size = np.full(3, 4096, np.uint64)
        given = np.full(3, Given.PA, np.uint8)
        listed = Listed(va, va, size, np.zeros(3, np.uint64), np.zeros(3, np.uint8), given)
        listing = Listing(ranges, listed, np.zeros(3, np.int64), np.zeros(len(ranges), np.bool_))
        return replace(Answers.none(len(accesses)), listing=listing)


def test_what_a_walker_lists_beside_the_accesses_is_no_row_of_them():
    layout = generate(0, 1, accesses=96)
    one = slice(0, 1)
    layout = replace(layout, accesses=layout.accesses.take(one), intended=layout.intended.take(one))
    found = Executor(target=Lister()).findings(layout)
    assert found.divergent > 1
    for each in found.all():
        (probe,) = each.case.probes
        assert each.row == 0 or None is probe.observed
        # What the list says is kept: where it leads, and in words how large the page is.
        listed = isinstance(probe.predicted, Translation)
        assert ("mapped" if listed else "not mapped") == each.signature.said
        wanted = f"mapped, pa {probe.predicted.pa:#x}, a page of 4 KiB" if listed else ""
        assert wanted == each.answer
