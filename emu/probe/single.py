"""One access, in an engine call of its own."""

from typing import NamedTuple

from unicorn import UC_ERR_EXCEPTION, UC_ERR_FETCH_PROT, UC_ERR_OK

from crosswalk.emu.probe.access_engine import TRANSLATED, Rig, Run, Watcher
from crosswalk.emu.probe.errors import ProbeError
from crosswalk.emu.probe.page_marker import decode
from crosswalk.emu.probe.space import Space
from crosswalk.emu.probe.workspace import Ground
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.architecture import Vector
from crosswalk.walker.columns import Kind

__all__ = ["Observed", "Single"]


class Observed(NamedTuple):
    """An outcome, but for the words that the access changed."""

    kind: Kind
    pa: int = 0
    error_code: int = 0
    cr2: int = 0


class Single:
    """Makes accesses one at a time, in two engines over the same space.

    One runs what is signed; the other only watches, for what isn't.
    """

    def __init__(self, space: Space, own: tuple[int, int]) -> None:
        self._runner = Rig(space, own, fetch=True)
        self._watcher = Watcher(space, own)
        self._ground: Ground

    def enter(self, ground: Ground) -> None:
        """Make what follows on this ground."""
        self._ground = ground
        for rig in (self._runner, self._watcher):
            rig.enter(ground)

    def make(self, access: Access, lent: int, stored: int, *, signed: bool) -> Observed:
        """Make one access and return what was seen; `ProbeError` if that is no outcome.

        `lent` is which of the arena's slots is lent, `stored` the byte that a write stores, and
        `signed` says whether a signature may be reached, or only what is to be watched. The
        tables are left as the walk left them.
        """
        run, pa = self._run(access, lent, stored, signed=signed)
        if run.error == UC_ERR_EXCEPTION:
            at = self._runner.faulted_at(access.va, access.type, access.cpl, lent)
            if run.rip == at and not run.completed:
                if run.vector == Vector.PF:
                    return Observed(Kind.PAGE_FAULT, error_code=run.error_code, cr2=run.cr2)
                if run.vector == Vector.GP and run.error_code == 0:
                    return Observed(Kind.GENERAL_PROTECTION)
        elif pa is not None and (
            run.error in TRANSLATED or (run.error == UC_ERR_OK and run.completed)
        ):
            return Observed(Kind.OK, pa=pa)
        raise ProbeError(
            f"{_name(access)}: no outcome (engine error {run.error}, vector {run.vector}, "
            f"error code {run.error_code:#x}, RIP {run.rip:#x})"
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
                return run, run.rax if run.completed else None
            return run, seen
        run = self._runner.attempt(va, kind, cpl, ac=ac, lent=lent, stored=stored)
        if run.error == UC_ERR_EXCEPTION:
            return run, None
        if run.error == UC_ERR_OK:
            written = stored if kind is AccessType.WRITE else None
            pa = decode(run.rdx, run.rsi, va=va, stored=written)
            if pa is not None:
                if written is not None:
                    self._ground.erase(pa)
                return run, pa
        # The store may have hit a table, and what it left of A and D there is not the walk's.
        self._ground.restore_tables()
        return self._watcher.watch(va, kind, cpl, ac=ac, lent=lent, stored=stored)


def _name(access: Access) -> str:
    return f"{access.type.name.lower()} of {access.va:#x} at CPL {access.cpl}"
