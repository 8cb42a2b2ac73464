import json

import pytest

from crosswalk.emu.findings.baseline import Muting, read_muting
from crosswalk.walker.errors import BadInput

XD = "reserved: XD: says no RSVD, it is RSVD"
HIGH = "reserved: address bits above MAXPHYADDR: says no RSVD, it is RSVD"
KEY = "protection key, read: says ok, it is #PF"
FOUND = {
    XD: ["reserved in a PTE: XD", "reserved in a PDE: XD"],
    HIGH: ["reserved in a PTE: address bits above MAXPHYADDR"],
    KEY: ["protection key of a 4-KiB page, read"],
}


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("reserved: *", [KEY]),
        ("RESERVED IN *", [KEY]),
        ("reserved in a P?E: XD", [HIGH, KEY]),
        ("reserved in a PTE: XD", [XD, HIGH, KEY]),
        ("reserved", [XD, HIGH, KEY]),
        (KEY, [XD, HIGH]),
        ("*", []),
    ],
)
def test_a_pattern_ignores_a_cause_that_it_matches_or_all_of_whose_variants_it_matches(
    pattern, left
):
    accepted = Muting((pattern,)).accepted(FOUND)
    assert left == list(accepted.new)
    ignored = [cause for causes in accepted.ignored.values() for cause in causes]
    assert [cause for cause in FOUND if cause not in left] == ignored


def test_several_patterns_together_may_match_all_variants_of_a_cause():
    one, other = "reserved in a PTE: XD", "reserved in a PDE: XD"
    assert XD in Muting((one,)).accepted(FOUND).new
    assert {one: (XD,)} == Muting((one, other)).accepted(FOUND).ignored


def test_what_is_accepted_is_named_in_a_line_each_and_nothing_of_what_is_new(tmp_path):
    path = tmp_path / "baseline.json"
    Muting(write=path).write_baseline(Muting().accepted({KEY: [], "gone": []}))
    accepted = read_muting(["reserved: xd*"], path).accepted(FOUND)
    assert (HIGH,) == accepted.new
    assert [
        f"ignored by 'reserved: xd*': 1: {XD}",
        f"known from the baseline: 1: {KEY}",
        "in the baseline, and not found any more: 1: gone",
    ] == list(accepted.lines())
    assert {"ignored": {"reserved: xd*": [XD]}, "baseline": [KEY], "vanished": ["gone"]} == (
        accepted.record()
    )
    assert [] == list(Muting().accepted(FOUND).lines())


def test_a_baseline_is_written_sorted_without_what_is_ignored_and_keeps_its_notes(tmp_path):
    path = tmp_path / "baseline.json"
    muting = read_muting(["protection key*"], path, True)
    assert () == muting.write_baseline(muting.accepted(FOUND)).new
    first = path.read_bytes()
    document = json.loads(first)
    assert ("crosswalk-baseline/1", [XD, HIGH]) == (
        document["format"], [each["cause"] for each in document["causes"]],
    )  # fmt: skip
    document["causes"][0]["note"] = "by design"
    path.write_text(json.dumps(document))
    muting = read_muting([], path, True)
    accepted = muting.accepted({XD: [], KEY: []})
    assert ((KEY,), (XD,), (HIGH,)) == (accepted.new, accepted.known, accepted.vanished)
    muting.write_baseline(accepted)
    assert [(KEY, ""), (XD, "by design")] == [
        (each["cause"], each["note"]) for each in json.loads(path.read_bytes())["causes"]
    ]
    path.unlink()
    again = read_muting(["protection key*"], path, True)
    again.write_baseline(again.accepted(dict(reversed(FOUND.items()))))
    assert first == path.read_bytes()


def test_without_write_nothing_is_written_and_what_is_new_stays_new(tmp_path):
    accepted = Muting().accepted(FOUND)
    assert accepted == Muting().write_baseline(accepted)
    assert tuple(FOUND) == accepted.new
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON: "),
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
        assert str(caught.value).startswith(f"{path}: ")
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_baseline_that_there_is_not_is_an_error_unless_it_is_to_be_written(tmp_path):
    path = tmp_path / "none.json"
    for write in (None, tmp_path / "other.json"):
        with pytest.raises(BadInput, match=r"none\.json: no such file"):
            read_muting(None, path, write)
    assert path == read_muting(None, path, True).write


def test_a_cause_of_several_rules_is_known_if_each_of_them_is_listed(tmp_path):
    path = tmp_path / "known.json"
    whole, parts = "reserved: PS, XD: says a, it is b", ["reserved: PS: says a, it is b", XD]
    Muting(write=path).write_baseline(Muting().accepted({whole: []}, {whole: parts}))
    known = read_muting(None, path)
    assert sorted(parts) == [each.cause for each in known.baseline.causes]
    for found, new, vanished in (
        ({whole: parts}, (), ()),
        ({XD: [XD]}, (), (parts[0],)),
        ({whole: [*parts, HIGH]}, (whole,), ()),
    ):
        accepted = known.accepted(dict.fromkeys(found, ()), found)
        assert (new, vanished) == (accepted.new, accepted.vanished)


def test_where_a_baseline_is_to_be_written_has_to_be_said():
    with pytest.raises(BadInput, match="--write-baseline: which FILE"):
        read_muting(None, None, True)
