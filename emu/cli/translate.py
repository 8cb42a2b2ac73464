"""`translate`: one translation, every step shown."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from crosswalk.emu.check import Divergence, compare_all
from crosswalk.emu.cli.completeness import add_allow_empty, look, tell_followed
from crosswalk.emu.cli.output import add_json, emit, remark
from crosswalk.emu.cli.source_options import add_source, chosen_source, tell_source
from crosswalk.emu.cli.translate_nested import add_nested, nested_asked, translate_under
from crosswalk.emu.probe import FEATURES, LACKS, Prober
from crosswalk.emu.report.records import outcome_json, walk_record
from crosswalk.emu.report.text import access_text, outcome_text, walk_lines
from crosswalk.emu.targets.answers import fill_row, nothing_said
from crosswalk.emu.workers.contained import contained
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.columns import Accesses
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import Source, parse_int
from crosswalk.walker.outcome import Outcome
from crosswalk.walker.translate import StepKind, translate, walk_access

__all__ = ["add_commands"]


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `translate`."""
    parser = commands.add_parser("translate", help="one translation, every step shown")
    add_source(parser)
    parser.add_argument("va", metavar="VA", help="the linear address")
    names = [kind.name.lower() for kind in AccessType]
    parser.add_argument("--access", choices=names, default="read", help="the access (read)")
    parser.add_argument("--cpl", choices=["0", "3"], default="0", help="its privilege level (0)")
    parser.add_argument(
        "--observe", action="store_true", help="make the access in the emulator as well"
    )
    add_nested(parser)
    add_allow_empty(parser)
    add_json(parser, "one document")
    parser.set_defaults(run=_translate)


def _translate(options: argparse.Namespace) -> int:
    va = parse_int(options.va, "VA")
    nested = nested_asked(options)
    source = chosen_source(options, nested=nested, listing=True)
    access = Access(
        va, AccessType[options.access.upper()], int(options.cpl), source.context.rflags_ac
    )
    if nested:
        return translate_under(options, source, access)
    path = walk_access(source.memory, source.context, access)
    predicted = translate(source.memory, source.context, access)
    tell_source(source)
    found = look(source)
    tell_followed(found)
    seen = contained(lambda: _observe(source, access, predicted)) if options.observe else _NOTHING
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
            f"predicted only: {seen.lacking}: the emulated CPU has no {LACKS[seen.lacking]}, "
            "nothing observed"
        )
    if seen.diverges:
        return 1
    found.require_mapping(options)
    return 0


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was observed, and how it differs from the prediction; or what was lacking for it."""

    observed: Outcome | None = None
    divergence: Divergence | None = None
    lacking: str | None = None

    @property
    def diverges(self) -> bool:
        return self.divergence is not None and self.divergence.known is None

    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.observed is not None:
            found["observed"] = outcome_json(self.observed)
        if self.divergence is not None:
            found["known"] = self.divergence.known
        if self.lacking is not None:
            found["predicted_only"] = {self.lacking: 1}
        return found

    def lines(self) -> Iterator[str]:
        if self.observed is not None:
            yield f"observed:  {outcome_text(self.observed)}"
        if self.divergence is not None:
            known = self.divergence.known
            yield f"known emulator divergence: {known}" if known else "verdict: FAILED"


_NOTHING = _Seen()


def _divergence(
    source: Source, access: Access, predicted: Outcome, observed: Outcome
) -> Divergence | None:
    """Return the divergence, if what was observed is none of what the prediction allows."""
    accesses = Accesses.of([access])
    one, other = nothing_said(accesses), nothing_said(accesses)
    fill_row(one, 0, predicted)
    fill_row(other, 0, observed)
    found = compare_all(source.memory, source.context, accesses, one.outcomes, other.outcomes)
    return found[0] if found else None


def _observe(source: Source, access: Access, predicted: Outcome) -> _Seen:
    prober = Prober(source.memory, source.context)
    accesses = Accesses.of([access])
    lacking = int(prober.lacking(accesses)[0])
    if lacking:
        return _Seen(lacking=FEATURES[lacking - 1])
    observed = prober.probe(accesses)[0]
    return _Seen(observed, _divergence(source, access, predicted, observed))
