"""Nested paging in words: outcomes, walks in two dimensions, divergences."""

from collections.abc import Iterator

from emu.check.nested import NestedDivergence
from emu.report.text import access_text, context_text, outcome_text, walk_lines
from walker.context import PagingContext
from walker.memory import PhysicalMemory
from walker.nested.context import NestedContext
from walker.nested.outcome import NestedOutcome, NestedPageFault, nested_error_names
from walker.nested.translate import Passage, walk_nested
from walker.translate import Walk

__all__ = ["nested_divergence_lines", "nested_outcome_text", "nested_walk_lines"]


def nested_outcome_text(outcome: NestedOutcome, *, may: bool = False) -> str:
    """Return an outcome in words, with the entries it changed, or with `may` was free to."""
    if not isinstance(outcome, NestedPageFault):
        return outcome_text(outcome, may=may)
    text = (
        f"nested fault, error code {outcome.error_code:#x} "
        f"({nested_error_names(outcome.error_code)}), gpa {outcome.gpa:#x}"
    )
    changed = ", ".join(f"{pa:#x} = {value:#x}" for pa, value in outcome.entries)
    return f"{text}; {'may change' if may else 'changes'} {changed}" if changed else text


def nested_walk_lines(memory: PhysicalMemory, context: NestedContext, va: int) -> Iterator[str]:
    """Yield a line for each entry of both dimensions, nested ones indented more."""
    path = walk_nested(memory, context, va)
    if not path.tables:
        yield f"  not canonical: linear addresses have {context.guest.va_bits} bits"
    for passage in path.tables:
        yield from _passage(context.host, passage)
        if passage.step is not None:
            yield from walk_lines(context.guest, Walk(va, (passage.step,)))
    if path.page is not None:
        yield from _passage(context.host, path.page)


def nested_divergence_lines(
    memory: PhysicalMemory, context: NestedContext, divergence: NestedDivergence
) -> Iterator[str]:
    """Yield a divergence with its walk."""
    yield f"divergence: {access_text(divergence.access)}"
    yield f"  guest: {context_text(context.guest)}"
    yield f"  host:  {context_text(context.host)}"
    yield f"  predicted: {nested_outcome_text(divergence.predicted, may=True)}"
    yield f"  observed:  {nested_outcome_text(divergence.observed)}"
    if divergence.manual is not None:
        yield f"  by the manual: {nested_outcome_text(divergence.manual)}"
    yield from nested_walk_lines(memory, context, divergence.access.va)


def _passage(host: PagingContext, passage: Passage) -> Iterator[str]:
    end = "refused" if passage.pa is None else f"{passage.pa:#x}"
    yield f"    gpa {passage.gpa:#x} -> {end}"
    if passage.path.steps:
        for line in walk_lines(host, passage.path):
            yield f"    {line}"
