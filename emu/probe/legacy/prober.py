"""Real accesses in 32-bit and PAE paging, and what became of each."""

from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from unicorn import UC_ERR_EXCEPTION, UC_ERR_FETCH_PROT, UC_ERR_OK

from crosswalk.emu.probe.access_engine import TRANSLATED
from crosswalk.emu.probe.errors import ProbeError
from crosswalk.emu.probe.legacy.access_engine import Rig, Run, Watcher
from crosswalk.emu.probe.legacy.page_marker import byte_of, decode
from crosswalk.emu.probe.legacy.workspace import Ground, Sites
from crosswalk.emu.probe.single import Observed
from crosswalk.emu.probe.space import NOWHERE
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.architecture import Vector
from crosswalk.walker.columns import Accesses, Kind, Outcomes
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import FRAME, U64, PhysicalMemory

__all__ = ["LegacyProber"]

_BATCH = 1 << 15
_STEP = 1024


class LegacyProber:
    """Puts accesses to an emulated CPU in 32-bit or PAE paging, one engine call each.

    As `crosswalk.emu.probe.prober.LongProber` does in IA-32e mode, with the same proofs.
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
        """Go on with another address space, as a new prober would; engines are kept if they fit."""
        before = self._ground
        self._take_up(Ground(memory, context, before), before)
        self._source = memory, context

    def _take_up(self, ground: Ground, before: Ground | None) -> None:
        self._ground = ground
        self._elsewhere: LegacyProber | None = None
        self._roots: Counter[str] = Counter()
        own = ground.own
        if before is None or ground.space is not before.space:
            self._runner = Rig(ground.space, own, fetch=True)
            self._watcher = Watcher(ground.space, own)
        for rig in (self._runner, self._watcher):
            rig.enter(ground)
        # In 32-bit paging no entry is looked at when CR3 is loaded.
        cr3 = ground.arena.lent[0].cr3
        self._loads = ground.form.size == 4 or self._watcher.loads(cr3)
        ground.restore_tables()

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
        bulk: bool = True,  # noqa: ARG002  # There is but one way here; callers needn't know.
    ) -> Outcomes:
        """Make every access, each on its own, and return what was observed.

        `progress` is called with the number of accesses done, now and then. `ProbeError` where
        the emulator did something that is no outcome, `BadInput` for an address over 32 bits.
        """
        beyond = accesses.va[accesses.va >> np.uint64(32) != 0]
        if len(beyond):
            raise BadInput(f"va = {int(beyond[0]):#x}: linear addresses here have 32 bits")
        parts = [Outcomes.empty(0)]
        for start in range(0, len(accesses), _BATCH):
            some = accesses.take(slice(start, start + _BATCH))
            if self._loads:
                parts.append(self._batch(some, start, progress))
            else:
                refused = Outcomes.empty(len(some))
                refused.kind[:] = Kind.GENERAL_PROTECTION
                parts.append(refused)
        return Outcomes.join(parts)

    def _batch(
        self, accesses: Accesses, done: int, progress: Callable[[int], None] | None
    ) -> Outcomes:
        sites = self._ground.sites(accesses)
        if not sites.own.any():
            return self._make_all(accesses, sites, done, progress)
        # Some lead to the probe's own pages, and are made with these in another place.
        rows = [np.flatnonzero(~sites.own), np.flatnonzero(sites.own)]
        some = accesses.take(rows[0])
        first = self._make_all(some, sites.take(rows[0]), done, progress)
        if self._elsewhere is None:
            self._elsewhere = LegacyProber(*self._source, avoid=self._ground.own)
        second = self._elsewhere.probe(accesses.take(rows[1]))
        order = np.argsort(np.concatenate(rows), kind="stable")
        return Outcomes.join([first, second]).take(order)

    def _make_all(
        self,
        accesses: Accesses,
        sites: Sites,
        done: int,
        progress: Callable[[int], None] | None,
    ) -> Outcomes:
        outcomes = Outcomes.empty(len(accesses))
        after = sites.before.copy()
        # Another byte than the one there, so that a store which gets lost is seen to be.
        stored = (~byte_of(sites.target)).tolist()
        lent, signed = sites.lent.tolist(), sites.signed.tolist()
        for row in range(len(accesses)):
            seen = self._make(accesses[row], lent[row], stored[row], signed=signed[row])
            outcomes.kind[row], outcomes.pa[row] = seen.kind, seen.pa
            outcomes.error_code[row], outcomes.cr2[row] = seen.error_code, seen.cr2
            self._take_down(sites, after, row)
            if progress is not None and (done + row + 1) % _STEP == 0:
                progress(done + row + 1)
        changed = self._ground.restore_tables()
        if changed is not None:
            raise ProbeError(
                f"the emulator changed the word at {changed:#x}, which no walk of the "
                f"{len(accesses)} accesses from va {int(accesses.va[0]):#x} uses"
            )
        outcomes.entry_pa[:], outcomes.entry_value[:] = self._ground.changes(sites, after)
        self._roots += self._ground.roots_of(sites)
        return outcomes

    def _take_down(self, sites: Sites, after: U64, row: int) -> None:
        """Read the entries that an access may have changed, and put them back."""
        view = self._ground.view
        cells = [cell for cell in sites.cell[row].tolist() if cell != NOWHERE]
        values = [view[cell] for cell in cells]
        before = sites.before[row, : len(cells)].tolist()
        if values != before:
            after[row, : len(cells)] = values
            for cell, value in zip(cells, before, strict=True):
                view[cell] = value

    def _make(self, access: Access, lent: int, stored: int, *, signed: bool) -> Observed:
        """Make one access and return what was seen; `ProbeError` if that is no outcome."""
        run, pa = self._run(access, lent, stored, signed=signed)
        if run.error == UC_ERR_EXCEPTION:
            at = self._runner.faulted_at(access.va, access.type, access.cpl, lent)
            if run.eip == at and not run.completed:
                if run.vector == Vector.PF:
                    return Observed(Kind.PAGE_FAULT, error_code=run.error_code, cr2=run.cr2)
                if run.vector == Vector.GP and run.error_code == 0:
                    return Observed(Kind.GENERAL_PROTECTION)
        elif pa is not None and (
            run.error in TRANSLATED or (run.error == UC_ERR_OK and run.completed)
        ):
            return Observed(Kind.OK, pa=pa)
        raise ProbeError(
            f"{access.type.name.lower()} of {access.va:#x} at CPL {access.cpl}: no outcome (engine "
            f"error {run.error}, vector {run.vector}, error code {run.error_code:#x}, "
            f"EIP {run.eip:#x})"
        )

    def _run(
        self, access: Access, lent: int, stored: int, *, signed: bool
    ) -> tuple[Run, int | None]:
        """Make one access, and return the state after it and the address it reached.

        The address is what the page itself says, where it carries a signature. Else it is what
        the watcher saw.
        """
        va, kind, cpl, ac = access.va, access.type, access.cpl, bool(access.ac)
        if not signed:
            return self._watcher.watch(va, kind, cpl, ac=ac, lent=lent, stored=stored)
        if kind is AccessType.EXECUTE:
            # Nothing is executed before it is known to be a signature.
            run, seen = self._watcher.watch(va, kind, cpl, ac=ac, lent=lent)
            if seen is not None and run.error == UC_ERR_FETCH_PROT and self._ground.is_signed(seen):
                run = self._runner.attempt(va, kind, cpl, ac=ac, lent=lent)
                return run, run.eax * FRAME | va % FRAME if run.completed else None
            return run, seen
        run = self._runner.attempt(va, kind, cpl, ac=ac, lent=lent, stored=stored)
        if run.error == UC_ERR_EXCEPTION:
            return run, None
        if run.error == UC_ERR_OK:
            written = stored if kind is AccessType.WRITE else None
            pa = decode(*run.slot, va=va, stored=written)
            if pa is not None:
                if written is not None:
                    self._ground.erase(pa)
                return run, pa
        # The store may have hit a table, and what it left of A and D there is not the walk's.
        self._ground.restore_tables()
        return self._watcher.watch(va, kind, cpl, ac=ac, lent=lent, stored=stored)
