"""The walkers of docs/examples, from their source to a shrunk case, and the case put to use."""

import re
import subprocess
import sys
from xml.etree import ElementTree as ET

import pytest

from crosswalk.walker.formats import load_case
from tests.emu.targets.walkers import EXAMPLES, ROOT, compiled

PAGE = (ROOT / "docs" / "walkers.md").read_text(encoding="utf-8")


def python_walker(folder, source):
    path = folder / "mywalker.py"
    path.write_text(source)
    return f"python:{path}:translate"


def c_walker(folder, source):
    path = folder / "mywalker.c"
    path.write_text(source)
    return f"c:{compiled(path, folder / 'libmywalker.so', '-shared', '-fPIC')}"


def exec_walker(folder, source):
    path = folder / "exec_walker.c"
    path.write_text(source)
    return f"exec:{compiled(path, folder / 'exec_walker')}"


WALKERS = {
    "broken_walker.py": (
        python_walker,
        ("writable = bool(entry & RW)", "writable &= bool(entry & RW)"),
        "R/W of ",
        5,
    ),
    "broken_walker.c": (
        c_walker,
        ("(level == 2 && entry & PS)", "((level == 2 || level == 3) && entry & PS)"),
        "a 1-GiB page that is there",
        3,
    ),
    "exec_walker.c": (
        exec_walker,
        (
            "for (int level = levels(); level > 0; level--) {",
            "for (int level = levels(); va == canonical(va) && level > 0; level--) {",
        ),
        "canonical addresses",
        5,
    ),
}
"""How each is made, what mends it, the rule that it gets wrong, and how few entries show that."""


ELSEWHERE = {
    "gdb_pt_dump_walker.py": "scripts/upkeep/found_bugs.py",
    "libvmi_walker.py": "scripts/upkeep/found_bugs.py",
    "suite_walker.c": "tests/emu/suite/test_suite.py",
}
"""What runs the others: those of projects that aren't ours need a checkout of them."""


def test_every_walker_among_the_examples_is_tried():
    names = sorted(path.name for path in EXAMPLES.iterdir() if path.is_file())
    assert sorted({**WALKERS, **ELSEWHERE}) == names
    for name, by in ELSEWHERE.items():
        assert name in (ROOT / by).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name",
    ["broken_walker.py", "broken_walker.c", pytest.param("exec_walker.c", marks=pytest.mark.slow)],
)
def test_a_broken_walker_is_found_out_shrunk_replayed_and_mended(run, tmp_path, name):
    make, (wrong, right), rule, entries = WALKERS[name]
    source = (EXAMPLES / name).read_text()
    assert 1 == source.count(wrong)
    walker = make(tmp_path, source)
    search = ["--cases", 4, "--accesses", 512, "--jobs", 1]
    report = tmp_path / "report.xml"
    ran = run(
        "fuzz", "--walker", walker, *search, "--corpus", tmp_path / "broken",
        "--json", "--junit", report, "--no-reduce",
    )  # fmt: skip
    assert 1 == ran.status
    assert walker == ran.document["walker"]
    findings = ran.document["findings"]
    assert 0 < len(findings)
    for finding in findings:
        assert finding["signature"].startswith(rule)
        case = load_case(finding["case"])
        assert (finding["entries"], 1) == (len(case.entries), len(case.probes))
        assert walker == case.walker
    failures = ET.parse(report).findall(".//failure")  # noqa: S314  # Our own.
    assert sorted(finding["cause"] for finding in findings) == sorted(
        failure.get("message") for failure in failures
    )
    assert all(f"--walker {walker}" in failure.text for failure in failures)

    case = tmp_path / "small.json"
    assert 0 == run("reduce", findings[0]["case"], "--walker", walker, "-o", case).status
    small = load_case(case)
    assert len(small.entries) <= entries
    assert (1, walker) == (len(small.probes), small.walker)
    shown = run("replay", case, "--walker", walker)
    assert (1, True) == (shown.status, f"  rule:      {rule}" in shown.out)
    assert 0 == run("replay", case).status

    mended = tmp_path / "mended"
    mended.mkdir()
    walker = make(mended, source.replace(wrong, right))
    cases = [case, *(each["case"] for finding in findings for each in finding["variants"])]
    assert 0 == run("replay", *cases, "--walker", walker).status
    ran = run("fuzz", "--walker", walker, *search, "--corpus", tmp_path / "mended-corpus")
    assert (0, True) == (ran.status, "verdict: agreement" in ran.out)


def test_the_report_names_rules_sizes_and_commands(run, tmp_path):
    walker = python_walker(tmp_path, (EXAMPLES / "broken_walker.py").read_text())
    search = ["--cases", 4, "--accesses", 512, "--jobs", 1, "--corpus", tmp_path / "corpus"]
    ran = run("fuzz", "--walker", walker, "--claims", "rights", "--no-reduce", *search)
    lines = ran.out.splitlines()
    count, _, cause = next(line for line in lines if " × " in line).partition(" × ")
    assert 0 < int(count)
    assert "R/W above the leaf: says allowed, it is refused" == cause
    (last,) = [line for line in lines if ", first in layout " in line]
    size, command = re.fullmatch(r" {2}(.*), first in layout \d: (.*)", last).groups()
    assert re.fullmatch(r"[\d,]+ entries, 1 probe", size)
    assert command.startswith("crosswalk replay ")
    assert command.endswith(f" --walker {walker} --claims rights")
    shown = run(*command.split()[1:])
    assert 1 == shown.status
    assert "  rule:      R/W of " in shown.out


@pytest.mark.slow
def test_a_case_in_somebodys_test_suite_fails_until_the_walker_is_mended(run, tmp_path):
    make, (wrong, right), *_ = WALKERS["broken_walker.py"]
    source = (EXAMPLES / "broken_walker.py").read_text()
    walker = make(tmp_path, source)
    run(
        "fuzz", "--walker", walker, "--cases", 4, "--accesses", 512, "--jobs", 1,
        "--corpus", tmp_path / "corpus", "--no-reduce",
    )  # fmt: skip
    (tmp_path / "tests" / "cases").mkdir(parents=True)
    path = min((tmp_path / "corpus" / "findings").iterdir())
    path.rename(tmp_path / "tests" / "cases" / path.name)
    (suite_of_the_page,) = re.findall(r"```python\n(import subprocess.*?)```", PAGE, re.DOTALL)
    assert 1 == suite_of_the_page.count("python:ours:translate")
    (tmp_path / "test_ours.py").write_text(
        suite_of_the_page.replace("python:ours:translate", walker)
    )

    def suite():
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_ours.py"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    ran = suite()
    assert 1 == ran.returncode
    assert "rule:      R/W of " in ran.stdout
    make(tmp_path, source.replace(wrong, right))
    assert 0 == suite().returncode


OFTEN = {"crash", "hang"}
FAILING = {
    "crash": ("os.abort()", "crash, died of SIGABRT"),
    "exception": ("1 // 0", "crash, raised ZeroDivisionError"),
    "flood": ("print('x' * (1 << 21))", "flood, too much output"),
    "hang": ("time.sleep(60)", "hang, no answer in time"),
    "nonsense": ("return 'somewhere'", "nonsense, no physical address, None or outcome"),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(each, marks=[] if each in OFTEN else pytest.mark.slow) for each in FAILING],
)
def test_a_campaign_goes_on_when_its_walker_fails(run, tmp_path, name):
    statement, kind = FAILING[name]
    path = tmp_path / "failing.py"
    path.write_text(
        "import os, time\n"
        "def f(memory, context, access):\n"
        f"    if access.type.name == 'WRITE' and access.cpl == 3: {statement}\n"
        "    return NotImplemented\n"
    )
    ran = run(
        "fuzz", "--walker", f"python:{path}:f", "--cases", 3, "--accesses", 64, "--jobs", 1,
        "--corpus", tmp_path / "corpus", "--json", "--walker-output", 1,
        *(["--walker-seconds", "0.1", "--no-reduce"] if name == "hang" else []),
    )  # fmt: skip
    assert 1 == ran.status
    (finding,) = ran.document["findings"]
    assert (
        f"an answer within the limits is due: peer:python:{path}:f: {kind}" == finding["signature"]
    )
    assert 3 == ran.document["layouts"] <= finding["count"]
    case = load_case(finding["case"])
    if name != "hang":
        assert (0, 1) == (len(case.entries), len(case.probes))
        assert ("write", 3) == (case.probes[0].access, case.probes[0].cpl)
    options = ["--walker-seconds", "0.1", "--walker-output", 1]
    shown = run("replay", finding["case"], "--walker", f"python:{path}:f", *options)
    assert 1 == shown.status
    assert f"  walker:    {kind.partition(',')[0]}: " in shown.out
