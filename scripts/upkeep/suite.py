"""`scripts/suite`: makes crosswalk-suite-1, checks one, and puts it to judges."""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from crosswalk.emu.judges.registry import JUDGES, open_judge
from crosswalk.emu.suite.results import ResultsJson, results_name, results_of, table_of
from crosswalk.emu.suite.suite import INDEX, checked, digest_of_suite, suite_files
from crosswalk.walker.errors import BadInput, CrosswalkError
from crosswalk.walker.formats.documents import MAX_CASE_BYTES, read_document
from crosswalk.walker.formats.files import read_file
from crosswalk.walker.formats.located_errors import errors_named

__all__ = ["main"]

_CASES = Path(__file__).resolve().parents[2] / "tests" / "cases"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is asked; return the exit status: 1 for a suite that isn't right."""
    parser = argparse.ArgumentParser(prog="scripts/suite", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("-o", "--output", type=Path, metavar="DIR", help="makes the suite there")
    what.add_argument("--check", type=Path, metavar="DIR", help="checks the one there")
    what.add_argument("--table", type=Path, metavar="DIR", help="prints its results as a table")
    parser.add_argument(
        "--with",
        action="append",
        default=[],
        dest="judges",
        metavar="J",
        help=f"puts it to a judge: {', '.join(JUDGES)}",
    )
    options = parser.parse_args(arguments)
    if options.judges and options.output is None:
        parser.error("--with goes with -o")
    try:
        if options.check is not None:
            return _check(options.check)
        if options.table is not None:
            print(table_of(_results(options.table)), end="")
            return 0
        _make(options.output, options.judges)
    except CrosswalkError as error:
        print(f"suite: {error}", file=sys.stderr)
        return 2
    return 0


def _make(folder: Path, judges: Sequence[str]) -> None:
    """Write the suite into a folder that is empty, or has a suite."""
    if folder.exists() and any(folder.iterdir()) and not (folder / INDEX).is_file():
        raise BadInput(f"{folder}: has files, and is no suite")
    files = suite_files(_CASES, version("crosswalk-x86"))
    for path in (*folder.glob("cases/**/*.json"), *folder.glob("images/*.img")):
        if path.relative_to(folder).as_posix() not in files:
            path.unlink()  # Of an older one.
    for name, data in files.items():
        _write(folder / name, data)
    print(f"{len(files):,} files, {sum(map(len, files.values())):,} bytes")
    print(f"sha256 of {INDEX}: {digest_of_suite(files)}")
    for text in judges:
        judge = open_judge(text)
        try:
            data = results_of(judge, files)
        finally:
            judge.close()
        path = folder / results_name(judge.version)
        _write(path, data)
        print(f"{path.relative_to(folder)}: {judge.version}")


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from None


def _check(folder: Path) -> int:
    wrong = list(checked(folder))
    if any(folder.glob("results/*.json")):
        _results(folder)
    for line in wrong:
        print(line)
    print("the suite is wrong" if wrong else "the suite is as the second walk has it")
    return 1 if wrong else 0


def _results(folder: Path) -> list[ResultsJson]:
    """Return the results in a suite's folder; `BadInput` for none, and for those of another."""
    digest = digest_of_suite({INDEX: read_file(folder / INDEX, MAX_CASE_BYTES)})
    found = []
    for path in sorted(folder.glob("results/*.json")):
        with errors_named(f"results/{path.name}"):
            results = read_document(read_file(path, MAX_CASE_BYTES), ResultsJson)
            if results.suite != digest:
                raise BadInput("of another suite; put this one to the judge")
        found.append(results)
    if not found:
        raise BadInput(f"{folder}: has no results")
    return found


if __name__ == "__main__":
    sys.exit(main())
