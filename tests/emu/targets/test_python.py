import os

import pytest

from crosswalk.emu.targets.capabilities import Capability
from crosswalk.emu.targets.registry import open_target
from crosswalk.emu.workers.sandbox import Failure, Limits
from crosswalk.walker.columns import Kind
from crosswalk.walker.errors import BadInput
from crosswalk.walker.outcome import GeneralProtection, PageFault, Translation
from tests.emu.targets.walkers import (
    HOLE,
    PAGE,
    READ_ONLY,
    answers,
    failures,
    python_walker,
    reads,
    space,
)
from tests.tables import context

QUICK = Limits(seconds=0.5, output=1 << 16, memory=1 << 28)


def saying(folder, text):
    """A walker that says this of every access."""
    return python_walker(
        folder, f"from crosswalk.walker import *\ndef f(memory, context, access): return {text}"
    )


def failure(walker, limits=QUICK, claims=None):
    return failures(walker, reads(PAGE), limits=limits, claims=claims)[0][0]


def test_a_number_is_where_an_access_leads_and_none_is_a_fault(tmp_path):
    body = "def f(memory, context, access): return 0x20_0000 if access.va == 0x40_0000 else None"
    said = answers(python_walker(tmp_path, body), reads(PAGE, HOLE))
    assert [Kind.OK, Kind.PAGE_FAULT] == said.outcomes.kind.tolist()
    assert [0x20_0000, 0] == said.outcomes.pa.tolist()
    assert not said.silent.any()
    assert None is said.listing


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("Translation(8, entries=((0x1000, 5),))", Translation(8, entries=((0x1000, 5),))),
        ("PageFault(5, access.va)", PageFault(5, PAGE)),
        ("GeneralProtection()", GeneralProtection()),
        ("__import__('numpy').uint64(7)", Translation(7)),
    ],
    ids=["translation", "page fault", "general protection", "numpy's number"],
)
def test_outcomes_are_taken_as_they_are(tmp_path, text, outcome):
    assert outcome == answers(saying(tmp_path, text), reads(PAGE)).outcomes[0]


def test_a_walker_sees_memory_context_and_access(tmp_path):
    body = """
def f(memory, context, access):
    assert (access.type.name, access.cpl, access.ac) == ("READ", 0, False)
    assert context.levels == 4 and context.smap
    return memory.word(context.root) & context.address_mask
"""
    assert 0x2000 == answers(python_walker(tmp_path, body), reads(PAGE), smap=True).outcomes.pa[0]


def test_who_returns_not_implemented_says_nothing(tmp_path):
    body = "def f(memory, context, access): return NotImplemented if access.va == 0x80_0000 else 1"
    said = answers(python_walker(tmp_path, body), reads(PAGE, HOLE))
    assert [False, True] == said.silent.tolist()


def test_a_walker_that_claims_leaves_is_asked_for_ranges(tmp_path):
    body = """
def f(memory, context, va, end):
    if va <= 0x40_0000 < end:
        yield 0x40_0000, 0x20_0000, 4096, 7
f.claims = "leaves,flags"
"""
    walker = python_walker(tmp_path, body)
    listing = answers(walker, reads(PAGE)).listing
    assert [PAGE] == listing.mappings.va.tolist()
    assert [7] == listing.mappings.flags.tolist()
    target = open_target(walker)
    assert {Capability.LEAVES, Capability.FLAGS} == target.claims
    target.close()


@pytest.mark.parametrize("claims", ['("faults", "marks")', '"faults,marks"'])
def test_a_module_says_what_all_of_its_functions_claim(tmp_path, claims):
    body = f"CLAIMS = {claims}\ndef f(memory, context, access):\n    return None\n"
    target = open_target(python_walker(tmp_path, body), claims=None)
    assert {Capability.FAULTS, Capability.MARKS} == target.claims


def test_a_function_says_what_it_claims_before_its_module(tmp_path):
    body = 'CLAIMS = ("faults",)\ndef f(memory, context, access):\n    return None\n'
    target = open_target(python_walker(tmp_path, body + 'f.claims = "rights"\n'), claims=None)
    assert {Capability.RIGHTS} == target.claims


def test_claims_of_the_command_line_go_before_the_walkers_own(tmp_path):
    target = open_target(saying(tmp_path, "None"), claims="rights,faults")
    assert {Capability.RIGHTS, Capability.FAULTS} == target.claims
    target.close()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("'0x1000'", "'0x1000'"),
        ("True", "True"),
        ("-1", "-1"),
        ("1 << 64", "18446744073709551616"),
        ("1.5", "1.5"),
        ("Translation('x')", "Translation(pa='x'"),
        ("PageFault(1 << 20, 0)", "PageFault(error_code=1048576"),
        ("PageFault(0, 0, ((8, 1),) * 6)", "PageFault(error_code=0"),
    ],
)
def test_what_is_no_answer_is_nonsense(tmp_path, text, said):
    found = failure(saying(tmp_path, text))
    assert (Failure.NONSENSE, "no physical address, None or outcome") == (
        found.failure,
        found.kind,
    )
    assert str(found).startswith(said)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("1 << 52", "a physical address of more than 52 bits"),
        ("Translation(0, entries=((1 << 50, 1),))", "a change of what is no word of RAM"),
        ("Translation(0, entries=((0x1001, 1),))", "a change of what is no word of RAM"),
    ],
)
def test_what_can_not_be_is_nonsense(tmp_path, text, kind):
    found = failure(saying(tmp_path, text))
    assert (Failure.NONSENSE, kind) == (found.failure, found.kind)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("1 // 0", "raised ZeroDivisionError"),
        ("memory.nothing", "raised AttributeError"),
        ("__import__('sys').exit(3)", "raised SystemExit"),
        ("__import__('os')._exit(3)", "ended with status 3"),
        ("__import__('os').abort()", "died of SIGABRT"),
        ("__import__('ctypes').string_at(0)", "died of SIGSEGV"),
        ("bytearray(1 << 30)", "raised MemoryError"),
        ("(_ for _ in ()).throw(KeyboardInterrupt)", "raised KeyboardInterrupt"),
        ("(_ for _ in ()).throw(BaseException('x'))", "raised BaseException"),
        ("f(memory, context, access)", "raised RecursionError"),
    ],
)
def test_a_crash_is_a_failure_that_says_how(tmp_path, text, kind):
    found = failure(saying(tmp_path, text), Limits(seconds=20, memory=1 << 28))
    assert (Failure.CRASH, kind) == (found.failure, found.kind)


def test_who_kills_its_parent_and_answers_fails_at_that_access(tmp_path):
    text = f"__import__('os').kill(__import__('os').getppid(), 9) if access.va == {HOLE} else 1"
    found = failures(saying(tmp_path, text), reads(PAGE, HOLE, READ_ONLY))
    assert [[HOLE]] == [addresses for _, addresses in found]


def test_a_loop_is_a_hang(tmp_path):
    body = "def f(memory, context, access):\n    while True: pass"
    assert Failure.HANG == failure(python_walker(tmp_path, body)).failure


def test_a_loop_that_catches_everything_is_a_hang(tmp_path):
    body = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def f(memory, context, access):
    while True:
        try:
            while True: pass
        except BaseException: pass
"""
    assert Failure.HANG == failure(python_walker(tmp_path, body)).failure


def test_endless_printing_is_a_flood(tmp_path, capfd):
    body = "def f(memory, context, access):\n    while True: print('x' * 1000)"
    assert Failure.FLOOD == failure(python_walker(tmp_path, body), Limits(20, 1 << 16)).failure
    assert ("", "") == capfd.readouterr()


def test_an_endless_list_is_a_flood(tmp_path):
    body = "def f(memory, context, va, end):\n    while True: yield (va, 0, 4096)"
    walker = python_walker(tmp_path, body)
    found = failure(walker, Limits(seconds=20), claims="leaves")
    assert (Failure.FLOOD, "too many mappings") == (found.failure, found.kind)


def test_what_it_prints_is_no_answer(tmp_path, capfd):
    walker = saying(tmp_path, "print('hello') or 5")
    assert 5 == answers(walker, reads(PAGE)).outcomes.pa[0]
    assert ("", "") == capfd.readouterr()


def test_what_it_writes_into_the_answers_is_nonsense(tmp_path):
    found = failure(saying(tmp_path, "__import__('os').write(4, bytes(4096))"), Limits(seconds=5))
    assert (Failure.NONSENSE, "its process sent garbage") == (found.failure, found.kind)


@pytest.mark.parametrize("name", ["types", "numpy", "walker"])
def test_a_file_may_have_the_name_of_a_module_that_is_imported(tmp_path, name):
    body = f"""
import sys
from dataclasses import dataclass

@dataclass
class Answer:
    pa: int

def f(memory, context, access):
    import {name}
    return Answer({name}.__file__ != __file__).pa + (0x1000 if sys.modules[__name__].f is f else 0)
"""
    own = name == "walker"  # Nobody else's.
    said = answers(python_walker(tmp_path, body, name), reads(PAGE))
    assert [0x1000 if own else 0x1001] == said.outcomes.pa.tolist()


def test_after_a_failure_it_is_loaded_anew(tmp_path):
    body = """
seen = []
def f(memory, context, access):
    seen.append(access)
    if access.va: raise ValueError
    return len(seen)
"""
    target = open_target(python_walker(tmp_path, body))

    def ask(accesses):
        return target.answer(space().memory, context(), accesses)

    assert 1 == ask(reads(0)).outcomes.pa[0]
    assert 2 == ask(reads(0)).outcomes.pa[0]
    assert "raised ValueError" == ask(reads(PAGE)).failures[0].failure.kind
    assert 1 == ask(reads(0)).outcomes.pa[0]
    target.close()


def test_what_can_not_be_loaded_once_more_is_a_failure(tmp_path):
    body = f"""
import os
if os.path.exists({str(tmp_path / "been")!r}): raise ImportError("only once")
open({str(tmp_path / "been")!r}, "w").close()
def f(memory, context, access): os._exit(1)
"""
    target = open_target(python_walker(tmp_path, body))
    for kind in ("ended with status 1", "can't be loaded once more"):
        (failed,) = target.answer(space().memory, context(), reads(PAGE)).failures
        assert kind == failed.failure.kind
    target.close()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("1 // 0", "ZeroDivisionError: integer division or modulo by zero"),
        ("def g(): pass", "has no function f"),
        ("f = 5", "has no function f"),
        ("import sys; sys.exit(1)", "SystemExit: 1"),
        ("import os; os._exit(9)", "ended with status 9, when it is loaded"),
        ("import os; os.abort()", "died of SIGABRT, when it is loaded"),
        ("while True: pass", "no answer in 0.5 s of CPU time, when it is loaded"),
        ("while True: print('x' * 999)", "more than 65,536 bytes, when it is loaded"),
        ("def f(): pass\nf.claims = 'all'", "its claims, 'all': 'all' is none of"),
        ("def f(): pass\nf.claims = 'leaves,rights'", "either lists mappings or translates"),
        ("def f(:", "SyntaxError: "),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        (
            "def f(): pass\nf.claims = 5",
            "its claims, 5: neither names with commas nor a collection",
        ),
        ("def f(): pass\nf.modes = 5", "its modes, 5: neither names with commas nor a collection"),
        ("class f: pass", "f is a class, and not a function"),
        ("def f(): pass", "f takes (), and is called with (memory, context, access): too many"),
        ("def f(a, b, c): pass\nf.claims = 'leaves'", "is called with (memory, context, va, end)"),
        ("from os import getcwd as f", "getcwd takes (), and is called with"),
        ("def f(a, b, c, d): pass", "missing a required argument: 'd'"),
    ],
)
def test_what_can_not_be_loaded_is_bad_input(tmp_path, body, message):
    seconds = 0.5 if body == "while True: pass" else 20
    limits = Limits(seconds, output=1 << 16)
    with pytest.raises(BadInput) as caught:
        open_target(python_walker(tmp_path, body), limits)
    assert message in str(caught.value)
    assert 1 == len(str(caught.value).splitlines())


@pytest.mark.parametrize(
    "body",
    [
        "class Walker:\n    def __call__(self, m, c, access): return 0x1000\nf = Walker()",
        "def f(*all_of_it): return 0x1000",
        "def f(m, c, access, more=1): return 0x1000",
        "import functools\nf = functools.partial(lambda m, c, access, more: 0x1000, more=1)",
    ],
)
def test_what_can_be_called_with_three_arguments_is_a_walker(tmp_path, body):
    assert 0x1000 == answers(python_walker(tmp_path, body), reads(PAGE)).outcomes.pa[0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("python:nowhere:f", "ModuleNotFoundError: No module named 'nowhere'"),
        ("python:nowhere.py:f", "python:nowhere.py:f: nowhere.py: no such file or directory"),
        ("python:/usr:f", "/usr is neither a module nor a file whose name ends in .py"),
        ("python:math:nothing", "python:math:nothing: math has no function nothing"),
        ("python:f", "python:f: names no function; give python:MODULE:FUNCTION or python:FILE"),
        ("python::f", "names no function; give "),
        ("python:math:", "names no function; give "),
        ("python:its.py", "names no function; give "),
    ],
)
def test_what_is_not_there_is_bad_input(name, message):
    with pytest.raises(BadInput, match=name) as caught:
        open_target(name)
    assert message in str(caught.value)
    assert 1 == len(str(caught.value).splitlines())


@pytest.mark.parametrize("kind", ["python:{}/its.py:f", "c:{}/its.so"])
def test_a_pipe_is_no_walker_and_is_not_waited_for(tmp_path, kind):
    for name in ("its.py", "its.so"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(BadInput, match="not a regular file"):
        open_target(kind.format(tmp_path))


def test_a_module_is_found_where_one_is_and_a_file_finds_its_neighbours(tmp_path, monkeypatch):
    (tmp_path / "mine_too.py").write_text("ANSWER = 0x7000")
    (tmp_path / "mine.py").write_text(
        "from mine_too import ANSWER\ndef f(memory, context, access): return ANSWER"
    )
    assert 0x7000 == answers(f"python:{tmp_path}/mine.py:f", reads(PAGE)).outcomes.pa[0]
    monkeypatch.chdir(tmp_path)
    assert 0x7000 == answers("python:mine:f", reads(PAGE)).outcomes.pa[0]
