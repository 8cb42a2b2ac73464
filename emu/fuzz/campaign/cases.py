"""The folder of cases that a campaign starts from, and what of it can't be taken."""

from functools import lru_cache
from pathlib import Path

from crosswalk.emu.findings.layout import case_layout
from crosswalk.emu.report.composites import parse_composite
from crosswalk.walker.errors import BadInput, CrosswalkError
from crosswalk.walker.formats import Case, parse_case
from crosswalk.walker.formats.files import PARTIAL, read_file
from crosswalk.walker.formats.located_errors import errors_named

__all__ = ["FINDINGS", "GONE", "LOCK", "STATE", "case_files", "is_own", "read_cases"]

STATE, FINDINGS, GONE, LOCK = "state.json", "findings", "gone", "lock"
"""What a campaign's folder holds: its state, cases of findings and of former ones, a lock."""


def is_own(path: Path) -> bool:
    """Return whether a file in a campaign's folder is by its name the campaign's own."""
    return path.name in {STATE, FINDINGS, GONE, LOCK} or path.name.endswith(PARTIAL)


def case_files(folder: Path) -> list[Path]:
    """Return the case files of a campaign's folder, or of any folder, by name."""
    if (folder / STATE).exists():
        return [path for name in (FINDINGS, GONE) for path in sorted(folder.glob(f"{name}/*.json"))]
    return sorted(folder.glob("*.json"))


def _other_files(folder: Path) -> list[Path]:
    """Return the files in a folder that are neither taken for cases nor a campaign's own."""
    taken = set(case_files(folder))
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and path not in taken and not is_own(path)
    ]


@lru_cache(1)
def read_cases(folder: Path) -> tuple[tuple[Case, ...], tuple[str, ...]]:
    """Return the cases of a folder in the order of their files, and a line for each other file.

    Raises `BadInput` where there is no case at all.
    """
    cases: list[Case] = []
    problems: list[str] = []
    for path in case_files(folder):
        try:
            cases.append(_read(path))
        except CrosswalkError as error:
            problems.append(str(error))
    campaign = (folder / STATE).exists()
    which = "it is none of the campaign's cases" if campaign else "the name of a case ends in .json"
    problems += [f"{path}: {which}" for path in _other_files(folder)]
    if not cases:
        reason = problems[0] if problems else f"{folder}: no case files"
        raise BadInput(f"--from: {reason}")
    return tuple(cases), tuple(problems)


def _read(path: Path) -> Case:
    data, name = read_file(path), str(path)
    if parse_composite(data, name) is not None:
        raise BadInput(f"{name}: a composite, which no walker under test is asked for")
    case = parse_case(data, name)
    if not case.probes:
        raise BadInput(f"{name}: no accesses")
    with errors_named(name):
        case_layout(case)  # Its registers may be of no mode of paging.
    return case
