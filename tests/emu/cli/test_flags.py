"""`--flags` against the manual's formats, read one page at a time."""

import re
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from crosswalk.emu.cli import flags
from crosswalk.emu.cli.flags import parse_flags
from crosswalk.emu.matrix.bits import ENTRY_BITS
from crosswalk.walker import BadInput
from crosswalk.walker.pages import pages
from tests.random_tables import extended_tables
from tests.tables import KIB4, OPEN, PageTables, context
from tests.walker import naive

QUICK = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SEARCH = settings(max_examples=50_000, deadline=None, database=None, phases=[Phase.generate])

BITS = {"rw": 1, "us": 2, "pwt": 3, "pcd": 4, "a": 5, "d": 6, "g": 8, "nx": 63}
NAMES = (*BITS, "ps", "pat", "pk", "sw", "avl", "key1", "key15", "bit52", "bit58", "bit47", "bit62")


def value_of(name, page):
    """What a page's leaf has under this name, by the manual's formats of entries."""
    entry = page.entry
    if name.startswith("key"):
        return int(entry >> 59 & 15 == int(name[3:]))
    if name.startswith("bit"):
        return entry >> int(name[3:]) & 1
    values = {
        **{bit: entry >> at & 1 for bit, at in BITS.items()},
        "ps": int(page.level > 1),
        "pat": entry >> (7 if page.level == 1 else 12) & 1,
        "pk": entry >> 59 & 15,
        "avl": int(entry >> 9 & 7 != 0),
        "sw": int(entry >> 9 & 7 != 0 or entry >> 52 & 127 != 0),
    }
    return values[name]


def has_meaning(name, mode, found):
    """Whether the flag is one under a context."""
    if name == "pk" or name.startswith("key"):
        return mode in (4, 5) and bool(found.cr4 >> 22 & 1 or found.cr4 >> 24 & 1)
    if name == "nx":
        return mode != "32-bit" and bool(found.efer >> 11 & 1)
    if name == "sw":
        return mode in (4, 5)
    if name.startswith("bit"):
        bit = int(name[3:])
        return bool(found.encryption_mask >> bit & 1) or (mode in (4, 5) and bit >= 52)
    return True


@st.composite
def choices(draw, names=NAMES):
    """Tables; a name, and a value that it may have; a level, or None."""
    name = draw(st.sampled_from(names))
    value = draw(st.integers(0, 15 if name == "pk" else 1))
    level = draw(st.sampled_from((None, None, "pte", "pde", "pdpte")))
    if level == "pte" and name == "ps":
        level = None
    return draw(extended_tables(most=3)), name, value, level


def expected_of(tables, name, value, level):
    if not has_meaning(name, naive.mode_of(tables.context), tables.context):
        return []
    number = {"pte": 1, "pde": 2, "pdpte": 3, None: None}[level]
    return [
        page.va
        for page in naive.pages(tables)
        if number in (None, page.level) and value_of(name, page) == value
    ]


def chosen_of(tables, name, value, level):
    (choice,) = parse_flags(f"{level}.{name}={value}" if level else f"{name}={value}")
    blocks = pages(tables.memory, tables.context)
    return [va for rows in blocks for va in rows.va[choice.chosen(rows, tables.context)].tolist()]


@QUICK
@given(drawn=choices())
def test_flags_choose_the_pages_whose_leaves_have_them(drawn):
    assert expected_of(*drawn) == chosen_of(*drawn)


@pytest.mark.parametrize(
    ("name", "where", "wrong"),
    [
        ("pat", "Entry", SimpleNamespace(PS=1 << 12)),
        ("us", "ENTRY_BITS", ENTRY_BITS | {"us": 1 << 1}),
    ],
    ids=["PAT of large pages", "a bit too low"],
)
def test_a_flag_that_is_read_at_a_wrong_place_is_found(name, where, wrong, monkeypatch):
    monkeypatch.setattr(flags, where, wrong)
    asked = choices((name,))
    drawn = find(asked, lambda it: expected_of(*it) != chosen_of(*it), settings=SEARCH)

    monkeypatch.undo()
    assert expected_of(*drawn) == chosen_of(*drawn)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("foo=1", "no 'foo': the flags of a leaf are rw, us, pwt, "),
        ("pte.foo=1", "no 'pte.foo': "),
        ("foo.g=1", "no 'foo.g': "),
        (".g=1", "no '.g': "),
        ("p=0", "no 'p': every leaf has p=1; "),
        ("g", "'g' is not NAME=VALUE"),
        ("", "'' is not NAME=VALUE"),
        ("g=1,", "'' is not NAME=VALUE"),
        ("g=2", "g is 0 to 1, not '2'"),
        ("g=", "g is 0 to 1, not ''"),
        ("g=-1", "g is 0 to 1, not '-1'"),
        ("g=²", "g is 0 to 1, not '²'"),
        ("pk=16", "pk is 0 to 15, not '16'"),
        ("pml4e.g=1", "pml4e.g: no pml4e maps a page"),
        ("pte.ps=1", "pte.ps: bit 7 of a PTE is pat"),
        ("pde.g=1,pte.g=1", "a page has a leaf of one level, not of pte and pde"),
    ],
)
def test_what_is_no_flag_is_refused_in_a_line(text, why):
    with pytest.raises(BadInput, match=re.escape(why)) as refused:
        parse_flags(text)
    assert 1 == len(str(refused.value).splitlines())


def test_all_names_but_p_are_those_of_the_matrix():
    for name in ENTRY_BITS.keys() - {"p"}:
        assert [name] == [choice.name for choice in parse_flags(f"{name}=1")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pk=3", [3]),
        ("pk=3,pk=5", [3, 5]),
        ("pk=0,rw=1", [0]),
        ("key3=1", [3]),
        ("key3=0", [0, 5]),
        ("pk=3,pk=5,nx=1", [5]),
        ("rw=0,rw=1", [0, 3, 5]),
        ("rw=0", []),
    ],
)
def test_all_flags_have_to_hold_and_a_name_given_twice_allows_either_value(text, expected):
    tables = PageTables().map(0, 0x5000).map(3 * KIB4, 0x6000, OPEN | 3 << 59)
    tables.map(5 * KIB4, 0x7000, OPEN | 5 << 59 | 1 << 63)
    found = context(pke=True)
    (rows,) = pages(tables.memory, found)
    for choice in parse_flags(text):
        rows = rows.take(choice.chosen(rows, found))
    assert expected == [va // KIB4 for va in rows.va.tolist()]
