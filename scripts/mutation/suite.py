"""Whether the walker's own tests tell a mutant from the walker: run in a child that imports it."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import Phase, settings

from scripts.mutation.judge import limit_cpu
from scripts.mutation.mutants import Mutant
from scripts.mutation.planting import Planted

__all__ = ["MODULES", "NESTED", "fails_tests", "files_for"]

NESTED = "nested.translate"
"""The walk in two dimensions."""

MODULES = ("translate", "linear", "bulk", "entry", "tables", "rights", NESTED)
"""The modules of the walker that state rules."""

# What states the rules, or is built on them, and tells what is wrong with them: by folder.
_TELLING = {
    "walker": (
        *("translate", "linear", "bulk", "entry", "tables", "rights", "leaves", "frames"),
        "legacy",
    ),
    "walker/nested": ("translate", "tables", "outcome"),
    "walker/tlb": ("model", "record", "steps"),
}
_ROOT = Path(__file__).resolve().parent.parent.parent
_LIMIT = 120  # Seconds of the processor: a mutant may never end.
_FAILED = (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED)
_BROKEN = 3


def files_for(module: str) -> list[str]:
    """Return the test files that are run against a mutant of a module, its own first."""
    folder, _, own = f"walker/{module.replace('.', '/')}".rpartition("/")
    names = [own, *(name for name in _TELLING[folder] if name != own)]
    paths = [
        path for name in names for path in sorted(_ROOT.glob(f"tests/{folder}/test_{name}*.py"))
    ]
    return [path.relative_to(_ROOT).as_posix() for path in paths]


def fails_tests(mutant: Mutant) -> bool:
    """Return whether one of the walker's tests fails, or never ends, with the mutant in place.

    `RuntimeError` where the tests could not be run at all.
    """
    child = os.fork()
    if child == 0:
        status = _BROKEN
        try:
            limit_cpu(_LIMIT)
            status = _status(mutant)
        finally:
            os._exit(status)  # Never back into what the parent was doing.
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == _BROKEN:
        raise RuntimeError(f"the tests did not run against {mutant}")
    return status != 0


def _status(mutant: Mutant) -> int:
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)
    for name in [name for name in sys.modules if name.split(".")[0] in ("walker", "tests")]:
        del sys.modules[name]
    sys.meta_path.insert(0, Planted(f"walker.{mutant.module}", mutant.source))
    os.chdir(_ROOT)
    # That a property fails is enough: no example is made small, and none is kept.
    settings.register_profile(
        "mutants",
        phases=(Phase.explicit, Phase.generate),
        deadline=None,
        derandomize=True,
        database=None,
    )
    return _run(files_for(mutant.module))


def _run(files: Sequence[str]) -> int:
    # Hypothesis is imported here already, and pytest warns that it can't rewrite its asserts.
    quiet = ("-W", "ignore::pytest.PytestAssertRewriteWarning")
    plain = ("-q", "-x", "-p", "no:cacheprovider", "--hypothesis-profile=mutants")
    code = pytest.main([*plain, *quiet, *files])
    if code == pytest.ExitCode.OK:
        return 0
    return 1 if code in _FAILED else _BROKEN
