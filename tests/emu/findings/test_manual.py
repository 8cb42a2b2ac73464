"""Every rule that a signature can name has its sections in the manuals, or is said to have none."""

import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from crosswalk.emu.check.compare import Divergence
from crosswalk.emu.findings.findings import WRITABLE
from crosswalk.emu.findings.manual import EDITIONS, manual_of
from crosswalk.emu.findings.signature import (
    failed_signature,
    failure_signature,
    lost_signature,
    signature_of,
)
from crosswalk.emu.fuzz.campaign.reduce_findings import REDUCIBLE, SHOWN
from crosswalk.emu.fuzz.campaign.run import TRIED
from crosswalk.emu.fuzz.generate import generate
from crosswalk.emu.probe.composites import NAMES
from crosswalk.emu.targets import Capability
from crosswalk.emu.workers.sandbox import Failure, NoAnswer
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.context import PagingMode
from crosswalk.walker.outcome import Translation
from crosswalk.walker.rights import Rights
from crosswalk.walker.translate import walk_access
from tests.emu.seeded_tables import seeded_tables
from tests.tables import LEGACY, RW, US, XD

MANUALS = Path(__file__).parents[3] / "docs" / "manuals.md"

CLAIMS = [
    frozenset({Capability.LEAVES, Capability.FLAGS}),
    frozenset({Capability.TRANSLATION}),
    frozenset({Capability.RIGHTS}),
    frozenset(Capability),
]
OF_OUTCOMES = [{"outcome"}, {"error_code"}, {"cr2"}, {"entries"}]
OF_PAGES = [{"pa"}, {"size"}, {"flags"}]


def spaces():
    for index in range(6):
        layout = generate(3, index, accesses=256)
        yield layout.memory(), layout.context, layout.accesses
    for seed in range(12):
        yield seeded_tables(seed, 128, *LEGACY, loadable=False)


def rules():
    """The rules of made-up differences: every access's outcome against that of others."""
    for memory, context, accesses in spaces():
        outcomes = translate_many(memory, context, accesses)
        others = outcomes.take(np.random.default_rng(0).permutation(len(accesses)))
        for row in range(len(accesses)):
            access = accesses[row]
            path = walk_access(memory, context, access)
            differs = Divergence(access, others[row], outcomes[row], path)
            fields_of = OF_OUTCOMES if type(others[row]) is type(outcomes[row]) else OF_OUTCOMES[:1]
            fields_of = fields_of + OF_PAGES if path.leaf else fields_of
            for claims, fields in product(CLAIMS, fields_of):
                found = signature_of(context, differs, fields, "peer:it", claims)
                yield context.mode, found.rule
            if path.leaf:
                yield from effective_rules(context, differs)


def effective_rules(context, differs):
    """The rules of a listed page of which one right is wrong."""
    entries = [step.entry for step in differs.walk.steps if step.restricts]
    held = {
        Rights.USER_READ: all(entry & US for entry in entries),
        Rights.SUPERVISOR_WRITE: all(entry & RW for entry in entries),
        Rights.SUPERVISOR_EXECUTE: not any(entry & XD for entry in entries),
    }
    rights = sum((right for right, has in held.items() if has), Rights(0))
    for right in held:
        said, truth = (Translation(0, rights=Rights(each)) for each in (rights ^ right, rights))
        unlike = replace(differs, predicted=said, observed=truth)
        yield context.mode, signature_of(context, unlike, {"effective"}, "peer:it").rule


@pytest.fixture(scope="module")
def seen():
    return set(rules())


def test_each_rule_of_a_signature_has_its_sections(seen):
    unknown = sorted({rule for mode, rule in seen if manual_of(rule, mode) is None})
    assert [] == unknown


@pytest.mark.parametrize(
    "family",
    [
        "canonical addresses", "reserved in a", "a table outside RAM", "P of a", "R/W of", "U/S of",
        "XD of", "SMEP", "SMAP", "protection key", "CR2 of", "A of", "D of", "size of",
        "address of", "flags of", "effective U/S", "effective R/W", "effective XD",
        "P in the error code",
        "read of a",
        "a PDPTE with reserved bits, loaded",
    ],
)  # fmt: skip
def test_the_rules_that_were_made_up_are_of_all_families(seen, family):
    assert any(rule.startswith(family) for _, rule in seen)


@pytest.mark.parametrize(
    "signature",
    [
        failure_signature("it", NoAnswer(Failure.CRASH, "raised ValueError", "at 1")),
        lost_signature("hang"),
        *(failed_signature(due, "ValueError") for due in (WRITABLE, REDUCIBLE, SHOWN, TRIED)),
        failed_signature("a layout that can be made", "ValueError"),
    ],
    ids=lambda signature: signature.rule,
)
def test_what_a_program_owes_is_in_no_manual(signature):
    assert () == manual_of(signature.rule, PagingMode.LEVEL4)


@pytest.mark.parametrize("name", NAMES)
def test_composites_have_their_sections(name):
    for rule in (name, f"{name}: address, CR2, A or D"):
        assert manual_of(rule, PagingMode.LEVEL4)


def test_a_rule_that_nobody_knows_is_told_apart_from_one_of_no_manual():
    assert None is manual_of("a rule of nobody's", PagingMode.LEVEL4)
    assert () == manual_of("a table outside RAM, PT", PagingMode.LEVEL4)


@pytest.mark.parametrize(
    ("rule", "mode", "titles"),
    [
        ("reserved in a PDE: PS", PagingMode.PAE, ["PAE Paging", "Legacy-Mode Page Translation"]),
        ("reserved in a PDE: bit 21", PagingMode.BIT32, ["32-Bit Paging"]),
        (
            "P of a PML4E",
            PagingMode.LEVEL5,
            [
                "Linear-Address Translation with 4-Level Paging and 5-Level Paging",
                "Long-Mode Page Translation",
            ],
        ),
        ("protection key of a 4-KiB page, write", PagingMode.LEVEL4, ["Protection Keys"]),
        ("R/W of a PDE", PagingMode.LEVEL4, ["Determination of Access Rights"]),
        ("R/W, U/S at once", PagingMode.LEVEL4, ["Determination of Access Rights"]),
        ("W/R in the error code of a write", PagingMode.LEVEL4, ["Page-Fault Error Code"]),
        ("A of a leaf, D of a leaf", PagingMode.LEVEL4, ["Accessed and Dirty Flags"]),
        ("A of a table's entry by a fault", PagingMode.LEVEL4, ["Accessed and Dirty Flags"]),
    ],
)
def test_sections_are_those_of_the_rule_and_of_the_mode(rule, mode, titles):
    text = "; ".join(manual_of(rule, mode))
    for title in titles:
        assert f'"{title}"' in text


def test_all_sections_are_on_the_page_of_the_manuals(seen):
    texts = {text for mode, rule in seen for text in manual_of(rule, mode)}
    assert len(texts) > 10
    page = MANUALS.read_text("utf-8").splitlines()
    for text in texts:
        manual, _, title = text.removesuffix('"').partition(', "')
        assert f"### {manual}" in page
        assert f"- {title}" in page


def test_the_editions_are_those_of_the_page_of_the_manuals():
    page = re.sub(r"\s+", " ", MANUALS.read_text("utf-8"))
    for words in ("June 2026", "revision 3.44", "March 2026"):
        assert words in page
        assert words in EDITIONS
