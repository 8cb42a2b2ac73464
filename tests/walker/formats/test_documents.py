import copy
import json

import pytest

from crosswalk.walker.errors import BadInput, LimitExceeded
from crosswalk.walker.formats.case import CaseJson, case_of
from crosswalk.walker.formats.documents import read_document

WHOLE = {
    "format": "crosswalk-case/1",
    "cpu": {"cr3": "0x1000"},
    "ram": [["0x0", "0x10000"]],
    "entries": {"0x1000": "0x2067"},
    "probes": [
        {
            "va": "0x400000",
            "access": "read",
            "cpl": 0,
            "ac": False,
            "predicted": {"outcome": "ok", "pa": "0x5000", "entries": {"0x3010": "0x4067"}},
            "observed": {"outcome": "page_fault", "error_code": "0x1", "cr2": "0x400000"},
        }
    ],
}
HEX = 'expected a hex string such as "0x1000"'
GONE = object()


def changed(*steps, to):
    """The bytes of the whole case with one value replaced, added or removed."""
    document = copy.deepcopy(WHOLE)
    place = document
    for step in steps[:-1]:
        place = place[step]
    if to is GONE:
        del place[steps[-1]]
    else:
        place[steps[-1]] = to
    return json.dumps(document).encode()


def reason(data):
    with pytest.raises(BadInput) as caught:
        case_of(read_document(data, CaseJson))
    return str(caught.value)


def test_the_whole_case_is_valid():
    assert "0x400000" == read_document(json.dumps(WHOLE).encode(), CaseJson).probes[0].observed.cr2


@pytest.mark.parametrize(
    ("steps", "place"),
    [
        ((), "$"),
        (("cpu",), "$.cpu"),
        (("probes", 0), "$.probes[0]"),
        (("probes", 0, "predicted"), "$.probes[0].predicted"),
        (("probes", 0, "observed"), "$.probes[0].observed"),
    ],
    ids=["whole", "cpu", "probe", "predicted", "observed"],
)
def test_an_unknown_key_is_an_error_at_every_depth(steps, place):
    assert f"{place}: Object contains unknown field `extra`" == reason(
        changed(*steps, "extra", to=1)
    )


@pytest.mark.parametrize(
    ("steps", "place"),
    [
        (("format",), "$"),
        (("cpu",), "$"),
        (("ram",), "$"),
        (("entries",), "$"),
        (("probes",), "$"),
        (("cpu", "cr3"), "$.cpu"),
        (("probes", 0, "va"), "$.probes[0]"),
        (("probes", 0, "access"), "$.probes[0]"),
        (("probes", 0, "cpl"), "$.probes[0]"),
        (("probes", 0, "ac"), "$.probes[0]"),
        (("probes", 0, "observed", "outcome"), "$.probes[0].observed"),
        (("probes", 0, "observed", "error_code"), "$.probes[0].observed"),
        (("probes", 0, "observed", "cr2"), "$.probes[0].observed"),
        (("probes", 0, "predicted", "pa"), "$.probes[0].predicted"),
    ],
)
def test_a_missing_key_is_an_error(steps, place):
    data = changed(*steps, to=GONE)
    assert f"{place}: Object missing required field `{steps[-1]}`" == reason(data)


WRONG = [
    (("cpu", "cr3"), 4096, f"$.cpu.cr3: {HEX}, got `int`"),
    (("cpu", "cr4"), None, f"$.cpu.cr4: {HEX}, got `null`"),
    (("cpu", "cr3"), "4096", f"$.cpu.cr3: {HEX}, at most 64 bits"),
    (("cpu", "cr3"), "-0x1", f"$.cpu.cr3: {HEX}, at most 64 bits"),
    (("cpu", "cr3"), "0x", f"$.cpu.cr3: {HEX}, at most 64 bits"),
    (("cpu", "cr3"), "0x1\n", f"$.cpu.cr3: {HEX}, at most 64 bits"),
    (("cpu", "cr3"), "0x" + "1" * 17, f"$.cpu.cr3: {HEX}, at most 64 bits"),
    (("cpu", "pkru"), "0x100000000", f"$.cpu.pkru: {HEX}, at most 32 bits"),
    (("cpu", "maxphyaddr"), 53, "$.cpu.maxphyaddr: Expected `int` <= 52"),
    (("cpu", "maxphyaddr"), "HUGE", "$.cpu.maxphyaddr: Integer value out of range"),
    (("cpu", "maxphyaddr"), "40", "$.cpu.maxphyaddr: Expected `int`, got `str`"),
    (("cpu", "page1gb"), 1, "$.cpu.page1gb: Expected `bool`, got `int`"),
    (
        ("cpu", "vendor"),
        "via",
        "$.cpu.vendor: Invalid enum value 'via' (must be intel or amd)",
    ),
    (("ram", 0), ["0x0"], "$.ram[0]: Expected `array` of length 2"),
    (("ram", 0, 1), 4096, f"$.ram[0][1]: {HEX}, got `int`"),
    (("entries",), [], "$.entries: Expected `object`, got `array`"),
    (("entries", "0x2000"), 1, f'$.entries["0x2000"]: {HEX}, got `int`'),
    (("entries", "0x2000"), "x", f'$.entries["0x2000"]: {HEX}, at most 64 bits'),
    (("entries", "2000"), "0x1", f'$.entries["2000"]: {HEX}, at most 64 bits'),
    (
        ("probes", 0, "predicted", "entries", "0x3018"),
        "x",
        f'$.probes[0].predicted.entries["0x3018"]: {HEX}, at most 64 bits',
    ),
    (
        ("probes", 0, "access"),
        "fetch",
        "$.probes[0].access: Invalid enum value 'fetch' (must be read, write or execute)",
    ),
    (("probes", 0, "access"), 1, "$.probes[0].access: Expected `str`, got `int`"),
    (("probes", 0, "cpl"), 1, "$.probes[0].cpl: Invalid enum value 1 (must be 0 or 3)"),
    (("probes", 0, "ac"), 0, "$.probes[0].ac: Expected `bool`, got `int`"),
    (("probes", 0, "va"), "0x" + "1" * 17, f"$.probes[0].va: {HEX}, at most 64 bits"),
    (("probes", 0, "observed"), None, "$.probes[0].observed: Expected `object`, got `null`"),
    (
        ("probes", 0, "observed", "outcome"),
        "panic",
        (
            "$.probes[0].observed.outcome: Invalid value 'panic' "
            "(must be ok, page_fault or general_protection)"
        ),
    ),
    (
        ("probes", 0, "observed", "error_code"),
        "0x100000000",
        f"$.probes[0].observed.error_code: {HEX}, at most 32 bits",
    ),
    (
        ("probes", 0, "observed", "pa"),
        "0x1",
        "$.probes[0].observed: Object contains unknown field `pa`",
    ),
    (
        ("probes", 0, "predicted", "cr2"),
        "0x1",
        "$.probes[0].predicted: Object contains unknown field `cr2`",
    ),
    (
        ("probes", 0, "observed"),
        {"outcome": "general_protection", "error_code": "0x0"},
        "$.probes[0].observed: Object contains unknown field `error_code`",
    ),
    (("seed",), "0x1", "$.seed: Expected `int`, got `str`"),
    (("seed",), -1, "$.seed: Expected `int` >= 0"),
    (("note",), 1, "$.note: Expected `str`, got `int`"),
    (("format",), 1, "$.format: Expected `str`, got `int`"),
]


@pytest.mark.parametrize(
    ("steps", "value", "expected"),
    WRONG,
    ids=[f"{'.'.join(map(str, steps))}={value!r:.30}" for steps, value, _ in WRONG],
)
def test_a_wrong_value_is_an_error_that_names_its_place(steps, value, expected):
    # Python refuses to write a number of more than 4300 digits.
    data = changed(*steps, to=value).replace(b'"HUGE"', b"1" + b"0" * 5000)
    assert expected == reason(data)


def test_another_format_is_named_before_anything_else_that_is_wrong():
    document = {"extra": 1, "cpu": 2, "format": "crosswalk-case/2"}
    expected = "$.format: 'crosswalk-case/2' is not crosswalk-case/1"
    assert expected == reason(json.dumps(document).encode())


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "not JSON: Input data was truncated"),
        (b"{", "not JSON: Input data was truncated"),
        (b"{} {}", "$: Object missing required field `format`"),
        (b"\xef\xbb\xbf{}", "not JSON: JSON is malformed: invalid character (byte 0)"),
        (b"[]", "$: Expected `object`, got `array`"),
        (b'{"note": "\xff"}', "not JSON: 'utf-8' codec can't decode byte 0xff in position 0"),
        (b'{"a\\nb": 1}', r"$: Object contains unknown field `a\nb`"),
    ],
    ids=["empty", "cut", "two", "byte order mark", "array", "no UTF-8", "newline"],
)
def test_what_is_not_a_json_object_is_an_error_in_one_line(data, expected):
    assert reason(data).startswith(expected)


@pytest.mark.parametrize("key", ["cr3", "entries", "0x1000", "va", "outcome"])
def test_a_repeated_key_is_an_error(key):
    text = json.dumps(WHOLE)
    at = text.index(f'"{key}": ')
    value, _ = json.JSONDecoder().raw_decode(text[at + len(key) + 4 :])
    data = f'{text[:at]}"{key}": {json.dumps(value)}, {text[at:]}'.encode()
    assert f'the key "{key}" is there twice in one object' == reason(data)


@pytest.mark.parametrize("name", ["format", "cpu", "ram", "entries", "probes", "note", "extra"])
def test_deep_nesting_is_an_error_at_once(name):
    deep = b"[" * 1_000_000
    data = b'{"%s": %s%s}' % (name.encode(), deep, deep.replace(b"[", b"]"))
    assert len(reason(data)) < 300


def test_an_error_is_one_line_even_where_the_rest_cannot_be_read():
    data = changed("entries", "0x2000", to="x")[:-1] + b', "z": ' + b"[" * 100_000
    assert "$: Object contains unknown field `z`" == reason(data)


def test_a_document_over_the_limit_is_refused():
    data = json.dumps(WHOLE).encode()
    assert "0x1000" == read_document(data, CaseJson, len(data)).cpu.cr3
    with pytest.raises(LimitExceeded, match=f"^{len(data) + 1} bytes; at most {len(data)} are"):
        read_document(data + b" ", CaseJson, len(data))
