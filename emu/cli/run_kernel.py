"""`run --kernel`: a Linux kernel as the guest, checked at points of its boot."""

import argparse
import resource
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from crosswalk.emu.check import Verdict
from crosswalk.emu.cli.boot_points import parsed_points
from crosswalk.emu.cli.check import (
    explain_known,
    machine_extent,
    machine_spaces,
    report_advice,
    report_divergences,
    run_guest,
    save_cases,
    verdict_of,
    with_expectations,
)
from crosswalk.emu.cli.expecting import chosen_sentences, judged_machine, record, write_reports
from crosswalk.emu.cli.names import kernel_names
from crosswalk.emu.cli.output import command_text, emit, print_verdict, remark
from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.boot import Boot, Reached
from crosswalk.emu.load.builtin import GUESTS
from crosswalk.emu.load.failure import GuestFailure
from crosswalk.emu.load.linux.guest import LinuxGuest
from crosswalk.emu.load.linux.image import load_kernel
from crosswalk.emu.load.points import Point
from crosswalk.emu.report.conclusion import Conclusion, Extent, conclude
from crosswalk.emu.report.expectations import Result, expectation_lines
from crosswalk.emu.report.records import structures_case
from crosswalk.emu.report.text import context_text, range_text
from crosswalk.emu.report.verdict import summary_record, verdict_lines
from crosswalk.emu.workers.contained import contained
from crosswalk.guest.init import init_archive
from crosswalk.walker.errors import BadInput
from crosswalk.walker.expectations import Sentence, Snapshot, take_snapshot
from crosswalk.walker.expectations.sentences import Unchanged
from crosswalk.walker.formats import dump_case
from crosswalk.walker.formats.corewriter import core_parts
from crosswalk.walker.formats.files import read_file, write_file, write_parts
from crosswalk.walker.formats.located_errors import one_line
from crosswalk.walker.mappings import Range, coalesce, mappings
from crosswalk.walker.memory import Segments
from crosswalk.walker.rights import Rights

__all__ = ["run"]

_SHOWN = 4
_BOTH = Rights.SUPERVISOR_WRITE | Rights.SUPERVISOR_EXECUTE


@dataclass(frozen=True, slots=True)
class _Point:
    """What was found at a point of a boot.

    `exposed` is where the supervisor may write what it may execute; `peak` is the most memory
    that the process or a child of it has had, in MiB; `expected` is what sentences came to.
    """

    reached: Reached
    verdict: Verdict
    extent: Extent
    word: Conclusion
    exposed: tuple[Range, ...]
    peak: int
    expected: tuple[Result, ...] = ()


def run(options: argparse.Namespace) -> int:
    """Boot the guest, check it, and return the exit status."""
    if options.kernel is None:
        return run_guest(options)
    sentences = chosen_sentences(options)
    kernel = load_kernel(options.kernel)
    initrd = init_archive() if options.initrd is None else read_file(options.initrd)
    size = options.ram << 20
    points, until = parsed_points(options, kernel)
    _require_points(sentences, points)
    ram = Ram(0, size)  # Shared with the child.
    levels = GUESTS[options.paging]
    remark(
        f"{options.kernel}: {kernel.release or 'a kernel'}, {levels}-level paging, {size >> 20} MiB"
    )

    def work() -> list[_Point]:
        boot = Boot(
            ram,
            LinuxGuest(kernel, initrd, options.append or "", levels),
            on_line=remark if options.console else None,
        )
        earlier: dict[str, Snapshot] = {}
        found = []
        for reached in boot.run(points, until, options.timeout):
            last = reached.point == until
            found.append(_looked_at(options, boot, reached, _Since(sentences, earlier, last=last)))
            if any(isinstance(each.claim, Unchanged) for each in sentences):
                earlier[str(reached.point)] = take_snapshot(boot.memory, reached.context)
        return found

    try:
        found = contained(work)
    except GuestFailure as failure:
        for line in failure.lines:
            remark(line)
        raise
    if options.save is not None:
        _save(options.save, ram, found[-1].reached)
    return _report(options, found)


@dataclass(frozen=True, slots=True)
class _Since:
    """Sentences to judge at a point, which may be the last, and the tables at points before."""

    sentences: tuple[Sentence, ...]
    earlier: dict[str, Snapshot]
    last: bool

    @property
    def applicable(self) -> list[Sentence]:
        """Those that are about this point: what is unchanged since a point, only behind it."""
        return [
            each
            for each in self.sentences
            if self.last
            or not isinstance(each.claim, Unchanged)
            or each.claim.point in self.earlier
        ]


def _require_points(sentences: Sequence[Sentence], points: Sequence[Point]) -> None:
    """Raise `BadInput` where a sentence names a point that --check-at doesn't."""
    known = {str(each) for each in points}
    for each in sentences:
        if isinstance(each.claim, Unchanged) and each.claim.point not in known:
            point = one_line(each.claim.point)
            raise BadInput(f"unchanged since {point}: --check-at names no such point")


def _looked_at(options: argparse.Namespace, boot: Boot, reached: Reached, since: _Since) -> _Point:
    """Check the mappings at a point and report the verdict, in the child that runs the boot."""
    memory, context = boot.memory, reached.context
    remark(f"at {reached.point}: {context_text(context)}")
    verdict = verdict_of(memory, context, jobs=options.jobs)
    extent = machine_extent(str(reached.point), memory, context)
    exposed = [each for each in coalesce(mappings(memory, context)) if each.rights & _BOTH == _BOTH]
    peaks = (
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    point = _Point(
        reached=reached,
        verdict=verdict,
        extent=extent,
        word=conclude(verdict, extent),
        exposed=tuple(exposed),
        peak=max(peaks) // 1024,
        expected=_expected(options, boot, reached, since),
    )
    show = remark if options.json else print
    for line in _lines(point):
        show(line)
    report_divergences(verdict, memory, context, show)
    explain_known(options, verdict, show)
    for line in expectation_lines(point.expected):
        show(line)
    folder = None if options.cases is None else options.cases / _folder(reached.point)
    save_cases(folder, memory, [(context, verdict)])
    report_advice(verdict, point.word)
    return point


def _expected(
    options: argparse.Namespace, boot: Boot, reached: Reached, since: _Since
) -> tuple[Result, ...]:
    """Return what sentences come to at a point."""
    sentences = since.applicable
    if not sentences:
        return ()
    spaces = machine_spaces(str(reached.point), boot.memory, reached.context)
    names = kernel_names(spaces, options.system_map)
    found = judged_machine(options, sentences, spaces, names, since.earlier, search=True)
    return tuple(replace(each, point=str(reached.point)) for each in found)


def _folder(point: Point) -> str:
    return "".join(c if c.isalnum() else "-" for c in str(point))


def _lines(point: _Point) -> Iterator[str]:
    reached = point.reached
    counted = f", {reached.instructions:,} instructions" if reached.instructions else ""
    yield (
        f"{reached.point}: {reached.seconds:.1f} s of boot{counted}, {reached.events:,} exceptions "
        f"and interrupts, {reached.system_calls:,} system calls"
    )
    if reached.lag:
        yield f"  {reached.lag}"
    yield from verdict_lines(point.verdict)
    count = sum(each.count for each in point.exposed)
    yield (
        f"{point.extent.mappings:,} mappings, {count:,} of them writable and executable for the "
        f"supervisor; peak memory {point.peak:,} MiB"
    )
    yield from (f"  {range_text(each)}" for each in islice(point.exposed, _SHOWN))
    if len(point.exposed) > _SHOWN:
        yield f"  … and {len(point.exposed) - _SHOWN:,} more ranges"
    yield ""


def _save(path: Path, ram: Ram, last: Reached) -> None:
    memory = Segments([(ram.start, ram.bytes)])
    if path.suffix == ".json":
        write_file(path, dump_case(structures_case(memory, last.context)))
    else:
        write_parts(path, core_parts(memory, last.state))
    remark(f"wrote {path}")


def _report(options: argparse.Namespace, points: list[_Point]) -> int:
    expected = [each for point in points for each in point.expected]
    word = with_expectations(_joint_word(points), expected)
    write_reports(options, expected)
    if options.json:
        records = [_record(point) for point in points]
        names = ("probes", "agreements", "divergences", "known_divergences", "mappings")
        total: dict[str, Any] = {name: sum(each[name] for each in records) for name in names}
        for name in ("predicted_only", "not_asked", "unfollowed"):
            counts: Counter[str] = Counter()
            for each in records:
                counts.update(each[name])
            total[name] = dict(counts)
        total["assumed"] = []
        total["seconds"] = round(sum(each["seconds"] for each in records), 3)
        again = command_text(options)
        emit({**total, "points": records, "verdict": word.text, "reproduce": again})
    else:
        print_verdict(word.text, word.status)
        print(f"reproduce: {command_text(options)}")
    return word.status


def _joint_word(points: list[_Point]) -> Conclusion:
    """Return the last word for all points: a divergence before anything else, then what is open."""
    worst = min(points, key=lambda point: (2, 0, 1)[point.word.status])
    texts = list(dict.fromkeys(point.word.text for point in points))
    if worst.word.status == 1 or len(texts) == 1:
        return worst.word
    named = " | ".join(f"{point.reached.point}: {point.word.text}" for point in points)
    return Conclusion(worst.word.status, named)


def _record(point: _Point) -> dict[str, Any]:
    reached = point.reached
    return {
        "point": str(reached.point),
        "boot_seconds": round(reached.seconds, 3),
        "events": reached.events,
        "system_calls": reached.system_calls,
        "user_space": reached.user_space,
        "cr3": hex(reached.context.cr3),
        "levels": reached.context.levels,
        "writable_executable": sum(each.count for each in point.exposed),
        "peak_mib": point.peak,
        **summary_record(point.verdict, point.extent),
        **({"expectations": record(point.expected)} if point.expected else {}),
    }
