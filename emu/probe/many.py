"""Accesses in many address spaces at once, in a few engine runs; outcomes as of each alone.

    cases ──► side by side in one memory (`side_by_side`), with one trampoline (`shared_trampoline`)
          ──► their accesses in mixed runs (`mixed`): what is marked, what isn't, what is watched
          ──► what those can't decide: `Prober`, an address space at a time

Which cases are made alone from the start: those outside IA-32e mode; with an access or an entry
that uses what the emulated CPU lacks, with an encryption mask, or bits of CR3 that it takes for an
address; those that name many GiB, or have very many tables. `ManyProber.made` counts them, and
accesses that were left over, by reason.

Outstanding: in 32-bit and PAE paging every case is made alone.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.cpu.engine import MAXPHYADDR
from crosswalk.emu.probe.control import Control
from crosswalk.emu.probe.frames import has_frames
from crosswalk.emu.probe.paths import PagingFormat
from crosswalk.emu.probe.prober import Prober, ProberCache
from crosswalk.emu.probe.scope import Lacking, lacking_features
from crosswalk.emu.probe.shared_memory import SharedMemory
from crosswalk.emu.probe.side_by_side import Content, Places, content_of
from crosswalk.emu.probe.trampoline import CR3_UNDER_TEST
from crosswalk.walker.columns import Accesses, Outcomes
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.memory import PhysicalMemory

__all__ = ["FEW", "TOGETHER", "ManyProber", "Observation", "ProbeCase"]

FEW = 512
"""Up to so many accesses in one address space a mixed run takes less time than a `Prober`."""

TOGETHER = "in shared runs"
"""Under this name `ManyProber.made` counts the accesses that were not made alone."""
_LACKS = "alone: a feature that the emulated CPU lacks"
_LEFT_OVER = "alone: a shared run can't decide it"

_MAX_TABLES, _MAX_ROWS = 4096, 8192  # Of what is put side by side at once.

ProbeCase = tuple[PhysicalMemory, PagingContext, Accesses]


@dataclass(frozen=True, slots=True)
class Observation:
    """What came of one case.

    `lacking` uint8[n] is what the emulated CPU lacks for each access, as `Prober.lacking` has it;
    `made` are the outcomes of the others, in order, or the error that making them raised. `copied`
    counts accesses made under a copy of the root.
    """

    lacking: Lacking
    made: Outcomes | CrosswalkError
    copied: int = 0

    @property
    def outcomes(self) -> Outcomes:
        """The outcomes, as `Prober.probe` returns them; raises the error if there was one."""
        if isinstance(self.made, CrosswalkError):
            raise self.made
        return self.made


@dataclass(frozen=True, slots=True)
class _Beside:
    """A case that is put beside others: its number among all, and what to change addresses by."""

    number: int
    case: ProbeCase
    content: Content
    by: int


class ManyProber:
    """Puts the accesses of many cases to emulated CPUs; engines are kept from call to call."""

    def __init__(self) -> None:
        self.made: Counter[str] = Counter()
        """How many accesses were made in which way."""
        self._alone = ProberCache()
        self._entered: tuple[PhysicalMemory, PagingContext, Prober] | None = None
        self._memory: SharedMemory | None = None
        self._possible = True

    def probe(self, cases: Sequence[ProbeCase]) -> list[Observation]:
        """Return what came of each case: equal to what it is when a `Prober` makes it alone."""
        found: dict[int, Observation] = {}
        beside: dict[PagingFormat, list[tuple[int, ProbeCase, Content]]] = {}
        for number, case in enumerate(cases):
            content = self._content(case)
            if isinstance(content, str):
                found[number] = self.alone(case, content)
            else:
                beside.setdefault(content.form, []).append((number, case, content))
        for some in beside.values():
            for batch in _batches(some):
                self._together(batch, found)
        return [found[number] for number in range(len(cases))]

    def prober(self, memory: PhysicalMemory, context: PagingContext) -> Prober:
        """Return a prober for one address space, good until this prober is asked again.

        The one that made the last case alone, where that was this case.
        """
        if self._entered is not None and self._entered[0] is memory and self._entered[1] == context:
            return self._entered[2]
        return self._enter(memory, context)

    def _enter(self, memory: PhysicalMemory, context: PagingContext) -> Prober:
        self._entered = None
        prober = self._alone.prober(memory, context)
        self._entered = memory, context, prober
        return prober

    def alone(self, case: ProbeCase, why: str = "alone") -> Observation:
        """Return what comes of a case by itself."""
        memory, context, accesses = case
        self.made[why] += len(accesses)
        nothing = np.zeros(len(accesses), np.uint8)
        try:
            prober = self._enter(memory, context)
            lacking = prober.lacking(accesses)
            made = prober.probe(accesses.take(np.flatnonzero(lacking == 0)))
        except CrosswalkError as error:
            self._alone = ProberCache()  # Engines that did this are not to be trusted again.
            self._entered = None
            return Observation(nothing, error)
        copied = sum(count for root, count in prober.roots.items() if root != CR3_UNDER_TEST)
        return Observation(lacking, made, copied)

    def _content(self, case: ProbeCase) -> Content | str:
        """Return the content of an address space to be put beside others, or why it can't be."""
        control = Control.of(case[1])
        why = _why_alone(control, case)
        if why is None and not self._possible:
            why = "alone: the system has no address space for it"
        if why is not None:
            return why
        content = content_of(case[0], control)
        if content is None:
            return "alone: a large address space"
        wide = (content.words & np.uint64(1)) * (content.words & np.uint64(control.wide))
        return _LACKS if control.wide and wide.any() else content

    def _together(self, batch: list[_Beside], found: dict[int, Observation]) -> None:
        accesses = batch[0].case[2]
        if len(batch) > 1:
            accesses = Accesses.join([each.case[2] for each in batch])
        counts = [len(each.case[2]) for each in batch]
        made = None
        if self._memory is None:
            try:
                self._memory = SharedMemory()
            except (OSError, MemoryError):
                self._possible = False
        if self._memory is not None:
            contents = [each.content for each in batch]
            by = np.array([each.by for each in batch], np.uint64)
            space = np.repeat(np.arange(len(batch)), counts)
            made = self._memory.make(contents, by, accesses, space)
            self._memory = None if self._memory.spent else self._memory
        first = 0
        for each, count in zip(batch, counts, strict=True):
            part = slice(first, first + count)
            first += count
            if made is None:
                found[each.number] = self.alone(each.case, _LEFT_OVER)
                continue
            outcomes, sure = made[0].take(part), made[1][part]
            self.made[TOGETHER] += int(sure.sum())
            if sure.all():
                found[each.number] = Observation(np.zeros(count, np.uint8), outcomes)
            else:
                found[each.number] = self._rest(each.case, outcomes, np.flatnonzero(~sure))

    def _rest(self, case: ProbeCase, made: Outcomes, rows: NDArray[np.intp]) -> Observation:
        """Make the accesses in these rows alone, and put their outcomes to the others."""
        memory, context, accesses = case
        rest = self.alone((memory, context, accesses.take(rows)), _LEFT_OVER)
        lacking = np.zeros(len(accesses), np.uint8)
        if isinstance(rest.made, CrosswalkError):
            return Observation(lacking, rest.made)
        for name in Outcomes.__slots__:
            getattr(made, name)[rows] = getattr(rest.made, name)
        return Observation(lacking, made, rest.copied)


def _why_alone(control: Control, case: ProbeCase) -> str | None:
    """Return why an address space can't be put beside others, as its registers tell, or None."""
    memory, _, accesses = case
    if not control.long:
        return "alone: not in IA-32e mode"
    if control.mask or control.cr3 >> 52:
        return "alone: address bits that the emulated CPU hasn't"
    if control.pkrs or (control.features and lacking_features(control, accesses).any()):
        return _LACKS
    root = np.array([control.root], np.uint64)
    if control.root >> MAXPHYADDR or not has_frames(memory, root)[0]:
        return "alone: no root"
    return None


def _batches(cases: list[tuple[int, ProbeCase, Content]]) -> list[list[_Beside]]:
    """Return the cases in groups that fit side by side, each with its place."""
    batches: list[list[_Beside]] = []
    places, rows, tables = Places(), 0, 0
    for number, case, content in cases:
        rows += len(case[2])
        tables += len(content.frames)
        fits = batches and rows <= _MAX_ROWS and tables <= _MAX_TABLES
        by = places.take(content.named) if fits else None
        if by is None:
            places, rows, tables = Places(), len(case[2]), len(content.frames)
            by = places.take(content.named)
            batches.append([])
        if by is None:
            raise AssertionError("no place for an address space among none")
        batches[-1].append(_Beside(number, case, content, by))
    return batches
