from dataclasses import replace

import pytest

from crosswalk.emu.check.compare import Divergence
from crosswalk.emu.findings.cause import cause_of
from crosswalk.emu.findings.manual import manual_of
from crosswalk.emu.findings.signature import Signature, lost_signature, signature_of
from crosswalk.emu.fuzz.campaign import Plan
from crosswalk.emu.fuzz.coverage import CoverageMap
from crosswalk.emu.fuzz.executor import Executor
from crosswalk.emu.fuzz.generate import generate
from crosswalk.walker import Access, PagingMode, Translation, translate
from crosswalk.walker.translate import walk_access
from tests.emu.fuzz.hunted_bugs import HUNTED
from tests.tables import OPEN, PS, READ, A, D, PageTables, context


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


VA = 0x40_0000
OF_PDPTES, MORE = "bit 5 of a PDPTE of PAE paging", "more than A and D"


def marks(mode, said, truth, flags=OPEN):
    """The signature of two answers to a read, by what each sets of the entries from the root."""
    tables = PageTables(mode).map(VA, 0x8000, flags)
    asked, access = context(mode), Access(VA, READ)
    path = walk_access(tables.memory, asked, access)
    outcome = translate(tables.memory, asked, access)

    def answer(bits):
        steps = zip(path.steps, bits, strict=True)
        changed = tuple((step.pa, step.entry | more) for step, more in steps if more)
        return replace(outcome, entries=changed)

    unlike = Divergence(access, answer(said), answer(truth), path)
    return signature_of(asked, unlike, {"entries"}, "judge:it")


@pytest.mark.parametrize(
    ("mode", "said", "truth", "words"),
    [
        ("PAE", (A, A, A), (0, A, A), (OF_PDPTES, "set", "left as it was")),
        ("PAE", (0, A, A), (A, A, A), (OF_PDPTES, "left as it was", "set")),
        ("PAE", (D, A, A), (0, A, A), (MORE, f"set: {MORE}", "otherwise")),
        (
            "PAE",
            (A, A, 0),
            (0, A, A),
            (f"A of the leaf, {OF_PDPTES}", f"set: {OF_PDPTES}", "set: A of a leaf"),
        ),
        (4, (A, 0, A, A), (A, A, A, A), ("A above the leaf", "clear", "set")),
        (4, (A, A, A, A), (A, A, A, 0), ("A of the leaf", "set", "clear")),
        (
            4,
            (A, 0, 0, 0),
            (0, A, 0, 0),
            ("A above the leaf", "set in another entry", "set in this one"),
        ),
        (4, (A, A, A, PS), (A, A, A, 0), (MORE, f"set: {MORE}", "otherwise")),
    ],
)
def test_marks_are_told_apart_entry_by_entry(mode, said, truth, words):
    found = cause_of(marks(mode, said, truth))
    assert words == (found.rule, found.said, found.truth)


def test_a_pdpte_of_pae_paging_marked_by_a_fault_has_no_a_bit():
    found = marks("PAE", (A, A, 0), (0, 0, 0), flags=0)
    assert "A of a table's entry, bit 5 of a PDPTE of PAE paging by a fault" == found.rule
    found = marks("PAE", (A, 0, 0), (0, 0, 0), flags=0)
    rule = "bit 5 of a PDPTE of PAE paging by a fault"
    assert f"{rule}: judge:it says set, it is left as it was" == str(found)
    assert manual_of(found.rule, PagingMode.PAE)


def test_equal_marks_beside_the_walk_are_no_part_of_it():
    path = walk_access(PageTables().memory, context(), Access(VA, READ))
    said, truth = (Translation(0, entries=each) for each in (((8, 1), (16, 2)), ((8, 1),)))
    found = signature_of(
        context(), Divergence(Access(VA, READ), said, truth, path), {"entries"}, "it"
    )
    assert "a word beside the walk: it says set: a word beside the walk, it is otherwise" == str(
        found
    )
