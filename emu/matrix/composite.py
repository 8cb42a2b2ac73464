"""A section of the matrix whose accesses are composites: what is crossed with what, and where."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from crosswalk.emu.matrix.section import RAM, Choice, Section
from crosswalk.emu.probe.composites import FORMS, NAMES, SAME_PKRU, Composites, Family
from crosswalk.walker.access import AccessType
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import U64, SparseWords

__all__ = ["PKRUS", "SECOND", "CompositeSection", "Shape", "Space", "in_page"]

PKRUS = (0x0, 0x4, 0x8, 0xC)
"""What PKRU may deny for key 1: nothing, access, writing, both."""

SECOND = frozenset({"then.cpl", "then.ac"})
"""The names of what a second access has of its own."""

_EVERYTHING: Choice = {}
# Where in its page an access is made.
_OFFSETS: Mapping[Family, int] = {Family.RMW: 0x123, Family.IMPLICIT: 0x08, Family.TWICE: 0x40}
# Of two accesses: CPL and AC of the first and of the second. AC is nothing to CPL 3.
_WHO = ((0, False), (0, True), (3, False))
_PAIRS = tuple((*one, *two) for one, two in product(_WHO, repeat=2))


@dataclass(frozen=True, slots=True)
class Shape:
    """Tables, as `Section.tables` gives them, and the addresses under test in their space.

    Where pages are crossed they are those at which the second page begins.
    """

    frames: U64
    words: U64
    va: U64


@dataclass(frozen=True, slots=True)
class Space:
    """One address space under one control state, and its composites."""

    context: PagingContext
    shape: Shape
    composites: Composites

    def memory(self) -> SparseWords:
        """Return the tables in otherwise empty RAM."""
        return SparseWords.of_tables(RAM, self.shape.frames, self.shape.words)


def in_page(base: Section, choice: Choice) -> list[Shape]:
    """Return the one shape that has a page for each path through the entries of a section."""
    variants = base.variants(choice)
    if not all(len(each.word) for each in variants):
        return []
    return [Shape(*base.tables(variants), base.paths(variants))]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompositeSection:
    """One product of dimensions.

    Entries, control states and AC are those of `base`, as a section of single accesses has them;
    `shapes` makes of them the address spaces. `forms` are the composites. Of two accesses the
    second is made at both CPLs and, at CPL 0, with either AC, after one of `pkrus` was written;
    with `aliases` at each address, after the first at each.
    """

    base: Section
    forms: tuple[str, ...]
    shapes: Callable[[Section, Choice], list[Shape]] = in_page
    pkrus: tuple[int, ...] = (SAME_PKRU,)
    aliases: bool = False

    @property
    def name(self) -> str:
        """The section's name."""
        return self.base.name

    def chosen(self, choice: Choice) -> bool:
        """Return whether the choice leaves this section, as far as it names sections or modes."""
        return self.base.chosen(choice)

    def accesses_to(self, va: U64, choice: Choice = _EVERYTHING) -> Composites:
        """Return every composite at each of these addresses."""
        rows = [
            (NAMES.index(form), *row)
            for form in self._chosen_forms(choice)
            for row in self._rows(FORMS[form].family, choice)
        ]
        va, then_va = (np.repeat(va, len(va)), np.tile(va, len(va))) if self.aliases else (va, va)
        count = len(va)

        def column(at: int) -> list[int]:
            return [int(row[at]) for row in rows] * count

        composites = Composites(
            np.array(column(0), np.uint8),
            np.repeat(va, len(rows)),
            np.array(column(1), np.uint8),
            np.array(column(2), np.bool_),
            np.repeat(then_va, len(rows)),
            np.array(column(3), np.uint8),
            np.array(column(4), np.bool_),
            np.array(column(5), np.int64),
        )
        shift = _shift(composites)
        composites.va[:] += shift
        composites.then_va[:] += shift
        return composites

    def _chosen_forms(self, choice: Choice) -> list[str]:
        return [name for name in self.forms if name in choice.get("access", {name})]

    def _rows(self, family: Family, choice: Choice) -> Iterator[tuple[int, bool, int, bool, int]]:
        pairs = _PAIRS
        if family is not Family.TWICE:
            pairs = tuple((cpl, ac, 0, False) for cpl in (0, 3) for ac in self.base.ac)
        for (cpl, ac, then_cpl, then_ac), pkru in product(pairs, self.pkrus):
            wanted = {"cpl": cpl, "rflags.ac": int(ac)}
            if family is Family.TWICE:
                wanted |= {"then.cpl": then_cpl, "then.ac": int(then_ac)}
            elif not SECOND.isdisjoint(choice):
                continue
            if all(str(value) in choice.get(name, {str(value)}) for name, value in wanted.items()):
                yield cpl, ac, then_cpl, then_ac, pkru

    def spaces(self, choice: Choice = _EVERYTHING) -> Iterator[Space]:
        """Yield all address spaces under each control state, in order."""
        shapes = self.shapes(self.base, choice)
        made = [self.accesses_to(shape.va, choice) for shape in shapes]
        for context in self.base.contexts(choice):
            for shape, composites in zip(shapes, made, strict=True):
                yield Space(context, shape, composites)

    def places(self, shape: Shape) -> int:
        """Return the number of places at which each composite is made: addresses, or pairs."""
        return len(shape.va) ** (2 if self.aliases else 1)

    def sizes(self, choice: Choice = _EVERYTHING) -> list[int]:
        """Return the number of composites of each space, in the order of `spaces`."""
        each = [
            self.places(shape) * len(self.accesses_to(shape.va[:1], choice))
            for shape in self.shapes(self.base, choice)
        ]
        return each * sum(1 for _ in self.base.contexts(choice))


def _shift(composites: Composites) -> U64:
    """Return uint64[n]: what lies between an address under test and where a composite begins."""
    shifts = []
    for form in FORMS.values():
        if form.family is Family.CROSS:
            before = 6 if form.types[0] is AccessType.EXECUTE else 4
            shifts.append((1 << 64) - before)
        else:
            shifts.append(_OFFSETS[form.family])
    found: U64 = np.array(shifts, np.uint64)[composites.form]
    return found
