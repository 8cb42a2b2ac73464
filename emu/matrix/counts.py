"""Numbers of combinations of the matrix by the value of each dimension."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.matrix.bits import (
    ACCESSES,
    CONTROLS,
    ENTRY_BITS,
    FEATURES,
    KEY_BITS,
    LEVEL_NAMES,
    MODES,
)
from crosswalk.emu.matrix.section import (
    KEY,
    Choice,
    Section,
    Slots,
    Variants,
    feature_of,
    one_page_a_path,
)
from crosswalk.emu.probe.composites import FORMS, NAMES, Composites, Family
from crosswalk.walker.access import AccessType
from crosswalk.walker.context import PagingContext, PagingMode
from crosswalk.walker.entry import FORMATS
from crosswalk.walker.memory import U64

__all__ = ["ValueCounts", "value_counts"]

Bools = NDArray[np.bool_]
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
    each, (spread, roots) = sum(accesses.values()), _entries(section, choice)
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
    for name, (register, bit) in KEY_BITS.items():
        yield name, str(int(bool(getattr(context, register) >> 2 * KEY & bit)))


def _entries(section: Section, choice: Choice) -> tuple[ValueCounts, int]:
    """Return the number of places that have an entry with each bit set, and the number of roots.

    Places at addresses with flipped bits aren't counted.
    """
    variants = list(section.variants(choice))
    roots: Sequence[Slots | None] = [None]
    if section.mode is PagingMode.PAE:
        # Each PDPTE is in a PDPT of its own, next to one that is present.
        count, first = len(variants[0].word), variants[0]
        names, word = (*first.names, frozenset({"p"})), np.append(first.word, np.uint64(1))
        variants[0] = replace(first, names=names, word=word)
        roots = [(np.arange(2), np.array([number, count])) for number in range(count)]
    one_page = section.shapes is one_page_a_path
    counts: ValueCounts = {}
    for shape, root in product(section.shapes(section, choice), roots):
        slots = shape.slots if root is None else (root, *shape.slots[1:])
        first_va = section.unflipped_paths(section.variants(choice)) if one_page else shape.va
        pages = [first_va] if one_page else [first_va, first_va - np.uint64(1)]
        found: dict[str, Bools] = {}
        for name, having in (
            each for va in pages for each in _on_path(section, variants, slots, va)
        ):
            found[name] = found.get(name, np.zeros(len(first_va), np.bool_)) | having
        for name, having in found.items():
            number, total = int(having.sum()), len(having)
            if section.aliases:
                number = total**2 - (total - number) ** 2
            counts.setdefault(name, Counter())["1"] += number
    return counts, len(roots)


def _on_path(
    section: Section, variants: Sequence[Variants], slots: Sequence[Slots], va: U64
) -> Iterator[tuple[str, Bools]]:
    """Yield, for each bit of each level, bool[n]: the addresses with an entry that has it."""
    going = np.ones(len(va), np.bool_)
    for each, (indices, chosen) in zip(variants, slots, strict=True):
        form = FORMATS[section.mode][each.level]
        number = np.zeros(1 << form.index_bits, np.intp)
        number[indices] = chosen
        rows = number[va >> np.uint64(form.shift) & np.uint64(len(number) - 1)]
        used = {bit for names in each.names for bit in names}
        for bit in (bit for bit in ENTRY_BITS if bit in used):
            having = np.array([bit in names for names in each.names])
            yield f"{LEVEL_NAMES[each.level]}.{bit}", going & having[rows]
        going &= ~each.ends[rows]
