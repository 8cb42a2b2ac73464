"""Citations of the manuals: by the titles of sections, which docs/manuals.md lists."""

import re
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MANUALS = ROOT / "docs" / "manuals.md"
FOLDERS = ("emu", "guest", "walker", "scripts", "tests", "docs")
SUFFIXES = {".py", ".md", ".s", ".toml"}

# Volumes with a letter are the SDM's, whether it is named once more or not.
VOLUME = re.compile(
    r"\b(?:(?:SDM )?vol\. (?P<sdm>\d[A-D])|SDM vol\. (?P<one>1)|APM vol\. (?P<apm>\d))\b"
)
TITLE = r'"[A-Z\d#][^"]*"'
# Titles behind a volume, with what may stand between two of them.
TITLES = re.compile(rf"(?:,|:)? (?P<titles>{TITLE}(?:(?:,|;|,? and) {TITLE})*)")
NUMBERS = (
    # Behind a manual's name: vol. 3A 4.8, table 4-1, chapter 6, appendix B.
    re.compile(r"\b(?:SDM|APM)(?: vol\. \d[A-D]?)?,? (?:table|chapter|section|appendix|tables)\b"),
    re.compile(r"\b(?:SDM|APM)(?: vol\. \d[A-D]?)?,?:? \d+(?:\.\d+)+\b"),
    # Alone: 4.10.2.3, and 15.25.6; an emulator's versions have its name before them, those of
    # packages and kernels a plus or a hyphen behind.
    re.compile(
        r"(?<![\w.])(?<!Unicorn )(?<!QEMU )(?<!Bochs )"
        r"(?:4|5|8|9|15)\.\d{1,2}\.\d{1,2}(?:\.\d+)?(?!\.?\w|[+-]\w)"
    ),
)


def texts():
    paths = chain.from_iterable((ROOT / folder).rglob("*") for folder in FOLDERS)
    for path in sorted([ROOT / "README.md", *paths]):
        if path.suffix in SUFFIXES and path != Path(__file__) and "_cases" not in path.parts:
            yield path.relative_to(ROOT).as_posix(), path.read_text("utf-8")


def joined(text):
    """The text with its lines run together: as prose, comment or parts of one string."""
    text = re.sub(r"""["']\n\s*f?["']""", "", text)
    return re.sub(r"\s*\n\s*(?:# ?)?", " ", text)


def manual_of(volume):
    if volume["apm"]:
        return f"APM vol. {volume['apm']}"
    return f"SDM vol. {volume['sdm'] or volume['one']}"


def cited(text):
    """The (manual and volume, title) that a text cites."""
    found, text = set(), joined(text)
    for volume in VOLUME.finditer(text):
        manual = manual_of(volume)
        titles = TITLES.match(text, volume.end())
        for title in re.findall(TITLE, titles["titles"]) if titles else ():
            found.add((manual, title.strip('"')))
    return found


def numbered(text):
    """What cites a section by its number."""
    return [match.group() for pattern in NUMBERS for match in pattern.finditer(joined(text))]


def listed():
    """The (manual and volume, title) of docs/manuals.md."""
    found, manual = set(), None
    for line in MANUALS.read_text("utf-8").splitlines():
        if heading := VOLUME.search(line) if line.startswith("### ") else None:
            manual = manual_of(heading)
        elif manual and line.startswith("- "):
            found.add((manual, line.removeprefix("- ")))
    return found


def test_no_section_is_cited_by_its_number():
    assert {} == {name: found for name, text in texts() if (found := numbered(text))}


def test_each_title_that_is_cited_is_one_of_the_manuals_page():
    wrong = {name: cited(text) - listed() for name, text in texts()}
    assert {} == {name: titles for name, titles in wrong.items() if titles}


def test_each_title_of_the_page_is_cited():
    assert set() == listed() - set().union(*(cited(text) for _, text in texts()))


def test_the_editions_are_named_in_one_place():
    for number in ("325462", "24593", "24594"):
        assert number in MANUALS.read_text("utf-8")
        others = [name for name, text in texts() if number in text and name != "docs/manuals.md"]
        assert [] == others


@pytest.mark.parametrize(
    "text",
    [
        "Intel SDM vol. 3A 4.8.",
        "(SDM vol. 3A, 4.6.1)",
        "Intel SDM vol. 3A table 4-1",
        "APM vol. 2 15.25.6",
        "AMD APM vol. 2 appendix B",
        "as vol. 3A\n# 4.10.2.3 has it",
        "Intel SDM\nvol. 3A 9.1",
        "needs U (15.25.5)",
    ],
)
def test_a_bare_number_is_found(text):
    assert numbered(text)


@pytest.mark.parametrize(
    "text",
    [
        "Unicorn 2.1.4",
        "Unicorn 4.1.4",
        "4.20.4+63-g7",
        "5.10.0-32-amd64",
        'SDM vol. 3A, "32-Bit Paging"',
        "1.25.6",
        "version 5.2",
    ],
)
def test_what_is_no_section_is_none(text):
    assert [] == numbered(text)


def test_titles_are_read_over_lines_and_in_rows():
    text = 'Intel SDM vol. 3A, "One\n    Two"; "Three", "Four" and "Five"; APM vol. 2, "Six": x'
    first = [("SDM vol. 3A", title) for title in ("One Two", "Three", "Four", "Five")]
    assert {*first, ("APM vol. 2", "Six")} == cited(text)
    assert {("SDM vol. 3A", "One"), ("SDM vol. 2B", "Two")} == cited(
        'Intel SDM vol. 3A, "One"; vol. 2B, "Two"'
    )


def test_a_title_that_is_not_listed_is_found():
    assert {("SDM vol. 3A", "Paging Spells")} == cited('SDM vol. 3A, "Paging Spells"') - listed()
