"""The language of expectations: what each sentence means, and errors that say where and what."""

import pytest

from crosswalk.walker.errors import BadInput
from crosswalk.walker.expectations import parse_expectations, quoted
from crosswalk.walker.expectations.sentences import (
    Ability,
    AtMost,
    Flaw,
    FramesNever,
    Is,
    Mapped,
    Never,
    NoEntries,
    Only,
    Privilege,
    Surrounded,
    TablesNever,
    Target,
    Unchanged,
    Unmapped,
)

TEXT = (Target(".text"),)
LOW = (Target("0x0-0x1000", 0, 0x1000),)
TOP = 1 << 64
W, X, WX = Ability.WRITABLE, Ability.EXECUTABLE, Ability.WX
SUPERVISOR, USER = Privilege

SENTENCES = {
    ".text is r-x": Is(TEXT, 5, SUPERVISOR),
    ".text is rw- for user": Is(TEXT, 3, USER),
    ".text is --- for user": Is(TEXT, 0, USER),
    ".text is unmapped": Unmapped(TEXT),
    ".text is mapped": Mapped(TEXT),
    "all of .text mapped": Mapped(TEXT),
    "guard 0x0-0x1000 unmapped": Unmapped(LOW),
    ".text never writable": Never(TEXT, W, None, mapped=True),
    ".text never readable by user": Never(TEXT, Ability.READABLE, USER, mapped=True),
    ".text never accessible by user": Never(TEXT, Ability.ACCESSIBLE, USER, mapped=True),
    "no wx": Never(None, WX, None, mapped=False),
    "no wx in 0x0-0x1000": Never(LOW, WX, None, mapped=False),
    "no user in .text": Never(TEXT, Ability.ACCESSIBLE, USER, mapped=False),
    "frames of .text never writable": FramesNever(TEXT, W, None),
    "frames never wx": FramesNever(None, WX, None),
    "tables never writable by user": TablesNever(W, USER),
    "stacks surrounded by unmapped": Surrounded((Target("stacks"),)),
    "only .text executable": Only(TEXT, X, None),
    "only .text executable for supervisor": Only(TEXT, X, SUPERVISOR),
    "no reserved bits": NoEntries(None, Flaw.RESERVED),
    "no reserved bits in .text": NoEntries(TEXT, Flaw.RESERVED),
    "no tables outside RAM": NoEntries(None, Flaw.TABLE_OUTSIDE),
    "no mappings outside RAM in .text": NoEntries(TEXT, Flaw.PAGE_OUTSIDE),
    "at most 3 mappings": AtMost(3, None),
    "at most 1 mapping in .text": AtMost(1, TEXT),
    "unchanged since idle": Unchanged(None, "idle"),
    '.text unchanged since "console:Run /init"': Unchanged(TEXT, "console:Run /init"),
    ".text unchanged since console:Run /init": Unchanged(TEXT, "console:Run /init"),
    '.text,.init*, "a b" is unmapped': Unmapped((*TEXT, Target(".init*"), Target("a b"))),
    '"no" is unmapped': Unmapped((Target("no"),)),
    '"0x1" is unmapped  # so called': Unmapped((Target("0x1"),)),
}
RANGES = {
    "0xffff800000000000-": (0xFFFF_8000_0000_0000, TOP),
    "0x1000+0x2000": (0x1000, 0x3000),
    "0x1_000-8192": (0x1000, 0x2000),
    "4096": (4096, 4097),
    "0xffffffffffffffff-0x10000000000000000": (TOP - 1, TOP),
}


@pytest.mark.parametrize(("text", "claim"), SENTENCES.items())
def test_a_sentence_means_what_it_says(text, claim):
    (sentence,) = parse_expectations(f"  {text}\n", "file")
    assert (claim, 1, "file") == (sentence.claim, sentence.line, sentence.place)
    assert text.partition("  #")[0] == sentence.text


@pytest.mark.parametrize(("text", "edges"), RANGES.items())
def test_addresses_have_ends_that_are_not_included(text, edges):
    (sentence,) = parse_expectations(f"no user in {text}", "file")
    assert Target(text, *edges) == sentence.claim.targets[0]


def test_comments_and_empty_lines_count_as_lines():
    found = parse_expectations("# kept so\n\nno wx # at all\n\tno user", "file")
    assert [("no wx", 3), ("no user", 4)] == [(each.text, each.line) for each in found]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_are_those_that_an_editor_counts(end):
    text = f"# a\u2028b\x0bc\x0cd\x85e{end}no wx"
    assert [2] == [each.line for each in parse_expectations(text, "file")]


ERRORS = {
    "no": "f:1:3: expected wx, user, reserved, tables or mappings",
    "no wxx": "f:1:4: expected wx, user, reserved, tables or mappings, found wxx",
    "no reserved": "f:1:12: expected bits",
    "no tables": "f:1:10: expected outside",
    "no mappings outside ram": "f:1:21: expected RAM, found ram",
    "no wx .text": "f:1:7: expected in, found .text",
    "no wx in": "f:1:9: expected addresses (0x1000-0x2000) or a name",
    "no wx in .text too": "f:1:16: expected the end of the sentence, found too",
    ".text is rx": "f:1:10: expected rights as r-x, unmapped or mapped, found rx",
    ".text will stay": "f:1:7: expected is, never, surrounded or unchanged, found will",
    ".text is r-x for all": "f:1:18: expected supervisor or user, found all",
    ".text, is r-x": "f:1:11: expected is, never, surrounded or unchanged, found r-x",
    ", is r-x": "f:1:1: expected addresses (0x1000-0x2000) or a name, found ,",
    '"" is r-x': 'f:1:1: expected addresses (0x1000-0x2000) or a name, found ""',
    '"text is r-x': 'f:1:1: no closing " on this line',
    "0x2000-0x1000 is r-x": "f:1:1: expected addresses that end behind their begin, and within 64 "
    "bits, found 0x2000-0x1000",
    "0x10000000000000000- is r-x": "f:1:1: expected addresses of up to 64 bits, found "
    "0x10000000000000000-",
    "0x1000..0x2000 is r-x": "f:1:1: expected addresses as 0x1000-0x2000, 0x1000+0x1000 or 0x1000- "
    '(or a name in ""), found 0x1000..0x2000',
    "guard .text": "f:1:12: expected unmapped",
    "tables are never writable": "f:1:8: expected never, found are",
    "at most some mappings": "f:1:9: expected a number, found some",
    "at most -1 mappings": "f:1:9: expected a number, found -1",
    "at most +1 mappings": "f:1:9: expected a number, found +1",
    "at most 0b1 mappings": "f:1:9: expected a number, found 0b1",
    ".text never used": "f:1:13: expected readable, writable, executable, wx or accessible, found "
    "used",
    "unchanged since": "f:1:16: expected a point of the boot",
    "# nothing": "f: no sentence in it",
    "no wx\n\n  no w": "f:3:6: expected wx, user, reserved, tables or mappings, found w",
    "no \x1b[31m": "f:1:4: expected wx, user, reserved, tables or mappings, found \\x1b[31m",
}


@pytest.mark.parametrize(("text", "error"), ERRORS.items())
def test_an_error_says_where_and_what_was_expected(text, error):
    with pytest.raises(BadInput) as caught:
        parse_expectations(text, "f")
    assert error == str(caught.value)


def test_what_a_terminal_would_obey_is_escaped():
    (sentence,) = parse_expectations('"\x1b[31m" is unmapped', "f")
    assert '"\\x1b[31m" is unmapped' == sentence.text
    assert "\x1b[31m" == sentence.claim.targets[0].text


def test_an_argument_has_columns_and_no_lines():
    with pytest.raises(
        BadInput, match=r"^--expect:4: expected wx, user, reserved, tables or mappings, found w$"
    ):
        parse_expectations("no w", "--expect", lines=False)


@pytest.mark.parametrize("name", [".text", "a b", "no", "0x10", "-x", "a,b", "#a", "ext4*"])
def test_a_quoted_name_is_read_back(name):
    (sentence,) = parse_expectations(f"{quoted(name)} is unmapped", "f")
    assert (Target(name),) == sentence.claim.targets
