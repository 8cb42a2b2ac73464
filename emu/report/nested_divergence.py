"""A divergence under nested paging, in words."""

from collections.abc import Iterator

from crosswalk.emu.check.nested import NestedDivergence
from crosswalk.emu.report.nested import nested_outcome_text, nested_walk_lines
from crosswalk.emu.report.text import access_text, context_text
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.nested.context import NestedContext
from crosswalk.walker.nested.translate import walk_nested

__all__ = ["nested_divergence_lines"]


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
    yield from nested_walk_lines(context, walk_nested(memory, context, divergence.access.va))
