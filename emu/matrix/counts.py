"""How many combinations of the matrix have each value of each dimension."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.matrix.bits import ACCESSES, CONTROLS, ENTRY_BITS, FEATURES, LEVEL_NAMES, MODES
from crosswalk.emu.matrix.composite import CompositeSection, in_page
from crosswalk.emu.matrix.section import KEY, Choice, Variants, feature_of
from crosswalk.emu.matrix.unit import AnySection
from crosswalk.emu.probe.composites import FORMS, NAMES, Family
from crosswalk.walker.access import AccessType
from crosswalk.walker.context import PagingContext, PagingMode

__all__ = ["Tally", "tally_of"]

Tally = dict[str, Counter[str]]
"""By a dimension's name, how many combinations have each of its values."""

_SPELT = {kind: name for name, kind in ACCESSES.items()}


def tally_of(section: AnySection, choice: Choice) -> Tally:
    """Return the tally of one section.

    An entry bit counts where it is set in an entry on the path, of two pages of either; how often
    it is clear isn't told.
    """
    base = section.base if isinstance(section, CompositeSection) else section
    contexts = list(base.contexts(choice))
    accesses, places = _accesses(section, choice)
    each, (spread, roots) = sum(accesses.values()), _spread(section, choice)
    tally: Tally = {"access": Counter(), "cpl": Counter(), "rflags.ac": Counter()}
    for (access, cpl, ac), count in accesses.items():
        number = count * places * len(contexts)
        tally["access"][access] += number
        tally["cpl"][str(cpl)] += number
        tally["rflags.ac"][str(ac)] += number
    for context in contexts:
        for name, value in _controls(context):
            tally.setdefault(name, Counter())[value] += each * places
    for name, values in spread.items():
        for value, count in values.items():
            tally.setdefault(name, Counter())[value] += count * each * len(contexts) // roots
    return tally


def _accesses(section: AnySection, choice: Choice) -> tuple[Counter[tuple[str, int, int]], int]:
    """Return how often each access is made at one place, and the number of places."""
    found: Counter[tuple[str, int, int]] = Counter()
    if isinstance(section, CompositeSection):
        shapes = section.shapes(section.base, choice)
        composites = section.accesses_to(shapes[0].va[:1], choice)
        columns = (composites.form, composites.cpl, composites.ac)
        for form, cpl, ac in zip(*(column.tolist() for column in columns), strict=True):
            found[_family(NAMES[form]), cpl, int(ac)] += 1
        return found, sum(section.places(shape) for shape in shapes)
    paths = section.paths(section.variants(choice))
    accesses = section.accesses_to(paths[:1], choice)
    columns = (accesses.type, accesses.cpl, accesses.ac)
    for kind, cpl, ac in zip(*(column.tolist() for column in columns), strict=True):
        found[_SPELT[AccessType(kind)], cpl, int(ac)] += 1
    return found, len(paths)


def _family(name: str) -> str:
    """Return the name of a composite; of two accesses, those of all pairs together."""
    return "twice" if FORMS[name].family is Family.TWICE else name


def _controls(context: PagingContext) -> Iterator[tuple[str, str]]:
    yield "mode", MODES[context.mode]
    for name, (register, bit) in CONTROLS.items():
        yield name, str(int(bool(getattr(context, register) & bit)))
    for name in FEATURES:
        yield name, feature_of(context, name)
    denied = context.pkru >> 2 * KEY & 3
    yield "pkru.ad", str(denied & 1)
    yield "pkru.wd", str(denied >> 1)


def _spread(section: AnySection, choice: Choice) -> tuple[Tally, int]:
    """Return how many places have an entry with each bit set, and under how many roots."""
    if isinstance(section, CompositeSection) and section.shapes is not in_page:
        return _of_pairs(section, choice), 1
    base = section.base if isinstance(section, CompositeSection) else section
    variants = list(base.variants(choice))
    below = [1] * (len(variants) + 1)
    for at in range(len(variants) - 1, -1, -1):
        ends = int(variants[at].ends.sum())
        below[at] = ends + (len(variants[at].word) - ends) * below[at + 1]
    tally: Tally = {}
    above = roots = 1
    if base.mode is PagingMode.PAE:
        pdptes, *variants = variants
        _, *below = below
        roots = len(pdptes.word) or 1
        above = _add_pdptes(tally, pdptes, below[0])
    for at, each in enumerate(variants):
        through = above * np.where(each.ends, 1, below[at + 1])
        _add(tally, each, through)
        above *= int((~each.ends).sum())
    return tally, roots


def _add_pdptes(tally: Tally, pdptes: Variants, below: int) -> int:
    """Add the PDPTEs of PAE paging, each in a PDPT of its own, beside one that is present.

    Return by how many of all of these what lies below is reached.
    """
    count = len(pdptes.word)
    beside = count if count > 1 else 0
    _add(tally, pdptes, np.full(count, below, np.int64))
    if beside:
        tally.setdefault("pdpte.p", Counter())["1"] += beside * below
    return int((~pdptes.ends).sum()) + beside


def _of_pairs(section: CompositeSection, choice: Choice) -> Tally:
    """Return the same where two pages are crossed, each pair of entries in as many places."""
    variants = section.base.variants(choice)
    varied = max(variants, key=lambda each: len(each.word))
    count = len(varied.word)
    places = sum(len(shape.va) for shape in section.shapes(section.base, choice))
    tally: Tally = {}
    for name in _names(varied):
        bit = name.partition(".")[2]
        having = sum(bit in names for names in varied.names)
        either = (count**2 - (count - having) ** 2) * places // count**2
        tally[name] = Counter({"1": either})
    return tally


def _add(tally: Tally, variants: Variants, through: NDArray[np.int64]) -> None:
    for name in _names(variants):
        bit = name.partition(".")[2]
        having = np.array([bit in names for names in variants.names])
        tally.setdefault(name, Counter())["1"] += int(through[having].sum())


def _names(variants: Variants) -> list[str]:
    level = LEVEL_NAMES[variants.level]
    used = {bit for names in variants.names for bit in names}
    return [f"{level}.{bit}" for bit in ENTRY_BITS if bit in used]
