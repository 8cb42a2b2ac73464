import json

import pytest

from crosswalk.emu.check.composites import CompositeChecker
from crosswalk.emu.report.composites import (
    composite_case,
    composite_lines,
    dump_composite,
    load_composite,
    parse_composite,
)
from crosswalk.walker.errors import BadInput
from tests.emu.case_files import KNOWN_CASES
from tests.emu.composites import composite
from tests.tables import KIB4, USED, PageTables, context

VA = 0x40_0000
RAM = ((0, 1 << 26),)
TWICE = composite("twice:read+write", VA, 3, then=(0, True), pkru=0x8)


def case_of(one):
    builder = PageTables(ram=RAM).map(VA, 0x8000, USED, upper=USED)
    builder.map(VA + KIB4, 0x9000, USED, upper=USED)
    return composite_case(context(pke=True), RAM, builder.words, one)


@pytest.mark.parametrize(
    "one", [TWICE, composite("cross:read", VA + 0xFFC), composite("rmw:xadd", VA, ac=True)]
)
def test_a_case_is_read_as_it_was_written(one):
    case = case_of(one)
    data = dump_composite(case)
    again = parse_composite(data, "it")
    assert case.case == again.case
    assert data == dump_composite(again)
    assert one.then_pkru.tolist() == again.composite.then_pkru.tolist()
    assert case.access == again.access


def test_a_file_of_another_format_is_none_of_these():
    assert None is load_composite(next(KNOWN_CASES.iterdir()))
    assert None is parse_composite(b"\x7fELF", "it")
    assert None is parse_composite(b"[]", "it")


def changed(change):
    document = json.loads(dump_composite(case_of(TWICE)))
    change(document)
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda it: it.update(more=1), "more"),
        (lambda it: it.update(access="rmw:foo"), "is none of rmw:xadd"),
        (lambda it: it.update(access="rmw:xadd"), "not for rmw:xadd"),
        (lambda it: it.pop("then"), "there for two accesses"),
        (lambda it: it["then"].update(pkru="0x100000000"), "32 bits"),
        (lambda it: it.update(va=5), "va"),
        (lambda it: it.update(cpl=1), "cpl"),
        (lambda it: it["case"].update(ram=[]), "case"),
        (lambda it: it.pop("case"), "required field"),
        (lambda it: it["case"]["cpu"].update(efer="0x0"), "5-level paging, not PAE paging"),
    ],
)
def test_a_wrong_case_is_refused_in_one_line(change, message):
    with pytest.raises(BadInput, match=message) as caught:
        parse_composite(changed(change), "it")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("it: ")


def test_a_composite_is_told_in_words():
    case = case_of(TWICE)
    judged = CompositeChecker().judge(case.case.memory(), case.case.context(), case.composite)
    text = "\n".join(composite_lines("it", case, judged))
    assert "twice:read+write at 0x400000, CPL 3, then CPL 0, AC set, PKRU 0x8" in text
    assert "predicted: ok, pa 0x8000 then ok, pa 0x8000" in text
    assert "PTE[0]" in text


def test_both_pages_and_all_that_may_happen_are_told():
    builder = PageTables(ram=RAM).map(VA, 0x8000, USED & ~2, upper=USED)
    builder.map(VA + KIB4, 0x9000, USED & ~2, upper=USED)
    case = composite_case(context(), RAM, builder.words, composite("cross:write", VA + 0xFFC))
    judged = CompositeChecker().judge(builder.memory, context(), case.composite)
    text = "\n".join(composite_lines("it", case, judged))
    assert text.startswith("it: agrees: cross:write at 0x400ffc, CPL 0\n")
    assert 2 == text.count("  PTE[")
    assert "predicted: #PF, error code 0x3 (P W/R), CR2 0x400ffc" in text
    assert "or:        #PF, error code 0x3 (P W/R), CR2 0x401000" in text
