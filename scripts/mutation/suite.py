"""Judges mutants by the walker's own tests, run in a child process that imports the mutant."""

import os
import sys
from importlib import import_module

import pytest
from hypothesis import Phase, settings

from crosswalk.emu.workers.contained import EmulatorCrash, contained
from scripts.mutation.judge import limit_cpu
from scripts.mutation.mutants import ROOT, Mutant, Planted, import_name

__all__ = ["MODULES", "NESTED", "TESTED", "fails_tests", "files_for"]

NESTED = "nested.translate"
"""The walk in two dimensions."""

MODULES = ("translate", "linear", "bulk", "entry", "tables", "rights", NESTED)
"""The modules of the walker that state rules."""

_EPT = ("nested/test_ept", "nested/test_ept_translate", "nested/test_ept_naive")
_TESTED = {
    "expectations.flaws": ("expectations/test_flaws",),
    "expectations.judgement": ("expectations/test_judge",),
    "mapped_tables": ("test_mapped_tables",),
    "nested.context": ("nested/test_context",),
    "nested.ept": _EPT,
    "nested.ept_bulk": _EPT[:1],
    "nested.second_level": ("nested/test_second_level",),
    "nested.violations": _EPT[1:],
    "nested.formats": ("nested/test_formats",),
    "nested.image": ("nested/test_image",),
    "protection.attributes": ("protection/test_attributes",),
    "protection.enforcers": ("protection/test_enforcers",),
}
TESTED = tuple(_TESTED)
"""The modules whose answers the emulated CPU can't be asked for; what they say, tests judge."""

# What states the rules, or is built on them, and tells what is wrong with them: by folder.
_TELLING = {
    "walker": (
        *("translate", "linear", "bulk", "entry", "tables", "rights", "leaves", "frames"),
        "legacy",
    ),
    "walker/nested": ("translate", "tables", "outcome", "gmet", "ept_translate", "ept_naive"),
    "walker/tlb": ("model", "record", "steps"),
}
_LIMIT = 120  # Seconds of the processor: a mutant may never end.
_VERDICTS = (
    pytest.ExitCode.OK,
    pytest.ExitCode.TESTS_FAILED,
    pytest.ExitCode.INTERRUPTED,
)
# What is imported once more, so that it finds the mutant.
_ANEW = ("crosswalk.walker.", "tests.")


def files_for(module: str) -> list[str]:
    """Return the test files that are run against a mutant of a module, its own first."""
    if module in _TESTED:
        return [f"tests/walker/{name}.py" for name in _TESTED[module]]
    folder, _, own = f"walker/{module.replace('.', '/')}".rpartition("/")
    names = [own, *(name for name in _TELLING[folder] if name != own)]
    paths = [
        path for name in names for path in sorted(ROOT.glob(f"tests/{folder}/test_{name}*.py"))
    ]
    return [path.relative_to(ROOT).as_posix() for path in paths]


def fails_tests(mutant: Mutant) -> bool:
    """Return whether one of the walker's tests fails, or never ends, with the mutant in place.

    `RuntimeError` where the tests could not be run at all.
    """
    try:
        code, used = contained(lambda: _run_tests(mutant))
    except EmulatorCrash:
        return True
    if code not in _VERDICTS or not used:
        raise RuntimeError(f"the tests did not run against {mutant}")
    return code != pytest.ExitCode.OK


def _run_tests(mutant: Mutant) -> tuple[int, bool]:
    """Return pytest's exit code with the mutant in place, and whether that was imported."""
    limit_cpu(_LIMIT)
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)
    for name in [name for name in sys.modules if f"{name}.".startswith(_ANEW)]:
        del sys.modules[name]
    planted = Planted(import_name(mutant.module), mutant.source)
    sys.meta_path.insert(0, planted)
    os.chdir(ROOT)
    try:
        import_module("crosswalk.walker")
    except Exception:  # noqa: BLE001  # The mutant's own: no test would get to run.
        return int(pytest.ExitCode.TESTS_FAILED), planted.used
    # That a property fails is enough: no example is made small, and none is kept.
    settings.register_profile(
        "mutants",
        phases=(Phase.explicit, Phase.generate),
        deadline=None,
        derandomize=True,
        database=None,
    )
    # pytest's finder, which rewrites asserts, would come before the mutant's.
    plain = ("-q", "-x", "--assert=plain", "-p", "no:cacheprovider", "--hypothesis-profile=mutants")
    return int(pytest.main([*plain, *files_for(mutant.module)])), planted.used
