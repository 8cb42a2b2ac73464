"""`--walker` and what goes with it, at every command that has it."""

import pytest

from tests.emu.cli.running import refused

COMMANDS = {
    "replay": ["replay"],
    "reduce": ["reduce"],
    "fuzz": ["fuzz", "--cases", "1", "--corpus", "nowhere"],
}


def command(name, case):
    return [*COMMANDS[name], *([] if name == "fuzz" else [case])]


@pytest.mark.parametrize("name", sorted(COMMANDS))
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--walker", "else"], "--walker else: none of python:MODULE:FUNCTION"),
        (["--walker", "walk", "--claims", "some"], "--claims: 'some' is none of leaves"),
        (["--walker", "walk", "--claims", "rights"], "walk answers effective, flags, leaves only"),
        (["--walker", "python:nowhere:f"], "No module named 'nowhere'"),
        (["--walker", "c:nowhere.so"], "c:nowhere.so: "),
        (["--walker", "exec:no-such-command"], "there is no such command"),
        (["--claims", "leaves"], "--claims needs --walker"),
        (["--walker-seconds", "1"], "--walker-seconds needs --walker"),
        (["--walker", "walk", "--walker-seconds", "soon"], "'soon' is not a number"),
        (["--walker", "walk", "--walker-seconds", "0"], "not above 0 and at most 3600"),
        (["--walker", "walk", "--walker-seconds", "nan"], "not above 0 and at most 3600"),
        (["--walker", "walk", "--walker-seconds", "3601"], "not above 0 and at most 3600"),
        (["--walker", "walk", "--walker-output", "0"], "--walker-output: 0 is less than 1"),
        (["--walker", "walk", "--walker-memory", "x"], "--walker-memory"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_what_can_not_be_asked_is_said(
    run, small_case, tmp_path, monkeypatch, name, options, message
):
    monkeypatch.chdir(tmp_path)
    assert message in refused(run(*command(name, small_case), *options))


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_names_the_kinds_and_the_limits(run, name):
    text = " ".join(run(COMMANDS[name][0], "--help").out.split())
    for each in ("exec:COMMAND", "c:LIBRARY.so", "--claims", "--walker-seconds S", "(10)",
                 "--walker-output MIB", "(64)", "--walker-memory MIB", "(4096)"):  # fmt: skip
        assert each in text


def test_limits_reach_the_walker(run, small_case, tmp_path):
    path = tmp_path / "its.py"
    path.write_text("def f(memory, context, access):\n    while True: pass\n")
    walker = ["--walker", f"python:{path}:f"]
    ran = run("replay", small_case, *walker, "--walker-seconds", "0.3")
    assert (1, True) == (ran.status, "hang: no answer in 0.3 s" in ran.out)
    path.write_text("def f(memory, context, access): print('x' * (1 << 21))\n")
    ran = run("replay", small_case, *walker, "--walker-output", "1")
    assert (1, True) == (ran.status, "flood: more than 1,048,576 bytes" in ran.out)
    path.write_text("def f(memory, context, access): bytearray(1 << 28)\n")
    ran = run("replay", small_case, *walker, "--walker-memory", "64")
    assert (1, True) == (ran.status, "crash: raised MemoryError" in ran.out)


CHOOSING = """
from dataclasses import replace
from crosswalk.walker import PageFault, Translation, translate

CLAIMS = ("faults", "marks")


def none_by_faults(memory, context, access):
    said = translate(memory, context, access)
    return replace(said, entries=()) if isinstance(said, PageFault) else said


def all_by_faults(memory, context, access):
    return translate(memory, context, access)


def dirty_by_faults(memory, context, access):
    said = translate(memory, context, access)
    if not isinstance(said, PageFault):
        return said
    return replace(said, entries=tuple((pa, word | 0x40) for pa, word in said.entries))


def absent_accessed(memory, context, access):
    said = translate(memory, context, access)
    if not isinstance(said, PageFault) or said.error_code & 1:
        return said
    pa, level = context.root, context.levels
    while (word := memory.word(pa + 8 * (access.va >> 3 + 9 * level & 511))) and word & 1:
        pa, level = word & context.address_mask, level - 1
    pa += 8 * (access.va >> 3 + 9 * level & 511)
    return replace(said, entries=((pa, (word or 0) | 0x20),))


def none_at_all(memory, context, access):
    said = translate(memory, context, access)
    return replace(said, entries=()) if isinstance(said, Translation) else said
"""


@pytest.mark.parametrize(
    ("name", "status", "rule"),
    [
        ("none_by_faults", 0, ""),
        ("all_by_faults", 0, ""),
        ("dirty_by_faults", 1, "D of a table's entry by a fault"),
        ("absent_accessed", 1, "A of the leaf by a fault"),
        ("none_at_all", 1, "A of a leaf"),
    ],
)
def test_whatever_a_fault_may_leave_clear_is_right_and_nothing_else(
    run, tmp_path, name, status, rule
):
    path = tmp_path / "its.py"
    path.write_text(CHOOSING)
    options = ["--seed", "3", "--cases", "2", "--accesses", "400", "--jobs", "1", "--no-reduce"]
    walker = ["--walker", f"python:{path}:{name}", "--corpus", tmp_path / name]
    ran = run("fuzz", *options, *walker)
    assert (status, True) == (ran.status, rule in ran.out)
