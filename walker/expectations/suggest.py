"""Sentences to begin with: what could be said of address spaces, by what is mapped in them.

Nothing here says that one holds: they are to be judged.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from crosswalk.walker.context import PagingContext
from crosswalk.walker.expectations.grammar import quoted
from crosswalk.walker.expectations.judgement import rule_of
from crosswalk.walker.expectations.search import Search, Span
from crosswalk.walker.expectations.sentences import Ability, Privilege
from crosswalk.walker.leaves import TOP
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.rights import rwx
from crosswalk.walker.spaces import Contexts, listed_contexts
from crosswalk.walker.symbols import Names, Spans

__all__ = ["suggested"]

_STACK, _GUARD = "stack", "guard"
_RIGHTS = np.arange(64)


def suggested(memory: PhysicalMemory, contexts: Contexts, names: Names) -> Iterator[list[str]]:
    """Yield sentences in paragraphs: of everything, then of each region and section in order.

    What is not mapped has none, unless its name says that it is a guard; last come symbols that
    are such guards.
    """
    search = Search(memory, contexts)
    called = [*_called(names.regions), *_called(names.sections, names.regions)]
    mapped = {name: search.any(spans) for name, spans in called}
    there = [(name, spans) for name, spans in called if mapped[name]]
    yield list(_of_everything(listed_contexts(contexts), search, there))
    for name, spans in called:
        if mapped[name]:
            yield list(_of_region(search, name, spans))
        elif _is_guard(search, name, spans):
            yield [f"{quoted(name)} is unmapped"]
    symbols = _called(names.symbols, names.regions, names.sections)
    guards = [(name, spans) for name, spans in symbols if _is_guard(search, name, spans)]
    yield [f"{quoted(name)} is unmapped" for name, spans in guards if not search.any(spans)]


def _is_guard(search: Search, name: str, spans: list[Span]) -> bool:
    """Return whether a name says that nothing is to be mapped there, where anything could be."""
    return _GUARD in name.lower() and any(map(search.translates, spans))


def _called(spans: Spans, *before: Spans) -> Iterator[tuple[str, list[Span]]]:
    """Yield each name of some spans that a sentence can name, and where it is."""
    taken = {each.names[row] for each in before for row in range(len(each))}
    found: dict[str, list[Span]] = {}
    for row in range(len(spans)):
        name = spans.names[row]
        if name and name not in taken and name.isprintable() and '"' not in name:
            span = int(spans.start[row]), int(spans.last[row]) + 1
            found.setdefault(name, []).append(span)
    yield from found.items()


def _of_everything(
    contexts: Sequence[PagingContext], search: Search, mapped: Sequence[tuple[str, list[Span]]]
) -> Iterator[str]:
    yield "no wx"
    yield "frames never wx"
    if all(each.mode.long for each in contexts):
        half = 1 << max(each.va_bits for each in contexts) - 1
        yield f"no user in {TOP - half:#x}-"
    yield "guard 0x0-0x1000 unmapped"
    yield "tables never writable by user"
    yield "tables never executable"
    yield "no reserved bits"
    yield "no tables outside RAM"
    executable = rule_of(Ability.EXECUTABLE, Privilege.SUPERVISOR)
    inside = [quoted(name) for name, spans in mapped if search.any(spans, executable)]
    if inside:
        yield f"only {', '.join(inside)} executable for supervisor"


def _of_region(search: Search, name: str, spans: list[Span]) -> Iterator[str]:
    """Yield what could be said of a region: its rights, if all of it has the same."""
    called = quoted(name)
    for privilege, shift in (Privilege.SUPERVISOR, 0), (Privilege.USER, 3):
        first = next(search.find(spans)).pages.rights[0] >> shift & 7
        same = not search.any(spans, (_RIGHTS >> shift & 7) != first)
        if same and (first or privilege is Privilege.SUPERVISOR):
            of = "" if privilege is Privilege.SUPERVISOR else f" for {privilege}"
            yield f"{called} is {rwx(int(first))}{of}"
            if first & 6 == 4:
                yield f"frames of {called} never writable"
        elif not same:
            for ability in (Ability.WRITABLE, Ability.EXECUTABLE):
                if not search.any(spans, rule_of(ability, privilege)):
                    yield f"{called} never {ability} by {privilege}"
    if _STACK in name:
        yield f"{called} surrounded by unmapped"
