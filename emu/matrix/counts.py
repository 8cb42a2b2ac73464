"""Numbers of combinations of the matrix by the value of each dimension."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.matrix.bits import ACCESSES, CONTROLS, ENTRY_BITS, FEATURES, LEVEL_NAMES, MODES
from crosswalk.emu.matrix.section import (
    KEY,
    Choice,
    Section,
    Variants,
    feature_of,
    one_page_a_path,
)
from crosswalk.emu.probe.composites import FORMS, NAMES, Composites, Family
from crosswalk.walker.access import AccessType
from crosswalk.walker.context import PagingContext, PagingMode

__all__ = ["ValueCounts", "value_counts"]

ValueCounts = dict[str, Counter[str]]
"""The number of combinations by the name of a dimension and its value."""

_SPELT = {kind: name for name, kind in ACCESSES.items()}


def value_counts(section: Section, choice: Choice) -> ValueCounts:
    """Return the counts of one section.

    An entry bit counts where it is set in an entry on the path, of two pages on either path; clear
    ones aren't counted.
    """
    contexts = list(section.contexts(choice))
    accesses, places = _accesses(section, choice)
    each, (spread, roots) = sum(accesses.values()), _spread(section, choice)
    counts: ValueCounts = {"access": Counter(), "cpl": Counter(), "rflags.ac": Counter()}
    for (access, cpl, ac), count in accesses.items():
        number = count * places * len(contexts)
        counts["access"][access] += number
        counts["cpl"][str(cpl)] += number
        counts["rflags.ac"][str(ac)] += number
    for context in contexts:
        for name, value in _controls(context):
            counts.setdefault(name, Counter())[value] += each * places
    for name, values in spread.items():
        for value, count in values.items():
            counts.setdefault(name, Counter())[value] += count * each * len(contexts) // roots
    return counts


def _accesses(section: Section, choice: Choice) -> tuple[Counter[tuple[str, int, int]], int]:
    """Return how often each access is made at one place, and the number of places.

    Of two accesses, those of all pairs count together.
    """
    shapes = section.shapes(section, choice)
    one = shapes[0].va[:1] if shapes else np.zeros(0, np.uint64)
    accesses = section.accesses_to(one, choice)
    if isinstance(accesses, Composites):
        names = [NAMES[form] for form in accesses.form]
        names = ["twice" if FORMS[name].family is Family.TWICE else name for name in names]
    else:
        names = [_SPELT[AccessType(kind)] for kind in accesses.type]
    found = Counter(
        zip(names, accesses.cpl.tolist(), accesses.ac.astype(int).tolist(), strict=True)
    )
    return found, sum(section.places(shape) for shape in shapes)


def _controls(context: PagingContext) -> Iterator[tuple[str, str]]:
    yield "mode", MODES[context.mode]
    for name, (register, bit) in CONTROLS.items():
        yield name, str(int(bool(getattr(context, register) & bit)))
    for name in FEATURES:
        yield name, feature_of(context, name)
    denied = context.pkru >> 2 * KEY & 3
    yield "pkru.ad", str(denied & 1)
    yield "pkru.wd", str(denied >> 1)


def _spread(section: Section, choice: Choice) -> tuple[ValueCounts, int]:
    """Return the number of places that have an entry with each bit set, and the number of roots."""
    if section.shapes is not one_page_a_path:
        return _of_pairs(section, choice), 1
    variants = list(section.variants(choice))
    below = [1] * (len(variants) + 1)
    for at in range(len(variants) - 1, -1, -1):
        ends = int(variants[at].ends.sum())
        below[at] = ends + (len(variants[at].word) - ends) * below[at + 1]
    counts: ValueCounts = {}
    above = roots = 1
    if section.mode is PagingMode.PAE:
        pdptes, *variants = variants
        _, *below = below
        roots = len(pdptes.word) or 1
        above = _add_pdptes(counts, pdptes, below[0])
    for at, each in enumerate(variants):
        through = above * np.where(each.ends, 1, below[at + 1])
        _add(counts, each, through)
        above *= int((~each.ends).sum())
    return counts, roots


def _add_pdptes(counts: ValueCounts, pdptes: Variants, below: int) -> int:
    """Add the PDPTEs of PAE paging, each in a PDPT of its own, next to one that is present.

    Return how many of all of these lead to a table.
    """
    count = len(pdptes.word)
    neighbours = count if count > 1 else 0
    _add(counts, pdptes, np.full(count, below, np.int64))
    if neighbours:
        counts.setdefault("pdpte.p", Counter())["1"] += neighbours * below
    return int((~pdptes.ends).sum()) + neighbours


def _of_pairs(section: Section, choice: Choice) -> ValueCounts:
    """Return the same where accesses cross two pages, each pair of entries in as many places."""
    variants = section.variants(choice)
    varied = max(variants, key=lambda each: len(each.word))
    count = len(varied.word)
    places = sum(len(shape.va) for shape in section.shapes(section, choice))
    counts: ValueCounts = {}
    for name in _names(varied):
        bit = name.partition(".")[2]
        having = sum(bit in names for names in varied.names)
        either = (count**2 - (count - having) ** 2) * places // count**2
        counts[name] = Counter({"1": either})
    return counts


def _add(counts: ValueCounts, variants: Variants, through: NDArray[np.int64]) -> None:
    for name in _names(variants):
        bit = name.partition(".")[2]
        having = np.array([bit in names for names in variants.names])
        counts.setdefault(name, Counter())["1"] += int(through[having].sum())


def _names(variants: Variants) -> list[str]:
    level = LEVEL_NAMES[variants.level]
    used = {bit for names in variants.names for bit in names}
    return [f"{level}.{bit}" for bit in ENTRY_BITS if bit in used]
