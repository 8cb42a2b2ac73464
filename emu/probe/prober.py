"""Real accesses by guest code, and what became of each.

Each access starts from the same state: a CPU that has seen no exception, a TLB without its page,
the tables as they were. What it changed in them is read and undone before the next.
"""

from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.probe.bulk import BulkRig
from crosswalk.emu.probe.changes import changed_words
from crosswalk.emu.probe.errors import ProbeError
from crosswalk.emu.probe.job import Job
from crosswalk.emu.probe.page_marker import SLOT, byte_of
from crosswalk.emu.probe.single import Single
from crosswalk.emu.probe.space import NOWHERE
from crosswalk.emu.probe.watch import WatchRig
from crosswalk.emu.probe.workspace import Ground, Sites
from crosswalk.walker.access import AccessType
from crosswalk.walker.columns import Accesses, Outcomes
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import U64, PhysicalMemory

__all__ = ["LongProber"]

_BATCH = 1 << 17
_FEW = 25_000  # The tables of so many walks can be shown, however many there are in all.
_STEP = 1024
_WORTH_A_RUN = 3  # Fewer accesses take less time one by one than it takes to prepare a run.


class LongProber:
    """Puts accesses to an emulated CPU, in IA-32e mode, under the tables of `memory`.

    `memory` is only read: its paging structures are copied into RAM of the probe's own, whose
    other frames carry signatures. CR3 has to lie within it.
    """

    def __init__(
        self,
        memory: PhysicalMemory,
        context: PagingContext,
        avoid: tuple[int, int] | None = None,
    ) -> None:
        self._take_up(Ground(memory, context, avoid=avoid), None)
        self._source = memory, context

    def enter(self, memory: PhysicalMemory, context: PagingContext) -> None:
        """Go on with another address space, as a new prober would.

        In a tenth of the time where its RAM lies where that of the one before did: engines and
        their memory are kept. Raises as a new prober does, and is then what it was.
        """
        before = self._ground
        self._take_up(Ground(memory, context, before), before)
        self._source = memory, context

    def _take_up(self, ground: Ground, before: Ground | None) -> None:
        self._ground = ground
        self._elsewhere: LongProber | None = None
        self._roots: Counter[str] = Counter()
        space, own = ground.space, ground.own
        if before is None or space is not before.space:
            self._single = Single(space, own)
            self._bulk = BulkRig(space, own, fetch=True)
            # For fetches of what is no signature: they may fault, but not run.
            self._still = BulkRig(space, own, fetch=False)
            # For reads and writes of what is no signature, but is there.
            self._watch = WatchRig(space, own)
        self._single.enter(ground)
        for rig in (self._bulk, self._still, self._watch):
            rig.enter(ground)

    def wide(self, va: U64) -> NDArray[np.bool_]:
        """Return bool[n]: whose walks use an address that the emulated CPU has not all bits of."""
        return self._ground.wide(va)

    @property
    def roots(self) -> Counter[str]:
        """How many accesses were made under which root: see `crosswalk.emu.probe.lending`."""
        more = Counter() if self._elsewhere is None else self._elsewhere.roots
        return self._roots + more

    def probe(
        self,
        accesses: Accesses,
        progress: Callable[[int], None] | None = None,
        *,
        bulk: bool = True,
    ) -> Outcomes:
        """Make every access, each on its own, and return what was observed.

        In bulk runs, as far as those can decide; without `bulk` in one engine call each.
        `progress` is called with the number of accesses done, now and then. `ProbeError` where
        the emulator did something that is no outcome.
        """
        parts = [Outcomes.empty(0)]
        for start in range(0, len(accesses), _BATCH):
            some = accesses.take(slice(start, start + _BATCH))
            parts.append(self._batch(some, _Count(start, progress), bulk=bulk))
        return Outcomes.join(parts)

    def _batch(self, accesses: Accesses, count: "_Count", *, bulk: bool) -> Outcomes:
        sites = self._ground.sites(accesses)
        if not sites.own.any():
            return self._make(accesses, sites, count, bulk=bulk)
        # Where entries name all physical addresses, some lead to the probe's own pages. Such
        # accesses are made with these pages in another place.
        parts = []
        rows = [np.flatnonzero(~sites.own), np.flatnonzero(sites.own)]
        some = accesses.take(rows[0])
        parts.append(self._make(some, sites.take(rows[0]), count, bulk=bulk))
        if self._elsewhere is None:
            self._elsewhere = LongProber(*self._source, avoid=self._ground.own)
        parts.append(self._elsewhere.probe(accesses.take(rows[1]), bulk=bulk))
        count.add(len(rows[1]))
        return Outcomes.join(parts).take(np.argsort(np.concatenate(rows), kind="stable"))

    def _make(self, accesses: Accesses, sites: Sites, count: "_Count", *, bulk: bool) -> Outcomes:
        outcomes = Outcomes.empty(len(accesses))
        after = sites.before.copy()
        left = np.ones(len(accesses), np.bool_)
        if bulk:
            left = self._in_bulk(accesses, sites, outcomes, after, count)
        # Another byte than the one there, so that a store which gets lost is seen to be.
        stored = ~byte_of(sites.target)
        for row in np.flatnonzero(left).tolist():
            seen = self._single.make(
                accesses[row],
                int(sites.lent[row]),
                int(stored[row]),
                signed=bool(sites.signed[row]),
            )
            outcomes.kind[row], outcomes.pa[row] = seen.kind, seen.pa
            outcomes.error_code[row], outcomes.cr2[row] = seen.error_code, seen.cr2
            self._take_down(sites, after, row)
            count.add(1)
        changed = self._ground.restore_tables()
        if changed is not None:
            raise ProbeError(
                f"the emulator changed the word at {changed:#x}, which no walk of the "
                f"{len(accesses)} accesses from va {int(accesses.va[0]):#x} uses"
            )
        address, value = changed_words(sites.reported, sites.before, after)
        outcomes.entry_pa[:] = address
        outcomes.entry_value[:] = self._ground.with_mask(address, value)
        self._roots += self._ground.roots_of(sites)
        return outcomes

    def _take_down(self, sites: Sites, after: U64, row: int) -> None:
        """Read the words that an access may have changed, and put them back."""
        view = self._ground.space.view
        words = [index for index in sites.word[row].tolist() if index != NOWHERE]
        after[row, : len(words)] = [view[index] for index in words]
        for index, value in zip(words, sites.before[row].tolist(), strict=False):
            view[index] = value

    def _in_bulk(
        self,
        accesses: Accesses,
        sites: Sites,
        outcomes: Outcomes,
        after: U64,
        count: "_Count",
    ) -> NDArray[np.bool_]:
        """Make what can be made in bulk runs, and return which accesses are left."""
        left = np.ones(len(accesses), np.bool_)
        writes, fetches = (accesses.type == kind for kind in (AccessType.WRITE, AccessType.EXECUTE))
        unsigned = sites.held & ~sites.signed & ~fetches
        fit = np.ones(len(accesses), np.bool_)
        if not self._watch.possible:
            # A store to a frame without signature couldn't be undone: it may be a table.
            fit = ~(writes & unsigned)
            unsigned[:] = False
        if not self._bulk.possible_for_user:
            fit &= accesses.cpl != 3
        still = fetches & ~(sites.signed & (accesses.va % np.uint64(SLOT) == 0))
        every = Job(accesses, sites.lent, sites.word, sites.before, sites.target)
        chosen = (
            (self._bulk, fit & ~still & ~unsigned),
            (self._still, fit & still),
            (self._watch, fit & unsigned),
        )
        for part in self._shown(sites):
            for rig, picked in chosen:
                rows = part[picked[part]]
                if len(rows) >= _WORTH_A_RUN:
                    made = self._run(rig, every.take(rows), rows, outcomes, after, count)
                    left[made] = False
        if self._ground.restore_tables() is not None:
            # An access went where none was expected, and what others met then isn't known. One
            # at a time they either do the same again, and are an error, or are what counts.
            count.add(int(left.sum()) - len(left))
            left[:] = True
            after[:] = sites.before
        return left

    def _shown(self, sites: Sites) -> Iterator[NDArray[np.intp]]:
        """Yield the rows, as many at a time as the arena can show the tables of."""
        every = np.arange(len(sites.lent))
        if self._ground.arena.whole:
            yield every
            return
        for at in range(0, len(every), _FEW):
            part = every[at : at + _FEW]
            self._ground.show(sites.take(part))
            for rig in (self._bulk, self._still, self._watch):
                rig.enter(self._ground)
            yield part

    def _run(
        self,
        rig: BulkRig,
        job: Job,
        rows: NDArray[np.intp],
        outcomes: Outcomes,
        after: U64,
        count: "_Count",
    ) -> NDArray[np.intp]:
        """Make a job, whose outcomes go to these rows, and return the rows that were decided."""
        began = count.done

        def done(run: NDArray[np.intp], other: NDArray[np.bool_]) -> None:
            # What was stored where it shouldn't be is no signature for those that follow.
            stray = run[other & (job.accesses.type[run] == AccessType.WRITE)]
            if len(stray):
                self._ground.sign_again(job.target[stray])
            count.add(len(run))

        found = rig.make(job, _WORTH_A_RUN, done)
        sure, made = found.decided, rows[found.decided]
        count.add(began + len(made) - count.done)
        outcomes.kind[made], outcomes.pa[made] = found.kind[sure], found.pa[sure]
        outcomes.error_code[made] = found.error_code[sure]
        outcomes.cr2[made] = found.cr2[sure]
        after[made] = found.after[sure]
        return made


class _Count:
    """Accesses done, told in steps to whoever wants to know."""

    def __init__(self, done: int, told: Callable[[int], None] | None) -> None:
        self.done = done
        self._last = done
        self._told = told

    def add(self, number: int) -> None:
        """Count some more accesses; fewer than none where some have to be made again."""
        self.done += number
        if self._told is not None and abs(self.done - self._last) >= _STEP:
            self._last = self.done
            self._told(self.done)
