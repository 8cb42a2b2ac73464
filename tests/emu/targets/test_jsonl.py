import json
import sys

import pytest

from crosswalk.emu.targets import jsonl
from crosswalk.emu.targets.capabilities import Capability
from crosswalk.emu.targets.registry import open_target
from crosswalk.emu.workers.sandbox import Failure, Limits
from crosswalk.walker.columns import Kind
from crosswalk.walker.errors import BadInput
from crosswalk.walker.outcome import GeneralProtection, PageFault, Translation
from tests.emu.targets.walkers import HOLE, PAGE, answers, every, failures, reads, script, space
from tests.tables import context

HELLO = """
import json, os, sys, time
print(json.dumps({"protocol": "crosswalk-walker/1", "claims": CLAIMS.split(",")}), flush=True)
def tell(answer): print(json.dumps(answer), flush=True)
"""


SPACE = (
    '{"cpu":{"cr0":"0x80010001","cr3":"0x1000","cr4":"0x200020","efer":"0xd00","pkru":"0x0",'
    '"maxphyaddr":40,"page1gb":true,"vendor":"intel"},"ram":[["0x0","0x1000000"]],'
    '"entries":{"0x1000":"0x2007","0x2000":"0x3007","0x2008":"0x5007","0x3010":"0x4007",'
    '"0x4000":"0x200007","0x4008":"0x8000000000201001","0x5000":"0x600087"}}'
)


def process(folder, body, claims="faults", name="process.py"):
    """A process that greets, and then runs this for each `line` and its `question`."""
    loop = "for line in sys.stdin:\n    question = json.loads(line)\n"
    body = "".join(f"    {line}\n" for line in body.splitlines())
    return script(folder, f"CLAIMS = {claims!r}{HELLO}{loop}{body}", name)


def saying(folder, text, claims="faults"):
    return process(folder, f"if 'cpu' not in question: {text}", claims)


def failure(walker, limits=Limits(seconds=20)):  # noqa: B008  # Frozen.
    return failures(walker, reads(PAGE), limits=limits)[0][0]


def test_a_process_is_told_an_address_space_and_then_accesses(tmp_path):
    log = tmp_path / "log"
    body = (
        f"open({str(log)!r}, 'a').write(line)\nif 'va' in question: tell({{'outcome': 'unknown'}})"
    )
    said = answers(process(tmp_path, body), every(PAGE), smap=True)
    assert said.silent.all()
    assert [
        SPACE,
        '{"va":"0x400000","access":"read","cpl":0,"ac":false}',
        '{"va":"0x400000","access":"read","cpl":3,"ac":false}',
        '{"va":"0x400000","access":"write","cpl":0,"ac":false}',
    ] == log.read_text().splitlines()[:4]


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ({"outcome": "ok", "pa": "0x1234"}, Translation(0x1234)),
        ({"outcome": "ok", "pa": "0xAB", "entries": {"0x1000": "0x2027"}},
         Translation(0xAB, entries=((0x1000, 0x2027),))),
        ({"outcome": "page_fault", "error_code": "0x5", "cr2": "0x400000"}, PageFault(5, PAGE)),
        ({"outcome": "general_protection"}, GeneralProtection()),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_outcomes_are_those_of_a_case_file(tmp_path, said, outcome):
    found = answers(saying(tmp_path, f"tell({said!r})"), reads(PAGE))
    assert outcome == found.outcomes[0]
    assert not found.silent.any()


def test_a_fault_without_its_code_is_one_where_faults_are_not_claimed(tmp_path):
    walker = saying(tmp_path, "tell({'outcome': 'page_fault'})", "rights")
    assert PageFault(0, 0) == answers(walker, reads(PAGE)).outcomes[0]


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ({"outcome": "ok"}, "ok without pa"),
        ({"outcome": "page_fault"}, "page_fault without error_code and cr2"),
        ({"outcome": "page_fault", "error_code": "0x5"}, "page_fault without cr2"),
        ({"outcome": "page_fault", "cr2": "0x400000"}, "page_fault without error_code"),
    ],
    ids=str,
)
def test_an_outcome_without_what_belongs_to_it_is_nonsense(tmp_path, said, kind):
    ((found, *_),) = failures(saying(tmp_path, f"tell({said!r})"), reads(PAGE, HOLE))
    assert (Failure.NONSENSE, kind) == (found.failure, found.kind)


def test_who_never_greets_is_not_waited_for_as_long_as_for_an_answer(monkeypatch):
    monkeypatch.setattr(jsonl, "_GREETING", 0.2)
    with pytest.raises(BadInput, match=r"exec:cat: no answer in 0\.3 s, instead of a greeting"):
        open_target("exec:cat", Limits(seconds=0.3, patience=1e6))


def test_who_starts_slowly_has_the_seconds_that_an_answer_may_take(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "_GREETING", 0.0)
    walker = saying(tmp_path, "tell({'outcome': 'unknown'})")
    assert answers(walker, reads(PAGE), limits=Limits(seconds=20, patience=1)).silent.all()


def test_a_process_lists_what_lies_between_two_addresses(tmp_path):
    log = tmp_path / "log"
    body = f"""
if 'first' in question:
    open({str(log)!r}, 'a').write(line)
    tell({{"mappings": [{{"va": "0x400000", "pa": "0x200000", "size": 4096, "flags": "0x7"}}]}})
"""
    said = answers(process(tmp_path, body, "leaves,flags"), reads(PAGE))
    assert said.silent.all()
    assert [PAGE] == said.listing.mappings.va.tolist()
    assert [7] == said.listing.mappings.flags.tolist()
    assert [
        {"first": "0x0", "last": "0x7fffffffffff"},
        {"first": "0xffff800000000000", "last": "0xffffffffffffffff"},
    ] == [json.loads(line) for line in log.read_text().splitlines()]


def test_a_process_may_do_both_and_is_asked_for_what_is_chosen(tmp_path):
    body = """
if 'first' in question: tell({"mappings": []})
elif 'va' in question: tell({"outcome": "ok", "pa": "0x1"})
"""
    walker = process(tmp_path, body, "leaves,translation")
    both = answers(walker, reads(PAGE))
    assert (1, 0) == (both.outcomes.pa[0], len(both.listing.mappings))
    assert answers(walker, reads(PAGE), claims="leaves").silent.all()
    assert None is answers(walker, reads(PAGE), claims="translation").listing


def test_one_process_answers_one_space_after_another(tmp_path):
    body = """
if 'cpu' in question: count = globals().get('count', 0) + 1
else: tell({"outcome": "ok", "pa": hex(count)})
"""
    target = open_target(process(tmp_path, body))
    for count in (1, 2, 3):
        assert count == target.answer(space().memory, context(), reads(PAGE, HOLE)).outcomes.pa[1]
    target.close()


def test_after_a_failure_it_is_started_anew(tmp_path):
    body = """
if 'va' in question:
    if question['va'] != '0x0': sys.exit(3)
    tell({'outcome': 'page_fault', 'error_code': '0x0', 'cr2': '0x0'})
"""
    target = open_target(process(tmp_path, body))
    failed = target.answer(space().memory, context(), reads(PAGE)).failures
    assert ["ended with status 3"] == [each.failure.kind for each in failed]
    assert Kind.PAGE_FAULT == target.answer(space().memory, context(), reads(0)).outcomes.kind[0]
    target.close()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("print('what?', flush=True)", "no answer to an access"),
        ("tell({})", "no answer to an access"),
        ("tell({'outcome': 'maybe'})", "no answer to an access"),
        ("tell({'outcome': 'ok', 'pa': 4096})", "no answer to an access"),
        ("tell({'outcome': 'ok', 'pa': '0x10000000000000000'})", "no answer to an access"),
        ("tell({'outcome': 'ok', 'pa': '0x1', 'size': 1})", "no answer to an access"),
        ("tell({'outcome': 'page_fault', 'error_code': '0x10000'})", "no answer to an access"),
        ("tell({'outcome': 'ok', 'entries': {hex(8 * at): '0x1' for at in range(6)}})",
         "no answer to an access"),
        ("tell({'outcome': 'ok', 'pa': '0x10000000000000'})",
         "a physical address of more than 52 bits"),
        ("sys.stdout.buffer.write(b'\\xff\\xfe\\n'); sys.stdout.flush()", "no answer to an access"),
        ("sys.stdout.write('{}\\n{}\\n'); sys.stdout.flush()", "more answers than questions"),
        ("sys.stdout.write('{}\\n{'); sys.stdout.flush()", "more answers than questions"),
    ],
    ids=[
        "not JSON", "empty", "outcome", "number", "65 bits", "other key", "error code", "entries",
        "53 bits", "not UTF-8", "two answers", "half an answer more",
    ],
)  # fmt: skip
def test_nonsense_is_a_failure(tmp_path, text, kind):
    found = failure(saying(tmp_path, text))
    assert (Failure.NONSENSE, kind) == (found.failure, found.kind)


@pytest.mark.parametrize(
    "text",
    [
        "tell([])",
        "tell({'mappings': [{'va': '0x0', 'pa': '0x0'}]})",
        "tell({'mappings': [{'va': '0x0', 'pa': '0x0', 'size': 0}]})",
        "tell({'mappings': [{'va': 0, 'pa': '0x0', 'size': 4096}]})",
    ],
)
def test_nonsense_in_place_of_a_list_is_a_failure(tmp_path, text):
    assert "no list of mappings" == failure(saying(tmp_path, text, "leaves")).kind


@pytest.mark.parametrize(
    ("text", "failed", "kind"),
    [
        ("sys.exit(3)", Failure.CRASH, "ended with status 3"),
        ("os.abort()", Failure.CRASH, "died of SIGABRT"),
        ("1 // 0", Failure.CRASH, "ended with status 1"),
        ("time.sleep(60)", Failure.HANG, "no answer in time"),
        ("sys.stdout.write('x' * (1 << 20)); time.sleep(60)", Failure.FLOOD, "too much output"),
        ("sys.stderr.write('x' * (1 << 20)); time.sleep(60)", Failure.FLOOD, "too much output"),
        ("bytearray(1 << 30)", Failure.CRASH, "ended with status 1"),
    ],
    ids=["exit", "abort", "exception", "hang", "flood", "noise", "memory"],
)
def test_crashes_hangs_and_floods_are_failures(tmp_path, text, failed, kind):
    limits = Limits(seconds=0.2 if failed is Failure.HANG else 20, output=1 << 16, memory=1 << 29)
    found = failure(saying(tmp_path, text), limits)
    assert (failed, kind) == (found.failure, found.kind)


def test_what_it_writes_to_standard_error_is_part_of_the_message(tmp_path):
    found = failure(saying(tmp_path, "1 // 0"))
    assert str(found).endswith("ZeroDivisionError: integer division or modulo by zero")


def test_more_output_is_allowed_for_more_accesses(tmp_path):
    limits = Limits(seconds=20, output=1000)
    walker = saying(tmp_path, "tell({'outcome': 'page_fault', 'cr2': '0x0'})")
    said = answers(walker, every(*range(0, 1 << 20, 4096)), limits=limits)
    assert 6 * 256 == len(said.outcomes)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("print('hello')", "'hello' is no greeting"),
        ('print(\'{"protocol": "crosswalk-walker/2", "claims": []}\')', "is another protocol"),
        ('print(\'{"protocol": "crosswalk-walker/1", "claims": ["all"]}\')', "is no greeting"),
        ('print(\'{"protocol": "crosswalk-walker/1", "claims": []}\')', "'' is none of"),
        ('print(\'{"protocol": "crosswalk-walker/1", "claims": ["marks"]}\')', "means nothing"),
        ("", "ended with status 0, instead of a greeting"),
        ("raise SystemExit('no')", "ended with status 1: no, instead of a greeting"),
        ("import time; time.sleep(60)", "no answer in 2 s, instead of a greeting"),
    ],
    ids=["text", "protocol", "claim", "no claims", "marks", "nothing", "exit", "hang"],
)  # fmt: skip
def test_who_does_not_greet_is_bad_input(tmp_path, body, message):
    limits = Limits(seconds=0.2 if "sleep" in body else 20)
    with pytest.raises(BadInput) as caught:
        open_target(script(tmp_path, body), limits)
    assert message in str(caught.value)
    assert 1 == len(str(caught.value).splitlines())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("exec:no-such-command-here", "there is no such command"),
        ("exec:'", "No closing quotation"),
        ("exec:/", "it can't be executed"),
        ("exec:/etc/passwd", "it can't be executed"),
    ],
)
def test_a_command_that_is_none_is_bad_input(name, message):
    with pytest.raises(BadInput, match=message):
        open_target(name)


def test_a_claim_that_it_does_not_greet_with_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match="answers leaves only"):
        open_target(process(tmp_path, "pass", "leaves"), claims="faults")


def test_a_shell_script_is_a_walker_too(tmp_path):
    path = tmp_path / "walker.sh"
    path.write_text(
        'echo \'{"protocol": "crosswalk-walker/1", "claims": ["translation"]}\'\n'
        "while read -r line; do\n"
        '    case $line in *\'"va"\'*) echo \'{"outcome": "page_fault"}\' ;; esac\n'
        "done\n"
    )
    target = open_target(f"exec:sh {path}")
    assert {Capability.TRANSLATION} == target.claims
    said = target.answer(space().memory, context(), every(PAGE))
    assert 6 * [Kind.PAGE_FAULT] == said.outcomes.kind.tolist()
    target.close()


def test_the_command_is_split_as_a_shell_would(tmp_path):
    walker = saying(tmp_path, "tell({'outcome': 'ok', 'pa': sys.argv[1]})")
    name = f"exec:{sys.executable} '{walker.split()[1]}' '0x77'"
    assert 0x77 == answers(name, reads(PAGE)).outcomes.pa[0]
