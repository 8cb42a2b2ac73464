"""The suite as files: made, and checked."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from crosswalk.emu.check.allowed_outcomes import allowed_outcomes, parts_of
from crosswalk.emu.check.compare import by_the_manuals
from crosswalk.emu.check.crosscheck import Predictor
from crosswalk.emu.matrix.select import ACCESS_SECTIONS
from crosswalk.emu.report.composites import FORMAT as COMPOSITE
from crosswalk.emu.report.composites import CompositeCase, dump_composite, parse_composite
from crosswalk.emu.suite.allowed import allowed_of
from crosswalk.emu.suite.document import FORMAT, dump_suite_case, parse_suite_case
from crosswalk.emu.suite.images import case_images
from crosswalk.emu.suite.readme import readme
from crosswalk.emu.suite.selection import SEED, composites_of, layout_cases, section_cases
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.case import FORMAT as CASE
from crosswalk.walker.formats.case import Case, parse_case
from crosswalk.walker.formats.documents import (
    MAX_CASE_BYTES,
    Count,
    Document,
    document_bytes,
    format_of,
    json_block,
    json_line,
    read_document,
)
from crosswalk.walker.formats.files import read_file
from crosswalk.walker.formats.located_errors import errors_named, printable

__all__ = [
    "IMAGES",
    "INDEX",
    "NAME",
    "WHOLE",
    "Amounts",
    "IndexJson",
    "checked",
    "content_of",
    "digest_of_suite",
    "suite_files",
]

NAME = "crosswalk-suite-1"
INDEX, IMAGES = "suite.json", "images.json"
"""What belongs to the suite, and the boot images, which are as the runner in them is."""

_INDEX_FORMAT = "crosswalk-suite-index/1"

Content = Case | CompositeCase


@dataclass(frozen=True, slots=True)
class Amounts:
    """How much there is of what.

    Of each section of the matrix so many control states with so many accesses, or so many
    composites; of generated layouts so many, with so many accesses each. `sections` names those
    sections that are taken, None for all.
    """

    states: int
    probes: int
    composites: int
    layouts: int
    layout_probes: int
    sections: frozenset[str] | None = None


WHOLE = Amounts(states=4, probes=32, composites=8, layouts=64, layout_probes=48)
"""The suite's own amounts."""


class FileJson(Document, frozen=True):
    """A file of the suite: its SHA-256, and how many probes are in it."""

    sha256: str
    probes: Count


class IndexJson(Document, frozen=True):
    """The documents `suite.json`, `images.json`: which suite it is, and what is in it, by path."""

    format: Literal["crosswalk-suite-index/1"]
    suite: str
    crosswalk: str
    seed: int
    files: dict[str, FileJson]


def suite_files(cases: Path, version: str, amounts: Amounts = WHOLE) -> dict[str, bytes]:
    """Return the files of the suite by path: the same ones of the same version, cases and amounts.

    `cases` is a folder with folders of case files; those of the formats crosswalk-case/1 and
    crosswalk-composite/1 are taken, each state once.
    """
    files, probes = dict[str, bytes](), dict[str, int]()
    contents = dict(_contents(cases, amounts))
    for path, content in contents.items():
        files[path] = _document(content, translate_many)
        probes[path] = len(content.probes) if isinstance(content, Case) else 1
    files["README.md"] = readme(files, sum(probes.values())).encode()
    images = case_images(contents.values())
    listed = {f"images/{name}": data for name, data in images.items()}
    return {
        INDEX: _index(version, files, probes),
        **dict(sorted(files.items())),
        IMAGES: _index(version, listed, {}),
        **listed,
    }


def _index(version: str, files: Mapping[str, bytes], probes: Mapping[str, int]) -> bytes:
    listed = (
        f"{json_line(path)}: {json_line(FileJson(_sha256(data), probes.get(path, 0)))}"
        for path, data in sorted(files.items())
    )
    parts = {
        "format": json_line(_INDEX_FORMAT),
        "suite": json_line(NAME),
        "crosswalk": json_line(version),
        "seed": json_line(SEED),
        "files": json_block("{", listed, "}"),
    }
    return document_bytes(parts)


def digest_of_suite(files: Mapping[str, bytes]) -> str:
    """Return what names a suite: the SHA-256 of its index, which has those of all cases."""
    return _sha256(files[INDEX])


def checked(folder: Path) -> Iterator[str]:
    """Yield what is wrong with a suite in a folder, a line each.

    Its files have to be those of the index, and what is allowed has to be what the second walk
    says, which is written apart from the walker that made it (but for where a walk leaves memory).
    Raises `BadInput` for what can't be read.
    """
    files = _listed(folder, INDEX) | _listed(folder, IMAGES)
    for path, listed in files.items():
        if not (folder / path).is_file():
            yield f"{printable(path)}: is in the index, and not there"
            continue
        data = read_file(folder / path, MAX_CASE_BYTES)
        if _sha256(data) != listed.sha256:
            yield f"{printable(path)}: isn't what the index says, by its SHA-256"
        if path.endswith(".json"):
            yield from _differences(path, data)
    found = (*folder.glob("cases/**/*"), *folder.glob("images/*"))
    there = {path.relative_to(folder).as_posix() for path in found if path.is_file()}
    yield from (f"{printable(path)}: isn't in the index" for path in sorted(there - files.keys()))


def _listed(folder: Path, name: str) -> dict[str, FileJson]:
    """Return what an index lists, by path; `BadInput` for what isn't in the suite's folder."""
    with errors_named(name):
        index = read_document(read_file(folder / name, MAX_CASE_BYTES), IndexJson)
        for path in map(PurePosixPath, index.files):
            if path.is_absolute() or ".." in path.parts:
                raise BadInput(f"{printable(str(path))} is no path in the suite")
    return index.files


def _differences(path: str, data: bytes) -> Iterator[str]:
    """Yield where a document isn't as the second walk has it."""
    content = content_of(path, data)
    again = _document(content, by_the_manuals)
    if again == data:
        return
    here, there = data.decode().splitlines(), again.decode().splitlines()
    lines = [at for at, pair in enumerate(zip(here, there, strict=False), 1) if len(set(pair)) > 1]
    where = f"line {lines[0]}" if lines else "at its end"
    yield f"{printable(path)}: {where} isn't what the second walk says"


def _contents(cases: Path, amounts: Amounts) -> Iterator[tuple[str, Content]]:
    """Yield cases by path: those in files, of the matrix, of layouts."""
    yield from _of_files(cases)
    for section in ACCESS_SECTIONS:
        if amounts.sections is not None and section.name not in amounts.sections:
            continue
        if section.composite:
            for name, composite in composites_of(section, amounts.composites):
                yield f"cases/matrix-composite/{name}.json", composite
            continue
        for name, case in section_cases(section, amounts.states, amounts.probes):
            yield f"cases/matrix/{name}.json", case
    for name, case in layout_cases(amounts.layouts, amounts.layout_probes):
        yield f"cases/layouts/{name}.json", case


def _of_files(cases: Path) -> Iterator[tuple[str, Content]]:
    seen = set()
    for file in sorted(cases.glob("*/*.json")):
        data = read_file(file, MAX_CASE_BYTES)
        if format_of(data) not in {CASE, COMPOSITE}:
            continue
        path = f"cases/{file.relative_to(cases).as_posix()}"
        content = content_of(path, data)
        if isinstance(content, Case) and not content.probes:
            continue
        key = _document(_without_note(content), translate_many)
        if key not in seen:
            seen.add(key)
            yield path, content


def _without_note(content: Content) -> Content:
    if isinstance(content, CompositeCase):
        return replace(content, case=replace(content.case, note=None, seed=None))
    return replace(content, note=None, seed=None)


def content_of(path: str, data: bytes) -> Content:
    """Return the case of a document of any of the three formats."""
    if format_of(data) == FORMAT:
        return parse_suite_case(data, path)[0]
    composite = parse_composite(data, path)
    return parse_case(data, path) if composite is None else composite


def _document(content: Content, predict: Predictor) -> bytes:
    """Return a case with what is allowed, by a statement of the rules."""
    if isinstance(content, Case):
        accesses = [probe.asked for probe in content.probes]
        allowed = allowed_of(content.memory(), content.context(), accesses, predict)
        return dump_suite_case(content, allowed)
    memory, context = content.case.memory(), content.case.context()
    parts = parts_of(memory, context, content.composite, predict)
    return dump_composite(content, allowed_outcomes(content.composite, parts))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
