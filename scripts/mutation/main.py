"""Takes every rule out of the walker, one at a time, and says what notices."""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from emu.check.compare import agreements
from scripts.mutation.judge import killed, samples
from scripts.mutation.mutants import Mutant, mutants_of
from walker.bulk import translate_many

_ROOT = Path(__file__).resolve().parent.parent.parent
_MODULES = ("translate", "bulk", "entry", "tables", "rights")
_TESTS = (
    "tests/walker/test_translate.py",
    "tests/walker/test_translate_rights.py",
    "tests/walker/test_translate_keys.py",
    "tests/walker/test_translate_reserved.py",
    "tests/walker/test_translate_accessed.py",
    "tests/walker/test_entry.py",
    "tests/walker/test_rights.py",
    "tests/walker/test_bulk.py",
    "tests/walker/test_leaves.py",
    "tests/walker/test_frames.py",
    "tests/walker/test_tables.py",
    "tests/walker/test_translate_legacy.py",
    "tests/walker/test_legacy.py",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table of mutants killed, and every survivor; status 1 if there is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="which combinations are drawn (0)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    parser.add_argument("--json", action="store_true", help="print one document as JSON")
    options = parser.parse_args(arguments)
    taken = samples(options.seed)
    known = [
        ~agreements(translate_many(each.memory, each.context, each.accesses), each.observed)
        for each in taken
    ]
    mutants = [
        mutant
        for module in _MODULES
        for mutant in mutants_of(module, (_ROOT / f"walker/{module}.py").read_text("utf-8"))
    ]
    with ThreadPoolExecutor(options.jobs) as pool:
        by_cpu = list(pool.map(lambda mutant: killed(mutant, taken, known), mutants))
        left = [mutant for mutant, dead in zip(mutants, by_cpu, strict=True) if not dead]
        by_tests = dict(zip(left, pool.map(_fails_tests, left), strict=True))
    survivors = [mutant for mutant, dead in by_tests.items() if not dead]
    _tell(options, mutants, left, survivors)
    return 1 if survivors else 0


def _fails_tests(mutant: Mutant) -> bool:
    """Run the walker's tests against the mutant, in a copy of the project."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("walker", "guest", "emu", "tests"):
            shutil.copytree(_ROOT / name, Path(folder) / name)
        shutil.copy(_ROOT / "pyproject.toml", folder)
        (Path(folder) / f"walker/{mutant.module}.py").write_text(mutant.source, "utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *_TESTS]
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    return done.returncode != 0


def _tell(
    options: argparse.Namespace,
    mutants: list[Mutant],
    left: list[Mutant],
    survivors: list[Mutant],
) -> None:
    if options.json:
        rows = [
            {"module": each.module, "line": each.line, "was": each.before, "became": each.after}
            for each in survivors
        ]
        print(
            json.dumps(
                {
                    "mutants": len(mutants),
                    "killed_by_cpu": len(mutants) - len(left),
                    "killed_by_tests": len(left) - len(survivors),
                    "survivors": rows,
                }
            )
        )
        return
    print(f"{'module':<12}{'mutants':>9}{'by the CPU':>12}{'by tests':>10}{'survive':>9}")
    for module in _MODULES:
        every, rest, alive = (
            sum(each.module == module for each in group) for group in (mutants, left, survivors)
        )
        print(f"{module:<12}{every:>9}{every - rest:>12}{rest - alive:>10}{alive:>9}")
    for each in survivors:
        print(f"walker/{each.module}.py:{each.line} {each.function}: {each.before} -> {each.after}")


if __name__ == "__main__":
    sys.exit(main())
