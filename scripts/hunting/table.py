"""The figures, as tables of Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from crosswalk.emu.fuzz.coverage import CELLS
from crosswalk.walker.entry import ADDRESS_FIELD
from crosswalk.walker.formats import Case
from crosswalk.walker.memory import FRAME
from scripts.hunting.search import Search

__all__ = ["Hunt", "bug_lines", "cell_lines", "size_text", "summary_lines"]

_PLAIN = 0x7
"""The flags of a plain entry: present, writable, for the user."""


@dataclass(frozen=True, slots=True)
class Hunt:
    """The campaigns of each mode, one a seed, and for each bug found the case it shrank to."""

    bugs: tuple[str, ...]
    limit: int
    guided: Sequence[Search]
    blind: Sequence[Search]
    cases: Mapping[str, Case]


def layouts_until(searches: Sequence[Search], bug: str, limit: int) -> float:
    """Return the median number of layouts until found; over the limit where most don't find it."""
    return median(
        search.found[bug].layouts if bug in search.found else limit + 1 for search in searches
    )


def bug_lines(hunt: Hunt) -> Iterator[str]:
    """Yield a row a bug."""
    yield "| bug | layouts, guided | blind | seconds, guided | blind | shrunk to |"
    yield "|---|--:|--:|--:|--:|---|"
    for bug in hunt.bugs:
        cells = [_layouts(searches, bug, hunt.limit) for searches in (hunt.guided, hunt.blind)]
        cells += [_seconds(searches, bug) for searches in (hunt.guided, hunt.blind)]
        case = hunt.cases.get(bug)
        size = "" if case is None else size_text(case)
        yield f"| {bug} | {' | '.join(cells)} | {size} |"


def _layouts(searches: Sequence[Search], bug: str, limit: int) -> str:
    count = sum(bug in search.found for search in searches)
    until = layouts_until(searches, bug, limit)
    text = f"over {limit}" if until > limit else f"{until:g}"
    return text if count == len(searches) else f"{text} ({count} of {len(searches)})"


def _seconds(searches: Sequence[Search], bug: str) -> str:
    never = float("inf")
    until = median(
        search.found[bug].seconds if bug in search.found else never for search in searches
    )
    return "" if until == never else f"{until:.2f}"


def size_text(case: Case) -> str:
    """Return how big a case is: its entries, where they end, and the flags that aren't plain."""
    entries = _counted(len(case.entries), "entry", "entries")
    end = f" below {max(case.entries) // FRAME * FRAME + FRAME:#x}" if case.entries else ""
    odd = sum(((word ^ _PLAIN) & ~ADDRESS_FIELD).bit_count() for word in case.entries.values())
    flags = f", {_counted(odd, 'flag', 'flags')}" if odd else ""
    return f"{entries}{end}{flags}, {_counted(len(case.probes), 'probe', 'probes')}"


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def cell_lines(hunt: Hunt) -> Iterator[str]:
    """Yield a row for 1, 2, 4 and so on layouts: the cells reached."""
    # Composites are none of the accesses that are made here, and departures that meet are theirs.
    possible = sum(int(each.reachable().sum()) for each in CELLS.families if each.touch is not None)
    yield f"| layouts | cells, guided | of {possible:,} | cells, blind | of {possible:,} |"
    yield "|--:|--:|--:|--:|--:|"
    count = 1
    while count <= hunt.limit:
        row = [f"| {count}"]
        for searches in (hunt.guided, hunt.blind):
            cells = median(search.cells[count - 1] for search in searches)
            row.append(f"{cells:,.0f} | {cells / possible:.2%}")
        yield " | ".join(row) + " |"
        count *= 2


def summary_lines(hunt: Hunt) -> Iterator[str]:
    """Yield in words who found more, and sooner."""
    seeds = len(hunt.guided)
    for name, searches in (("guided", hunt.guided), ("blind", hunt.blind)):
        total = sum(len(search.found) for search in searches)
        sums = sum(
            search.found[bug].layouts if bug in search.found else hunt.limit
            for search in searches
            for bug in hunt.bugs
        )
        yield (
            f"- {name}: {total} of {seeds * len(hunt.bugs)} searches found their bug; "
            f"{sums / len(hunt.bugs) / seeds:.1f} layouts each on average, "
            f"one that found nothing counted as {hunt.limit}"
        )
    pairs = [
        (
            layouts_until(hunt.guided, bug, hunt.limit),
            layouts_until(hunt.blind, bug, hunt.limit),
        )
        for bug in hunt.bugs
    ]
    sooner = sum(guided < blind for guided, blind in pairs)
    later = sum(guided > blind for guided, blind in pairs)
    yield (
        f"- by the median number of layouts guided search is sooner for {sooner} bugs, later for "
        f"{later}, and as soon for {len(pairs) - sooner - later}"
    )
