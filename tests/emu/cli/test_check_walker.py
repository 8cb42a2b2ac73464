"""`check --walker`: an image put to a walker whole, and what it is wrong about."""

import json

import pytest

from crosswalk.walker.formats import Case, Cpu, dump_case, load_case
from tests.tables import LEGACY, LONG, OPEN, P, PageTables, context

NOT_LISTED = "addresses that aren't canonical, of which no list is asked for"
LISTER = """
from crosswalk.walker.leaves import walk_leaves
from crosswalk.walker.rights import Grant
CLAIMS = "leaves,flags,effective"

def rights(grant):
    return "".join(name if grant & bit else "-" for name, bit in
                   (("u", Grant.USER), ("w", Grant.WRITE), ("x", Grant.EXECUTE)))

def f(memory, context, va, end):
    for part in walk_leaves(memory, context, va, end):
        columns = (part.va, part.pa, part.size, part.flags, part.grant, part.entry)
        for va, pa, size, flags, grant, entry in zip(*(c.tolist() for c in columns)):
            yield BODY
"""
TRANSLATOR = """
from crosswalk.walker import *
CLAIMS = "rights"
def f(memory, context, access):
    found = translate(memory, context, access)
    return BODY
"""
LISTED = "va, pa, size, flags, rights(grant)"


@pytest.fixture
def walker(tmp_path):
    """Write a walker whose answers are `body`, and return the options that name it."""

    def make(template, body):
        path = tmp_path / "its.py"
        path.write_text(template.replace("BODY", body))
        return ["--walker", f"python:{path}:f", "--jobs", "1"]

    return make


def image(mode=4, **upper):
    """Two pages, of which one is read-only, as a case file's text."""
    tables = PageTables(mode, ram=((0, 1 << 24),))
    tables.map(0x40_0000, 0x20_0000, OPEN, **upper).map(0x40_1000, 0x20_1000, P)
    cpu = Cpu.from_context(context(mode))
    return dump_case(Case(cpu=cpu, ram=tables.ram, entries=tables.words, probes=()))


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "image.json"
    path.write_bytes(image())
    return path


@pytest.mark.parametrize("mode", [*LEGACY, *LONG])
@pytest.mark.parametrize(
    ("template", "body"), [(LISTER, LISTED), (TRANSLATOR, "found")], ids=["lists", "translates"]
)
def test_a_right_walker_agrees_in_every_mode(run, tmp_path, walker, mode, template, body):
    path = tmp_path / "image.json"
    path.write_bytes(image(mode))
    ran = run("check", path, *walker(template, body), "--json")
    # Three ways of access, at both CPLs, to three addresses that aren't canonical.
    left = {NOT_LISTED: 18} if template is LISTER and mode in LONG else {}
    clause = f"; not asked: 18 ({NOT_LISTED})" if left else ""
    assert (0, f"agreement{clause}") == (ran.status, ran.document["verdict"])
    assert left == ran.document["not_asked"]
    slug = {4: "4level", 5: "5level", "32-bit": "32bit", "PAE": "pae"}[mode]
    asked = ran.document["asked"][slug]
    assert ran.document["answered"] == {slug: asked}
    assert ran.document["declined"] == {slug: 0}
    assert [] == ran.document["findings"]
    assert asked > 50


def test_a_wrong_translation_is_found_shown_and_replays(run, tmp_path, source, walker):
    body = "Translation(0x9000) if access.va == 0x40_1000 and access.type == 1 else found"
    wrong = walker(TRANSLATOR, body)
    ran = run("check", source, *wrong, "--cases", tmp_path / "kept")
    assert 1 == ran.status
    assert "R/W of the leaf: says allowed, it is refused" in ran.out
    assert "<-- R/W clear" in ran.out
    assert "verdict: FAILED" in ran.out
    cases = sorted((tmp_path / "kept").iterdir())
    assert f"crosswalk replay {cases[0]} --walker {wrong[1]}" in ran.out
    for case in cases:
        assert len(load_case(case).entries) <= 5
        assert 1 == run("replay", case, *wrong[:2]).status
        assert 0 == run("replay", case, "--walker", "bulk").status


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ("va, pa, size, flags, rights(7)", "effective U/S of the leaf: says granted"),
        ("va, pa, size, flags ^ 4, rights(grant)", "flags of a page: says others"),
        ("va, pa ^ 4096, size, flags, rights(grant)", "address of a 4-KiB page: says another"),
    ],
    ids=["effective", "flags", "address"],
)
def test_a_wrong_list_is_found(run, source, walker, body, cause):
    ran = run("check", source, *walker(LISTER, body))
    assert (1, True) == (ran.status, cause in ran.out)


def test_a_mapping_that_is_listed_far_from_all_others_is_found(run, source, walker):
    body = f"{LISTED}\n    if va <= 0x7000_0000_0000 < end: yield 0x7000_0000_0000, 0, 4096"
    body = body.replace("if va", "if first")
    template = LISTER.replace("f(memory, context, va, end):", "f(memory, context, first, end):")
    template = template.replace("walk_leaves(memory, context, va, end)",
                                "walk_leaves(memory, context, first, end)")  # fmt: skip
    ran = run("check", source, *walker(template, body))
    assert 1 == ran.status
    assert "read of 0x700000000000 at CPL 0" in ran.out
    command = next(line for line in ran.out.splitlines() if "--start" in line)
    assert command.endswith("--start 0x700000000000 --end 0x700000000001")


def test_the_command_that_shows_a_finding_again_shows_it(run, source, walker):
    options = walker(LISTER, "va, pa ^ 4096, size, flags, rights(grant)")
    (finding,) = run("check", source, *options, "--json").document["findings"]
    words = finding["reproduce"].split()
    assert ["crosswalk", "check"] == words[:2]
    again = run(*words[1:])
    assert 1 == again.status
    (same,) = again.document["findings"]
    assert finding["cause"] == same["cause"]


def test_what_a_page_alone_does_not_show_is_shown_by_all_again(run, source, walker):
    """The walker lists all pages as one range, with the rights of the first."""
    body = "first, None, last - first, None, rights(int(part.grant[0]))"
    template = LISTER.replace('"leaves,flags,effective"', '"leaves,ranges,effective"')
    template = template.replace(
        "        for va, pa, size, flags, grant, entry in zip(*(c.tolist() for c in columns)):\n"
        "            yield BODY\n",
        "        first, last = int(part.va[0]), int(part.va[-1] + part.size[-1])\n"
        "        yield BODY\n",
    )
    options = walker(template, body)
    (finding,) = run("check", source, *options, "--json").document["findings"]
    assert finding["cause"].startswith("effective U/S of the leaf: says granted")
    words = finding["reproduce"].split()
    assert "--start" not in words
    (same,) = run(*words[1:]).document["findings"]
    assert finding["cause"] == same["cause"]


def test_a_claim_that_is_never_answered_is_exit_status_2(run, source, walker):
    ran = run("check", source, *walker(TRANSLATOR, "NotImplemented"))
    assert (2, True) == (ran.status, "verdict: nothing judged of: rights\n" in ran.out)
    ran = run("check", source, *walker(LISTER, "va, pa, size"))
    assert (2, True) == (ran.status, "verdict: nothing judged of: flags, effective\n" in ran.out)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("va, None, size, flags, rights(7)", "mapped, a page of 4 KiB, rights uwx"),
        ("va, None, 2 * size, flags, rights(grant)", "mapped, a range of 8 KiB; another size"),
        ("0x50_0000, None, size, flags, rights(grant)", "mapped, a page of 4 KiB"),
    ],
    ids=["effective", "size", "no mapping"],
)
def test_no_physical_address_is_shown_that_the_walker_did_not_give(
    run, tmp_path, source, walker, body, text
):
    """One page is listed, and the other one is not there."""
    cpu = Cpu.from_context(context(4))
    tables = PageTables(4, ram=((0, 1 << 24),)).map(0x40_0000, 0x20_0000, P)
    source.write_bytes(dump_case(Case(cpu=cpu, ram=tables.ram, entries=tables.words, probes=())))
    options, report = walker(LISTER, body), tmp_path / "report.md"
    ran = run("check", source, *options, "--cases", tmp_path / "kept", "--report", report)
    assert 1 == ran.status
    assert f"  walker:    {text}" in ran.out
    answers = [line for line in ran.out.splitlines() if line.startswith("  walker:")]
    assert not any(" pa " in line for line in answers)
    assert f"| walker | {text}" in report.read_text()
    paths = sorted((tmp_path / "kept").iterdir())
    for path in paths:
        replayed = run("replay", path, *options[:2])
        assert 1 == replayed.status
        rows = [line for line in replayed.out.splitlines() if line.startswith("  walker:")]
        assert rows
        assert not any(" pa " in line for line in rows)
        said = run("replay", path, *options[:2], "--json").document["probes"][0]
        assert "pa" not in said.get("predicted", {})


def test_what_a_walker_raised_is_shown_in_its_own_words(run, tmp_path, source, walker):
    body = "[][access.cpl] if access.va == 0x40_1000 else found"
    options, report = walker(TRANSLATOR, body), tmp_path / "report.md"
    ran = run("check", source, *options, "--report", report)
    assert "  walker:    crash: raised IndexError: list index out of range" in ran.out
    assert "crash: raised IndexError: list index out of range" in report.read_text()
    assert "is due: crash, raised IndexError\n" in ran.out


def test_a_question_that_kills_is_a_finding_and_the_others_are_asked(run, source, walker):
    body = "exit(3) if access.va == 0x40_1000 and access.cpl == 3 else found"
    ran = run("check", source, *walker(TRANSLATOR, body), "--json")
    assert 1 == ran.status
    assert ["an answer within the limits"] == [
        each["signature"].partition(" is due")[0] for each in ran.document["findings"]
    ]
    assert 0 < ran.document["answered"]["4level"] < ran.document["asked"]["4level"]


def test_what_is_not_asked_after_too_many_failures_is_named_where_the_check_fails(
    run, source, walker, tmp_path
):
    tables = PageTables(4, ram=((0, 1 << 24),))
    for at in range(40):
        tables.map(0x40_0000 + 4096 * at, 0x20_0000 + 4096 * at, P)
    cpu = Cpu.from_context(context(4))
    case = Case(cpu=cpu, ram=tables.ram, entries=tables.words, probes=())
    source.write_bytes(dump_case(case))
    options = walker(TRANSLATOR, "exit(3)")
    ran = run("check", source, *options, "--json")
    assert 1 == ran.status
    left = ran.document["not_asked"]["what follows 16 failures of the walker under test"]
    assert ran.document["probes"] == ran.document["asked"]["4level"] + left
    report = tmp_path / "report.md"
    shown = run("check", source, *options, "--report", report)
    line = f"    not asked: {left:,} (what follows 16 failures of the walker under test)"
    assert line in shown.out.splitlines()
    assert line.strip() in report.read_text()
    # Where some answers are right, and its failures are accepted, the verdict names it.
    options = walker(TRANSLATOR, "exit(3) if access.va >= 0x40_1000 else found")
    ran = run("check", source, *options, "--ignore", "*", "--json")
    assert 0 == ran.status
    ((why, left),) = ran.document["not_asked"].items()
    assert f"; not asked: {left:,} ({why})" in ran.document["verdict"]


def test_what_no_list_is_asked_for_is_named(run, source):
    ran = run("check", source, "--walker", "walk", "--json")
    assert 0 == ran.status
    ((why, left),) = ran.document["not_asked"].items()
    assert NOT_LISTED == why
    assert ran.document["probes"] == ran.document["asked"]["4level"] + left > left > 0
    assert f"; not asked: {left:,} ({why})" in ran.document["verdict"]
    # Whoever translates is asked for those as well.
    assert {} == run("check", source, "--walker", "translate", "--json").document["not_asked"]


def test_known_findings_do_not_fail_and_are_named(run, tmp_path, source, walker):
    options = walker(LISTER, "va, pa ^ 4096, size, flags, rights(grant)")
    ran = run("check", source, *options, "--ignore", "ADDRESS OF *")
    assert 0 == ran.status
    assert "ignored by 'ADDRESS OF *': 1: address of a 4-KiB page: says another" in ran.out
    baseline = tmp_path / "known.json"
    ran = run("check", source, *options, "--baseline", baseline, "--write-baseline")
    assert 0 == ran.status
    (entry,) = json.loads(baseline.read_text())["causes"]
    assert "address of a 4-KiB page: says another, it is this" == entry["cause"]
    assert 0 == run("check", source, *options, "--baseline", baseline).status
    other = walker(LISTER, "va, pa, size, flags ^ 4, rights(grant)")
    assert 1 == run("check", source, *other, "--baseline", baseline).status


def test_wrong_answers_are_counted_and_are_no_agreement_where_they_are_accepted(
    run, source, walker
):
    options = walker(TRANSLATOR, "Translation(0x9000) if access.va == 0x40_1000 else found")
    ran = run("check", source, *options)
    (counts,) = (line for line in ran.out.splitlines() if " agree, " in line)
    probes, wrong = int(counts.split()[0].replace(",", "")), int(counts.split()[-1])
    assert wrong
    assert counts.endswith(f" 0 diverge; wrong answers of {options[1]}: {wrong}")
    assert wrong == run("check", source, *options, "--json").document["wrong_answers"]
    ran = run("check", source, *options, "--ignore", "*")
    assert (0, True) == (
        ran.status,
        f"verdict: agreement on {probes - wrong:,} of {probes:,} probes; " in ran.out,
    )
    assert "accepted" in ran.out.splitlines()[-2]
    ran = run("check", source, *walker(LISTER, LISTED), "--ignore", "*")
    verdict = f"verdict: agreement; not asked: 18 ({NOT_LISTED})\n"
    assert (0, True) == (ran.status, verdict in ran.out)
    assert " 0 diverge; wrong answers of " in ran.out


def test_a_part_is_put_to_the_walker_alone(run, source, walker):
    body = "found if access.va < 0x40_1000 else exit(1)"
    options = walker(TRANSLATOR, body)
    whole = run("check", source, *options)
    part = run("check", source, *options, "--start", "0x400000", "--end", "0x401000")
    assert (1, 0) == (whole.status, part.status)


def test_a_limit_leaves_lists_to_the_pages_that_are_accessed(run, source, walker):
    ran = run("check", source, *walker(LISTER, LISTED), "--limit", "1", "--json")
    assert 0 == ran.status
    assert 0 < ran.document["answered"]["4level"]
    assert "flags" not in ran.document["claims"]


@pytest.mark.parametrize("option", [["--claims", "rights"], ["--ignore", "x"]])
def test_options_of_a_walker_mean_nothing_without_one(run, source, option):
    assert 2 == run("check", source, *option).status


def test_a_walker_that_can_not_be_had_is_one_line(run, source):
    ran = run("check", source, "--walker", "python:nothing.py:f")
    assert (2, "") == (ran.status, ran.out)
    assert ran.err.splitlines()[-1].startswith("crosswalk: error: python:nothing.py:f")


def test_findings_are_reported_in_files_and_as_annotations(run, tmp_path, source, walker):
    options = walker(LISTER, "va, pa ^ 4096, size, flags, rights(grant)")
    page = tmp_path / "wrong.md"
    ran = run("check", source, *options, "--report", page, "--github")
    assert 1 == ran.status
    text = page.read_text()
    assert "- wrong answers: " in text
    assert "address of a 4-KiB page" in text
    assert "asked for" in text
    place = options[1].split(":")[1]
    assert any(line.startswith(f"::error file={place},line=") for line in ran.err.splitlines())
    assert 2 == run("check", source, "--report", page).status
