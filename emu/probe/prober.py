"""Real accesses by guest code in an emulated CPU, and what was observed of each.

Each access starts from the same state: a CPU that has seen no exception, a TLB without its page,
the tables as they were. What it changed in them is read and undone before the next. In IA-32e mode
most accesses are made in bulk runs (`crosswalk.emu.probe.bulk`); what those can't decide, and every
access in 32-bit and PAE paging, is made alone (`crosswalk.emu.probe.access_engine`).
"""

from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.probe.access_engine import SingleAccess
from crosswalk.emu.probe.bulk import BulkEngine, BulkWatcher, Job
from crosswalk.emu.probe.control import Control
from crosswalk.emu.probe.errors import ProbeError
from crosswalk.emu.probe.frames import has_frames
from crosswalk.emu.probe.page_marker import SLOT, byte_of
from crosswalk.emu.probe.scope import Lacking, lacking, refuse
from crosswalk.emu.probe.workspace import AccessTargets, Workspace
from crosswalk.walker.access import AccessType
from crosswalk.walker.columns import Accesses, Kind, Outcomes
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import U64, PhysicalMemory

__all__ = ["Prober", "ProberCache"]

_BATCH = 1 << 17
_FEW = 25_000  # The tables of so many walks can be shown, however many there are in all.
_STEP = 1024
_WORTH_A_RUN = 3  # Fewer accesses take less time one by one than it takes to prepare a run.


class _Engines:
    """The engines over the space of a workspace, and whether MOV to CR3 takes its root."""

    def __init__(self, workspace: Workspace) -> None:
        space, own, bits = workspace.space, workspace.own, workspace.form.bits
        self.single = SingleAccess(space, own, bits=bits)
        self.loads_root = True
        self.in_bulk = bits == 64
        if self.in_bulk:
            self.bulk = BulkEngine(space, own, fetch=True)
            # For fetches of what is no marker: they may fault, but not run.
            self.still = BulkEngine(space, own, fetch=False)
            # For reads and writes of what is no marker, but is there.
            self.watching = BulkWatcher(space, own)

    def enter(self, workspace: Workspace) -> None:
        """Make what follows in this workspace, which has the same space."""
        self.single.enter(workspace)
        if self.in_bulk:
            self.enter_bulk(workspace)
        # PDPTEs are loaded, and looked at, with CR3; in 32-bit paging no entry is.
        if workspace.control.levels == 3:
            self.loads_root = self.single.loads_root()
        else:
            self.loads_root = True

    def enter_bulk(self, workspace: Workspace) -> None:
        """Have the engines of bulk runs see what the workspace shows now."""
        for engine in (self.bulk, self.still, self.watching):
            engine.enter(workspace)


class Prober:
    """Puts accesses to an emulated CPU under the tables of `memory` and the given context.

    `memory` is only read: its paging structures are copied into RAM of the probe's own, whose
    other frames carry markers. CR3 has to lie within it. The probe's own pages are not placed in
    the physical range [start, end) `avoid`.
    """

    def __init__(
        self,
        memory: PhysicalMemory,
        context: PagingContext,
        avoid: tuple[int, int] | None = None,
    ) -> None:
        self._avoid = avoid
        # Workspace and engines by the width of their code: going back to one keeps its engines.
        self._kept: dict[int, tuple[Workspace, _Engines]] = {}
        self.enter(memory, context)

    def enter(self, memory: PhysicalMemory, context: PagingContext) -> None:
        """Go on with another address space, as a new prober would.

        In a tenth of the time where its RAM lies where that of the one before did: engines and
        their memory are kept. Raises as a new prober does, and is then what it was.
        """
        control = Control.of(context)
        possible = not control.root & control.wide
        if possible:
            bits = 64 if control.long else 32
            before, engines = self._kept.get(bits, (None, None))
            workspace = Workspace(memory, context, before, self._avoid)
            if engines is None or before is None or workspace.space is not before.space:
                engines = _Engines(workspace)
            engines.enter(workspace)
            self._kept[bits] = workspace, engines
            self._workspace, self._engines = workspace, engines
        elif not has_frames(memory, np.array([control.root], np.uint64))[0]:
            raise BadInput(f"CR3 {control.cr3:#x} points to no RAM")
        # Where the emulated CPU can't be given this CR3, nothing can be asked.
        self._control, self._possible = control, possible
        self._source = memory, context
        self._elsewhere: Prober | None = None
        self._roots: Counter[str] = Counter()

    def lacking(self, accesses: Accesses) -> Lacking:
        """Return uint8[n]: 0 where an access can be asked, else 1 + an index of `FEATURES`.

        The others use a feature that the emulated CPU lacks. `probe` refuses them: they are
        predicted only, and count as no agreement.
        """
        return lacking(self._control, accesses, self._workspace if self._possible else None)

    @property
    def roots(self) -> dict[str, int]:
        """How many accesses have been made under the CR3 under test, and how many under a copy.

        In this address space, made again ones included, by the names in
        `crosswalk.emu.probe.trampoline`.
        """
        more = {} if self._elsewhere is None else self._elsewhere.roots
        return dict(sorted((self._roots + Counter(more)).items()))

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
        the emulator did something that is no outcome; `BadInput` for accesses that `lacking`
        names, and for an address over 32 bits in 32-bit or PAE paging.
        """
        refuse(self.lacking(accesses), accesses.va)
        if not self._control.long:
            beyond = accesses.va[accesses.va >> np.uint64(32) != 0]
            if len(beyond):
                raise BadInput(f"va = {int(beyond[0]):#x}: linear addresses here have 32 bits")
        return self._observe(accesses, progress, bulk=bulk)

    def _observe(
        self, accesses: Accesses, progress: Callable[[int], None] | None = None, *, bulk: bool
    ) -> Outcomes:
        """Make every access, also those that the emulated CPU lacks something for."""
        parts = [Outcomes.empty(0)]
        for start in range(0, len(accesses), _BATCH):
            some = accesses.take(slice(start, start + _BATCH))
            if self._engines.loads_root:
                parts.append(self._batch(some, _Count(start, progress), bulk=bulk))
            else:
                refused = Outcomes.empty(len(some))
                refused.kind[:] = Kind.GENERAL_PROTECTION
                parts.append(refused)
        return Outcomes.join(parts)

    def _batch(self, accesses: Accesses, count: "_Count", *, bulk: bool) -> Outcomes:
        targets = self._workspace.targets(accesses)
        if not targets.own.any():
            return self._make(accesses, targets, count, bulk=bulk)
        # Where entries name all physical addresses, some lead to the probe's own pages. Such
        # accesses are made by another prober, whose pages lie elsewhere.
        parts = []
        rows = [np.flatnonzero(~targets.own), np.flatnonzero(targets.own)]
        some = accesses.take(rows[0])
        parts.append(self._make(some, targets.take(rows[0]), count, bulk=bulk))
        if self._elsewhere is None:
            self._elsewhere = Prober(*self._source, avoid=self._workspace.own)
        there = self._elsewhere
        parts.append(there._observe(accesses.take(rows[1]), bulk=bulk))  # noqa: SLF001  # this class
        count.add(len(rows[1]))
        return Outcomes.join(parts).take(np.argsort(np.concatenate(rows), kind="stable"))

    def _make(
        self, accesses: Accesses, targets: AccessTargets, count: "_Count", *, bulk: bool
    ) -> Outcomes:
        outcomes = Outcomes.empty(len(accesses))
        after = targets.before.copy()
        left = np.ones(len(accesses), np.bool_)
        if bulk and self._engines.in_bulk:
            left = self._in_bulk(accesses, targets, outcomes, after, count)
        # Differs from the byte there, so that a lost store shows.
        stored = (~byte_of(targets.pa)).tolist()
        slot, marked = targets.slot.tolist(), targets.marked.tolist()
        make = self._engines.single.make
        for row in np.flatnonzero(left).tolist():
            observed = make(accesses[row], slot[row], stored[row], marked=marked[row])
            outcomes.kind[row], outcomes.pa[row] = observed.kind, observed.pa
            outcomes.error_code[row], outcomes.cr2[row] = observed.error_code, observed.cr2
            self._workspace.take_back(targets, row, after)
            count.add(1)
        changed = self._workspace.restore_tables()
        if changed is not None:
            raise ProbeError(
                f"the emulator changed the word at {changed:#x}, which no walk of the "
                f"{len(accesses)} accesses from va {int(accesses.va[0]):#x} uses"
            )
        outcomes.entry_pa[:], outcomes.entry_value[:] = self._workspace.changes(targets, after)
        self._roots += self._workspace.roots_of(targets)
        return outcomes

    def _in_bulk(
        self,
        accesses: Accesses,
        targets: AccessTargets,
        outcomes: Outcomes,
        after: U64,
        count: "_Count",
    ) -> NDArray[np.bool_]:
        """Make what can be made in bulk runs, and return which accesses are left."""
        engines, left = self._engines, np.ones(len(accesses), np.bool_)
        writes, fetches = (accesses.type == kind for kind in (AccessType.WRITE, AccessType.EXECUTE))
        unmarked = targets.held & ~targets.marked & ~fetches
        fit = np.ones(len(accesses), np.bool_)
        if not engines.watching.possible:
            # A store to a frame without marker couldn't be undone: it may be a table.
            fit = ~(writes & unmarked)
            unmarked[:] = False
        if not engines.bulk.possible_for_user:
            fit &= accesses.cpl != 3
        still = fetches & ~(targets.marked & (accesses.va % np.uint64(SLOT) == 0))
        every = Job(accesses, targets.slot, targets.index, targets.before, targets.pa)
        chosen = (
            (engines.bulk, fit & ~still & ~unmarked),
            (engines.still, fit & still),
            (engines.watching, fit & unmarked),
        )
        for part in self._shown(targets):
            for engine, picked in chosen:
                rows = part[picked[part]]
                if len(rows) >= _WORTH_A_RUN:
                    made = self._run(engine, every.take(rows), rows, outcomes, after, count)
                    left[made] = False
        if self._workspace.restore_tables() is not None:
            # An access changed a word outside its walk, which others may have used. All are made
            # again, one at a time: the same change is then an error, its absence an outcome.
            count.add(int(left.sum()) - len(left))
            left[:] = True
            after[:] = targets.before
        return left

    def _shown(self, targets: AccessTargets) -> Iterator[NDArray[np.intp]]:
        """Yield the rows, as many at a time as the trampoline can show the tables of."""
        every = np.arange(len(targets.slot))
        if self._workspace.trampoline.whole:
            yield every
            return
        for at in range(0, len(every), _FEW):
            part = every[at : at + _FEW]
            self._workspace.show(targets.take(part))
            self._engines.enter_bulk(self._workspace)
            yield part

    def _run(
        self,
        engine: BulkEngine,
        job: Job,
        rows: NDArray[np.intp],
        outcomes: Outcomes,
        after: U64,
        count: "_Count",
    ) -> NDArray[np.intp]:
        """Make a job, put its outcomes into these rows, and return the rows that were decided."""
        began = count.done

        def done(run: NDArray[np.intp], other: NDArray[np.bool_]) -> None:
            # A byte stored elsewhere has damaged a marker that later accesses need.
            stray = run[other & (job.accesses.type[run] == AccessType.WRITE)]
            if len(stray):
                self._workspace.mark_again(job.target[stray])
            count.add(len(run))

        found = engine.make(job, _WORTH_A_RUN, done)
        sure, made = found.decided, rows[found.decided]
        count.add(began + len(made) - count.done)
        outcomes.kind[made], outcomes.pa[made] = found.kind[sure], found.pa[sure]
        outcomes.error_code[made] = found.error_code[sure]
        outcomes.cr2[made] = found.cr2[sure]
        after[made] = found.after[sure]
        return made


class _Count:
    """Accesses done, reported to a callback in steps."""

    def __init__(self, done: int, report: Callable[[int], None] | None) -> None:
        self.done = done
        self._last = done
        self._report = report

    def add(self, number: int) -> None:
        """Count some more accesses; fewer than none where some have to be made again."""
        self.done += number
        if self._report is not None and abs(self.done - self._last) >= _STEP:
            self._last = self.done
            self._report(self.done)


class ProberCache:
    """Reuses one prober for many address spaces: its engines are kept where they fit."""

    def __init__(self) -> None:
        self._prober: Prober | None = None

    def prober(self, memory: PhysicalMemory, context: PagingContext) -> Prober:
        """Return a prober for this address space, good until the next one is asked for."""
        if self._prober is None:
            self._prober = Prober(memory, context)
        else:
            self._prober.enter(memory, context)
        return self._prober

    def observe(
        self, memory: PhysicalMemory, context: PagingContext, accesses: Accesses
    ) -> Outcomes:
        """Return what was observed of each access; raises as `Prober` and its `probe` do."""
        return self.prober(memory, context).probe(accesses)
