"""No process outlives the command that started it, which is killed while they are at work."""

import signal

import pytest

from tests.emu.case_files import KNOWN_CASES
from tests.emu.fuzz.campaign.running import command, finished
from tests.processes import session_processes, until

CASE = KNOWN_CASES / "pdpte-leaf-accessed-on-fault.json"

HANGS = """
import sys, time
print('{"protocol": "crosswalk-walker/1", "claims": ["translation"]}', flush=True)
sys.stdin.readline()
time.sleep(600)
"""


@pytest.fixture
def commands(tmp_path):
    """Commands that start processes, with what takes long enough to be killed."""
    path = tmp_path / "hangs.py"
    path.write_text(HANGS)
    walker = ("--walker", f"exec:python3 {path}", "--walker-seconds", 50)
    return {
        "matrix": ("matrix", "--select", "section=rights-4k", "--jobs", 2),
        "nested": ("nested", "--pairs", 1000, "--jobs", 2),
        "fuzz": ("fuzz", "--cases", 1000, "--jobs", 2, "--corpus", tmp_path / "corpus"),
        "reduce": ("reduce", CASE, *walker),
        "replay": ("replay", CASE, *walker),
    }


# One of their own process groups, and one more than the command itself, at work.
@pytest.mark.parametrize(
    ("name", "processes"),
    [("matrix", 3), ("nested", 3), ("fuzz", 3), ("reduce", 4), ("replay", 3)],
)
def test_no_process_outlives_the_command(commands, name, processes):
    process = command("none", *commands[name])
    until(lambda: len(session_processes(process.pid)) >= processes or process.poll() is not None)
    assert None is process.poll()
    process.kill()
    assert -signal.SIGKILL == finished(process)[0]
    until(lambda: session_processes(process.pid) == [], 20)
