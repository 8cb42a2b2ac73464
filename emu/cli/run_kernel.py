"""`run --guest` and `run --kernel`: a kernel as the guest, checked at points of its boot."""

import argparse
import resource
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET

from crosswalk.emu.check import Verdict
from crosswalk.emu.cli.blame import Rerun, blame_key, report_blame
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
from crosswalk.emu.cli.expecting import chosen_sentences, judged_machine, write_reports
from crosswalk.emu.cli.failing import reported_failures
from crosswalk.emu.cli.guest_files import chosen_guest, guest_record, guest_text, names_in_guest
from crosswalk.emu.cli.names import symbols_of
from crosswalk.emu.cli.nested_points import (
    NestedPoint,
    check_nested_point,
    nested_record,
    show_nested,
    with_nested,
)
from crosswalk.emu.cli.output import command_text, emit, print_verdict, remark
from crosswalk.emu.cpu.engine import MODELS
from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.boot import IDLE_SECONDS, Boot, Reached
from crosswalk.emu.load.failure import GuestFailure
from crosswalk.emu.load.formats import OpenedGuest
from crosswalk.emu.load.loader_tables import TablesOf
from crosswalk.emu.load.points import Point
from crosswalk.emu.pc.unanswered import unanswered_text
from crosswalk.emu.report.conclusion import Conclusion, Extent, conclude
from crosswalk.emu.report.expectations import (
    Result,
    expectation_lines,
    expectations_document,
)
from crosswalk.emu.report.failure_json import EndedJson, FailureJson, ended_document
from crosswalk.emu.report.records import structures_case
from crosswalk.emu.report.run_json import (
    GuestJson,
    NestedPointJson,
    PointJson,
    RunEndedJson,
    RunJson,
    UnansweredJson,
    UnfollowedJson,
)
from crosswalk.emu.report.text import context_text, range_text
from crosswalk.emu.report.verdict import summary_record, verdict_lines
from crosswalk.emu.workers.contained import contained
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.expectations import Sentence, Snapshot, take_snapshot
from crosswalk.walker.expectations.sentences import Unchanged
from crosswalk.walker.formats import dump_case
from crosswalk.walker.formats.corewriter import core_parts
from crosswalk.walker.formats.files import write_file, write_parts
from crosswalk.walker.formats.located_errors import one_line
from crosswalk.walker.mappings import Range, coalesce, mappings
from crosswalk.walker.memory import FRAME, PhysicalMemory, Segments
from crosswalk.walker.rights import Rights
from crosswalk.walker.roots.groups import pair_of
from crosswalk.walker.unfollowed import Unfollowed

__all__ = ["run"]

_SHOWN = 4
_LOADERS = {
    TablesOf.LOADER: "the loader's own tables, as it made them: the guest has made none of its own "
    "yet",
    TablesOf.LOADER_CHANGED: "the loader's own tables, of which the guest has changed entries",
}
_SUMS = ("probes", "agreements", "divergences", "known_divergences", "mappings")
_BOTH = Rights.SUPERVISOR_WRITE | Rights.SUPERVISOR_EXECUTE


@dataclass(frozen=True, slots=True)
class _Point:
    """What was found at a point of a boot.

    `exposed` is where the supervisor may write what it may execute; `peak` is the most memory
    that the process or a child of it has had, in MiB; `expected` is what sentences came to,
    `nested` what was found of the nested tables of a guest's own hypervisor. `kernel_root` is the
    kernel's root table where the one in use is user mode's, of page-table isolation.
    """

    reached: Reached
    verdict: Verdict
    extent: Extent
    word: Conclusion
    exposed: tuple[Range, ...]
    peak: int
    expected: tuple[Result, ...] = ()
    nested: NestedPoint | None = None
    kernel_root: int | None = None


@dataclass(frozen=True, slots=True)
class _Booted:
    """What was found at all points of a boot.

    `exit_code` is what the guest exited with, if it did. `failure` is that of a guest that didn't
    get to all points (`whole`), or exited with another code than 0. `unanswered` is what it asked
    of hardware that isn't there: in a line, and as records.
    """

    points: tuple[_Point, ...]
    whole: bool
    exit_code: int | None
    failure: GuestFailure | None
    unanswered: str
    unanswered_records: tuple[dict[str, Any], ...]


def run(options: argparse.Namespace) -> int:
    """Boot the guest, check it, and return the exit status."""
    if options.kernel is None and options.guest is None:
        return run_guest(options)
    sentences = chosen_sentences(options)
    if (options.model, options.paging) == ("epyc", "5level"):
        raise BadInput("--model epyc has no 5-level paging")
    guest = chosen_guest(options)
    points, until = parsed_points(options, guest.image)
    _require_points(sentences, points)
    ram = Ram(0, options.ram << 20)  # Shared with the child.
    given = options.system_map
    symbols = None if given is None else symbols_of(str(given)).symbols
    remark(guest_text(options, guest))

    def booting(ram: Ram, on_line: Callable[[str], None] | None = None) -> Boot:
        return Boot(
            ram,
            guest,
            model=MODELS[options.model],
            exit_port=options.exit_port,
            tick_every=options.tick_every,
            idle_seconds=options.idle or IDLE_SECONDS,
            on_line=on_line,
            symbols=symbols,
        )

    def work() -> _Booted:
        boot = booting(ram, remark if options.console else None)
        return _boot(options, guest, boot, sentences, (points, until))

    def document(failure: FailureJson | EndedJson) -> dict[str, Any]:
        nothing = _Booted((), False, None, None, "", ())
        return _document(options, guest, nothing, failure.message, ended=failure)

    with reported_failures(options, document):
        booted = contained(work)
    if booted.failure is not None:
        for line in booted.failure.lines:
            remark(line)
        if not booted.whole:
            return _report_failure(options, guest, booted, booted.failure)
    if options.save is not None:
        _save(options.save, ram, booted.points[-1].reached)
    rerun = Rerun(booting, points, until, options.timeout)
    blamed = report_blame(options, guest.image, ram, booted.points[-1].reached, rerun)
    return _report(options, guest, booted, blamed)


def _boot(
    options: argparse.Namespace,
    guest: OpenedGuest,
    boot: Boot,
    sentences: tuple[Sentence, ...],
    points: tuple[Sequence[Point], Point],
) -> _Booted:
    """Run a boot past these points to the last one, and check each, in the child that runs it."""
    earlier: dict[str, Snapshot] = {}
    found: list[_Point] = []
    failure = None
    try:
        for reached in boot.run(*points, options.timeout):
            since = _Since(sentences, earlier, last=reached.point == points[1])
            found.append(_looked_at(options, guest, boot, reached, since))
            if reached.paging is not None and since.compares:
                earlier[str(reached.point)] = take_snapshot(boot.memory, reached.context)
    except GuestFailure as ended:
        failure = ended
    asked = boot.machine.unanswered
    return _Booted(
        points=tuple(found),
        whole=failure is None,
        exit_code=None if boot.exit_status is None else boot.exit_status >> 1,
        failure=boot.exit_failure if failure is None else failure,
        unanswered=unanswered_text(asked),
        unanswered_records=tuple(asked.records(boot.code.name)),
    )


@dataclass(frozen=True, slots=True)
class _Since:
    """Sentences to judge at a point, which may be the last, and the tables at points before."""

    sentences: tuple[Sentence, ...]
    earlier: dict[str, Snapshot]
    last: bool

    @property
    def compares(self) -> bool:
        """Whether a sentence is about what has changed since a point before."""
        return any(isinstance(each.claim, Unchanged) for each in self.sentences)

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


def _looked_at(
    options: argparse.Namespace, guest: OpenedGuest, boot: Boot, reached: Reached, since: _Since
) -> _Point:
    """Check the mappings at a point and report the verdict, in the child that runs the boot."""
    if reached.paging is None:
        return _unread(options, reached)
    memory, context = boot.memory, reached.context
    remark(f"at {reached.point}: {context_text(context)}")
    verdict = verdict_of(memory, context, limit=options.limit, jobs=options.jobs)
    extent = machine_extent(str(reached.point), memory, context)
    exposed = [each for each in coalesce(mappings(memory, context)) if each.rights & _BOTH == _BOTH]
    nested = check_nested_point(memory, reached.nested)
    point = _Point(
        reached=reached,
        verdict=verdict,
        extent=extent,
        word=with_nested(conclude(verdict, extent), nested),
        exposed=tuple(exposed),
        peak=_peak(),
        expected=_expected(options, guest, boot, reached, since),
        nested=nested,
        kernel_root=_kernel_root(memory, context),
    )
    show = remark if options.json else print
    for line in _lines(point):
        show(line)
    report_divergences(verdict, memory, context, show)
    explain_known(options, verdict, show)
    show_nested(nested, memory, show)
    for line in expectation_lines(point.expected):
        show(line)
    folder = None if options.cases is None else options.cases / _folder(reached.point)
    save_cases(folder, memory, [(context, verdict)])
    report_advice(verdict, point.word)
    if exposed and since.last and not options.blame:
        remark(f"who made that writable and executable: --blame {exposed[0].va:#x}")
    return point


def _kernel_root(memory: PhysicalMemory, context: PagingContext) -> int | None:
    """Return the kernel's root where CR3 is user mode's own, else None."""
    return pair_of(memory, context, ()) if context.root & FRAME else None


def _unread(options: argparse.Namespace, reached: Reached) -> _Point:
    """Report a point at which there are no tables to look at."""
    word = Conclusion(2, f"nothing to check: {reached.unread}")
    nothing = Verdict(0, 0, (), {}, {}, 0.0)
    point = _Point(reached, nothing, Extent(0, Unfollowed()), word, (), _peak())
    show = remark if options.json else print
    show(f"{_boot_text(reached)}\n{word.text}\n")
    return point


def _peak() -> int:
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(each).ru_maxrss for each in who) // 1024


def _expected(
    options: argparse.Namespace, guest: OpenedGuest, boot: Boot, reached: Reached, since: _Since
) -> tuple[Result, ...]:
    """Return what sentences come to at a point."""
    sentences = since.applicable
    if not sentences:
        return ()
    spaces = machine_spaces(str(reached.point), boot.memory, reached.context)
    names = names_in_guest(options, guest, spaces)
    found = judged_machine(options, sentences, spaces, names, since.earlier, search=True)
    point, loader = str(reached.point), reached.tables is not TablesOf.GUEST
    return tuple(replace(each, point=point, loader=loader) for each in found)


def _folder(point: Point) -> str:
    return "".join(c if c.isalnum() else "-" for c in str(point))


def _lines(point: _Point) -> Iterator[str]:
    reached = point.reached
    yield _boot_text(reached)
    if reached.lag:
        yield f"  {reached.lag}"
    if reached.tables in _LOADERS:
        yield f"  {_LOADERS[reached.tables]}"
    if point.kernel_root is not None:
        yield (
            "  this CR3 is user mode's root of page-table isolation: of the kernel it maps only "
            f"what entering takes; the kernel's root is {point.kernel_root:#x}, "
            "in use inside the kernel"
        )
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


def _boot_text(reached: Reached) -> str:
    counted = f", {reached.instructions:,} instructions" if reached.instructions else ""
    return (
        f"{reached.point}: {reached.seconds:.1f} s of boot{counted}, {reached.events:,} exceptions "
        f"and interrupts, {reached.system_calls:,} system calls"
    )


def _save(path: Path, ram: Ram, last: Reached) -> None:
    memory = Segments([(ram.start, ram.bytes)])
    if path.suffix == ".json":
        write_file(path, dump_case(structures_case(memory, last.context)))
    else:
        write_parts(path, core_parts(memory, last.state))
    remark(f"wrote {path}")


def _report(
    options: argparse.Namespace, guest: OpenedGuest, booted: _Booted, blamed: list[dict[str, Any]]
) -> int:
    expected = [each for point in booted.points for each in point.expected]
    word = _with_exit(with_expectations(_joint_word(booted.points), expected), booted.exit_code)
    write_reports(options, expected)
    if options.json:
        emit(_document(options, guest, booted, word.text, blamed=blamed))
    else:
        if booted.exit_code is not None:
            print(f"the guest exited with {booted.exit_code}")
        if booted.unanswered and booted.failure is None:
            print(booted.unanswered)
        print_verdict(word.text, word.status)
        print(f"reproduce: {command_text(options)}")
    return word.status


def _report_failure(
    options: argparse.Namespace,
    guest: OpenedGuest,
    booted: _Booted,
    failure: GuestFailure,
) -> int:
    """Report a guest that didn't get to its last point; return 1 for what was found before that.

    Raises the failure where nothing was.
    """
    expected = [each for point in booted.points for each in point.expected]
    write_reports(options, expected)
    text, status = str(failure), 2
    if booted.points:
        word = with_expectations(_joint_word(booted.points), expected)
        if word.status == 1:
            text, status = f"{word.text}; {failure}", 1
    if options.json:
        emit(_document(options, guest, booted, text))
    if status == 2:
        raise failure
    if not options.json:
        print_verdict(text, status)
        print(f"reproduce: {command_text(options)}")
    return status


def _document(
    options: argparse.Namespace,
    guest: OpenedGuest,
    booted: _Booted,
    verdict: str,
    *,
    ended: FailureJson | EndedJson | None = None,
    blamed: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return all that was found, in the form of `RunJson`, or `RunEndedJson`.

    `ended` is what ended the run from outside of it.
    """
    points = [_point_document(point) for point in booted.points]
    failure = ended if booted.failure is None else ended_document(booted.failure)
    kind = RunEndedJson if isinstance(failure, EndedJson) else RunJson
    ending: dict[str, Any] = {} if failure is None else {"failure": failure}
    document = kind(
        format="crosswalk-run/1",
        **{name: sum(getattr(each, name) for each in points) for name in _SUMS},
        predicted_only=_sums(each.predicted_only for each in points),
        not_asked=_sums(each.not_asked for each in points),
        unfollowed=UnfollowedJson(
            sum(each.unfollowed.outside for each in points),
            sum(each.unfollowed.reserved for each in points),
        ),
        assumed=[],
        seconds=round(sum(each.seconds for each in points), 3),
        guest=GuestJson(**guest_record(guest)),
        points=points,
        guest_exit=UNSET if booted.exit_code is None else booted.exit_code,
        **ending,
        **blame_key(blamed or []),
        unanswered=[UnansweredJson(**each) for each in booted.unanswered_records],
        verdict=verdict,
        reproduce=command_text(options),
    )
    record: dict[str, Any] = msgspec.to_builtins(document)
    return record


def _sums(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(total)


def _with_exit(word: Conclusion, code: int | None) -> Conclusion:
    """Return the last word with the guest's own: one that failed fails here, too."""
    if not code:
        return word
    return replace(word, status=1, text=f"{word.text}; the guest exited with {code}")


def _joint_word(points: Sequence[_Point]) -> Conclusion:
    """Return the last word for all points: a divergence before anything else, then what is open."""
    worst = min(points, key=lambda point: (2, 0, 1)[point.word.status])
    texts = list(dict.fromkeys(point.word.text for point in points))
    if worst.word.status == 1 or len(texts) == 1:
        return worst.word
    named = " | ".join(f"{point.reached.point}: {point.word.text}" for point in points)
    return Conclusion(worst.word.status, named)


def _point_document(point: _Point) -> PointJson:
    reached, paging = point.reached, point.reached.paging
    summary = summary_record(point.verdict, point.extent)
    return PointJson(
        point=str(reached.point),
        boot_seconds=round(reached.seconds, 3),
        events=reached.events,
        system_calls=reached.system_calls,
        user_space=reached.user_space,
        cr3=None if paging is None else hex(paging.cr3),
        tables=None if reached.tables is None else reached.tables.value,
        levels=None if paging is None else paging.levels,
        kernel_root=UNSET if point.kernel_root is None else hex(point.kernel_root),
        writable_executable=sum(each.count for each in point.exposed),
        peak_mib=point.peak,
        **{**summary, "unfollowed": UnfollowedJson(**summary["unfollowed"])},
        unread=reached.unread or UNSET,
        nested=UNSET if point.nested is None else NestedPointJson(**nested_record(point.nested)),
        expectations=expectations_document(point.expected) if point.expected else UNSET,
    )
