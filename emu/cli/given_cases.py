"""Cases, composites and sequences as a command is given them: files, folders, standard input."""

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from crosswalk.emu.cli.output import remark
from crosswalk.emu.report.composites import FORMAT as COMPOSITE
from crosswalk.emu.report.composites import CompositeCase, parse_composite
from crosswalk.emu.report.text import count_text
from crosswalk.emu.suite.document import FORMAT as SUITE
from crosswalk.emu.suite.document import parse_suite_case
from crosswalk.walker.errors import BadInput, CrosswalkError, LimitExceeded
from crosswalk.walker.formats.case import FORMAT as CASE
from crosswalk.walker.formats.case import Case, parse_case
from crosswalk.walker.formats.documents import MAX_CASE_BYTES, format_of, is_json
from crosswalk.walker.formats.files import read_file
from crosswalk.walker.formats.located_errors import errors_named, printable
from crosswalk.walker.tlb import SequenceRecord, parse_sequence
from crosswalk.walker.tlb.record import FORMAT as SEQUENCE

__all__ = ["STDIN", "Content", "Given", "given_cases", "tell_refused"]

Content = Case | CompositeCase | SequenceRecord

STDIN = "-"
"""What standard input is named by."""

_FORMATS = (CASE, COMPOSITE, SEQUENCE, SUITE)
_KINDS = {each.partition("/")[0] for each in _FORMATS}


@dataclass(frozen=True, slots=True)
class Given:
    """What was given under a name: a case, a composite or a sequence, or why it is none.

    `name` can be printed; an error begins with it.
    """

    name: str
    content: Content | CrosswalkError


def given_cases(paths: Iterable[str]) -> Iterator[Given]:
    """Yield what the files at these paths hold, by the format that each names, in order.

    Of a folder, those of its files `*.json`, in folders below as well, by path. One that isn't JSON
    or names a version of a format that isn't read is an error, as if it were given itself; those
    that name another format, or none, are passed over and counted on standard error. `-` is
    standard input, one document after the other.
    """
    for path in paths:
        if path == STDIN:
            yield from _of_stdin()
        elif Path(path).is_dir():
            yield from _of_folder(path)
        else:
            yield _of_file(path)


def tell_refused(name: str, error: CrosswalkError) -> None:
    """Write on standard error why what was given under a name isn't taken, the name once."""
    remark(str(error) if str(error).startswith(f"{name}: ") else f"{name}: {error}")


def _of_file(path: str) -> Given:
    name = printable(path)
    try:
        return _parsed(name, read_file(path, MAX_CASE_BYTES))
    except CrosswalkError as error:
        return Given(name, error)


def _of_folder(folder: str) -> Iterator[Given]:
    shown, found, passed = printable(folder), False, 0
    for path in sorted(Path(folder).rglob("*.json")):
        name = printable(str(path))
        try:
            data = read_file(path, MAX_CASE_BYTES)
        except CrosswalkError as error:
            found = True
            yield Given(name, error)
            continue
        if _of_other_kind(data):
            passed += 1
            continue
        found = True
        yield _parsed(name, data)
    if passed:
        kind = "of another kind is" if passed == 1 else "of other kinds are"
        remark(f"{shown}: {count_text(passed, 'file')} {kind} passed over")
    if not found:
        yield Given(shown, BadInput(f"{shown}: no case in this folder"))


def _of_other_kind(data: bytes) -> bool:
    """Return whether a file is whole JSON, but of none of the formats in any version."""
    found = format_of(data)
    if found is None:
        return is_json(data)
    return found.partition("/")[0] not in _KINDS


def _of_stdin() -> Iterator[Given]:
    name = "standard input"
    data = sys.stdin.buffer.read(MAX_CASE_BYTES + 1)
    if len(data) > MAX_CASE_BYTES:
        yield Given(name, LimitExceeded(f"{name}: more than {MAX_CASE_BYTES:,} bytes are not read"))
        return
    text = data.decode(errors="replace")
    decoder, at = json.JSONDecoder(), _next(text, 0)
    if at == len(text):
        yield Given(name, BadInput(f"{name}: there is nothing in it"))
    number = 0
    while at < len(text):
        number += 1
        try:
            _, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            # Its own reader says what is wrong, once for all that follows.
            end = len(text)
        yield _parsed(f"{name}, document {number}", text[at:end].encode())
        at = _next(text, end)


def _next(text: str, at: int) -> int:
    """Return where the next document begins, behind white space."""
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _parsed(name: str, data: bytes) -> Given:
    try:
        found = format_of(data)
        if found == SEQUENCE:
            return Given(name, parse_sequence(data, name))
        if found == SUITE:
            return Given(name, parse_suite_case(data, name)[0])
        if found == COMPOSITE:
            composite = parse_composite(data, name)
            if composite is not None:
                return Given(name, composite)
        with errors_named(name):
            if found not in (None, *_FORMATS):
                raise BadInput(
                    f"$.format: {printable(str(found))!r} is none of {', '.join(_FORMATS)}"
                )
        return Given(name, parse_case(data, name))
    except CrosswalkError as error:
        return Given(name, error)
