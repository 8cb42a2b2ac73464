"""`translate`: one translation, every step shown; with --ncr3, those of both dimensions."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from crosswalk.emu.cli.output import emit, remark
from crosswalk.emu.cli.sources import chosen_source, look, report_source, report_unfollowed
from crosswalk.emu.report.nested import (
    nested_outcome_json,
    nested_outcome_text,
    nested_record,
    nested_walk_lines,
    stage_of,
)
from crosswalk.emu.report.records import walk_record
from crosswalk.emu.report.text import access_text, context_text, outcome_text, walk_lines
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.context import PagingContext, Vendor
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import Source
from crosswalk.walker.formats.documents import outcome_record
from crosswalk.walker.nested import NestedContext, translate_nested, walk_nested
from crosswalk.walker.outcome import Outcome
from crosswalk.walker.translate import StepKind, translate, walk_access

__all__ = ["Observation", "run"]


@dataclass(frozen=True, slots=True)
class Observation:
    """What was observed; or what the emulated CPU lacks for the access, by name and in words.

    `differs` says that the prediction doesn't allow it, `known` the names of the known divergences
    that explain it.
    """

    observed: Outcome | None = None
    differs: bool = False
    known: str | None = None
    lacking: str | None = None
    lacks: str | None = None

    def record(self) -> dict[str, Any]:
        """Return what JSON has of it."""
        found: dict[str, Any] = {}
        if self.observed is not None:
            found["observed"] = outcome_record(self.observed)
        if self.differs:
            found["known"] = self.known
        if self.lacking is not None:
            found["predicted_only"] = {self.lacking: 1}
        return found

    def lines(self) -> Iterator[str]:
        """Yield it as text."""
        if self.observed is not None:
            yield f"observed:  {outcome_text(self.observed)}"
        if self.differs:
            yield f"known emulator divergence: {self.known}" if self.known else "verdict: FAILED"


def run(options: argparse.Namespace) -> int:
    """Show one translation, and return the exit status."""
    nested = options.ncr3 is not None
    source = chosen_source(options, nested=nested, listing=True)
    access = Access(
        options.va, AccessType[options.access.upper()], int(options.cpl), source.context.rflags_ac
    )
    return (_nested if nested else _translate)(options, source, access)


def _translate(options: argparse.Namespace, source: Source, access: Access) -> int:
    path = walk_access(source.memory, source.context, access)
    predicted = translate(source.memory, source.context, access)
    report_source(source)
    found = look(source)
    report_unfollowed(found)
    seen = Observation()
    if options.observe:
        from crosswalk.emu.cli.observe import observe  # noqa: PLC0415  # It needs the emulator.

        seen = observe(source, access, predicted)
    if options.json:
        emit({**walk_record(path, access, predicted), **seen.record(), **found.record()})
    else:
        print(access_text(access))
        if path.va != access.va:
            print(f"  the linear address is {path.va:#x}, by masking")
        for line in walk_lines(source.context, path):
            print(line)
        print(f"predicted: {outcome_text(predicted, may=True)}")
        for line in seen.lines():
            print(line)
    if path.steps and path.steps[-1].kind is StepKind.OUTSIDE and not source.complete:
        remark("partial: the walk ends at a table outside SOURCE's memory, taken for absent")
    if seen.lacking is not None:
        raise BadInput(
            f"predicted only: {seen.lacking}: the emulated CPU has no {seen.lacks}, "
            "nothing observed"
        )
    if seen.differs and seen.known is None:
        return 1
    found.require_mapping(options)
    return 0


def _nested(options: argparse.Namespace, source: Source, access: Access) -> int:
    """Show one translation of a source under nested tables.

    The host's physical addresses are as wide as the guest's and its pages as large; its vendor
    is AMD, whose nested paging it is.
    """
    host = _host(options, source.context)
    if source.memory.word(host.root) is None:
        raise BadInput(f"{source.name}: nCR3 {host.cr3:#x} points outside the memory")
    context = NestedContext(source.context, host)
    path = walk_nested(source.memory, context, access.va)
    predicted = translate_nested(source.memory, context, access)
    observed = known = None
    if options.observe:
        from crosswalk.emu.cli.observe import observe_nested  # noqa: PLC0415  # The same.

        observed, known = observe_nested(source, context, access, predicted)
    remark(f"{source.name}: {context_text(context.guest)}")
    remark(f"nested: {context.host.mode} paging, nCR3 {host.cr3:#x}, NXE {int(host.nxe)}")
    if options.json:
        record = nested_record(path, access, predicted)
        if observed is not None:
            record["observed"] = nested_outcome_json(observed)
        if known is not None:
            record["known"] = list(known)
        emit(record)
    else:
        print(access_text(access))
        for line in nested_walk_lines(context, path):
            print(line)
        print(f"predicted: {nested_outcome_text(predicted, may=True)}")
        stage = stage_of(predicted)
        if stage is not None:
            print(f"failed in: {stage}")
        if observed is not None:
            print(f"observed:  {nested_outcome_text(observed)}")
        if known is not None:
            names = ", ".join(known)
            print(f"known emulator divergences: {names}" if names else "verdict: FAILED")
    return 0 if known is None or known else 1


def _host(options: argparse.Namespace, guest: PagingContext) -> PagingContext:
    try:
        return PagingContext(
            cr3=options.ncr3,
            cr4=options.host_cr4,
            efer=options.host_efer,
            maxphyaddr=guest.maxphyaddr,
            page1gb=guest.page1gb,
            vendor=Vendor.AMD,
        )
    except BadInput as error:
        raise BadInput(f"the host: {error}") from error
