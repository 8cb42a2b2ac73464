"""`translate`: one translation, every step shown; with --ncr3 or --eptp, of both dimensions."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from crosswalk.emu.cli.followed import Followed, look, report_unfollowed
from crosswalk.emu.cli.host_options import names_host
from crosswalk.emu.cli.host_tables import assumed_of_ept, chosen_ept, chosen_npt
from crosswalk.emu.cli.memory_types import typed_spaces
from crosswalk.emu.cli.names import address_record, address_text, chosen_names
from crosswalk.emu.cli.output import emit, remark
from crosswalk.emu.cli.sources import chosen_contents, chosen_source, is_guest, report_source
from crosswalk.emu.cli.spaces import Spaces, chosen_spaces
from crosswalk.emu.report.ept import ept_context_text
from crosswalk.emu.report.nested import (
    nested_outcome_json,
    nested_outcome_text,
    nested_record,
    nested_walk_lines,
    stage_of,
)
from crosswalk.emu.report.records import walk_record
from crosswalk.emu.report.text import (
    access_text,
    context_text,
    count_text,
    outcome_text,
    walk_lines,
)
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.context import PagingContext, Vendor
from crosswalk.walker.entry import level_of
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import Source
from crosswalk.walker.formats.documents import outcome_record
from crosswalk.walker.memory_types import MemoryTypes, pat_index
from crosswalk.walker.nested import (
    EptContext,
    NestedContext,
    NestedOutcome,
    NestedWalk,
    nested_outcomes,
    walk_nested,
)
from crosswalk.walker.outcome import Outcome
from crosswalk.walker.spaces import access_key
from crosswalk.walker.translate import StepKind, Walk, translate, walk_access
from crosswalk.walker.walk_types import page_type, step_types

__all__ = ["Observation", "run"]

_SHOWN = 4
_NOT_STATED = "as the manual doesn't state"


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
    if names_host(options):
        which = "--ncr3" if options.eptp is None else "--eptp"
        for name in ("roots", "symbols"):
            if getattr(options, name) is not None:
                raise BadInput(f"--{name} and {which}: choose one of them")
        if options.types or options.pat is not None or options.mtrr is not None:
            raise BadInput(f"--types and {which}: nested tables have memory types of their own")
        if options.observe and options.eptp is not None:
            raise BadInput("--observe and --eptp: the emulated CPU has no EPT, only nested paging")
        source, assumed = _nested_source(options)
        return _nested(options, source, _access(options, source.context), assumed)
    return _translate(options, chosen_spaces(options, listing=True))


def _access(options: argparse.Namespace, context: PagingContext) -> Access:
    return Access(
        options.va, AccessType[options.access.upper()], int(options.cpl), context.rflags_ac
    )


@dataclass(frozen=True, slots=True)
class _Translated:
    """The access under one root: its walk, what is predicted, what was observed."""

    source: Source
    access: Access
    path: Walk
    predicted: Outcome
    seen: Observation
    types: MemoryTypes | None = None

    @property
    def alike(self) -> object:
        """What another root has in common if its walk is the same but for the root table."""
        _, *registers = access_key(self.source.context)
        first, rest = self.path.steps[:1], self.path.steps[1:]
        entries = [(step.entry, step.kind) for step in first]
        return registers, entries, rest, self.path.va, self._types()

    def _types(self) -> tuple[tuple[str | None, ...], str | None] | None:
        """Return the types by which the entries are read, and that of the page, if asked for."""
        if self.types is None:
            return None
        context = self.source.context
        entries = step_types(context, self.path, self.types)
        page = page_type(context, self.path, self.types)
        names = [None if kind is None else kind.text for kind in (*entries, page)]
        return tuple(names[:-1]), names[-1]

    def record(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        found = walk_record(self.path, self.access, self.predicted)
        types = self._types()
        if types is not None:
            for step, kind in zip(found["steps"], types[0], strict=True):
                step["memory_type"] = kind
            found["memory_type"] = types[1]
        return {**found, **self.seen.record()}

    def lines(self) -> Iterator[str]:
        """Yield it as text, without the access."""
        if self.path.va != self.access.va:
            yield f"  the linear address is {self.path.va:#x}, by masking"
        yield from walk_lines(self.source.context, self.path)
        yield from self._type_lines()
        yield f"predicted: {outcome_text(self.predicted, may=True)}"
        yield from self.seen.lines()

    def _type_lines(self) -> Iterator[str]:
        types, context = self._types(), self.source.context
        if types is None:
            return
        names = [level_of(context, step.level).entry for step in self.path.steps]
        read = [f"{name} {kind or _NOT_STATED}" for name, kind in zip(names, types[0], strict=True)]
        if read:
            yield f"entries are read as: {', '.join(read)}"
        leaf = self.path.leaf
        if leaf is not None:
            field = pat_index(leaf.level, leaf.entry)
            yield f"memory type: {types[1]}, by field PA{field} of IA32_PAT"

    @property
    def partial(self) -> bool:
        """Whether the walk ends at a table that SOURCE lacks."""
        steps = self.path.steps
        outside = bool(steps) and steps[-1].kind is StepKind.OUTSIDE
        return outside and not self.source.complete


def _translate(options: argparse.Namespace, spaces: Spaces) -> int:
    made = [
        _translated(options, replace(spaces.source, context=context)) for context in spaces.contexts
    ]
    report_source(spaces.source)
    spaces, types = typed_spaces(options, spaces)
    every = [replace(each, types=types) for each in made]
    followed = look(spaces)
    names = chosen_names(options, spaces)
    report_unfollowed(followed, names)
    if options.json:
        emit({**_record(every, spaces, followed), **address_record(names, every[0].path.va)})
    else:
        print(f"{access_text(every[0].access)}{address_text(names, every[0].path.va)}")
        for line in _lines(every, spaces, grouped=not options.observe):
            print(line)
    parts = sum(each.partial for each in every)
    if parts:
        under = f"under {parts:,} roots " if spaces.named else ""
        remark(
            f"partial: {under}the walk ends at a table outside SOURCE's memory, taken for absent"
        )
    lacking = next((each.seen for each in every if each.seen.lacking is not None), None)
    if lacking is not None:
        raise BadInput(
            f"predicted only: {lacking.lacking}: the emulated CPU has no {lacking.lacks}, "
            "nothing observed"
        )
    if any(each.seen.differs and each.seen.known is None for each in every):
        return 1
    followed.require_mapping(options)
    return 0


def _translated(options: argparse.Namespace, source: Source) -> _Translated:
    access = _access(options, source.context)
    path = walk_access(source.memory, source.context, access)
    predicted = translate(source.memory, source.context, access)
    seen = Observation()
    if options.observe:
        from crosswalk.emu.cli.observe import observe  # noqa: PLC0415  # It needs the emulator.

        seen = observe(source, access, predicted)
    return _Translated(source, access, path, predicted, seen)


def _record(every: Sequence[_Translated], spaces: Spaces, found: Followed) -> dict[str, Any]:
    if not spaces.named:
        return {**every[0].record(), **found.record()}
    told = ("va", "access", "cpl", "ac")
    shared = {name: value for name, value in every[0].record().items() if name in told}
    roots = [
        {
            "root": hex(each.source.context.root),
            "mode": each.source.context.mode.value,
            **{name: value for name, value in each.record().items() if name not in told[:3]},
        }
        for each in every
    ]
    del shared["ac"]  # It may differ from one CPU to the next.
    return {**shared, "translations": roots, **found.record(), **found.roots_record()}


def _lines(every: Sequence[_Translated], spaces: Spaces, *, grouped: bool) -> Iterator[str]:
    """Yield all translations; walks that are the same below the root once, if `grouped`."""
    groups: dict[str, list[_Translated]] = {}
    for number, each in enumerate(every):
        groups.setdefault(repr(each.alike) if grouped else str(number), []).append(each)
    for same in groups.values():
        if spaces.named:
            roots = ", ".join(f"{each.source.context.root:#x}" for each in same[:_SHOWN])
            more = f" and {count_text(len(same) - _SHOWN, 'other')}" if len(same) > _SHOWN else ""
            yield f"root{'s' if len(same) > 1 else ''} {roots}{more}:"
        yield from same[0].lines()


def _nested_source(options: argparse.Namespace) -> tuple[Source, tuple[str, ...]]:
    """Return the source that the options name, and what is assumed of its vendor, as texts.

    Nested paging is AMD's: where nothing says whose processor it is, it is one of AMD's.
    """
    if options.ncr3 is None or options.vendor is not None or is_guest(options.source):
        return chosen_source(options, nested=True, listing=True), ()
    contents = chosen_contents(options)
    assumed: tuple[str, ...] = ()
    if contents.registers.vendor is None:
        options.vendor, assumed = Vendor.AMD.value, (f"vendor = {Vendor.AMD}",)
    return chosen_source(options, nested=True, listing=True, contents=contents), assumed


def _nested(
    options: argparse.Namespace, source: Source, access: Access, of_guest: tuple[str, ...]
) -> int:
    """Show one translation of a source under nested tables.

    The host's physical addresses are as wide as the guest's. Of nested paging its pages are as
    large, too, and its vendor is AMD, whose nested paging it is.
    """
    host, text, of_host = _host(options, source)
    assumed = (*of_guest, *of_host)
    context = NestedContext(source.context, host, gmet=options.gmet)
    path = walk_nested(source.memory, context, access.va)
    predicted, *others = nested_outcomes(source.memory, context, access)
    observed = known = None
    if options.observe:
        from crosswalk.emu.cli.observe import observe_nested  # noqa: PLC0415  # The same.

        observed, known = observe_nested(source, context, access, predicted)
    remark(f"{source.name}: {context_text(context.guest)}")
    remark(f"nested: {text}")
    if assumed:
        remark(f"assumed: {', '.join(assumed)}")
    if options.json:
        record = nested_record(path, access, predicted, *others)
        if observed is not None:
            record["observed"] = nested_outcome_json(observed)
        if known is not None:
            record["known"] = list(known)
        emit(record)
    else:
        print(access_text(access))
        for line in (*nested_walk_lines(context, path), *_predictions(path, predicted, *others)):
            print(line)
        if observed is not None:
            print(f"observed:  {nested_outcome_text(observed)}")
        if known is not None:
            names = ", ".join(known)
            print(f"known emulator divergences: {names}" if names else "verdict: FAILED")
    return 0 if known is None or known else 1


def _predictions(
    path: NestedWalk, predicted: NestedOutcome, *others: NestedOutcome
) -> Iterator[str]:
    """Yield what is predicted, and what the processor may choose instead."""
    yield f"predicted: {nested_outcome_text(predicted, may=True)}"
    for each in others:
        yield f"or:        {nested_outcome_text(each, may=True)}"
    stage = stage_of(predicted, path)
    if stage is not None:
        yield f"failed in: {stage}"


def _host(
    options: argparse.Namespace, source: Source
) -> tuple[PagingContext | EptContext, str, tuple[str, ...]]:
    """Return how the host's tables are read, the same in words, and what of it is assumed."""
    guest = source.context
    host: PagingContext | EptContext
    assumed: tuple[str, ...] = ()
    if options.eptp is None:
        host = chosen_npt(options, guest.maxphyaddr, page1gb=guest.page1gb)
        pointer = f"nCR3 {host.cr3:#x}"
        text = (
            f"{host.mode} paging, {pointer}, NXE {int(host.nxe)}{', GMET' if options.gmet else ''}"
        )
    else:
        host = chosen_ept(options, guest.maxphyaddr)
        pointer, text = f"EPTP {host.eptp:#x}", ept_context_text(host)
        assumed = assumed_of_ept(options, host)
    if source.memory.word(host.root) is None:
        raise BadInput(f"{source.name}: {pointer} points outside the memory")
    return host, text, assumed
