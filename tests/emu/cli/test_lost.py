"""What others kill is tried again; where they go on, it is named, is no result, and can be mended.

Planted in the emulator, for all commands alike: its process is killed once, or time after time.
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from crosswalk.emu.probe import Prober
from crosswalk.emu.probe.many import ManyProber
from crosswalk.emu.probe.nested import NestedProber
from tests.emu.case_files import KNOWN_CASES
from tests.emu.fuzz.campaign.running import corpus
from tests.emu.fuzz.planting import bug_named, plant_walker
from tests.emu.targets.walkers import script

CASE = KNOWN_CASES / "pdpte-leaf-accessed-on-fault.json"
KILLED = "was killed (SIGKILL), by another program or for want of memory, 5 times"

GREETS = """
import os, sys, time
print('{"protocol": "crosswalk-walker/1", "claims": ["translation"]}', flush=True)
sys.stdin.readline()
sys.stdin.readline()
"""

# The process that kills it: the parent of the one that it was started by.
KEEPER = "int(open(f'/proc/{os.getppid()}/stat').read().rpartition(')')[2].split()[1])"

COMMANDS = {
    "matrix": ("matrix", "--select", "section=junk-pte,access=write,cpl=3", "--jobs", 1),
    "nested": ("nested", "--pairs", 2, "--accesses", 20, "--jobs", 2),
    "fuzz": ("fuzz", "--cases", 3, "--accesses", 96, "--jobs", 2, "--corpus", "corpus"),
    "check": ("check", "guest:4level", "--jobs", 2),
    "replay": ("replay", CASE),
    "reduce": ("reduce", CASE),
}
OWN = {"nested": NestedProber, "replay": ManyProber}
PROBERS = {name: OWN.get(name, Prober) for name in COMMANDS}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plant_walker(monkeypatch, bug_named("A not set").predict)
    return tmp_path


@contextmanager
def killing(name, folder, *, every_time):
    """Have the emulator's process be killed, the first time or every time that it is asked."""
    prober = PROBERS[name]
    probe = prober.probe

    def killed(self, *given, **named):
        try:
            (folder / "killed").touch(exist_ok=False)
        except FileExistsError:
            if not every_time:
                return probe(self, *given, **named)
        return os.kill(os.getpid(), signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prober, "probe", killed)
        yield


def answer(ran):
    """What a command answers, but for its clock."""
    try:
        document = json.loads(ran.out)
    except json.JSONDecodeError:
        return ran.status, ran.out
    apart = ("seconds", "layouts_a_second", "probes_a_second", "reproduce", "parts")
    return ran.status, {name: found for name, found in document.items() if name not in apart}


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_once_it_answers_the_same(run, name, folder):
    command = (*COMMANDS[name], *(() if name in ("replay", "reduce") else ("--json",)))
    whole = answer(run(*command))
    if name == "fuzz":
        (folder / "corpus").rename(folder / "whole")
    with killing(name, folder, every_time=False):
        assert whole == answer(run(*command))
    assert (folder / "killed").exists()
    if name == "fuzz":
        assert corpus(folder / "whole") == corpus(folder / "corpus")


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_every_time_it_is_lost_and_no_result(run, name, folder):
    with killing(name, folder, every_time=True):
        ran = run(*COMMANDS[name])
    assert 2 == ran.status
    assert KILLED in ran.err
    assert "agree" not in ran.out.partition("verdict: ")[2]
    assert "FAILED" not in ran.out


@pytest.mark.parametrize("name", ["matrix", "fuzz"])
def test_a_later_run_with_the_same_state_mends_it(run, name, folder):
    command = (*COMMANDS[name], *(("--state", "state.json") if name == "matrix" else ()))
    whole = answer(run(*COMMANDS[name], "--json"))
    if name == "fuzz":
        (folder / "corpus").rename(folder / "whole")
    with killing(name, folder, every_time=True):
        assert "; the same command goes on" in run(*command, "--json").err
    assert whole == answer(run(*command, "--json"))


def test_a_walker_that_is_killed_is_lost_and_no_finding(run, folder):
    walker = script(folder, GREETS + f"os.kill({KEEPER}, 9)\ntime.sleep(60)\n")
    command = ("fuzz", "--cases", 1, "--accesses", 96, "--jobs", 1, "--no-reduce")
    command += ("--walker", walker)
    ran = run(*command)
    assert (2, "") == (ran.status, ran.out)
    assert f"layout 0: {walker} {KILLED}; the same command goes on\n" in ran.err
    assert [] == list(folder.glob("crosswalk-fuzz/*/findings/*"))
    assert 2 == run("replay", CASE, "--walker", walker).status
    script(folder, GREETS + "os.kill(os.getpid(), 9)\n")
    mended = run(*command)
    assert (1, False) == (mended.status, "killed" in mended.err)
    assert "crash, killed itself, or was killed each time (SIGKILL)" in mended.out


def test_a_walker_that_is_killed_once_is_asked_again(run, folder):
    walker = script(
        folder,
        GREETS
        + f"""
if not os.path.exists({str(folder / "mark")!r}):
    open({str(folder / "mark")!r}, "w").close()
    os.kill(os.getpid(), 9)
for _ in range(2):
    print('{{"outcome": "unknown"}}', flush=True)
    sys.stdin.readline()
""",
    )
    ran = run("replay", CASE, "--walker", walker)
    assert (folder / "mark").exists()
    assert "was killed" not in ran.err
    assert "died" not in ran.out


LIMITED = """
import resource, sys
from crosswalk.emu.cli.main import main
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]) << 20,) * 2)
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("replay", CASE), "the emulator ran out of memory; reproduce: "),
        (("check", "guest:4level", "--jobs", "1"), "error: out of memory"),
        (COMMANDS["nested"], "pair 0: a process ran out of memory, 2 times"),
        (COMMANDS["matrix"], "control states 0 to 15: a process ran out of memory, 2 times"),
        ((*COMMANDS["fuzz"], "--no-reduce"), "layout 0: its worker ran out of memory, 2 times"),
    ],
    ids=lambda each: each[0] if isinstance(each, tuple) else "",
)
def test_for_want_of_address_space_it_is_named_and_is_no_result(command, words, folder):
    def limited(mebibytes):
        return subprocess.run(
            [sys.executable, "-c", LIMITED, str(mebibytes), *map(str, command)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    small = limited(420)
    assert 2 == small.returncode
    assert words in small.stderr
    assert "Traceback" not in small.stderr
    assert "agree" not in small.stdout.partition("verdict: ")[2]
    assert [] == list(folder.glob("corpus/findings/*"))
    # What is needed is far from what Unicorn would take; some layouts have 64 GiB of RAM.
    assert limited(100_000 if command[0] in ("fuzz", "matrix") else 3000).returncode in (0, 1)
