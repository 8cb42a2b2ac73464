"""A section of the matrix: what is crossed with what, and the address space that holds it all.

Combinations are packed by sharing: a table for each level holds one entry for each combination of
its bits, and all of them lead to the one table of the next level. A path through them is a choice
of one entry a level, so that four tables hold the product.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.matrix.bits import (
    ACCESSES,
    CONTROLS,
    ENTRY_BITS,
    FEATURES,
    LEVEL_NAMES,
    MODES,
    PKRU_BITS,
)
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import CR4, PagingContext, PagingMode
from crosswalk.walker.entry import FORMATS, Level
from crosswalk.walker.memory import FRAME, U64, WORDS

__all__ = [
    "HIGH_RAM",
    "KEY",
    "LEGACY_RAM",
    "MAX_VARIANTS",
    "PAGES",
    "RAM",
    "Choice",
    "Section",
    "Variants",
    "feature_of",
]

MAX_VARIANTS = WORDS - 2
"""The most entries in a table: two slots of a root are the probe's."""

KEY = 1
"""The protection key that the bit `pk` gives a page."""

RAM = ((0, 64 << 30),)
"""RAM of most sections: the first 64 GiB."""

LEGACY_RAM = ((0, 2 << 30),)
"""RAM where addresses end at 4 GiB, below which the probe needs room of its own."""

_HIGHEST = 1 << 39
HIGH_RAM = (*RAM, (_HIGHEST, 64 << 30))
"""RAM with the same at the highest address bit that there is."""

PAGES = 1 << 24
"""Where pages begin that aren't large, a frame for each entry."""
_PDPT = 32  # Bytes of a PDPT of PAE paging.
_P, _PS = ENTRY_BITS["p"], ENTRY_BITS["ps"]

Choice = Mapping[str, frozenset[str]]
"""What is chosen of a dimension, by its name: of bits "0" and "1", of accesses their names."""

_EVERYTHING: Choice = {}


@dataclass(frozen=True, slots=True)
class Variants:
    """The entries of one level: `names` are the bits set in each, `word` uint64[n] their flags.

    `large` says whether PS makes them map a page.
    """

    level: int
    names: tuple[frozenset[str], ...]
    word: U64
    large: bool

    @property
    def leaf(self) -> NDArray[np.bool_]:
        """bool[n]: which of them map a page, if they are present."""
        leaf: NDArray[np.bool_] = (self.word & np.uint64(_PS)) != 0
        return leaf if self.large else np.full(len(self.word), self.level == 1)

    @property
    def ends(self) -> NDArray[np.bool_]:
        """bool[n]: behind which of them nothing is read, whatever is reserved."""
        absent: NDArray[np.bool_] = (self.word & np.uint64(_P)) == 0
        return self.leaf | absent


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One product of dimensions.

    For each level from the root down to the last table, `free` names the bits that are crossed,
    `fixed` those that are always set; `one_of` are bits of which at most one is set. `controls`
    are crossed, those in `on` are always set; `pkrus` are crossed instead of the two bits of one
    key, where there are any. `pages` is the number of pages that the entries of a level lead to,
    if they don't have one each, or 16 large ones. `processors` are features of contexts that are
    crossed too. With `beyond`, each address is tried with every bit flipped that makes it none,
    as well; `flips` are masks of bits that are flipped together. With `halves`, the root's
    entries are there once more at the beginning of the upper half. `keep(level, names)` says which
    entries are worth their place, for the reasons that `pruned` gives, a line each. `older` is PAE
    or 32-bit paging. PDPTEs of PAE paging, which are loaded together, have a table each, and a
    control state for each table: CR3 chooses among them.
    """

    name: str
    covers: str
    free: Mapping[int, tuple[str, ...]]
    fixed: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    one_of: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    controls: tuple[str, ...]
    on: tuple[str, ...] = ()
    pkrus: tuple[int, ...] = ()
    pages: int | None = None
    processors: tuple[Mapping[str, Any], ...] = ({},)
    beyond: bool = False
    flips: tuple[int, ...] = ()
    halves: bool = False
    ram: tuple[tuple[int, int], ...] = RAM
    ac: tuple[bool, ...] = (False,)
    accesses: tuple[str, ...] = ("read", "write", "execute")
    keep: Callable[[int, frozenset[str]], bool] | None = None
    pruned: tuple[str, ...] = ()
    older: PagingMode | None = None

    @property
    def mode(self) -> PagingMode:
        """The paging mode."""
        return self.older or (PagingMode.LEVEL5 if self.levels == 5 else PagingMode.LEVEL4)

    def chosen(self, choice: Choice) -> bool:
        """Return whether the choice leaves this section, as far as it names sections or modes."""
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
        mine = ((key, values) for key, values in choice.items() if "." in key)
        for key, values in mine:
            where, bit = key.split(".")
            if where == LEVEL_NAMES[level] and str(int(bit in names)) not in values:
                return False
        return True

    def contexts(self, choice: Choice = _EVERYTHING) -> Iterator[PagingContext]:
        """Yield the control states, in order."""
        for values in product((False, True), repeat=len(self.controls)):
            on = {name for name, value in zip(self.controls, values, strict=True) if value}
            on |= set(self.on)
            if any(
                str(int(name in on)) not in values
                for name, values in choice.items()
                if name in CONTROLS or name in PKRU_BITS
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
        yield from range(FRAME, FRAME + tables * _PDPT, _PDPT)

    def _contexts(self, on: set[str], root: int) -> Iterator[PagingContext]:
        registers = {"cr0": 0x8000_0033, "cr3": root, "cr4": 0x20, "efer": 0x500}
        if not self.mode.long:
            registers["efer"] = 0
        if self.mode is PagingMode.BIT32:
            registers["cr4"] = 0
        if self.levels == 5:
            registers["cr4"] |= CR4.LA57
        for name in on & CONTROLS.keys():
            register, bit = CONTROLS[name]
            registers[register] |= bit
        denied = sum(PKRU_BITS[name] for name in on & PKRU_BITS.keys()) << 2 * KEY
        for pkru in self.pkrus or (denied,):
            for features in self.processors:
                values: dict[str, Any] = {**registers, **features}
                yield PagingContext(pkru=pkru, **values)

    def tables(self, variants: tuple[Variants, ...]) -> tuple[U64, U64]:
        """Return the tables' frames uint64[t] and words uint64[t, 512]: one a level, root first.

        The PDPTs of PAE paging share a frame; in each, an entry that is as it should be follows
        the one that is tried.
        """
        count = len(variants)
        frames = FRAME * np.arange(1, count + 1, dtype=np.uint64)
        words = np.zeros((count, WORDS), np.uint64)
        for at, each in enumerate(variants):
            number = np.arange(len(each.word), dtype=np.uint64)
            form = self._form(each.level)
            span = np.uint64(form.span)
            # Large pages lie behind the small ones, and each entry has another one, up to 16.
            page = np.uint64(PAGES) + number % np.uint64(self.pages or WORDS) * np.uint64(FRAME)
            if each.level > 1:
                page = (number % np.uint64(self.pages or 16) + np.uint64(2)) * span
            table = np.uint64(FRAME * (at + 2))
            entries = each.word | np.where(each.leaf, page, table)
            if form.entry_size == 4:
                words[at].view(np.uint32)[: len(number)] = entries
            elif form.restricts:
                words[at, : len(number)] = entries
            else:
                words[at, : 4 * len(number) : 4] = entries
                words[at, 1 : 4 * len(number) : 4] = table | np.uint64(_P)
        if self.halves:
            words[0, WORDS // 2 :] = words[0, : WORDS // 2]
        if len(self.ram) > 1:
            # Tables once more where entries with the highest address bit lead to.
            frames = np.concatenate([frames, frames[1:] + np.uint64(_HIGHEST)])
            words = np.concatenate([words, words[1:]])
        return frames, words

    def paths(self, variants: tuple[Variants, ...]) -> U64:
        """Return the address of each path, uint64[n]; of those that end early one each."""
        va = np.zeros(1, np.uint64)
        going = np.ones(1, np.bool_)
        for each in variants:
            form = self._form(each.level)
            count, stop = len(each.word), each.ends
            if not form.restricts:
                # The other entry of the table is worth a look where this one may spoil it.
                count, stop = min(count, 2), np.zeros(min(count, 2), np.bool_)
            index = np.arange(count, dtype=np.uint64) << np.uint64(form.shift)
            further = (va[going, None] | index[None, :]).ravel()
            ends = np.tile(stop, int(going.sum()))
            va = np.concatenate([va[~going], further])
            going = np.concatenate([np.zeros(int((~going).sum()), np.bool_), ~ends])
        if not self.mode.long:
            return va
        unused = np.int64(64 - 12 - 9 * self.levels)
        found = (va.astype(np.int64) << unused >> unused).astype(np.uint64)
        top = 11 + 9 * self.levels
        if self.halves:
            found = np.concatenate([found, found | np.uint64((1 << 64) - (1 << top))])
        beyond = (1 << bit for bit in range(top, 64 if self.beyond else 0))
        return (found[:, None] ^ np.array([0, *self.flips, *beyond], np.uint64)).ravel()

    def accesses_to(self, va: U64, choice: Choice = _EVERYTHING) -> Accesses:
        """Return every access to each of these addresses."""
        kinds = [name for name in self.accesses if name in choice.get("access", {name})]
        cpls = [cpl for cpl in (0, 3) if str(cpl) in choice.get("cpl", {str(cpl)})]
        acs = [ac for ac in self.ac if str(int(ac)) in choice.get("rflags.ac", {str(int(ac))})]
        rows = list(product(kinds, cpls, acs))
        return Accesses(
            np.repeat(va, len(rows)),
            np.tile(np.array([ACCESSES[kind] for kind, _, _ in rows], np.uint8), len(va)),
            np.tile(np.array([cpl for _, cpl, _ in rows], np.uint8), len(va)),
            np.tile(np.array([ac for _, _, ac in rows], np.bool_), len(va)),
        )


def feature_of(context: PagingContext, name: str) -> str:
    """Return the value of one of `FEATURES`, as it is spelt there."""
    value = getattr(context, name)
    if name == "encryption_mask":
        return hex(value)
    return str(int(value) if isinstance(value, bool) else value)
