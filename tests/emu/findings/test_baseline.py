import json

import pytest

from crosswalk.emu.findings.baseline import Accepted, Muting, read_muting
from crosswalk.emu.findings.cause import parts_of
from crosswalk.emu.findings.signature import Signature
from crosswalk.walker.errors import BadInput

NO, YES = "no RSVD", "RSVD"
XD, HIGH, LOW, BIT8 = (
    f"reserved: {kind}: says no RSVD, it is RSVD"
    for kind in ("XD", "address bits above MAXPHYADDR", "low address bits", "bit 8")
)
KEY = "protection key of a page, read: says ok, it is #PF"


def variant(rule, said=NO, truth=YES):
    return Signature("peer:mine", rule, said, truth)


XD_PTE, XD_PDE = variant("reserved in a PTE: XD"), variant("reserved in a PDE: XD")
HIGH_PTE = variant("reserved in a PTE: address bits above MAXPHYADDR")
KEY_4K = variant("protection key of a 4-KiB page, read", "ok", "#PF")
FOUND = (XD_PTE, XD_PDE, HIGH_PTE, KEY_4K)
AT_ONCE = variant("reserved in a PDE: XD, low address bits")
BOTH = variant("R/W, U/S at once", "allowed", "refused")


def sort(muting, found=FOUND):
    return muting.sort((each, parts_of(each)) for each in found)


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("reserved: *", [KEY_4K]),
        ("RESERVED IN *", [KEY_4K]),
        ("reserved: XD*", [HIGH_PTE, KEY_4K]),
        ("reserved in a P?E: XD", [HIGH_PTE, KEY_4K]),
        ("reserved in a PTE: XD", [XD_PDE, HIGH_PTE, KEY_4K]),
        ("reserved: PS*", FOUND),
        ("reserved", FOUND),
        (KEY, [XD_PTE, XD_PDE, HIGH_PTE]),
        ("*", []),
    ],
)
def test_a_pattern_ignores_what_it_matches_by_its_own_cause_or_rule(pattern, left):
    found = sort(Muting((pattern,)))
    assert tuple(left) == found.new
    assert {pattern: tuple(each for each in FOUND if each not in left)} == found.ignored


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        (["reserved: XD*"], [AT_ONCE, BOTH]),
        (["*low address*"], [AT_ONCE, BOTH]),
        (["reserved: XD*", "reserved in a PDE: low*"], [BOTH]),
        (["reserved*"], [BOTH]),
        (["reserved: XD, low address bits, bit 8*"], [BOTH]),
        ([f"reserved: low address bits, XD: says {NO}, it is {YES}"], [BOTH]),
        (["reserved: XD, bit 8*"], [AT_ONCE, BOTH]),
        (["R/W *"], [AT_ONCE, BOTH]),
        (["R/W of the leaf*", "U/S of any entry: says allowed, it is refused"], [AT_ONCE]),
    ],
)
def test_what_breaks_several_rules_at_once_is_ignored_if_each_of_them_is(patterns, left):
    assert tuple(left) == sort(Muting(tuple(patterns)), [AT_ONCE, BOTH]).new


@pytest.mark.parametrize("rule", ["R/W of a PTE", "R/W of a PDE", "R/W of several levels"])
def test_the_name_of_both_halves_of_a_rule_ignores_each(rule):
    found = variant(rule, "allowed", "refused")
    assert () == sort(Muting(("R/W of any entry*",)), [found]).new
    assert (found,) == sort(Muting(("XD of any entry*",)), [found]).new


def test_a_pattern_of_one_half_ignores_no_other():
    leaf, above = (variant(f"R/W of a {name}", "allowed", "refused") for name in ("PTE", "PDE"))
    assert (above,) == sort(Muting(("R/W of the leaf*",)), [leaf, above]).new


def test_all_patterns_that_have_a_part_in_it_are_told_and_those_that_match_nothing(tmp_path):
    found = sort(Muting(("*XD*", "reserved in a PTE*", "SMAP")))
    assert {
        "*XD*": (XD_PTE, XD_PDE),
        "reserved in a PTE*": (XD_PTE, HIGH_PTE),
        "SMAP": (),
    } == found.ignored


def test_what_is_accepted_is_named_in_a_line_each():
    accepted = Accepted({"reserved: xd*": (XD,), "smap": ()}, (KEY,), ("gone",))
    assert [
        f"ignored by 'reserved: xd*': 1: {XD}",
        "ignored by 'smap': nothing",
        f"known from the baseline: 1: {KEY}",
        "in the baseline, and not found any more: 1: gone",
    ] == list(accepted.lines())
    assert {
        "ignored": {"reserved: xd*": [XD], "smap": []},
        "baseline": [KEY],
        "vanished": ["gone"],
    } == accepted.record()
    assert (2, 0) == (accepted.count, Accepted().count)
    assert [] == list(Accepted().lines())


def baseline_of(path, *texts):
    Muting(write=path).write_baseline(texts)
    return read_muting(None, path)


def test_a_baseline_is_written_sorted_without_what_is_ignored_and_keeps_its_notes(tmp_path):
    path = tmp_path / "baseline.json"
    muting = read_muting(["protection key*"], path, True)
    found = sort(muting)
    assert {XD, HIGH} == found.unlisted
    muting.write_baseline(found.unlisted)
    first = path.read_bytes()
    document = json.loads(first)
    assert ("crosswalk-baseline/1", sorted([XD, HIGH])) == (
        document["format"], [each["cause"] for each in document["causes"]],
    )  # fmt: skip
    document["causes"][0]["note"] = "by design"
    path.write_text(json.dumps(document))
    muting = read_muting([], path, True)
    found = sort(muting, [XD_PDE, KEY_4K])
    assert ((KEY_4K,), (XD_PDE,), (HIGH,)) == (found.new, found.known, found.vanished)
    muting.write_baseline(found.unlisted)
    assert [(KEY, ""), (XD, "by design")] == [
        (each["cause"], each["note"]) for each in json.loads(path.read_bytes())["causes"]
    ]
    path.unlink()
    again = read_muting(["protection key*"], path, True)
    again.write_baseline(sort(again, reversed(FOUND)).unlisted)
    assert first == path.read_bytes()


def test_a_pattern_ignores_a_part_and_the_baseline_lists_the_rest(tmp_path):
    path = tmp_path / "baseline.json"
    muting = read_muting(["*XD*"], path, True)
    found = sort(muting, [XD_PTE, AT_ONCE])
    assert ({LOW}, (AT_ONCE,)) == (found.unlisted, found.new)
    muting.write_baseline(found.unlisted)
    found = sort(read_muting(["*XD*"], path), [XD_PTE, AT_ONCE])
    assert ((), (AT_ONCE,), ()) == (found.new, found.known, found.vanished)


def test_without_write_nothing_is_written(tmp_path):
    Muting().write_baseline([XD])
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON: "),
        ('"a text"', "$: Expected `object`, got `str`"),
        ('{"format": "crosswalk-baseline/2", "causes": []}', "is not crosswalk-baseline/1"),
        ('{"format": "crosswalk-baseline/1"}', "missing required field `causes`"),
        ('{"format": "crosswalk-baseline/1", "causes": [], "more": 1}', "unknown field `more`"),
        ('{"format": "crosswalk-baseline/1", "causes": [{"cause": 1}]}', "$.causes[0].cause: "),
    ],
)
def test_a_file_that_is_no_baseline_is_one_line_with_its_name(tmp_path, text, message):
    path = tmp_path / "baseline.json"
    path.write_text(text)
    for write in (None, True):
        with pytest.raises(BadInput) as caught:
            read_muting(None, path, write)
        where = f"{path}: not a baseline (crosswalk-baseline/1): "
        assert str(caught.value).startswith(where)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_baseline_that_there_is_not_is_an_error_unless_it_is_to_be_written(tmp_path):
    path = tmp_path / "none.json"
    for write in (None, tmp_path / "other.json"):
        with pytest.raises(BadInput) as caught:
            read_muting(None, path, write)
        assert f"{path}: no such file; --write-baseline writes it" == str(caught.value)
    assert path == read_muting(None, path, True).write


def test_a_baseline_that_can_not_be_read_is_named_once(tmp_path):
    with pytest.raises(BadInput) as caught:
        read_muting(None, tmp_path)
    assert 1 == str(caught.value).count(str(tmp_path))


def test_an_empty_pattern_takes_back_those_before_it():
    assert ("b", "c") == read_muting(["a", "", "b", "c", "b"], None).ignore
    assert () == read_muting(["a", ""], None).ignore


def test_a_cause_of_several_rules_is_known_if_each_of_them_is_listed(tmp_path):
    known = baseline_of(tmp_path / "known.json", XD, BIT8)
    whole = variant("reserved in a PTE: bit 8, XD")
    more = variant("reserved in a PTE: bit 8, XD, low address bits")
    for found, new, vanished in (
        ([whole], (), ()),
        ([XD_PDE], (), (BIT8,)),
        ([more], (more,), ()),
    ):
        ruled = sort(known, found)
        assert (new, vanished) == (ruled.new, ruled.vanished)


def test_where_a_baseline_is_to_be_written_has_to_be_said():
    with pytest.raises(BadInput, match="--write-baseline: which FILE"):
        read_muting(None, None, True)
