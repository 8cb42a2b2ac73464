"""The parser: what it imports, that each command is there, help, completion, pyproject.toml."""

import importlib
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from crosswalk.emu.cli.commands import COMMANDS
from crosswalk.emu.cli.options import options_of
from crosswalk.emu.cli.parser import make_parser, parse
from tests.emu.case_files import KNOWN_CASES, LINUX_CASE

HEAVY = {"numpy", "msgspec", "unicorn", "keystone", "capstone", "rich", "elftools", "shtab"}
EMULATOR = {"unicorn", "keystone", "capstone"}
CASE = KNOWN_CASES / "amd-pml4e-bit-8.json"


def words(value):
    """Return a command without its paths, as the name of a test."""
    if isinstance(value, list):
        return " ".join(str(each) for each in value if "/" not in str(each)) or "nothing"
    return str(value)


def imported(*arguments):
    """Return the status of a command, and the modules that it has imported at its end."""
    script = (
        "import json, sys\n"
        "from crosswalk.emu.cli.main import main\n"
        f"status = main({[str(each) for each in arguments]!r})\n"
        "print(json.dumps([status, sorted(sys.modules)]), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, timeout=60
    )
    status, modules = json.loads(done.stderr.splitlines()[-1])
    return status, set(modules)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--help"], 0),
        (["help"], 0),
        *((["help", *name.split()], 0) for name in COMMANDS),
        (["--version"], 0),
        (["fuzz", "--help"], 0),
        ([], 2),
        (["walk"], 2),
        (["walk", "x", "--bogus"], 2),
        (["walk", "x", "--limit", "many"], 2),
    ],
    ids=words,
)
def test_help_and_bad_usage_import_the_standard_library_alone(arguments, status):
    ended, modules = imported(*arguments)
    ours = {each for each in modules if each.startswith("crosswalk.")}
    names = (
        *(
            "main",
            "apart",
            "blame_options",
            "commands",
            "search_commands",
            "compare_options",
            "expect_options",
        ),
        *("guest_options", "options", "host_options", "listing_options", "type_options", "parser"),
    )
    rooms = {f"crosswalk.emu.cli.{name}" for name in names}
    # pyproject.toml is read before the arguments of fuzz.
    if arguments[:1] != ["fuzz"]:
        assert {"crosswalk.emu", "crosswalk.emu.cli", *rooms} == ours
        assert set() == HEAVY & modules
    assert status == ended


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (["judge", "x", "--with", "unicorn", "--jobs", "1"], "judge"),
        (["walk", "x", "--bogus"], "walk"),
        (["walker", "new", "python", "x", "--bogus"], "walker new"),
        (["judge", "x"], "judge"),
    ],
    ids=words,
)
def test_bad_usage_names_the_help_that_lists_the_options(run, given, name):
    ran = run(*given)
    assert (2, "") == (ran.status, ran.out)
    assert ran.err.startswith(f"crosswalk {name}: error: ")
    assert ran.err.endswith(f" (see crosswalk {name} --help)\n")


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["info", LINUX_CASE], 0),
        (["walk", LINUX_CASE, "--limit", "3"], 0),
        (["walk", "/none"], 2),
        (["frames", LINUX_CASE, "--policy", "any"], 1),
        (["translate", LINUX_CASE, "0x400000"], 0),
        (["translate", LINUX_CASE, "0x400000", "--ncr3", "0x1000"], 0),
        (["protect", LINUX_CASE], 0),
    ],
    ids=words,
)
def test_readers_import_no_emulator(command, status):
    ended, modules = imported(*command)
    assert status == ended
    assert set() == EMULATOR & modules
    assert "rich" not in modules


def test_a_checker_imports_the_emulator():
    _, modules = imported("translate", CASE, "0x400000", "--observe")
    assert "unicorn" in modules


@pytest.mark.parametrize("name", COMMANDS)
def test_what_carries_a_command_out_is_there(name):
    module, _, function = COMMANDS[name].run.partition(":")
    assert callable(getattr(importlib.import_module(f"crosswalk.emu.cli.{module}"), function))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_is_what_its_own_option_prints(run, name):
    helped, asked = run("help", *name.split()), run(*name.split(), "--help")
    assert (0, 0, "", "") == (helped.status, asked.status, helped.err, asked.err)
    assert asked.out == helped.out
    assert helped.out.startswith(f"usage: crosswalk {name} ")


def test_help_without_a_command_is_that_of_all(run):
    assert run("--help").out == run("help").out
    ran = run("help", "dance")
    assert (2, "", 1) == (ran.status, ran.out, len(ran.err.splitlines()))
    assert "no command 'dance'" in ran.err


def test_the_version_is_the_distributions(run):
    ran = run("--version")
    assert (0, f"crosswalk {version('crosswalk-x86')}\n", "") == (ran.status, ran.out, ran.err)


def test_bash_completes_commands_and_options(run, tmp_path):
    script = tmp_path / "completion"
    script.write_text(run("completion", "bash").out)
    ask = (
        f"source {script}\n"
        'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}\n'
        "$(complete -p crosswalk | sed 's/.*-F \\([^ ]*\\).*/\\1/')\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )

    def completed(*words):
        done = subprocess.run(
            ["bash", "-c", ask, "bash", "crosswalk", *words],
            capture_output=True,
            check=True,
            timeout=60,
        )
        return done.stdout.decode().split()

    assert ["translate"] == completed("tra")
    assert ["--coalesce"] == completed("walk", "--co")
    assert ["intel", "amd"] == completed("walk", "--vendor", "")


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_have_a_script_too(run, shell):
    ran = run("completion", shell)
    assert 0 == ran.status
    for word in {word for name in COMMANDS for word in name.split()}:
        assert word in ran.out


def test_every_need_names_an_option_of_the_command():
    for command in COMMANDS.values():
        _, parsers = make_parser()
        names = set(vars(parsers[command.name].parse_known_args(_least(command))[0]))
        needs = {name for each in options_of(command) for name in each.needs}
        assert needs <= names


def _least(command):
    values = {"shell": "bash", "va": "0", "kind": "python"}
    required = [each.names[-1] for each in options_of(command) if each.settings.get("required")]
    return [f"{name}=x" for name in required] + [
        values.get(each.names[0], "x")
        for each in options_of(command)
        if each.positional and each.settings.get("nargs") != "?"
    ]


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    return (tmp_path / "pyproject.toml").write_text


def test_pyproject_has_options_of_fuzz_and_the_command_line_goes_before_them(project, capsys):
    project(
        "[tool.crosswalk.fuzz]\n"
        'seed = 3\nwalker = "exec:./it --fast"\nwalker-seconds = 1.5\nblind = true\n'
        "no-reduce = false\n"
    )
    options = parse(["fuzz", "--seed", "4", "--cases", "7"])
    assert (4, 7, "exec:./it --fast", 1.5) == (
        options.seed,
        options.cases,
        options.walker,
        options.walker_seconds,
    )
    assert (True, False) == (options.blind, options.no_reduce)
    added = ["--seed=3", "--walker=exec:./it --fast", "--walker-seconds=1.5", "--blind"]
    assert ["fuzz", *added, "--seed", "4", "--cases", "7"] == options.given
    line = "options of pyproject.toml: --seed=3 '--walker=exec:./it --fast' "
    assert capsys.readouterr().err.startswith(line)


@pytest.mark.parametrize(
    ("setting", "given"),
    [
        ('walker = "python:src/w.py:f"', "--walker=python:../src/w.py:f"),
        ('walker = "python:w:f"', "--walker=python:w:f"),
        ('walker = "c:./w.so"', "--walker=c:../w.so"),
        ('walker = "bulk"', "--walker=bulk"),
        ('walker = "exec:./it --fast src/w.py"', "--walker=exec:../it --fast ../src/w.py"),
        ('walker = "exec:python3 -u src/w.py"', "--walker=exec:python3 -u ../src/w.py"),
        ("walker = \"exec:sh -c './it  now'\"", "--walker=exec:sh -c './it  now'"),
        ("walker = 'exec:it \"'", '--walker=exec:it "'),
        ('judge = "exec:./it --fast {image}"', "--judge=exec:../it --fast '{image}'"),
        ('judge = "qemu:./it"', "--judge=qemu:../it"),
        ('judge = "qemu:it"', "--judge=qemu:it"),
        ('judge = "kvm"', "--judge=kvm"),
        ('baseline = "known.json"', "--baseline=../known.json"),
        ('baseline = "/known.json"', "--baseline=/known.json"),
        ('baseline = ""', "--baseline="),
        ('corpus = "found"', "--corpus=../found"),
        ('report = ["a.md", "src/b.html"]', "--report=../a.md --report=../src/b.html"),
        ('junit = "a.xml"', "--junit=../a.xml"),
        ('from = "src"', "--from=../src"),
        ('from = "guest:4level"', "--from=guest:4level"),
        ('ignore = ["it"]', "--ignore=it"),
    ],
)
def test_files_of_pyproject_are_those_beside_it(project, tmp_path, setting, given):
    (tmp_path / "src").mkdir()
    for name in ("src/w.py", "it", "python3"):
        (tmp_path / name).touch()
    project(f"[tool.crosswalk.fuzz]\n{setting}\n")
    assert f"fuzz {given}" == " ".join(parse(["fuzz"]).given)


def test_files_of_pyproject_in_the_current_folder_are_named_as_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.py").touch()
    (tmp_path / "pyproject.toml").write_text(
        '[tool.crosswalk.fuzz]\nwalker = "exec:./w.py"\nbaseline = "./known.json"\n'
    )
    assert ["fuzz", "--walker=exec:./w.py", "--baseline=./known.json"] == parse(["fuzz"]).given


def test_an_empty_text_takes_back_what_pyproject_ignores(project):
    project('[tool.crosswalk.fuzz]\nignore = ["a", "b"]\nbaseline = "known.json"\n')
    assert ["a", "b", ""] == parse(["fuzz", "--ignore", ""]).ignore
    chosen = [parse(["fuzz", "--baseline", name]).baseline for name in ("", "other.json")]
    assert [None, Path("other.json")] == chosen


def test_pyproject_without_a_table_adds_nothing(project, capsys):
    project("[tool.other]\nseed = 3\n")
    assert ["fuzz"] == parse(["fuzz"]).given
    assert "" == capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tool.crosswalk.fuzz]\nspeed = 3\n", "[tool.crosswalk.fuzz]: no option 'speed'"),
        ("[tool.crosswalk.fuzz]\nseed = true\n", "seed is a number or a text"),
        ("[tool.crosswalk.fuzz]\nseed = [3]\n", "seed is a number or a text"),
        ("[tool.crosswalk.fuzz]\nblind = 1\n", "blind is true or false"),
        ("[tool.crosswalk.fuzz]\nignore = [[1]]\n", "ignore is a text, or a list of them"),
        ('[tool.crosswalk.fuzz]\nignore = ["XD*", 5]\n', "ignore is a text, or a list of them"),
        ('[tool.crosswalk.fuzz]\nselect = ""\n', "argument --select: an empty text"),
        ("[tool.crosswalk.fuzz]\nmode = true\n", "mode is a number or a text, or a list of them"),
        ('[tool.crosswalk.fuzz]\nseed = "x"\n', "argument --seed: 'x' is not a number"),
        ("[tool.crosswalk.fuz]\n", "[tool.crosswalk] has no table 'fuz' (fuzz, pytest)"),
        ("[tool.crosswalk]\nfuzz = 3\n", "tool.crosswalk.fuzz is not a table"),
        ("[tool]\ncrosswalk = 3\n", "tool.crosswalk is not a table"),
        ("tool = 3\n", "tool is not a table"),
        ("[tool.crosswalk", "pyproject.toml: "),
        ('[tool.crosswalk."\x7f"]', "pyproject.toml: "),
        ("[tool.crosswalk.'\\x1b']\n", r"no table '\\x1b'"),
    ],
)
def test_what_pyproject_can_not_hold_is_one_line(run, project, text, message):
    project(text)
    ran = run("fuzz", "--cases", "1")
    assert (2, "") == (ran.status, ran.out)
    assert message in ran.err.splitlines()[-1]
    assert len(ran.err.splitlines()) <= 2


def test_a_pyproject_that_can_not_be_read_is_named_once(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "pyproject.toml"
    path.mkdir()
    line = f"crosswalk: error: {path}: is a directory"
    assert line == run("fuzz", "--cases", "1").err.splitlines()[-1]
