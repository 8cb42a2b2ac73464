from dataclasses import replace

import pytest

from crosswalk.emu.findings.cause import cause_of, is_listed, joined, parts_of
from crosswalk.emu.findings.form import form_of
from crosswalk.emu.findings.layout import case_layout
from crosswalk.emu.findings.signature import Signature, failure_signature
from crosswalk.emu.fuzz.executor import Executor
from crosswalk.emu.fuzz.generate import generate
from crosswalk.emu.workers.sandbox import Failure, NoAnswer
from crosswalk.walker.formats import Case, Cpu, Probe
from tests.emu.check.planted_bugs import RIGHTS
from tests.emu.wrong_walkers import LISTS, RIGHT, TRANSLATIONS

WITNESS = "peer:python:mine:f"
ALLOWED = ("allowed", "refused")


def signature(rule, answers=ALLOWED, witness=WITNESS):
    return Signature(witness, rule, *answers)


def rules_of(*rules, answers=ALLOWED):
    """The rules of the causes that findings of these rules have, each with its findings' rules."""
    signatures = [signature(rule, answers) for rule in rules]
    return {
        cause.rule: [each.rule for each in members]
        for cause, members in joined(signatures, lambda each: each)
    }


@pytest.mark.parametrize(
    ("rule", "cause"),
    [
        ("reserved in a PTE: low address bits", "reserved: low address bits"),
        ("reserved in a PDPTE: XD, PS", "reserved: XD, PS"),
        ("a PDPTE with reserved bits, loaded", "reserved: a PDPTE, loaded"),
        ("a table outside RAM, PDPT", "a table outside RAM"),
        ("P of a PML5E", "P of an entry"),
        ("R/W of a PTE", "R/W of the leaf"),
        ("R/W of a PDE that maps a page", "R/W of the leaf"),
        ("R/W of a PDE", "R/W above the leaf"),
        ("U/S of a PML5E", "U/S above the leaf"),
        ("XD of several levels", "XD above the leaf"),
        ("XD of several levels, the leaf among them", "XD of the leaf, XD above the leaf"),
        ("R/W, U/S at once", "R/W, U/S at once"),
        ("SMEP", "SMEP"),
        ("effective R/W of a PTE", "effective R/W of the leaf"),
        ("effective U/S of a PML4E", "effective U/S above the leaf"),
        ("effective XD of a 2-MiB page", "effective XD of a page"),
        ("protection key of a 2-MiB page, write", "protection key of a page, write"),
        ("read of a 1-GiB page that withholds nothing", "read of a page that withholds nothing"),
        ("flags of a 4-KiB page", "flags of a page"),
        ("a 4-KiB page that is there", "a 4-KiB page that is there"),
        ("a 1-GiB page that is there", "a large page that is there"),
        ("address of a 4-MiB page", "address of a large page"),
        ("address of a 4-KiB page", "address of a 4-KiB page"),
        ("CR2 of a fault at a PDE", "CR2 of a fault"),
        ("canonical addresses", "canonical addresses"),
        ("address bits that LAM ignores", "address bits that LAM ignores"),
        ("P in the error code at an absent entry", "P in the error code at an absent entry"),
    ],
)  # fmt: skip
def test_a_cause_has_neither_level_nor_page_size(rule, cause):
    found = cause_of(signature(rule))
    assert (WITNESS, cause, *ALLOWED) == (found.witness, found.rule, found.said, found.truth)
    assert f"{cause}: says allowed, it is refused" == str(found)


@pytest.mark.parametrize(
    ("rule", "answers", "cause", "said"),
    [
        ("W/R U/S in the error code of a write", ("none", "W/R U/S"),
         "W/R U/S in the error code", ("clear", "set")),
        ("W/R U/S in the error code of an execute", ("none", "W/R U/S"),
         "W/R U/S in the error code", ("clear", "set")),
        ("U/S in the error code of a read", ("U/S", "none"),
         "U/S in the error code", ("set", "clear")),
        ("A of a leaf, D of a leaf by a fault", ("otherwise", "set: A of a leaf, D of a leaf"),
         "A of the leaf, D of the leaf by a fault", ("clear", "set")),
        ("A of a leaf, D of a leaf", ("set: D of a leaf", "set: A of a leaf"),
         "A of the leaf, D of the leaf", ("set: D of a leaf", "set: A of a leaf")),
    ],
)  # fmt: skip
def test_answers_that_are_sets_of_bits_are_set_or_clear(rule, answers, cause, said):
    found = cause_of(signature(rule, answers))
    assert (cause, *said) == (found.rule, found.said, found.truth)


def test_a_failure_is_a_cause_of_its_own_and_names_no_walker():
    failure = failure_signature("python:mine:f", NoAnswer(Failure.HANG, "to answer", "why"))
    assert "an answer within the limits is due: hang, to answer" == str(cause_of(failure))


def test_levels_and_sizes_of_one_rule_are_one_finding():
    kinds = [f"reserved in a {entry}: PS" for entry in ("PML4E", "PML5E", "PDPTE")]
    other = "reserved in a PTE: XD"
    assert {"reserved: PS": kinds, "reserved: XD": [other]} == rules_of(*kinds, other)


def test_what_breaks_two_rules_goes_to_the_one_that_is_broken_alone():
    one, other = "reserved in a PTE: XD", "reserved in a PDE: low address bits"
    both = "reserved in a PDE: XD, low address bits"
    assert {"reserved: XD": [one, both], "reserved: low address bits": [other]} == rules_of(
        both, one, other
    ) | {"reserved: XD": [one, both]}
    assert {"reserved: low address bits": [both, other]} == rules_of(both, other)
    assert {"reserved: XD, low address bits": [both]} == rules_of(both)


def test_who_has_three_kinds_of_reserved_bits_wrong_looks_at_none():
    rules = [f"reserved in a PDE: {kind}" for kind in ("XD", "PS", "low address bits")]
    both = "reserved in a PDPTE: XD, PS"
    assert {"reserved: PS, XD, low address bits": [*rules, both]} == rules_of(*rules, both)
    assert {"reserved: XD": [rules[0], both], "reserved: PS": [rules[1]]} == rules_of(
        *rules[:2], both
    )


def test_other_answers_and_other_witnesses_are_other_causes():
    rule = "reserved in a PTE: XD"
    signatures = [
        signature(rule),
        signature(rule, ("refused", "allowed")),
        signature(rule, witness="walker"),
        signature("reserved in a PDE: XD, PS", ("RSVD", "no RSVD")),
    ]
    assert [[each] for each in signatures] == [
        members for _, members in joined(signatures, lambda each: each)
    ]


def test_a_right_that_counts_nowhere_is_one_finding_and_one_of_the_leaf_another():
    leaf, above = (
        ["R/W of a PTE", "R/W of a PDPTE that maps a page"],
        ["R/W of a PML4E", "R/W of a PDE"],
    )
    many = "R/W of several levels, the leaf among them"
    assert {"R/W of the leaf": leaf} == rules_of(*leaf)
    assert {"R/W above the leaf": above} == rules_of(*above)
    assert {"R/W of any entry": [*above, many, *leaf]} == rules_of(*above, many, *leaf)
    assert {"R/W above the leaf": [*above, many]} == rules_of(*above, many)


def test_an_a_bit_that_is_never_set_is_one_finding():
    clear = [
        signature(rule, ("otherwise", f"set: {rule.removesuffix(' by a fault')}"))
        for rule in ("A of a leaf", "A of a table's entry", "A of a leaf, A of a table's entry",
                     "A of a leaf by a fault")
    ]  # fmt: skip
    (either, members), (fault, by_fault) = joined(clear, lambda each: each)
    assert ("A of any entry", clear[:3]) == (either.rule, members)
    assert ("A of the leaf by a fault", clear[3:]) == (fault.rule, by_fault)


def test_rights_at_once_go_to_the_right_that_is_missed_alone():
    at_once = "XD, U/S at once"
    assert {"U/S above the leaf": ["U/S of a PDE", at_once]} == rules_of("U/S of a PDE", at_once)
    assert {"SMEP": ["SMEP"], "XD, U/S at once": [at_once]} == rules_of("SMEP", at_once)


def test_a_comma_in_a_name_is_not_taken_for_two_rules():
    rules = [
        "protection key of a 4-KiB page, write",
        "write",
        "an-instruction: address, CR2, A or D",
    ]
    assert {
        "protection key of a page, write": rules[:1],
        "write": ["write"],
        "an-instruction: address, CR2, A or D": rules[2:],
    } == rules_of(*rules)


def test_the_order_of_causes_is_that_of_their_first_findings():
    rules = ["SMEP", "R/W of a PTE", "P of a PDE", "R/W of a PDE that maps a page"]
    assert ["SMEP", "R/W of the leaf", "P of an entry"] == list(rules_of(*rules))
    assert ["P of an entry", "R/W of the leaf", "SMEP"] == list(rules_of(*reversed(rules[:3])))


P, PS, XD, BEYOND, ROOT, DATA = 1, 1 << 7, 1 << 63, 1 << 45, 0x1000, 0x9000
TABLE = 3
RESERVED = {
    # At index 1 to 6 of the PML4, of a PDPT, of a PD and of a PT: entries with reserved bits.
    0x1008: 0x2000 | TABLE | PS,
    0x1010: 0x2000 | TABLE | XD,
    0x1018: 0x2000 | TABLE | BEYOND,
    0x2008: 0x3000 | TABLE | XD,
    0x2010: 0x3000 | TABLE | BEYOND,
    0x2018: 0x2000 | P | PS,
    0x2020: 0x2000 | P | PS | XD,
    0x3008: 0x4000 | TABLE | XD,
    0x3010: 0x4000 | TABLE | BEYOND,
    0x3018: 0x2000 | P | PS,
    0x4008: DATA | P | XD,
    0x4010: DATA | P | BEYOND,
}


def reserved_space():
    """An address space in which every other page has a reserved bit above it or in its entry."""
    entries = {
        0x1000: 0x2000 | TABLE,
        0x2000: 0x3000 | TABLE,
        0x3000: 0x4000 | TABLE,
        0x4000: DATA | P,
    }
    vas = [(pa - ROOT >> 12 ^ 3, pa % 0x1000 // 8) for pa in RESERVED]
    probes = [Probe(va=index << 12 + 9 * level, access="read") for level, index in vas]
    return case_layout(
        Case(
            cpu=Cpu(cr3=ROOT, efer=0x500),
            ram=((0, 1 << 20),),
            entries=entries | RESERVED,
            probes=(Probe(va=0, access="read"), *probes),
        )
    )


@pytest.mark.parametrize("wrong", [TRANSLATIONS[0], LISTS[0]], ids=lambda each: each.claims)
def test_a_walker_that_looks_at_no_reserved_bit_has_one_finding(wrong):
    found = Executor(target=wrong.target()).findings(reserved_space())
    assert len(RESERVED) <= found.divergent
    ((cause, members),) = joined(sorted(found.signatures), lambda each: each)
    assert len(members) == len(found.signatures) >= 9
    kinds = "PS, XD, address bits above MAXPHYADDR, low address bits"
    assert f"reserved: {kinds}: says mapped, it is not mapped" == str(cause)


@pytest.mark.parametrize("right", RIGHT, ids=lambda each: each.claims)
def test_the_walker_that_has_nothing_wrong_has_no_finding(right):
    executor = Executor(target=right.target())
    for layout in (reserved_space(), generate(3, 1, accesses=256)):
        assert (0, set()) == (
            executor.findings(layout).divergent,
            executor.findings(layout).signatures,
        )


def test_a_bug_whatever_the_level_is_one_finding():
    (bug,) = [bug for bug in RIGHTS if bug.name == "XD not inherited"]
    executor = Executor(predict=bug.predict)
    found = {
        signature
        for index in range(6)
        for signature in executor.findings(generate(3, index, accesses=512)).signatures
        if signature.witness == "walker"
    }
    assert len(found) >= 3
    assert ["XD above the leaf"] == [
        cause.rule for cause, _ in joined(sorted(found), lambda each: each)
    ]


def test_a_baseline_lists_the_rules_that_are_broken_one_by_one():
    both = cause_of(signature("reserved in a PDE: XD, PS"))
    one, other = (f"reserved: {kind}: says allowed, it is refused" for kind in ("PS", "XD"))
    assert (one, other) == both.texts
    assert (True, False) == (is_listed(one, {one}), is_listed(other, {one}))
    at_once = cause_of(signature("R/W, SMAP at once")).texts
    right = str(cause_of(signature("R/W of a PML4E")))
    assert [True, False] == [is_listed(each, {right}) for each in at_once]


def equal_entries(level, flags=7, **probe):
    """A case of a table of equal entries: the PT of 4-KiB pages, or the PD of 2-MiB pages."""
    entries = {0x1000 * number: 0x1000 * (number + 1) | 7 for number in range(1, 5 - level)}
    table, page = 0x1000 * (5 - level), (0x5000 | flags, 0x20_0000 | PS | flags)[level - 1]
    equal = {table + 8 * index: page for index in range(512)}
    asked = {"va": 0, "access": "read", **probe}
    return Case(
        cpu=Cpu(cr3=0x1000), ram=((0, 0x6000),), entries=entries | equal, probes=(Probe(**asked),)
    )


def test_the_form_of_a_case_has_neither_level_nor_size_nor_index():
    small, large = equal_entries(1), equal_entries(2)
    assert form_of(small) == form_of(large)
    assert form_of(small) == form_of(equal_entries(1, va=5 << 12))
    others = [
        equal_entries(1, flags=0x17),
        equal_entries(1, access="write"),
        equal_entries(1, cpl=3),
        equal_entries(1, va=8),
        replace(small, entries={pa: word for pa, word in small.entries.items() if pa < 0x4010}),
        replace(small, entries={**small.entries, 0x1000: 0x2003}),
        replace(small, cpu=replace(small.cpu, cr4=small.cpu.cr4 | 1 << 20)),
        replace(small, cpu=replace(small.cpu, maxphyaddr=52)),
        replace(small, entries={**small.entries, 0x4000: 1 << 36 | 7}),
    ]
    forms = [form_of(case) for case in (small, *others)]
    assert len(forms) == len({*forms})
    assert None is form_of(replace(small, probes=small.probes * 2))


def test_reserved_bits_of_different_kinds_have_different_forms():
    def case(*words):
        entries = {0x1000 * (at + 1): word for at, word in enumerate(words)}
        return Case(cpu=Cpu(cr3=0x1000), ram=((0, 0x6000),), entries=entries,
                    probes=(Probe(va=0, access="read"),))  # fmt: skip

    low, high = (case(0x2007, 0x3007, 7 | PS | bit) for bit in (1 << 13, BEYOND))
    others = [
        case(0x2007, 0x3007, 0x4007, 1 << 45 | 7),
        case(0x2007, 0x3007, 0x1087 | BEYOND | 1 << 13),
    ]
    assert 4 == len({form_of(each) for each in (low, high, *others)})
    assert form_of(low) == form_of(case(0x2007, 0x4000_4087))
    assert form_of(others[0]) == form_of(case(0x2007, 0x2007 | BEYOND))


def test_rules_whose_smallest_cases_have_one_form_have_one_cause():
    small, large = "a 4-KiB page that is there", "a 2-MiB page that is there"
    signatures = [signature(small), signature(large)]
    cases = {small: equal_entries(1), large: equal_entries(2)}

    def causes(**changed):
        return joined(
            signatures, lambda each: each, lambda each: form_of({**cases, **changed}[each.rule])
        )

    assert 2 == len(joined(signatures, lambda each: each))
    ((cause, members),) = causes()
    assert (small, signatures) == (cause.rule, members)
    assert 2 == len(causes(**{large: equal_entries(2, access="write")}))
    other = [signature(small), signature(large, ("refused", "allowed"))]
    assert 2 == len(joined(other, lambda each: each, lambda each: form_of(cases[each.rule])))


@pytest.mark.parametrize("access", ["a read", "a write", "an execute"])
def test_the_rules_of_an_error_code_are_told_apart_whatever_the_access(access):
    rule = f"W/R U/S in the error code of {access}"
    found = parts_of(Signature("peer:it", rule, "none", "W/R U/S"))
    names = {f"{bit} in the error code of {access}" for bit in ("W/R", "U/S")}
    assert names == {part.rule for part in found}
