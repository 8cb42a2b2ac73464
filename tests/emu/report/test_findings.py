"""Reports of findings: all say the same, and text of others stays text in each of them."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree as ET

import msgspec
import pytest
from markdown_it import MarkdownIt

from crosswalk.emu.cli.options import REPORTS
from crosswalk.emu.findings.describe import described, described_case, joined_findings
from crosswalk.emu.findings.signature import Signature
from crosswalk.emu.report.annotations import annotation_lines
from crosswalk.emu.report.finding import (
    FindingJson,
    FindingsJson,
    ReportJson,
    dump_findings,
    search_lines,
)
from crosswalk.emu.report.html import html
from crosswalk.emu.report.junit import junit
from crosswalk.emu.report.markdown import markdown
from crosswalk.emu.report.report_files import FORMATS
from crosswalk.emu.report.sarif import sarif
from crosswalk.walker import PageFault, Translation
from crosswalk.walker.formats import Case, Cpu, Probe, dump_case
from tests.tables import US, P, PageTables, context

VA = 0x40_0000
NAME = "python:its.py:walk"
SIGNATURE = Signature(f"peer:{NAME}", "R/W of a PTE", "allowed", "refused")
DUE = Signature("crosswalk", "a case that can be written", "OSError", "due")
HOSTILE = "</pre><script>alert(1)</script> | `a` ``` [x](http://y) @you #1 ]]> %0A {0} &amp; * _ ,:"
WALK = [
    "PML4E[0]     at 0x00000001000 = 0x0000000000002007  table  RW US",
    "PDPTE[0]     at 0x00000002000 = 0x0000000000003007  table  RW US",
    "PDE[2]       at 0x00000003010 = 0x0000000000004007  table  RW US",
    "PTE[0]       at 0x00000004000 = 0x0000000000008005  leaf  US  <-- R/W clear",
]
ANSWERS = ["allowed, pa 0x8000", "#PF, error code 0x3 (P W/R), CR2 0x400000"]
MANUAL = [
    'Intel SDM vol. 3A, "Determination of Access Rights"',
    'AMD APM vol. 2, "Page-Translation-Table Entry Fields"',
]
FOUND = "7 times, 5 of them of this rule, first in layout 3; a case of 4 entries, 1 probe"
CASE_NOTE = "In the case file, predicted is what the walker said."
COMMAND = f"crosswalk replay a/b.json --walker {NAME}"


def case_of(**others):
    tables = PageTables(ram=((0, 0x10000),)).map(VA, 0x8000, P | US)
    probe = Probe(va=VA, access="write", predicted=Translation(0x8000), observed=PageFault(3, VA))
    return Case(
        cpu=Cpu.from_context(context()), ram=tables.ram, entries=tables.words, probes=(probe,)
    )


def finding(signature=SIGNATURE, **others):
    case = case_of()
    made = described_case(signature, case, reduced=True)
    text = dump_case(case).decode()
    known = {
        "count": 5, "layout": 7, "case": "a/b.json", "case_text": text, "reproduce": COMMAND,
        "size": "4 entries, 1 probe", "entries": 4,
    }  # fmt: skip
    return msgspec.structs.replace(made, **known | others)


def plain():
    other = Signature(f"peer:{NAME}", "R/W of a PDE that maps a page", "allowed", "refused")
    pairs = [(SIGNATURE, finding()), (other, finding(other, count=2, layout=3, reproduce="again"))]
    return joined_findings([*pairs, (DUE, finding_without_case())])


def finding_without_case():
    return msgspec.structs.replace(described(DUE), reproduce="crosswalk fuzz --seed 0")


def by_the_built_in_walker():
    return finding(replace(SIGNATURE, witness="walker"))


def not_canonical():
    """A small case of an address that isn't canonical, with the entries that it would select."""
    signature = replace(SIGNATURE, rule="canonical addresses", said="mapped", truth="not mapped")
    tables = PageTables(ram=((0, 0x10000),)).map(VA, 0x8000)
    probe = Probe(va=1 << 60 | VA, access="read", predicted=Translation(0x8000))
    cpu = Cpu.from_context(context())
    case = Case(cpu=cpu, ram=tables.ram, entries=tables.words, probes=(probe,))
    return described_case(signature, case, reduced=True)


def hostile():
    names = ("rule", "cause", "access", "answer", "context", "case_text", "reproduce")
    words = dict.fromkeys(names, HOSTILE)
    return [finding(**words, location=("a b/c,d:e.py", 3), case=HOSTILE)]


def report(findings, walker=NAME, about=("2 layouts",)):
    search = FindingsJson(walker=walker, findings=findings, about=list(about), folder="a")
    return ReportJson(made_by="crosswalk 1.2.3", editions="all", searches=[search])


def test_the_description_has_what_the_case_shows():
    found = finding()
    assert ("write of 0x400000 at CPL 0", *ANSWERS, ANSWERS[1]) == (
        found.access, found.answer, found.predicted, found.observed,
    )  # fmt: skip
    assert MANUAL == [str(section) for section in found.manual]
    assert ["PML4E[0]", "PDPTE[0]", "PDE[2]", "PTE[0]"] == [entry.name for entry in found.walk]
    assert [msgspec.UNSET] * 3 + ["R/W clear"] == [entry.blame for entry in found.walk]
    assert "R/W of the leaf: says allowed, it is refused" == found.cause


def test_findings_of_one_cause_are_one_with_the_sum_of_their_counts():
    first, failed = plain()
    assert (7, 3, 2) == (first.count, first.layout, len(first.variants))
    assert [5, 2] == [each.count for each in first.variants]
    assert 1 == len(failed.variants)


def test_the_variants_of_a_cause_are_listed_by_their_counts():
    levels = {"PTE": 5, "PDE that maps a page": 2, "PDPTE that maps a page": 3}
    named = [
        (replace(SIGNATURE, rule=f"R/W of a {level}"), count) for level, count in levels.items()
    ]
    (found,) = joined_findings([(each, finding(each, count=count)) for each, count in named])
    assert [5, 3, 2] == [each.count for each in found.variants]


def test_people_read_the_walk_both_answers_and_the_command():
    (search,) = report(plain()).searches
    assert [
        "7 × R/W of the leaf: says allowed, it is refused",
        "  access:    write of 0x400000 at CPL 0",
        f"  manual:    {MANUAL[0]}; {MANUAL[1]}",
        f"  walker:    {ANSWERS[0]}",
        f"  predicted: {ANSWERS[1]}",
        f"  observed:  {ANSWERS[1]}",
        *(f"  {line}" for line in WALK),
        "  under 4-level paging, CR3 0x1000, WP NXE, MAXPHYADDR 40",
        "  5 × R/W of a PTE; also 2 × R/W of a PDE that maps a page",
        f"  4 entries, 1 probe, first in layout 3: {COMMAND}",
        "1 × a case that can be written is due: crosswalk: OSError",
        "  crosswalk: OSError",
        "  no case: crosswalk fuzz --seed 0",
    ] == list(search_lines(search))


def test_the_document_comes_back_as_it_was():
    document = report(plain())
    assert document == msgspec.json.decode(dump_findings(document), type=ReportJson)
    assert "crosswalk-findings/1" == json.loads(dump_findings(document))["format"]


def test_the_formats_are_those_that_the_option_takes():
    assert REPORTS == tuple(FORMATS)


def rendered(data):
    """The tokens of a Markdown text, and its HTML."""
    parser = MarkdownIt("commonmark").enable("table")
    text = data.decode()
    return parser.parse(text), parser.render(text)


def html_of(tokens):
    """The HTML that stands in a Markdown text."""
    found = []
    for token in tokens:
        inner = token.children or []
        found += [each.content.strip() for each in [token, *inner] if each.type.startswith("html_")]
    return [line for text in found for line in text.splitlines()]


def test_markdown_has_all_of_it():
    tokens, _ = rendered(markdown(report(plain())))
    fences = [token.content for token in tokens if token.type == "fence"]
    under = "under 4-level paging, CR3 0x1000, WP NXE, MAXPHYADDR 40"
    assert "\n".join([*WALK, under, ""]) == fences[0]
    assert f"{COMMAND}\n" == fences[1]
    assert dump_case(case_of()).decode() == fences[2]
    assert "crosswalk fuzz --seed 0\n" == fences[-1]
    cells = [token.content for token in tokens if token.type == "inline"]
    for text in (*ANSWERS, "R/W of the leaf: says allowed, it is refused"):
        assert any(text in cell for cell in cells)
    for section in MANUAL:
        assert any(section in cell for cell in cells)
    assert ["h1", "h2", "h2"] == [token.tag for token in tokens if token.type == "heading_open"]


def words_of(data):
    """The text of a Markdown file, without the fences and the marks of code."""
    return data.decode().replace("`", "")


def ordered(text, *words):
    """Whether words stand in a text in this order."""
    places = [text.index(each) for each in words]
    return places == sorted(places)


@pytest.mark.parametrize("written", [markdown, html])
def test_whose_an_answer_is_can_be_read_from_the_report(written):
    text = words_of(markdown(report(plain())))
    if written is html:
        text = "".join(Page(html(report(plain()))).text)
    for who in ("walker", "Crosswalk", "emulated CPU"):
        row = f"\n| {who} |" if written is markdown else who
        assert row in text
    assert not re.search(r"^\|? ?(predicted|observed)", text, re.MULTILINE)
    assert ordered(text, CASE_NOTE, '"predicted"')
    assert CASE_NOTE not in "".join(Page(html(report([by_the_built_in_walker()]))).text)
    assert CASE_NOTE not in words_of(markdown(report([by_the_built_in_walker()])))


@pytest.mark.parametrize("written", [markdown, html])
def test_the_command_comes_before_the_case_and_others_of_the_cause_by_their_files(written):
    pairs = [(SIGNATURE, finding())]
    for number, rule in enumerate(
        ("R/W of a PDE that maps a page", "R/W of a PDPTE that maps a page")
    ):
        other = replace(SIGNATURE, rule=rule)
        again, where = f"crosswalk replay a/{number}.json", f"a/{number}.json"
        pairs.append((other, finding(other, count=2, reproduce=again, case=where)))
    data = written(report(joined_findings(pairs)))
    text = words_of(data) if written is markdown else "".join(Page(data).text)
    lines = (
        "2 × R/W of a PDE that maps a page: 0.json",
        "2 × R/W of a PDPTE that maps a page: 1.json",
    )
    assert ordered(text, WALK[3], COMMAND, '"crosswalk-case/1"', "2 more of the same cause", *lines)
    assert "replay a/0.json" not in text
    assert 2 == data.count(b"<details>") == data.count(b"</details>")


def test_each_report_has_the_count_of_the_rule_that_it_shows():
    assert FOUND in words_of(markdown(report(plain())))
    assert FOUND in "".join(Page(html(report(plain()))).text)
    assert "of this rule" not in "".join(Page(html(report([finding()]))).text)


def test_markdown_shows_text_of_others_as_text():
    tokens, shown = rendered(markdown(report(hostile(), HOSTILE, [HOSTILE])))
    own = re.compile("</?details>(<summary>[\\w ]+</summary>)?|<br>")
    assert [] == [line for line in html_of(tokens) if not own.fullmatch(line)]
    assert "<script>" not in shown
    assert "<a " not in shown
    assert not [token for token in tokens if token.type == "link_open"]
    tables = [token for token in tokens if token.type in {"tr_open", "th_open", "td_open"}]
    rows = sum(token.type == "tr_open" for token in tables)
    # The table of findings has three columns, that of the answers two.
    assert 2 * 3 + (rows - 2) * 2 == len(tables) - rows
    code = [each for token in tokens for each in token.children or [] if each.type == "code_inline"]
    assert HOSTILE in {each.content for each in code}


class Page(HTMLParser):
    """The elements of a page, the text in each kind of them, and all of it."""

    def __init__(self, data):
        super().__init__()
        self.open, self.tags, self.text, self.of = [], [], [], {}
        self.feed(data.decode())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        self.text.append(data)
        self.of.setdefault(self.open[-1] if self.open else "", []).append(data)


def test_html_has_all_of_it_and_marks_the_entry_to_blame():
    page = Page(html(report(plain())))
    text = "".join(page.text)
    for words in (*WALK, *ANSWERS, *MANUAL, COMMAND, "R/W of a PDE that maps a page", "2 layouts"):
        assert words in text
    assert [WALK[3]] == page.of["mark"]
    links = {attrs["href"] for tag, attrs in page.tags if tag == "a"}
    anchors = {f"#{attrs['id']}" for _, attrs in page.tags if "id" in attrs}
    assert {"#s1-1", "#s1-2"} == links
    assert links <= anchors


def test_of_an_address_that_is_not_canonical_that_alone_is_marked():
    page = Page(html(report([not_canonical()])))
    assert ["not canonical: linear addresses have 48 bits"] == page.of["mark"]
    assert "not on this walk, and needed to show it:" in "".join(page.text)


def test_long_lines_of_html_wrap_and_the_title_breaks_at_its_parts():
    data = html(report(plain(), "python:a/b.py:walk"))
    assert b"python:<wbr>a/<wbr>b.py:<wbr>walk</h1>" in data
    style = re.sub(r"\s+", " ", re.search("<style>(.*?)</style>", data.decode(), re.DOTALL)[1])
    rules = dict(re.findall(r"([^{}]+?) ?\{([^{}]*)\}", style))
    assert "white-space: nowrap" in rules[" td.number"]
    assert "white-space: pre-wrap" in rules[" pre, ol.entries li"]
    assert "overflow-x" not in style


def test_html_runs_and_loads_nothing_and_shows_text_of_others_as_text():
    page = Page(html(report(hostile(), HOSTILE, [HOSTILE])))
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert all(
        attrs[name].startswith("#")
        for _, attrs in page.tags
        for name in ("href", "src")
        if name in attrs
    )
    assert 6 <= "".join(page.text).count(HOSTILE)


def test_sarif_has_a_rule_for_each_cause_and_a_result_for_each_finding():
    log = json.loads(sarif(report(plain())))
    assert ("2.1.0", True) == (log["version"], "sarif-schema-2.1.0.json" in log["$schema"])
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert ("crosswalk", "1.2.3") == (driver["name"], driver["semanticVersion"])
    first, failed = run["results"]
    for result in (first, failed):
        rule = driver["rules"][result["ruleIndex"]]
        assert rule["id"] == result["ruleId"]
        assert all(rule[name]["text"] for name in ("shortDescription", "fullDescription", "help"))
        assert ("error", True) == (result["level"], bool(result["message"]["text"]))
        assert 64 == len(result["partialFingerprints"]["crosswalkCause/v1"])
    for words in (*WALK, *ANSWERS, *MANUAL, COMMAND):
        assert words in first["message"]["text"]
    assert 7 == first["occurrenceCount"]
    (location,) = first["locations"]
    assert {"artifactLocation": {"uri": "a/b.json"}, "region": {"startLine": 1}} == (
        location["physicalLocation"]
    )
    assert "locations" not in failed
    assert ["2 layouts"] == run["properties"]["about"]
    assert len({rule["id"] for rule in driver["rules"]}) == len(driver["rules"])


def test_sarif_keeps_braces_and_makes_addresses_of_names():
    (result,) = json.loads(sarif(report(hostile())))["runs"][0]["results"]
    assert HOSTILE.replace("{0}", "{{0}}") in result["message"]["text"]
    place = result["locations"][0]["physicalLocation"]
    assert ("a b/c,d:e.py", 3) == (
        unquote(urlsplit(place["artifactLocation"]["uri"]).path), place["region"]["startLine"],
    )  # fmt: skip


def test_a_cause_keeps_its_fingerprint_whatever_the_layouts():
    def fingerprint(found):
        (result,) = json.loads(sarif(report([found])))["runs"][0]["results"]
        return result["partialFingerprints"]

    assert fingerprint(finding()) == fingerprint(finding(count=99, layout=0, id="another"))
    assert fingerprint(finding()) != fingerprint(finding(cause="another"))


def undone(text, *, of_property=False):
    """What GitHub makes of the value of a workflow command."""
    pairs = [("%3A", ":"), ("%2C", ",")] if of_property else []
    for code, char in (*pairs, ("%0D", "\r"), ("%0A", "\n"), ("%25", "%")):
        text = text.replace(code, char)
    return text


@pytest.mark.parametrize("findings", [plain(), hostile()], ids=["plain", "hostile"])
def test_an_annotation_is_one_line_with_all_of_it(findings):
    (search,) = report(findings).searches
    lines = list(annotation_lines(search))
    assert len(findings) == len(lines)
    found = re.fullmatch(r"::error (?P<properties>[^:]*)::(?P<message>.*)", lines[0])
    properties = dict(each.split("=", 1) for each in found["properties"].split(","))
    shown = {name: undone(value, of_property=True) for name, value in properties.items()}
    place = findings[0].location or (findings[0].case, 1)
    assert {"file": place[0], "line": str(place[1]), "title": findings[0].cause} == shown
    message = undone(found["message"])
    for words in (*WALK, *MANUAL, findings[0].answer, findings[0].reproduce):
        assert words in message


def test_an_annotation_without_a_place_says_none():
    (search,) = report([finding_without_case()]).searches
    (line,) = annotation_lines(search)
    title = "a case that can be written is due%3A crosswalk%3A OSError"
    assert line.startswith(f"::error title={title}::")


def test_junit_has_the_walk_both_answers_and_the_command():
    data = junit(report(plain()).searches[0], "it", "2 layouts", 1.5)
    suite = ET.fromstring(data)  # noqa: S314  # Our own.
    assert {"name": "it", "tests": "3", "failures": "2", "errors": "0", "skipped": "0"} == {
        name: suite.get(name) for name in ("name", "tests", "failures", "errors", "skipped")
    }
    whole, first, failed = suite.findall("testcase")
    assert ([], "2 layouts") == (list(whole), whole.get("name"))
    (failure,) = first
    assert "R/W of the leaf: says allowed, it is refused" == failure.get("message")
    lines = failure.text.splitlines()
    assert FOUND == lines[0]
    for words in (*WALK, *ANSWERS, *MANUAL):
        assert any(words in line for line in lines)
    assert f"reproduce: {COMMAND}" == lines[-1]
    assert "crosswalk: OSError" in failed[0].text


def test_a_search_that_is_no_result_is_an_error_of_junit():
    data = junit(report([]).searches[0], "it", "2 layouts", 1.5, "nothing judged of: rights")
    suite = ET.fromstring(data)  # noqa: S314  # Our own.
    assert ("1", "0", "1") == tuple(suite.get(name) for name in ("tests", "failures", "errors"))
    assert "nothing judged of: rights" == suite.find("testcase/error").get("message")


def test_junit_holds_what_xml_can_and_nothing_else():
    odd = f"{HOSTILE}\0\x1b\ufffe\ud800"
    search = FindingsJson(walker=odd, findings=[finding(rule=odd, cause=odd, reproduce=odd)])
    data = junit(search, odd, odd, 0.0)
    failure = ET.fromstring(data).find("testcase/failure")  # noqa: S314  # Our own.
    assert HOSTILE + 4 * "\N{REPLACEMENT CHARACTER}" == failure.get("message")


@pytest.mark.parametrize("of_nobody", [False, True], ids=["of a walker", "of nobody"])
def test_nothing_found_is_said(of_nobody):
    document = report([])
    if of_nobody:
        document = msgspec.structs.replace(document, searches=[])
    assert b"Nothing was found." in markdown(document)
    assert b"Nothing was found." in html(document)
    assert [] == [each for run in json.loads(sarif(document))["runs"] for each in run["results"]]
    assert [] == [line for each in document.searches for line in annotation_lines(each)]


def test_a_finding_is_what_a_reader_of_the_schema_expects():
    names = {field.name for field in msgspec.structs.fields(FindingJson)}
    for each in json.loads(dump_findings(report(plain())))["searches"][0]["findings"]:
        assert each.keys() <= names
