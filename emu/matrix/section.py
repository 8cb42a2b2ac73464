"""A section of the matrix: the dimensions that are crossed, and the address spaces that hold them.

A table for each level holds one entry for each combination of its bits, and all of them lead to the
one table of the next level. A path is a choice of one entry a level, so that four tables hold the
product of all entries.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.fuzz.generate.portable import PORTABLE_RAM
from crosswalk.emu.matrix.bits import (
    ACCESSES,
    CONTROLS,
    ENTRY_BITS,
    FEATURES,
    KEY_BITS,
    LEVEL_NAMES,
    MODES,
)
from crosswalk.emu.matrix.pairs import NO_VALUE, covering
from crosswalk.emu.probe.composites import FORMS, NAMES, SAME_PKRU, Composites, Family
from crosswalk.walker import tlb
from crosswalk.walker.access import AccessType
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import CR4, EFER, PagingContext, PagingMode
from crosswalk.walker.entry import FORMATS, Level
from crosswalk.walker.memory import FRAME, U64, WORDS, SparseWords

__all__ = [
    "HIGH_RAM",
    "KEY",
    "MAX_VARIANTS",
    "OTHERS",
    "SECOND",
    "Choice",
    "Combination",
    "Section",
    "SequenceSection",
    "Shape",
    "Slots",
    "Space",
    "Variants",
    "feature_of",
    "one_page_a_path",
]

MAX_VARIANTS = WORDS - 2
"""The most entries in a table: two slots of a root are the probe's."""

KEY = 1
"""The protection key that the bit `pk` gives a page."""

_RAM = ((0, 64 << 30),)
_LEGACY_RAM = ((0, 2 << 30),)  # Addresses end at 4 GiB, and the probe has room of its own below.
_HIGHEST = 1 << 39
HIGH_RAM = (*_RAM, (_HIGHEST, 64 << 30))
"""RAM at the lowest addresses, and as much at the highest address bit of the emulated CPU."""

_PORTABLE_BASE = PORTABLE_RAM[0][0]
_LOW_LEVELS = 2  # Of each of their pages there is one for each slot in all RAM.
_SEED = 1
OTHERS = 1000
"""Combinations of a section drawn at random, beside those that have each pair of values."""

_PAGES = 1 << 24  # Where 4-KiB pages begin, a frame for each entry.
_PDPT = 32  # Bytes of a PDPT of PAE paging.
_REGISTERS = {
    PagingMode.BIT32: {"cr4": 0, "efer": 0},
    PagingMode.PAE: {"cr4": int(CR4.PAE), "efer": 0},
    PagingMode.LEVEL4: {"cr4": int(CR4.PAE), "efer": int(EFER.LME | EFER.LMA)},
    PagingMode.LEVEL5: {"cr4": int(CR4.PAE | CR4.LA57), "efer": int(EFER.LME | EFER.LMA)},
}
_P, _PS = ENTRY_BITS["p"], ENTRY_BITS["ps"]

Choice = Mapping[str, frozenset[str]]
"""The chosen values of a dimension, by its name: of bits "0" and "1", of accesses their names."""

_EVERYTHING: Choice = {}

SECOND = frozenset({"then.cpl", "then.ac"})
"""The dimensions that only the second of two accesses has."""

# Of two accesses: CPL and AC of the first and of the second. At CPL 3, AC makes no difference.
_PRIVILEGES = ((0, False), (0, True), (3, False))
_PAIRS = tuple((*one, *two) for one, two in product(_PRIVILEGES, repeat=2))


def _shift(name: str) -> int:
    """Return how far behind an address under test a composite begins, modulo 2^64."""
    form = FORMS[name]
    if form.family is Family.CROSS:
        return (1 << 64) - (6 if form.types[0] is AccessType.EXECUTE else 4)
    return {Family.RMW: 0x123, Family.IMPLICIT: 0x08, Family.TWICE: 0x40}[form.family]


_SHIFTS = np.array([_shift(name) for name in NAMES], np.uint64)


@dataclass(frozen=True, slots=True)
class Variants:
    """The entries of one level: `names` are the bits set in each, `word` uint64[n] their flags.

    `large`: PS makes them map a page.
    """

    level: int
    names: tuple[frozenset[str], ...]
    word: U64
    large: bool

    @property
    def leaf(self) -> NDArray[np.bool_]:
        """bool[n]: entries that map a page, if they are present."""
        leaf: NDArray[np.bool_] = (self.word & np.uint64(_PS)) != 0
        return leaf if self.large else np.full(len(self.word), self.level == 1)

    @property
    def ends(self) -> NDArray[np.bool_]:
        """bool[n]: entries that end the walk, reserved bits aside."""
        absent: NDArray[np.bool_] = (self.word & np.uint64(_P)) == 0
        return self.leaf | absent


Slots = tuple[NDArray[np.intp], NDArray[np.intp]]
"""Indices of a table, and the number of the variant at each."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Tables, as `Section.tables` returns them, and the addresses under test, `va` uint64[n].

    Where accesses cross pages, an address is the start of the second page. `slots` are those of
    the table of each level, root first.
    """

    frames: U64
    words: U64
    va: U64
    slots: tuple[Slots, ...]


@dataclass(frozen=True, slots=True)
class Space:
    """One address space under one control state, and all accesses in it."""

    context: PagingContext
    ram: tuple[tuple[int, int], ...]
    shape: Shape
    accesses: Accesses | Composites

    def memory(self) -> SparseWords:
        """Return the tables in otherwise empty RAM."""
        return SparseWords.of_tables(self.ram, self.shape.frames, self.shape.words)


def one_page_a_path(section: "Section", choice: Choice) -> list[Shape]:
    """Return the one shape that has a page for each path through the entries of a section."""
    variants = section.variants(choice)
    if not all(len(each.word) for each in variants):
        return []
    return [section.shape(variants, section.paths(variants))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One product of dimensions: of entry bits, control bits and accesses.

    For each level from the root down to the last table, `free` names the bits that are crossed,
    `fixed` those that are always set; of the bits `one_of` at most one is set. `keep(level, names)`
    tells which entries are kept, for the reasons in `pruned`, a line each. `pages` is the number
    of pages that the entries of a level lead to (by default one each, or 16 large ones). With
    `highest` RAM lies at the highest address bit, too; with `halves` the root's entries stand
    again at the start of the upper half.

    `controls` are control bits that are crossed, `on` those that are always set; `pkrus` and
    `pkrs`, if any, are values of PKRU and of IA32_PKRS, crossed instead of the two bits of one key;
    `processors` are features of contexts. PDPTEs of PAE paging, which are loaded together, have a
    PDPT and a control state each: CR3 chooses among them.

    With `portable`, tables and pages are where machines have RAM, unless `highest` says where they
    are; with `pairs` there are, instead of all, so many combinations of single accesses that each
    pair of values of two dimensions comes up (`crosswalk.emu.matrix.pairs`), and some others.

    `accesses` are either single ones or composites, `ac` the values of AC. `flips` are masks of
    address bits that are flipped; with `beyond` each bit that makes an address non-canonical is.
    `shapes` returns the address spaces. Of two accesses the second is made at each CPL and AC,
    after one of `then_pkrus` was written; with `aliases` at each address, after the first at each.
    """

    name: str
    covers: str
    free: Mapping[int, tuple[str, ...]]
    fixed: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    one_of: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    controls: tuple[str, ...]
    on: tuple[str, ...] = ()
    pkrus: tuple[int, ...] = ()
    pkrs: tuple[int, ...] = ()
    pages: int | None = None
    processors: tuple[Mapping[str, Any], ...] = ({},)
    beyond: bool = False
    flips: tuple[int, ...] = ()
    halves: bool = False
    highest: bool = False
    ac: tuple[bool, ...] = (False,)
    accesses: tuple[str, ...] = ("read", "write", "execute")
    shapes: Callable[["Section", Choice], list[Shape]] = one_page_a_path
    then_pkrus: tuple[int, ...] = (SAME_PKRU,)
    aliases: bool = False
    keep: Callable[[int, frozenset[str]], bool] | None = None
    pruned: tuple[str, ...] = ()
    mode: PagingMode = PagingMode.LEVEL4
    portable: bool = False
    pairs: bool = False

    @property
    def ram(self) -> tuple[tuple[int, int], ...]:
        """The backed ranges, as (start, size) in bytes."""
        if self.highest:
            return HIGH_RAM
        if self.portable:
            return PORTABLE_RAM
        return _RAM if self.mode.long else _LEGACY_RAM

    @property
    def _base(self) -> int:
        """Behind this address the tables lie."""
        return _PORTABLE_BASE if self.portable and not self.highest else 0

    @property
    def composite(self) -> bool:
        """Whether the accesses are composites."""
        return self.accesses[0] in FORMS

    def chosen(self, choice: Choice) -> bool:
        """Return whether the choice allows this section's name and mode."""
        mode = MODES[self.mode]
        named = self.name in choice.get("section", {self.name})
        return named and mode in choice.get("mode", {mode})

    @property
    def levels(self) -> int:
        """The number of paging levels."""
        return max(self.free)

    def variants(self, choice: Choice = _EVERYTHING) -> tuple[Variants, ...]:
        """Return the entries of each level, from the root down."""
        return tuple(self._variants(level, choice) for level in sorted(self.free, reverse=True))

    def _variants(self, level: int, choice: Choice) -> Variants:
        sets = []
        free, one_of = self.free[level], self.one_of.get(level, ())
        for values in product((False, True), repeat=len(free)):
            named = {bit for bit, on in zip(free, values, strict=True) if on}
            for extra in ((), *((bit,) for bit in one_of)):
                names = frozenset(named | set(extra) | set(self.fixed.get(level, ())))
                if self._chosen(level, names, choice) and (
                    self.keep is None or self.keep(level, names)
                ):
                    sets.append(names)
        words = [sum(ENTRY_BITS[bit] for bit in names) for names in sets]
        large = self._form(level).large
        if self.mode is PagingMode.BIT32:
            large &= "cr4.pse" in (*self.on, *self.controls)
        return Variants(level, tuple(sets), np.array(words, np.uint64), large)

    def _form(self, level: int) -> Level:
        return FORMATS[self.mode][level]

    def _chosen(self, level: int, names: frozenset[str], choice: Choice) -> bool:
        prefix = f"{LEVEL_NAMES[level]}."
        return all(
            str(int(key.removeprefix(prefix) in names)) in values
            for key, values in choice.items()
            if key.startswith(prefix)
        )

    def contexts(self, choice: Choice = _EVERYTHING) -> Iterator[PagingContext]:
        """Yield the control states, in order."""
        for values in product((False, True), repeat=len(self.controls)):
            on = {name for name, value in zip(self.controls, values, strict=True) if value}
            on |= set(self.on)
            if any(
                str(int(name in on)) not in values
                for name, values in choice.items()
                if name in CONTROLS or name in KEY_BITS
            ):
                continue
            for root in self._roots(choice):
                for context in self._contexts(on, root):
                    if all(
                        feature_of(context, name) in choice.get(name, FEATURES[name])
                        for name in FEATURES
                    ):
                        yield context

    def _roots(self, choice: Choice) -> Iterator[int]:
        tables = 1
        if self.mode is PagingMode.PAE:
            tables = len(self._variants(self.levels, choice).word)
        root = self._base + FRAME
        yield from range(root, root + tables * _PDPT, _PDPT)

    def _contexts(self, on: set[str], root: int) -> Iterator[PagingContext]:
        registers = {"cr0": 0x8000_0033, "cr3": root, **_REGISTERS[self.mode]}
        for name in on & CONTROLS.keys():
            register, bit = CONTROLS[name]
            registers[register] |= bit
        denied = dict.fromkeys(("pkru", "pkrs"), 0)
        for name in sorted(on & KEY_BITS.keys()):
            register, bit = KEY_BITS[name]
            denied[register] |= bit << 2 * KEY
        for pkru, pkrs in product(self.pkrus or (denied["pkru"],), self.pkrs or (denied["pkrs"],)):
            for features in self.processors:
                values: dict[str, Any] = {**registers, **features}
                yield PagingContext(pkru=pkru, pkrs=pkrs, **values)

    def shape(
        self, variants: tuple[Variants, ...], va: U64, slots: Sequence[Slots] | None = None
    ) -> Shape:
        """Return the shape with these slots, by default one for each entry, in order."""
        if slots is None:
            numbers = [np.arange(len(each.word)) for each in variants]
            slots = [(number, number) for number in numbers]
        return Shape(*self.tables(variants, slots), va, tuple(slots))

    def tables(self, variants: tuple[Variants, ...], slots: Sequence[Slots]) -> tuple[U64, U64]:
        """Return the tables' frames uint64[t] and words uint64[t, 512]: one a level, root first.

        The PDPTs of PAE paging share a frame; in each, a well-formed entry follows the one that
        is tried.
        """
        count = len(variants)
        frames = np.uint64(self._base) + FRAME * np.arange(1, count + 1, dtype=np.uint64)
        words = np.zeros((count, WORDS), np.uint64)
        for at, each in enumerate(variants):
            indices, chosen = slots[at]
            number = indices.astype(np.uint64)
            form = self._form(each.level)
            span = np.uint64(form.span)
            # Large pages lie behind the small ones, and each slot has another one, up to 16.
            page = np.uint64(_PAGES) + number % np.uint64(self.pages or WORDS) * np.uint64(FRAME)
            if each.level > 1:
                page = (number % np.uint64(self.pages or 16) + np.uint64(2)) * span
                if self._base and each.level > _LOW_LEVELS:
                    page = np.full(len(number), span)  # There is RAM for one page of 1 GiB.
            table = np.uint64(self._base + FRAME * (at + 2))
            # Absent entries hold an address, too.
            entries = each.word[chosen] | np.where(each.leaf[chosen], page, table)
            if form.entry_size == 4:
                words[at].view(np.uint32)[indices] = entries
            elif form.restricts:
                words[at, indices] = entries
            else:
                words[at, 4 * indices] = entries
                words[at, 4 * indices + 1] = table | np.uint64(_P)
        if self.halves:
            words[0, WORDS // 2 :] = words[0, : WORDS // 2]
        if self.highest:
            # A copy of the tables where entries with the highest address bit lead.
            frames = np.concatenate([frames, frames[1:] + np.uint64(_HIGHEST)])
            words = np.concatenate([words, words[1:]])
        return frames, words

    def paths(self, variants: tuple[Variants, ...]) -> U64:
        """Return one address of each path, and those with flipped bits, uint64[n]."""
        top = 11 + 9 * self.levels
        beyond = (1 << bit for bit in range(top, 64 if self.beyond else 0))
        masks = np.array([0, *self.flips, *beyond], np.uint64)
        return (self.unflipped_paths(variants)[:, None] ^ masks).ravel()

    def unflipped_paths(self, variants: tuple[Variants, ...]) -> U64:
        """Return one address of each path, uint64[n]; of both halves, where a section has them."""
        va = np.zeros(1, np.uint64)
        going = np.ones(1, np.bool_)
        for each in variants:
            form = self._form(each.level)
            count, stop = len(each.word), each.ends
            if not form.restricts:
                # A malformed PDPTE may affect accesses through its well-formed neighbour.
                count, stop = min(count, 2), np.zeros(min(count, 2), np.bool_)
            index = np.arange(count, dtype=np.uint64) << np.uint64(form.shift)
            further = (va[going, None] | index[None, :]).ravel()
            ends = np.tile(stop, int(going.sum()))
            va = np.concatenate([va[~going], further])
            going = np.concatenate([np.zeros(int((~going).sum()), np.bool_), ~ends])
        if not self.mode.long:
            return va
        unused = np.int64(64 - 12 - 9 * self.levels)
        found: U64 = (va.astype(np.int64) << unused >> unused).astype(np.uint64)
        if self.halves:
            upper = np.uint64((1 << 64) - (1 << 11 + 9 * self.levels))
            found = np.concatenate([found, found | upper])
        return found

    def accesses_to(self, va: U64, choice: Choice = _EVERYTHING) -> Accesses | Composites:
        """Return every access to each of these addresses."""
        rows = list(self._rows(choice))
        va, then_va = (np.repeat(va, len(va)), np.tile(va, len(va))) if self.aliases else (va, va)

        def column(at: int, kind: type[np.generic]) -> NDArray[Any]:
            return np.tile(np.array([row[at] for row in rows], kind), len(va))

        first, cpl, ac = column(0, np.uint8), column(1, np.uint8), column(2, np.bool_)
        at = np.repeat(va, len(rows))
        if not self.composite:
            return Accesses(at, first, cpl, ac)
        shift = _SHIFTS[first]
        return Composites(
            first,
            at + shift,
            cpl,
            ac,
            np.repeat(then_va, len(rows)) + shift,
            column(3, np.uint8),
            column(4, np.bool_),
            column(5, np.int64),
        )

    def _rows(self, choice: Choice) -> Iterator[tuple[int, int, bool, int, bool, int]]:
        """Yield type or form, CPL, AC of each access to an address; CPL, AC, PKRU of the second."""
        for name in self.accesses:
            twice = name in FORMS and FORMS[name].family is Family.TWICE
            pairs = _PAIRS if twice else [(cpl, ac, 0, False) for cpl in (0, 3) for ac in self.ac]
            if not twice and not SECOND.isdisjoint(choice):
                continue
            for (cpl, ac, then_cpl, then_ac), pkru in product(pairs, self.then_pkrus):
                values = {"access": name, "cpl": cpl, "rflags.ac": int(ac)}
                if twice:
                    values |= {"then.cpl": then_cpl, "then.ac": int(then_ac)}
                if all(
                    str(value) in choice.get(key, {str(value)}) for key, value in values.items()
                ):
                    kind = NAMES.index(name) if self.composite else ACCESSES[name].value
                    yield kind, cpl, ac, then_cpl, then_ac, pkru

    def spaces(self, choice: Choice = _EVERYTHING) -> Iterator[Space]:
        """Yield the address spaces under each control state, in order."""
        shapes = self.shapes(self, choice)
        accesses = [self.accesses_to(shape.va, choice) for shape in shapes]
        if self.pairs:
            yield from self._chosen_spaces(shapes, accesses, choice)
            return
        for context in self.contexts(choice):
            for shape, made in zip(shapes, accesses, strict=True):
                yield Space(context, self.ram, shape, made)

    def _chosen_spaces(
        self, shapes: Sequence[Shape], accesses: Sequence[Accesses | Composites], choice: Choice
    ) -> Iterator[Space]:
        """Yield the spaces with the accesses that have each pair of values, and some others.

        None for composites.
        """
        contexts, rows = list(self.contexts(choice)), list(self._rows(choice))
        if self.composite or not (shapes and contexts and rows):
            return
        kinds = np.array([[kind, cpl, ac] for kind, cpl, ac, *_ in rows], np.int16).reshape(-1, 3)
        parts = (self._control_values(contexts, choice), self._path_values(choice), kinds)
        sizes = tuple(len(part) for part in parts)
        chance = np.random.default_rng(_SEED)
        others = np.unravel_index(chance.integers(0, np.prod(sizes), OTHERS), sizes)
        chosen = np.array([*covering(parts, _SEED), *zip(*others, strict=True)], np.intp)
        chosen = np.unique(chosen.reshape(-1, len(parts)), axis=0)
        for at in np.unique(chosen[:, 0]).tolist():
            _, place, kind = chosen[chosen[:, 0] == at].T
            some = accesses[0].take(np.sort(place * len(rows) + kind))
            yield Space(contexts[at], self.ram, shapes[0], some)

    def _control_values(
        self, contexts: Sequence[PagingContext], choice: Choice
    ) -> NDArray[np.int16]:
        """Return int16[n, d]: what each control state has of each dimension.

        The bits of the PDPTE that is tried among them: each has a root of its own.
        """
        bits = list(CONTROLS.values())
        bits += [(register, bit << 2 * KEY) for register, bit in KEY_BITS.values()]
        tried = np.zeros((1, 0), np.int16)
        if self.mode is PagingMode.PAE:
            tried = self._entry_values(self._variants(self.levels, choice))
        first = self._base + FRAME
        found = []
        for context in contexts:
            row = [int(bool(getattr(context, register) & bit)) for register, bit in bits]
            row += [FEATURES[name].index(feature_of(context, name)) for name in FEATURES]
            row.append(self.pkrus.index(context.pkru) if self.pkrus else NO_VALUE)
            row.append(self.pkrs.index(context.pkrs) if self.pkrs else NO_VALUE)
            root = (context.cr3 - first) // _PDPT % len(tried) if tried.size else 0
            found.append([*row, *tried[root].tolist()])
        return np.array(found, np.int16)

    def _path_values(self, choice: Choice) -> NDArray[np.int16]:
        """Return int16[n, d]: what each address has of each dimension, in the order of `paths`.

        Slots that have no entry, where a flipped bit may lead, have its bits clear.
        """
        variants = self.variants(choice)
        va = self.paths(variants)
        masks = len(va) // len(self.unflipped_paths(variants))
        on_way = np.ones(len(va), np.bool_)
        columns = [np.resize(np.arange(masks, dtype=np.int16), len(va))[:, None]]
        for at, each in enumerate(variants):
            form = self._form(each.level)
            index = (va >> np.uint64(form.shift) & np.uint64(form.entries - 1)).astype(np.intp)
            if at == 0 and self.halves:
                columns.append((index >= WORDS // 2).astype(np.int16)[:, None])
                index %= WORDS // 2
            if not form.restricts:
                columns.append(index.astype(np.int16)[:, None])
                continue
            index = np.minimum(index, len(each.word))
            values = self._entry_values(each)
            values = np.concatenate([values, np.zeros_like(values[:1])])[index]
            columns.append(np.where(on_way[:, None], values, np.int16(NO_VALUE)))
            on_way &= ~np.append(each.ends, [True])[index]
        return np.concatenate(columns, axis=1)

    def _entry_values(self, variants: Variants) -> NDArray[np.int16]:
        """Return int16[n, d]: what each entry of a level has of each bit, and which one of some."""
        one_of = self.one_of.get(variants.level, ())
        rows = []
        for names in variants.names:
            which = next((at for at, bit in enumerate(one_of, 1) if bit in names), 0)
            rows.append([*(int(bit in names) for bit in self.free[variants.level]), which])
        return np.array(rows, np.int16)

    def places(self, shape: Shape) -> int:
        """Return the number of places at which each access is made: addresses, or pairs."""
        return len(shape.va) ** (2 if self.aliases else 1)

    def sizes(self, choice: Choice = _EVERYTHING) -> list[int]:
        """Return the number of accesses in each space, in the order of `spaces`."""
        if self.pairs:
            return [len(space.accesses) for space in self.spaces(choice)]
        each = [
            self.places(shape) * len(self.accesses_to(shape.va[:1], choice))
            for shape in self.shapes(self, choice)
        ]
        return each * sum(1 for _ in self.contexts(choice))


Combination = Mapping[str, str]
"""A combination of a section of sequences: the value of each dimension, by its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceSection:
    """One product of named dimensions: `make` returns the sequence of a combination.

    `keep` tells which combinations are kept, for the reasons in `pruned`.
    """

    name: str
    covers: str
    dimensions: Mapping[str, tuple[str, ...]]
    make: Callable[[Combination], tlb.Sequence]
    keep: Callable[[Combination], bool] | None = None
    pruned: tuple[str, ...] = ()

    def combinations(self, choice: Choice = _EVERYTHING) -> Iterator[dict[str, str]]:
        """Yield the chosen combinations, in order; none for a choice of other dimensions."""
        if choice.keys() - self.dimensions.keys() - {"section"}:
            return
        if self.name not in choice.get("section", {self.name}):
            return
        left = [
            [value for value in values if value in choice.get(name, {value})]
            for name, values in self.dimensions.items()
        ]
        for values in product(*left):
            named = dict(zip(self.dimensions, values, strict=True))
            if self.keep is None or self.keep(named):
                yield named

    def sizes(self, choice: Choice = _EVERYTHING) -> list[int]:
        """Return 1 for each combination."""
        return [1 for _ in self.combinations(choice)]

    def text(self, named: Combination) -> str:
        """Return a combination as `--select` takes it."""
        return ",".join([f"section={self.name}", *(f"{key}={v}" for key, v in named.items())])


def feature_of(context: PagingContext, name: str) -> str:
    """Return the value of one of `FEATURES`, as `FEATURES` spells it."""
    value = getattr(context, name)
    if name == "encryption_mask":
        return hex(value)
    return str(int(value) if isinstance(value, bool) else value)
