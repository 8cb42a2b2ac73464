"""All of the emulated CPU's physical memory, with many address spaces in it, and engines over it.

What is done with each address space is what a workspace and a prober do with one: its tables are
copied, what its accesses may reach is marked, one slot of its root leads to the probe's own code,
and afterwards every word of every table is compared with what it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.cpu.engine import MAXPHYADDR
from crosswalk.emu.probe.bulk import NOTE_WORDS, Job, collect
from crosswalk.emu.probe.control import Control
from crosswalk.emu.probe.mixed import MixedEngine, MixedRun, Records, records_of
from crosswalk.emu.probe.mixed_loop import OUT_WORDS
from crosswalk.emu.probe.page_marker import SLOT, markers
from crosswalk.emu.probe.paths import NO_ADDRESS, PagingFormat, find_paths
from crosswalk.emu.probe.shared_trampoline import CAPACITY, MAX_SHOWN, OWN, SharedTrampoline
from crosswalk.emu.probe.side_by_side import Content, moved, tables_of
from crosswalk.emu.probe.space import NOWHERE, Space
from crosswalk.emu.probe.workspace import changed_words
from crosswalk.walker.access import AccessType
from crosswalk.walker.columns import Accesses, Kind, Outcomes
from crosswalk.walker.memory import FRAME, U64, WORDS

__all__ = ["SharedMemory"]

_TOUCHED = 1 << 14  # Slots, each in a page of the host's at the worst.
_NO_KEY = 16
_GIB = np.uint64(30)
_LENT = 2
"""How many slots are tried, one after the other, for accesses that use the first one's entry."""


class _Whole(Space):
    """A space that holds all physical addresses of the emulated CPU, in order."""

    def index_of(self, pa: U64) -> NDArray[np.int64]:
        """Return the index in `words` of each physical address, NOWHERE if it isn't held."""
        found = (pa >> np.uint64(3)).astype(np.int64)
        found[pa >> np.uint64(MAXPHYADDR) != 0] = NOWHERE
        return found

    def byte_at(self, pa: int) -> int:
        """Return the index in `bytes` of one physical address, or NOWHERE."""
        return pa if pa >> MAXPHYADDR == 0 else NOWHERE


class SharedMemory:
    """The memory; `OSError` or `MemoryError` where the system has no address space for it."""

    def __init__(self) -> None:
        end = 1 << MAXPHYADDR
        ranges = ((0, OWN[0]), (OWN[0], OWN[1] - OWN[0]), (OWN[1], end - OWN[1]))
        self._space = space = _Whole(ranges, most=end)
        self._trampoline = trampoline = SharedTrampoline(space)
        self._marked = MixedEngine(space, trampoline, watch=False)
        # For reads and writes of paging structures; and for fetches of what is no marker.
        self._watching = MixedEngine(space, trampoline, watch=True)
        self._touched = 0
        self.spent = False
        """Whether another one is needed: something may lie anywhere, and can't be erased."""

    def make(
        self, contents: Sequence[Content], by: U64, accesses: Accesses, space: NDArray[np.intp]
    ) -> tuple[Outcomes, NDArray[np.bool_]] | None:
        """Return the outcomes of n accesses, and bool[n]: which of them are decided.

        `contents` are address spaces of one format, `by` uint64[s] what to change the addresses of
        each by, `space` int64[n] which of them each access is made in, ascending.

        None where nothing is decided: the tables are more than can be shown, or one of their words
        was changed that is on no access's walk, and that others may have used.
        """
        form = contents[0].form
        sizes = [len(each.frames) for each in contents]
        by_frame = np.repeat(by, sizes)
        frames = np.concatenate([each.frames for each in contents]) ^ by_frame
        words = np.concatenate([each.words for each in contents])
        row, column = np.nonzero(words & np.uint64(1))
        words[row, column] = entries = moved(words[row, column], by_frame[row])
        roots = np.array([each.control.root for each in contents], np.uint64) ^ by
        tables = tables_of(form, roots, frames, row, entries)
        if len(tables) > MAX_SHOWN:
            return None
        content = np.zeros((len(tables), WORDS), np.uint64)
        found = np.minimum(np.searchsorted(tables, frames), len(tables) - 1)
        known = np.flatnonzero(tables[found] == frames)
        content[found[known]] = words[known]
        placed = _Placed(
            self._space.words.reshape(-1, WORDS), (tables >> np.uint64(12)).astype(np.intp), content
        )
        self._trampoline.show(tables)
        targets = self._targets(form, roots[space], tables, accesses)
        spaces = _Spaces.of([each.control for each in contents], roots, by, content, tables)
        runs = _Runs.of(len(space))
        intact = self._run(form, spaces, space, targets, placed, runs)
        placed.clear()
        outcomes, after, decided = runs.outcomes(targets.job)
        reached = outcomes.kind == Kind.OK
        # Whatever our own reading says: what one address space names, no other one leads to.
        decided &= ~reached | (_owners(contents, by)[outcomes.pa >> _GIB] == space)
        stray = targets.marked & ~decided & (accesses.type == AccessType.WRITE)
        self._clean(targets, lost=not intact or bool(stray.any()))
        if not intact:
            return None
        before, reported = targets.job.before, targets.reported
        if by.any():
            back = by[space]
            outcomes.pa[reached] ^= back[reached]
            back = back[:, None]
            before, after = moved(before, back), moved(after, back)
            reported = reported ^ np.where(reported == NO_ADDRESS, 0, back)
        outcomes.entry_pa[:], outcomes.entry_value[:] = changed_words(reported, before, after)
        return outcomes, decided

    def _targets(
        self, form: PagingFormat, roots: U64, tables: U64, accesses: Accesses
    ) -> "_Targets":
        """Return where accesses under these roots may lead, having marked what they may reach."""
        memory = self._space
        paths = find_paths(memory, form, roots, accesses.va)
        slot = paths.page | accesses.va & np.uint64(FRAME - SLOT)
        at = memory.index_of(slot)
        held = at != NOWHERE
        found = np.minimum(np.searchsorted(tables, paths.page), len(tables) - 1)
        marked = held & (tables[found] != paths.page)
        memory.words[at[marked]], memory.words[at[marked] + 1] = markers(slot[marked])
        before = np.where(paths.index == NOWHERE, 0, memory.words[paths.index])
        target = slot | accesses.va & np.uint64(SLOT - 1)
        job = Job(accesses, np.zeros(len(accesses), np.uint8), paths.index, before, target)
        return _Targets(job, paths.pa, at, held, marked)

    def _run(
        self,
        form: PagingFormat,
        spaces: "_Spaces",
        space: NDArray[np.intp],
        targets: "_Targets",
        placed: "_Placed",
        found: "_Runs",
    ) -> bool:
        """Make the accesses, and fill in what is found; False where tables were changed."""
        job, words = targets.job, self._space.words
        accesses = job.accesses
        left = (accesses.cpl != 3) | (spaces.key[space] != _NO_KEY)
        fetch = accesses.type == AccessType.EXECUTE
        # Fetches of what is no marker may fault, but not run.
        shown = targets.marked & (~fetch | (accesses.va % np.uint64(SLOT) == 0))
        watched = (targets.held | fetch) & ~shown
        if not self._watching.possible:
            left &= ~watched
        for slot in spaces.slots:
            borrowed = spaces.roots_at + slot
            used = borrowed[space]
            fit = left & (targets.at != (used & -2)) & (job.index != used[:, None]).all(axis=1)
            if not fit.any():
                continue
            left &= ~fit
            self._trampoline.enter(form, slot)
            records = records_of(
                self._trampoline, slot, job, watched, spaces.control[space], spaces.key[space]
            )
            before, entry = words[borrowed], np.uint64(self._trampoline.entry)
            for engine, chosen in (
                (self._marked, fit & ~watched),
                (self._watching, fit & watched),
            ):
                rows = np.flatnonzero(chosen)
                if not len(rows):
                    continue
                words[borrowed] = entry
                for first in range(0, len(rows), CAPACITY):
                    part = rows[first : first + CAPACITY]
                    some = records.take(part)
                    made = engine.make(some, job.take(part), space[part], slot)
                    found.add(part, some, made)
                lent = words[borrowed]
                words[borrowed] = before
                if (lent != entry).any() or not placed.intact():
                    return False
        return True

    def _clean(self, targets: "_Targets", *, lost: bool) -> None:
        """Have zeros where markers were; all over where a byte may have been `lost` anywhere."""
        at = targets.at[targets.marked]
        self._space.words[at] = self._space.words[at + 1] = 0
        self._touched += len(at)
        if lost or self._touched > _TOUCHED:
            self._touched = 0
            if self._space.release():
                self._trampoline.write()
            elif lost:
                self.spent = True


@dataclass(frozen=True, slots=True)
class _Placed:
    """Tables where they are put: their content [t, 512] in these `rows` of all memory."""

    rows: U64
    places: NDArray[np.intp]
    content: U64

    def __post_init__(self) -> None:
        self.rows[self.places] = self.content

    def intact(self) -> bool:
        """Return whether every word is what it was."""
        return np.array_equal(self.rows[self.places], self.content)

    def clear(self) -> None:
        """Leave zeros."""
        self.rows[self.places] = 0


@dataclass(slots=True)
class _Runs:
    """What came out of the runs of n accesses, and which of them were in a run that is sure."""

    outs: U64
    faulted_at: U64
    sure: NDArray[np.bool_]
    notes: list[U64]

    @classmethod
    def of(cls, count: int) -> "_Runs":
        """Return it for so many accesses, none made."""
        nothing = np.zeros((count, OUT_WORDS), np.uint64)
        return cls(nothing, np.zeros(count, np.uint64), np.zeros(count, np.bool_), [])

    def add(self, rows: NDArray[np.intp], records: Records, made: MixedRun) -> None:
        """Take over what came out of the run of these rows."""
        if made.sure:
            self.outs[rows], self.faulted_at[rows] = made.outs, records.faulted_at
            self.sure[rows] = True
            made.notes[:, 0] = rows[made.notes[:, 0].astype(np.intp)]
            self.notes.append(made.notes)

    def outcomes(self, job: Job) -> tuple[Outcomes, U64, NDArray[np.bool_]]:
        """Return outcomes but for changed words, the walks' words after, and which are decided."""
        notes = np.concatenate([np.zeros((0, NOTE_WORDS), np.uint64), *self.notes])
        found = collect(job, self.outs, notes, self.faulted_at)
        decided = found.decided & self.sure
        outcomes = Outcomes.empty(len(job))
        outcomes.kind[:], outcomes.error_code[:] = found.kind, found.error_code
        outcomes.pa[:], outcomes.cr2[:] = np.where(decided, found.pa, np.uint64(0)), found.cr2
        return outcomes, np.where(decided[:, None], found.after, job.before), decided


def _owners(contents: Sequence[Content], by: U64) -> NDArray[np.intp]:
    """Return for each GiB the number of the address space that names it, -1 for none."""
    owner = np.full(1 << MAXPHYADDR >> 30, -1, np.intp)
    for number, (content, change) in enumerate(zip(contents, by.tolist(), strict=True)):
        owner[[gib ^ change >> 30 for gib in content.named]] = number
    return owner


@dataclass(frozen=True, slots=True)
class _Targets:
    """Where n accesses may lead: see `AccessTargets`. `at` int64[n] is the index of the slot."""

    job: Job
    reported: U64
    at: NDArray[np.int64]
    held: NDArray[np.bool_]
    marked: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Spaces:
    """The address spaces of a run.

    `control` uint64[s, 5] are control registers as records have them, `key` uint64[s] a protection
    key that PKRU lets user code read, `_NO_KEY` where there is none; `roots_at` int64[s] are the
    indices of the root tables, `slots` the numbers of the slots to borrow in all of them.
    """

    control: U64
    key: U64
    roots_at: NDArray[np.int64]
    slots: tuple[int, ...]

    @classmethod
    def of(
        cls, controls: Sequence[Control], roots: U64, by: U64, content: U64, tables: U64
    ) -> "_Spaces":
        """Return them for roots among these tables, uint64[t], with this content [t, 512]."""
        control = np.array(
            [(each.cr3, each.cr0, each.cr4, each.pkru, each.efer) for each in controls], np.uint64
        )
        control[:, 0] ^= by
        denied = control[:, 3, None] >> (np.arange(_NO_KEY, dtype=np.uint64) * np.uint64(2))
        free = (denied & np.uint64(1)) == 0
        key = np.where(free.any(axis=1), free.argmax(axis=1), _NO_KEY).astype(np.uint64)
        # Slots that are empty in most of them, and not at the ends.
        used = (content[np.searchsorted(tables, roots)] != 0).sum(axis=0)
        used[[0, WORDS - 1]] += 1
        slots = np.argsort(used, kind="stable")[:_LENT]
        return cls(control, key, (roots >> np.uint64(3)).astype(np.int64), tuple(slots.tolist()))
