"""Nobody but emu/workers starts, kills or waits for a process, by the syntax of all modules."""

import ast

import pytest

from tests.emu.targets.walkers import ROOT

ROOMS = ("emu", "guest", "walker")
MODULES = {"multiprocessing", "pebble", "subprocess", "pty", "concurrent.futures", "threading"}
CALLS = {
    *("fork", "forkpty", "kill", "killpg", "popen", "posix_spawn", "posix_spawnp", "system"),
    *("wait", "wait3", "wait4", "waitid", "waitpid", "pidfd_open", "pidfd_send_signal"),
    *("execv", "execve", "execvp", "execvpe", "_exit", "abort", "setpgid", "setsid", "prctl"),
}
ALLOWED = {
    # The threads of a Dask worker have a pool each; what is cancelled there is one of its errors.
    ("emu/fuzz/campaign/cluster.py", "threading"),
    ("emu/fuzz/campaign/cluster.py", "concurrent.futures"),
    # A thread that sleeps to a run's deadline, and stops the engine: Unicorn's own never sleeps.
    ("emu/pc/watchdog.py", "threading"),
    # In the handler of a signal: a file became shorter while it was read through a map.
    ("emu/cli/main.py", "_exit"),
    # A file that `walker new` copies, and nothing imports: it starts QEMU where the user runs it.
    ("emu/targets/starters/adapters/qemu_walker.py", "subprocess"),
}


def starts(tree):
    """What of a module has to do with processes: names of modules, and of functions of `os`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            yield node.module
        elif isinstance(node, ast.ImportFrom) and node.module in {"os", "signal"}:
            yield from (each.name for each in node.names if each.name in CALLS)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in {"os", "signal"} and node.attr in CALLS:
                yield node.attr
        elif isinstance(node, ast.Attribute) and node.attr == "prctl":
            yield node.attr


def test_only_the_room_of_workers_starts_kills_or_waits():
    found = {
        (path.relative_to(ROOT).as_posix(), name)
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if not path.is_relative_to(ROOT / "emu" / "workers")
        for name in starts(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert ALLOWED == found


@pytest.mark.parametrize(
    "code",
    [
        "import os\nos.fork()",
        "from os import kill",
        "import subprocess",
        "from concurrent.futures import ThreadPoolExecutor",
        "import ctypes\nctypes.CDLL(None).prctl(1, 9)",
        "import os\nos.waitpid(1, 0)",
    ],
)
def test_a_module_that_does_is_found(code):
    assert list(starts(ast.parse(code)))
