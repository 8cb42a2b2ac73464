"""Accesses through guest tables and nested tables, one at a time, each from the same state.

Which address was reached is what Unicorn's hook of memory accesses tells, held against memory:
the byte that was loaded is the one there, the byte that was stored is there afterwards. What was
changed in either dimension's tables is found by comparing all of memory with what it was.
"""

import numpy as np
from unicorn import UC_ERR_OK

from crosswalk.emu.cpu.svm.exits import ExitCode
from crosswalk.emu.probe.access_engine import TRANSLATED
from crosswalk.emu.probe.control import CR4_PKE, Control
from crosswalk.emu.probe.errors import ProbeError
from crosswalk.emu.probe.nested.access_engine import NestedRig, NestedRun
from crosswalk.emu.probe.space import NOWHERE, Space
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.architecture import Vector
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import FRAME, U64, PhysicalMemory
from crosswalk.walker.nested.context import NestedContext
from crosswalk.walker.nested.outcome import NestedError, NestedOutcome, NestedPageFault
from crosswalk.walker.outcome import GeneralProtection, PageFault, Translation

__all__ = ["NestedProber"]

_MOST = 1 << 32
_STORED = 0x5A


class NestedProber:
    """Puts accesses to an emulated CPU in guest mode, under both dimensions' tables.

    `memory` is system-physical memory with the tables of both, and is only read: what the CPU
    works on is a copy. `BadInput` where the emulated CPU can't be had in this state: no CPU has
    nested paging and 5-level paging or protection keys.

    A nested table that takes execution from a frame in use as a guest's table brings the process
    down when such a walk is made: see `crosswalk.emu.check.nested_emulated`.
    """

    def __init__(self, memory: PhysicalMemory, context: NestedContext) -> None:
        self._ranges: tuple[tuple[int, int], ...] | None = None
        self.enter(memory, context)

    def enter(self, memory: PhysicalMemory, context: NestedContext) -> None:
        """Go on with other tables, as a new prober would; in less time if RAM lies where it did."""
        control = Control.of(context.guest)
        for side, each in (("guest", control), ("host", Control.of(context.host))):
            if each.levels != 4:
                raise BadInput(f"no emulated CPU has nested paging with {each.mode} ({side})")
        if control.cr4 & CR4_PKE:
            raise BadInput("no emulated CPU has nested paging and protection keys")
        ranges = tuple(memory.ranges)
        if ranges != self._ranges:
            if sum(size for _, size in ranges) > _MOST:
                raise BadInput(f"nested probes copy all of memory, and take {_MOST:#x} bytes")
            self._space = Space(ranges)
            self._rig = NestedRig(self._space)
            self._ranges = ranges
        for start, size in ranges:
            at = self._space.byte_at(-(-start // FRAME) * FRAME)
            skipped = -start % FRAME
            whole = (size - skipped) // FRAME * FRAME
            if whole > 0:
                self._space.bytes[at : at + whole] = memory.read(start + skipped, whole)
        self._pristine: U64 = self._space.words.copy()
        self._rig.enter(context)
        self._ac = context.guest.rflags_ac

    def probe(self, access: Access) -> NestedOutcome:
        """Make one access and return what was observed; `ProbeError` if that is no outcome.

        Of a nested fault the error code has FINAL or TABLE where the address tells which: the
        emulator doesn't. It has neither where the place in the page is that of the access, and
        may be an entry's.
        """
        run = self._make(access, _STORED)
        if access.type is AccessType.WRITE and run.under == _STORED:
            # A store that gets lost has to be seen to be.
            self._restore()
            run = self._make(access, _STORED ^ 0xFF)
        return self._outcome(access, run, self._restore())

    def _make(self, access: Access, stored: int) -> NestedRun:
        ac = self._ac if access.ac is None else access.ac
        run = self._rig.attempt(access.va, access.type, access.cpl, ac=ac, stored=stored)
        at = NOWHERE if run.reached is None else self._space.byte_at(run.reached)
        if at != NOWHERE and run.completed and access.type is not AccessType.EXECUTE:
            expected = stored if access.type is AccessType.WRITE else run.loaded
            if self._space.bytes[at] != expected:
                raise ProbeError(f"{_name(access)}: what is at {run.reached:#x} isn't what it met")
            if access.type is AccessType.WRITE and run.under is not None:
                self._space.bytes[at] = run.under  # With A and D that the walk set in it.
        return run

    def _restore(self) -> tuple[tuple[int, int], ...]:
        """Put memory back as it was, and return the words that were changed in it."""
        words = self._space.words
        changed = np.flatnonzero(words != self._pristine)
        entries = sorted(
            (self._space.address_of(place), int(words[place])) for place in changed.tolist()
        )
        words[changed] = self._pristine[changed]
        return tuple(entries)

    def _outcome(
        self, access: Access, run: NestedRun, entries: tuple[tuple[int, int], ...]
    ) -> NestedOutcome:
        if run.raised is None:
            if run.reached is not None and (
                run.error in TRANSLATED or (run.error == UC_ERR_OK and run.completed)
            ):
                return Translation(run.reached, entries=entries)
        elif run.rip == self._rig.faulted_at(access.va, access.type, access.cpl):
            if run.exit is not None and run.exit.code == ExitCode.NPF and run.exit.gpa is not None:
                gpa = run.exit.gpa
                return NestedPageFault(run.exit.error_code | _stage(access.va, gpa), gpa, entries)
            if run.raised == Vector.PF:
                return PageFault(run.error_code, run.cr2, entries)
            if run.raised == Vector.GP and run.error_code == 0:
                return GeneralProtection(entries)
        raise ProbeError(
            f"{_name(access)}: no outcome (engine error {run.error}, raised {run.raised}, "
            f"error code {run.error_code:#x}, RIP {run.rip:#x})"
        )


def _stage(va: int, gpa: int) -> int:
    """Return what a refused address tells of itself: TABLE, FINAL, or 0 where it may be either."""
    if (gpa ^ va) % FRAME:
        return int(NestedError.TABLE)
    return int(NestedError.FINAL) if gpa % 8 else 0


def _name(access: Access) -> str:
    return f"{access.type.name.lower()} of {access.va:#x} at CPL {access.cpl}"
