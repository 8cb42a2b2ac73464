"""`--walker` and what goes with it, at every command that has it."""

import pytest

from tests.emu.cli.test_errors import refused

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
        (["--walker", "walk", "--claims", "rights"], "--claims: walk answers flags, leaves only"),
        (["--walker", "python:nowhere:f"], "No module named 'nowhere'"),
        (["--walker", "c:nowhere.so"], "c:nowhere.so: "),
        (["--walker", "exec:no-such-command"], "there is no such command"),
        (["--claims", "leaves"], "--claims is about a walker under test: --walker W"),
        (["--walker-seconds", "1"], "--walker-seconds is about a walker under test"),
        (["--walker", "walk", "--walker-seconds", "soon"], "'soon' is not a number"),
        (["--walker", "walk", "--walker-seconds", "0"], "not above 0 and at most 50"),
        (["--walker", "walk", "--walker-seconds", "nan"], "not above 0 and at most 50"),
        (["--walker", "walk", "--walker-seconds", "51"], "not above 0 and at most 50"),
        (["--walker", "walk", "--walker-output", "0"], "--walker-output is at least 1"),
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
