"""`replay --walker`: what a walker says, beside what is true."""

import json
import sys
from dataclasses import replace

import pytest

from crosswalk.walker.formats import Probe, dump_case, load_case, parse_case
from crosswalk.walker.outcome import Translation
from tests.emu.case_files import KNOWN_CASES
from tests.emu.cli.conftest import case_of, small
from tests.emu.cli.running import written


@pytest.fixture
def walker(tmp_path):
    """Write a walker's body, and return the options that name it."""

    def make(body, name="its"):
        path = tmp_path / f"{name}.py"
        path.write_text(
            f"from crosswalk.walker import *\ndef f(memory, context, access): return {body}\n"
        )
        return ["--walker", f"python:{path}:f"]

    return make


RIGHT = "translate(memory, context, access)"
UPPER = "0x1000 = 0x2027, 0x2000 = 0x3027, 0x3010 = 0x4027"
MARKS = f"{UPPER}, 0x4008 = 0x9021"


RIGHTS = (
    'Intel SDM vol. 3A, "Determination of Access Rights"; '
    'AMD APM vol. 2, "Page-Translation-Table Entry Fields"'
)


def test_a_walker_that_is_right_is_exit_status_0(run, small_case, walker):
    ran = run("replay", small_case, *walker(RIGHT), "--claims", "faults,marks")
    assert 0 == ran.status
    lines = ran.out.splitlines()
    assert lines[0].startswith(f"{small_case}: probes 4, divergences 0, wrong answers of python:")
    assert lines[0].endswith(": 0")
    fault = "#PF, error code 0x3 (P W/R), CR2 0x401000"
    assert f"right: write of 0x401000 at CPL 0: {fault}; may change {MARKS}" in lines


def test_a_wrong_answer_is_exit_status_1_and_shown_beside_both_others(run, small_case, walker):
    body = f"Translation(0x9000) if access.va == 0x40_1000 else {RIGHT}"
    ran = run("replay", small_case, *walker(body), "--claims", "rights")
    assert 1 == ran.status
    lines = ran.out.splitlines()
    at = lines.index("wrong: write of 0x401000 at CPL 0")
    assert [
        "  rule:      R/W of a PTE: says allowed, it is refused",
        f"  manual:    {RIGHTS}",
        "  walker:    allowed, pa 0x9000",
        "  predicted: #PF, error code 0x3 (P W/R), CR2 0x401000",
        "  observed:  #PF, error code 0x3 (P W/R), CR2 0x401000",
        "  PML4E[0]     at 0x00000001000 = 0x0000000000002007  table  RW US",
        "  PDPTE[0]     at 0x00000002000 = 0x0000000000003007  table  RW US",
        "  PDE[2]       at 0x00000003010 = 0x0000000000004007  table  RW US",
        "  PTE[1]       at 0x00000004008 = 0x0000000000009001  leaf  <-- R/W clear",
        "  under 4-level paging, CR3 0x1000, WP NXE, MAXPHYADDR 40",
    ] == lines[at + 1 : at + 11]
    assert "right: read of 0x402000 at CPL 3: refused" in lines


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ("translation", ("mapped, pa 0x8123", "not mapped")),
        ("rights", ("allowed, pa 0x8123", "refused")),
        ("faults", ("ok, pa 0x8123", "#GP(0)")),
    ],
)
def test_a_walker_is_quoted_as_far_as_it_claims(run, small_case, walker, claims, words):
    body = f"None if access.type == 9 else {RIGHT}"
    if claims == "translation":
        body = "translate(memory, context, Access(access.va, AccessType.READ))"
    ran = run("replay", small_case, *walker(body), "--claims", claims)
    assert 0 == ran.status
    assert f"right: write of 0x400123 at CPL 0: {words[0]}" in ran.out
    assert f"right: execute of 0x1000000000000000 at CPL 0: {words[1]}" in ran.out


def test_silence_is_not_wrong_and_nothing_else_is_no_agreement(run, small_case, walker):
    ran = run("replay", small_case, *walker("NotImplemented"))
    assert 2 == ran.status
    assert 4 == ran.out.count("\ndeclined: ")
    assert "nothing judged of: translation" == ran.out.splitlines()[-1]
    ran = run("replay", small_case, *walker("NotImplemented"), "--json")
    assert (2, "nothing judged of: translation") == (ran.status, ran.err.splitlines()[-1])
    assert all(probe.predicted is None for probe in parse_case(ran.out.encode(), "it").probes)


def test_one_answer_to_a_claim_is_enough_for_all_cases_of_a_command(run, small_case, walker):
    some = f"NotImplemented if access.va else {RIGHT}"
    other = small_case.with_name("other.json")
    case = load_case(small_case)
    other.write_bytes(dump_case(replace(case, probes=(Probe(va=0, access="read"),))))
    options = [*walker(some), "--claims", "faults"]
    assert [2, 0, 0] == [
        run("replay", *paths, *options).status
        for paths in ([small_case], [other], [small_case, other])
    ]


def test_a_wrong_answer_goes_before_a_claim_without_answers(run, small_case, tmp_path):
    path = tmp_path / "listing.py"
    path.write_text(
        "CLAIMS = 'leaves,effective'\n"
        "def f(memory, context, va, end): return [(0x40_0000, 0x7000, 4096)]\n"
    )
    assert 1 == run("replay", small_case, "--walker", f"python:{path}:f").status
    ran = run("replay", small_case, "--walker", f"python:{path}:f", "--ignore", "*")
    assert (2, True) == (ran.status, ran.out.endswith("nothing judged of: effective\n"))


def test_known_wrong_answers_do_not_fail_and_are_named(run, small_case, walker, tmp_path):
    options = [*walker("0x9000 if access.va == 0x40_2000 else " + RIGHT), "--claims", "rights"]
    assert 1 == run("replay", small_case, *options).status
    ran = run("replay", small_case, *options, "--ignore", "p of an *")
    assert 0 == ran.status
    said = "P of an entry: says allowed, it is refused"
    assert f"ignored by 'p of an *': 1: {said}" == ran.out.splitlines()[-1]
    baseline = tmp_path / "known.json"
    document = {"format": "crosswalk-baseline/1", "causes": [{"cause": said}, {"cause": "other"}]}
    baseline.write_text(json.dumps(document))
    ran = run("replay", small_case, *options, "--baseline", baseline)
    assert (0, True) == (ran.status, ran.out.endswith(f"known from the baseline: 1: {said}\n"))
    document["causes"].pop(0)
    baseline.write_text(json.dumps(document))
    assert 1 == run("replay", small_case, *options, "--baseline", baseline).status


def test_json_is_the_case_with_what_the_walker_said_as_predicted(run, small_case, walker):
    body = f"Translation(0x9000) if access.va == 0x40_1000 else {RIGHT}"
    options = walker(body)
    ran = run("replay", small_case, *options, "--claims", "rights", "--json")
    plain = parse_case(run("replay", small_case, "--json").out.encode(), "plain")
    case = parse_case(ran.out.encode(), "answer")
    assert 1 == ran.status
    assert options[1] == case.walker
    assert [probe.observed for probe in plain.probes] == [probe.observed for probe in case.probes]
    assert Translation(0x9000) == replace(case.probes[1].predicted, entries=())
    # Where it is right as far as it claims, that is completed by what is true.
    rest = [at for at in range(4) if at != 1]
    assert [plain.probes[at].observed for at in rest] == [case.probes[at].predicted for at in rest]


def test_where_nothing_is_said_nothing_is_predicted(run, small_case, walker):
    case = parse_case(
        run("replay", small_case, *walker("NotImplemented"), "--json").out.encode(), ""
    )
    assert [None] * 4 == [probe.predicted for probe in case.probes]
    assert None not in [probe.observed for probe in case.probes]


def test_a_failure_is_wrong_and_said_on_either_stream(run, small_case, walker):
    options = walker("1 // 0")
    ran = run("replay", small_case, *options)
    assert 1 == ran.status
    assert "failed: an answer within the limits is due" in ran.out
    assert "  walker:    crash: raised ZeroDivisionError: integer division" in ran.out
    ran = run("replay", small_case, *options, "--json")
    assert 1 == ran.status
    assert "raised ZeroDivisionError" in ran.err
    assert "predicted" not in json.loads(ran.out)["probes"][0]


def test_what_is_wrong_beside_the_probes_is_shown(run, tmp_path):
    path = tmp_path / "its.py"
    path.write_text(
        "from crosswalk.walker import mappings\n"
        "def f(memory, context, va, end):\n"
        "    for each in mappings(memory, context, va, end):\n"
        "        yield each.va, each.pa, each.size, each.flags\n"
        "    if va == 0: yield 0x7000_0000_0000, 0x5000, 4096, 0\n"
        "f.claims = 'leaves,flags'\n"
    )
    case = written(tmp_path / "case.json", case_of(Probe(va=0x40_0000, access="read")))
    ran = run("replay", case, "--walker", f"python:{path}:f")
    assert 1 == ran.status
    assert "right: read of 0x400000 at CPL 0: mapped, pa 0x8000, a page of 4 KiB" in ran.out
    lines = ran.out.splitlines()
    at = lines.index("wrong: read of 0x700000000000 at CPL 0, beside the probes")
    assert [
        "  rule:      P of a PML4E: says mapped, it is not mapped",
        "  walker:    mapped, pa 0x5000, a page of 4 KiB",
        "  predicted: #PF, error code 0x0 (none), CR2 0x700000000000",
        "  PML4E[224]   at 0x00000001700 = 0x0000000000000000  not present  <-- P clear",
        "  not on this walk:",
        "  PML4E[0]     at 0x00000001000 = 0x0000000000002007  table  RW US  for 0x0 and up",
    ] == [lines[at + 1], *lines[at + 3 : at + 8]]


def test_a_walker_that_a_case_names_is_not_run(run, small_case, tmp_path):
    touched = tmp_path / "touched"
    named = replace(load_case(small_case), walker=f"exec:touch '{touched}'")
    small_case.write_bytes(dump_case(named))
    for arguments in (["replay"], ["reduce"]):
        ran = run(*arguments, small_case)
        assert f"--walker 'exec:touch '\"'\"'{touched}'\"'\"''" in ran.err
    ran = run("replay", small_case)
    assert (0, 4) == (ran.status, ran.out.count("agree: "))
    assert not touched.exists()


def test_a_case_of_another_walker_is_remarked_upon(run, small_case, walker):
    small_case.write_bytes(dump_case(replace(load_case(small_case), walker="volatility3")))
    ran = run("replay", small_case, *walker(RIGHT))
    assert f"{small_case}: found with another walker under test" in ran.err
    assert "--walker volatility3" in ran.err


def test_accesses_that_are_not_asked_say_after_how_many_failures(run, tmp_path, walker):
    probes = (Probe(va=0x40_0000 + at, access="read", cpl=0, ac=False) for at in range(20))
    path = written(tmp_path / "many.json", case_of(*probes))
    ran = run("replay", path, *walker("exit(3)"), "--claims", "rights")
    why = "what follows 16 failures of the walker under test"
    assert 1 == ran.status
    assert 4 == sum(
        line.startswith("not asked: read of 0x4000") and line.endswith(f": {why}")
        for line in ran.out.splitlines()
    )


def test_cases_of_another_walker_are_one_line_and_what_came_of_all_is_another(
    run, small_case, tmp_path, walker
):
    paths = []
    for at, va in enumerate((0x40_0000, 0x40_1000, 0x40_2000)):
        case = case_of(Probe(va=va, access="read", cpl=0, ac=False))
        paths.append(written(tmp_path / f"{at}.json", replace(case, walker="volatility3")))
    body = "NotImplemented if access.va == 0x40_2000 else Translation(0x8000)"
    rubbish = tmp_path / "rubbish.json"
    rubbish.write_text("{}")
    how = *walker(body), "--claims", "rights"
    ran = run("replay", *paths, rubbish, *how)
    assert (1, 1) == (ran.status, ran.err.count("another walker under test"))
    line = "3 cases: found with another walker under test; to ask that, give --walker volatility3"
    assert line in ran.err.splitlines()
    total = "4 cases: 1 right, 1 wrong, 1 declined, 1 not replayed"
    assert total == ran.out.splitlines()[-1]
    assert 2 == run("replay", paths[0], rubbish, *how).status
    assert total in run("replay", *paths, rubbish, *how, "--json").err.splitlines()


@pytest.mark.parametrize("path", sorted(KNOWN_CASES.iterdir()), ids=lambda path: path.stem)
def test_where_the_emulator_is_known_to_be_wrong_the_walker_is_not(run, path):
    ran = run("replay", path, "--walker", "bulk")
    assert 0 == ran.status
    assert f"  known emulator divergence: {path.stem}" in ran.out


def test_several_cases_are_put_to_one_walker(run, small_case, tmp_path, walker):
    other = written(tmp_path / "other.json", case_of(words=small().words))
    ran = run("replay", small_case, other, *walker("None"), "--claims", "rights")
    assert 1 == ran.status
    assert "probes 4, divergences 0, wrong answers of python" in ran.out
    assert "probes 0, divergences 0, wrong answers of python" in ran.out


def test_who_lists_and_translates_may_be_silent_about_an_access(run, tmp_path):
    path = tmp_path / "both.py"
    path.write_text(
        "import json, sys\n"
        "def tell(said): print(json.dumps(said), flush=True)\n"
        "tell({'protocol': 'crosswalk-walker/1', 'claims': ['leaves', 'rights']})\n"
        "for line in sys.stdin:\n"
        "    if 'first' in line: tell({'mappings': []})\n"
        "    elif 'va' in line: tell({'outcome': 'unknown'})\n"
    )
    walker = ["--walker", f"exec:{sys.executable} {path}"]
    case = written(tmp_path / "case.json", case_of(Probe(va=0x40_2000, access="read"), words={}))
    ran = run("replay", case, *walker)
    assert (2, True) == (ran.status, "declined: read of 0x402000 at CPL 0" in ran.out)
    assert "nothing judged of: rights" == ran.out.splitlines()[-1]
    case = written(tmp_path / "case.json", case_of(Probe(va=0x40_0000, access="read")))
    ran = run("replay", case, *walker)
    assert 1 == ran.status
    lines = ran.out.splitlines()
    at = lines.index("wrong: read of 0x400000 at CPL 0")
    assert [
        "  rule:      a 4-KiB page that is there: says not mapped, it is mapped",
        "  walker:    not mapped",
        "  predicted: ok, pa 0x8000",
        "  observed:  ok, pa 0x8000",
    ] == [lines[at + 1], *lines[at + 3 : at + 6]]
