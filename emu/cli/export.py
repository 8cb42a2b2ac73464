"""`export`: boot images with the probes of cases, for machines that are booted by hand."""

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crosswalk.emu.cli.apart import is_among, named_inputs
from crosswalk.emu.cli.given_cases import Content, given_cases, tell_refused
from crosswalk.emu.cli.output import remark
from crosswalk.emu.judges.asked import Part, Refusals
from crosswalk.emu.judges.booted import NO_PLACE
from crosswalk.emu.judges.compiling import CompiledAccesses
from crosswalk.emu.judges.composites import CompiledComposites
from crosswalk.emu.judges.exported import ExportedImage, images_of, tag_of
from crosswalk.emu.judges.judge import Question
from crosswalk.emu.judges.parts import Compiled
from crosswalk.emu.judges.sequences import CompiledSequence
from crosswalk.emu.judges.ways import Ram
from crosswalk.emu.machines.iso import make_iso, require_iso_tools
from crosswalk.emu.probe.composites import NAMES
from crosswalk.emu.report.composites import CompositeCase
from crosswalk.emu.report.text import access_text, count_text
from crosswalk.guest.boot.image import Output
from crosswalk.walker.columns import Accesses
from crosswalk.walker.errors import BadInput, CrosswalkError
from crosswalk.walker.formats import Case
from crosswalk.walker.formats.files import write_file
from crosswalk.walker.formats.located_errors import printable

__all__ = ["require_apart", "run"]

_BYTES_A_SECOND = 11_520
"""Of COM1 at 115,200 baud: eight bits, a start and a stop."""

_PAGE_BYTES = 25 * 32
"""What a page of a text screen shows."""

_MOST_SHOWN = 1 << 21
"""Lines of a screen have numbers of 16 bits."""


@dataclass(frozen=True, slots=True)
class _Exported:
    """A case: its probes in words, the runs that they are in, and why the others are in none."""

    name: str
    probes: list[str]
    parts: list[Part]
    refused: Refusals

    @classmethod
    def of(cls, name: str, probes: list[str], compiled: Compiled[Any]) -> "_Exported":
        """Return what a case is compiled into."""
        return cls(name, probes, compiled.parts, compiled.refused)

    def reasons(self) -> Iterator[tuple[int, str]]:
        """Yield the number and the reason of each probe that is in no image."""
        for row in np.flatnonzero(~self.refused.left).tolist():
            yield row, self.refused.reasons[int(self.refused.why[row]) - 1].text


@dataclass(frozen=True, slots=True)
class _Written:
    """An image, the file that it is in, and the ISO file, if there is one."""

    image: ExportedImage
    path: Path
    iso: Path | None


def run(options: argparse.Namespace) -> int:
    """Write the images, and return the exit status."""
    if options.iso is not None:
        require_iso_tools()
    cases, unread = _compiled(options.cases)
    output = Output.SCREEN if options.screen else Output.SERIAL | Output.SCREEN
    images = _images(cases, output)
    require_apart(options, len(images))
    written = [_write(options, number, image) for number, image in enumerate(images)]
    if options.json:
        print(json.dumps(_document(cases, written), indent=2))
    else:
        for line in _lines(cases, written, verbose=options.verbose):
            print(line)
    if not written:
        remark("nothing to export: no image is written")
    return 0 if written and not unread else 2


def _compiled(paths: Iterable[str]) -> tuple[list[_Exported], int]:
    """Return the cases as runs, and how many could not be read."""
    cases, unread = list[_Exported](), 0
    for each in given_cases(paths):
        try:
            if isinstance(each.content, CrosswalkError):
                raise each.content
            cases.append(_exported(each.name, each.content))
        except CrosswalkError as error:
            tell_refused(each.name, error)
            unread += 1
    return cases, unread


def _images(cases: Sequence[_Exported], output: Output) -> list[ExportedImage]:
    """Return the images; probes with no place in any are refused."""
    images, homeless = images_of([part.asked for each in cases for part in each.parts], output)
    parts = [(each, part) for each in cases if homeless for part in each.parts]
    for each, part in parts:
        if tag_of(part.asked) in homeless:
            each.refused.add(part.rows, NO_PLACE)
    return images


def _exported(name: str, content: Content) -> _Exported:
    if isinstance(content, Case):
        accesses = Accesses.of([probe.asked for probe in content.probes])
        question = Question(content.memory(), content.context(), accesses)
        probes = [access_text(accesses[row]) for row in range(len(accesses))]
        return _Exported.of(name, probes, CompiledAccesses(question, Ram(None), None))
    if isinstance(content, CompositeCase):
        case, composite = content.case, content.composite
        asked = (case.memory(), case.context(), composite)
        probes = [NAMES[int(composite.form[0])]]
        return _Exported.of(name, probes, CompiledComposites(asked, Ram(None), None))
    return _Exported.of(name, ["the sequence"], CompiledSequence(content.sequence, Ram(None), None))


def require_apart(options: argparse.Namespace, count: int) -> None:
    """Raise `BadInput` where a further image would overwrite a case, or another file of these."""
    inputs = named_inputs(options.cases)
    names = [each for each in (options.output, options.iso) if each is not None]
    paths = [_numbered(name, number) for number in range(count) for name in names]
    for at, path in enumerate(paths):
        if is_among(path, [*inputs, *paths[:at]]):
            raise BadInput(f"{printable(str(path))}: is read, or written twice: {count} images")


def _write(options: argparse.Namespace, number: int, image: ExportedImage) -> _Written:
    path = _numbered(options.output, number)
    write_file(path, image.data)
    iso = None if options.iso is None else _numbered(options.iso, number)
    if iso is not None:
        write_file(iso, make_iso(image.data))
    return _Written(image, path, iso)


def _numbered(path: Path, number: int) -> Path:
    """Return the name of the first image, or of a further one: with -2, -3 before its ending."""
    return path if not number else path.with_name(f"{path.stem}-{number + 1}{path.suffix}")


def _counts(cases: Sequence[_Exported]) -> tuple[int, int, Counter[str]]:
    """Return how many probes there are, how many are in an image, and why the others aren't."""
    reasons = Counter(why for each in cases for _, why in each.reasons())
    probes = sum(len(each.probes) for each in cases)
    return probes, probes - reasons.total(), reasons


def _lines(
    cases: Sequence[_Exported], written: Sequence[_Written], *, verbose: bool
) -> Iterator[str]:
    """Yield what is in the images, and what isn't: each probe with `verbose`, else counted."""
    for each in cases if verbose else ():
        for row, why in each.reasons():
            yield f"{each.name}: not exported: {each.probes[row]}: {why}"
    for one in written:
        image, path = one.image, printable(str(one.path))
        yield (
            f"{path}: {count_text(image.programs, 'probe')} in {count_text(image.runs, 'run')}, "
            f"{len(image.data):,} bytes at {image.base:#x}"
        )
        if one.iso is not None:
            yield f"{printable(str(one.iso))}: boots {path} by BIOS and UEFI"
        yield f"  answers: {_answers(image.results)}"
    probes, exported, reasons = _counts(cases)
    again = exported - sum(one.image.programs for one in written)
    twice = f", {again:,} of them the same as others" if again else ""
    yield f"exported: {exported:,} of {count_text(probes, 'probe')}{twice}"
    for why, count in sorted(reasons.items()):
        yield f"  {count:,} not exported: {why}"


def _answers(size: int) -> str:
    """Return how long it takes to get the answers."""
    pages = count_text(_up(size, _PAGE_BYTES), "page")
    shown = f"{pages} of a screen" if size <= _MOST_SHOWN else "more than a screen can show"
    return f"at most {size:,} bytes, {_up(size, _BYTES_A_SECOND):,} s over COM1, {shown}"


def _document(cases: Sequence[_Exported], written: Sequence[_Written]) -> dict[str, Any]:
    probes, exported, reasons = _counts(cases)
    return {
        "images": [
            {
                "image": str(each.path),
                **({} if each.iso is None else {"iso": str(each.iso)}),
                "base": hex(each.image.base),
                "bytes": len(each.image.data),
                "runs": each.image.runs,
                "probes": each.image.programs,
                "results": each.image.results,
            }
            for each in written
        ],
        "probes": probes,
        "exported": exported,
        "refused": dict(sorted(reasons.items())),
        "cases": [
            {
                "case": each.name,
                "probes": len(each.probes),
                "refused": [{"probe": row, "why": why} for row, why in each.reasons()],
            }
            for each in cases
        ],
    }


def _up(size: int, unit: int) -> int:
    return -(-size // unit)
