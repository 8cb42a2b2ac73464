"""Composites: more than one access, or an access of more than one byte, really made.

As for single accesses: each starts from the same state, with an empty TLB; it has to prove that it
completed and where it went; what it changed in the tables is read and undone before the next. Each
of its steps is an engine call of its own. Between two accesses CPL and AC change by taking another
saved state, which leaves the TLB as it is, and PKRU by `wrpkru` in guest code.

    what is put at the two pages of an access that crosses from one into the next

    last slot of the first page      F4 × 10 | 48 B8 | frame:4      hlt; mov rax, …
    first slot of the second page              frame:4 | FF E5 | F4 × 10   …; jmp rbp

An instruction fetched across them returns both frames in RAX; a read of eight bytes shows the same.
"""

import struct

import numpy as np
from numpy.typing import NDArray
from unicorn import UC_ERR_OK
from unicorn import x86_const as x86

from crosswalk.emu.probe.access_engine import AccessEngine, Observed, Run
from crosswalk.emu.probe.composites import (
    FORMS,
    NAMES,
    SAME_PKRU,
    CompositeOutcomes,
    Composites,
    Family,
)
from crosswalk.emu.probe.control import Control
from crosswalk.emu.probe.errors import ProbeError
from crosswalk.emu.probe.page_marker import SLOT, decode, marker
from crosswalk.emu.probe.paths import NO_PAGE
from crosswalk.emu.probe.routines import CROSS, IMPLICIT, LANDED, REKEY, RMW, START
from crosswalk.emu.probe.scope import Lacking, lacking_composites, refuse
from crosswalk.emu.probe.space import NOWHERE
from crosswalk.emu.probe.workspace import Workspace
from crosswalk.walker.access import AccessType
from crosswalk.walker.columns import Kind
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import FRAME, U64, PhysicalMemory

__all__ = ["CompositeProber"]

_ADDEND = 0x5A
_SELECTOR = 0x0B  # The second descriptor of the GDT, at RPL 3.
_MASK = (1 << 64) - 1
_PHYSICAL = (1 << 44) - 1
# The last slot of a page and the first: `mov rax, imm64; jmp rbp` across the two, with the
# frames of both in it; a read of eight bytes shows the same.
_LAST = struct.Struct("<10s2sI")
_FIRST = struct.Struct("<I2s10s")
_HLT, _MOV_RAX, _JMP_RBP = b"\xf4" * 10, b"\x48\xb8", b"\xff\xe5"
# A data segment of the user's; its base is the frame that it lies in.
_ACCESSED = 1 << 40
_SEGMENT = 0x00CF_F200_0000_FFFF

_Issuer = tuple[int, bool, int]
"""Of the code that accesses: CPL, RFLAGS.AC, and the slot of the root borrowed for it."""


class CompositeEngine(AccessEngine):
    """Makes composites, more than one access or one of more than one byte, a step a call.

    Each method returns the state after it and the RIP that a fault of the access has to show.
    """

    def _step(
        self,
        routine: int,
        issuer: _Issuer,
        registers: dict[str, int],
        *,
        flush: bool = True,
        gdtr: tuple[int, int, int, int] | None = None,
    ) -> Run:
        """Run a routine to its end and return the state then; `issuer` is CPL, AC and slot."""
        cpl, ac, slot = issuer
        code, state = self._code(slot, cpl), self._state(slot, cpl, ac=ac)
        for name, value in ({"rdx": 0, "rbp": code + LANDED} | registers).items():
            state.quads[self._at[name]] = value
        self._engine.restore(state)
        if gdtr is not None:
            self.uc.reg_write(x86.UC_X86_REG_GDTR, gdtr)
        if flush:
            self._engine.flush_tlb()
        return self._run_routine(code, routine)

    def modify(self, how: str, va: int, issuer: _Issuer, byte: int) -> tuple[Run, int]:
        """Make a locked read-modify-write with `byte` in AL; `issuer` is CPL, AC and slot."""
        registers = {"rax": byte, "rbx": va, "rcx": va & -SLOT, "rdx": byte ^ 0xFF}
        return self._step(RMW[how], issuer, registers), self._entry(RMW[how], issuer)

    def cross(self, kind: AccessType, va: int, issuer: _Issuer, value: int) -> tuple[Run, int]:
        """Make an access of eight bytes, a write of `value`, or fetch an instruction."""
        run = self._step(CROSS[kind], issuer, {"rax": value, "rbx": va})
        return run, va if kind is AccessType.EXECUTE else self._entry(CROSS[kind], issuer)

    def load(self, va: int, issuer: _Issuer) -> tuple[Run, int, int]:
        """Load FS with the descriptor at `va`; return the base that it has then as well."""
        table = (0, va - 8, 0xFFFF, 0)
        run = self._step(IMPLICIT, issuer, {"rax": _SELECTOR}, gdtr=table)
        return run, self._entry(IMPLICIT, issuer), int(self.uc.reg_read(x86.UC_X86_REG_FS_BASE))

    def again(
        self,
        kind: AccessType,
        va: int,
        issuer: _Issuer,
        byte: int,
        *,
        pkru: int | None = None,
        first: bool = False,
    ) -> tuple[Run, int]:
        """Make an access of one byte with the TLB as it is, empty if it is the `first`.

        With `pkru`, guest code writes that to PKRU before.
        """
        registers = {"rax": byte, "rbx": va, "rcx": va & -SLOT}
        at = self._entry(START[kind], issuer)
        if pkru is None:
            run = self._step(START[kind], issuer, registers, flush=first)
        else:
            moved = {"rax": pkru, "rcx": 0, "r8": at, "r9": byte, "r10": va & -SLOT}
            run = self._step(REKEY, issuer, registers | moved, flush=first)
        return run, va if kind is AccessType.EXECUTE else at

    def _entry(self, routine: int, issuer: _Issuer) -> int:
        cpl, _, slot = issuer
        return self._code(slot, cpl) + routine


def _fault_of(run: Run, at: int, what: str) -> Observed | None:
    """Return the fault that a run ended with, None where it came to its end.

    `at` is the RIP that a fault has to show; `ProbeError` for anything else, about `what`.
    """
    if run.error == UC_ERR_OK and run.completed:
        return None
    fault = run.fault(at)
    if fault is None:
        raise run.no_outcome(what)
    return fault


class CompositeProber:
    """Makes composites under the tables of `memory` and the given context.

    As `Prober`: `memory` is only read. No page that a composite may reach may be a paging
    structure (`BadInput`), and one without RAM is no outcome. `BadInput` outside IA-32e mode.
    """

    def __init__(self, memory: PhysicalMemory, context: PagingContext) -> None:
        self._take_up(_workspace(memory, context, None), None)

    def enter(self, memory: PhysicalMemory, context: PagingContext) -> None:
        """Go on with another address space; where its RAM is the same, the engine is kept."""
        before = self._workspace
        self._take_up(_workspace(memory, context, before), before)

    def _take_up(self, workspace: Workspace, before: Workspace | None) -> None:
        self._workspace = workspace
        if before is None or workspace.space is not before.space:
            self._engine = CompositeEngine(workspace.space, workspace.own, fetch=True)
        self._engine.enter(workspace)

    def possible(self, composites: Composites) -> NDArray[np.bool_]:
        """Return bool[n]: which have an outcome here, as far as the tables' paths tell.

        There is a slot of the root to borrow that neither walk uses; each page that they may reach
        has RAM, and is no paging structure; and the emulated CPU lacks nothing for them.
        """
        places = self._workspace.targets_of([composites.va, composites.second_va()])
        found: NDArray[np.bool_] = places[0].possible & (self.lacking(composites) == 0)
        for target in places:
            found &= (target.marked | (target.pa >= np.uint64(NO_PAGE))) & ~target.own
        return found

    def lacking(self, composites: Composites) -> Lacking:
        """Return uint8[n]: 0 where a composite can be asked, else 1 + an index of `FEATURES`.

        As `Prober.lacking`: of any of the accesses that it is put together from.
        """
        return lacking_composites(self._workspace.control, composites, self._workspace)

    def probe(self, composites: Composites) -> CompositeOutcomes:
        """Make every composite, each on its own; `ProbeError` where one has no outcome.

        `BadInput` for one that isn't placed as `Composites` says, or that `lacking` names.
        """
        _check_places(composites)
        refuse(self.lacking(composites), composites.va)
        seen = CompositeOutcomes.empty(len(composites))
        for family in Family:
            rows = np.flatnonzero(composites.family(family))
            if len(rows):
                _Batch(self._workspace, self._engine, composites.take(rows)).make(
                    seen, rows.tolist()
                )
        changed = self._workspace.restore_tables()
        if changed is not None:
            raise ProbeError(f"the emulator changed the word at {changed:#x}, which no walk uses")
        seen.entry_value[:] = self._workspace.with_mask(seen.entry_pa, seen.entry_value)
        return seen


class _Batch:
    """Composites of one family: where they may go, and one after the other made."""

    def __init__(
        self, workspace: Workspace, engine: CompositeEngine, composites: Composites
    ) -> None:
        self._workspace, self._engine, self._composites = workspace, engine, composites
        self._view = workspace.space.view
        self._family = FORMS[NAMES[int(composites.form[0])]].family
        both = [composites.va]
        if self._family in {Family.CROSS, Family.TWICE}:
            both.append(composites.second_va())
        self._targets = workspace.targets_of(both)
        for target in self._targets:
            if not target.possible.all():
                raise BadInput("a composite leads through all slots that the probe may use itself")
            if target.own.any() or (target.held & ~target.marked).any():
                raise BadInput("a composite may reach a paging structure")
        slots = [target.pa & ~np.uint64(SLOT - 1) for target in self._targets]
        self._contents = [_contents(self._family, at, each) for at, each in enumerate(slots)]
        self._slots = [workspace.space.index_of(each) for each in slots]
        for at, content in zip(self._slots, self._contents, strict=True):
            held = at != NOWHERE
            workspace.space.words[at[held]] = content[held, 0]
            workspace.space.words[at[held] + 1] = content[held, 1]

    def make(self, seen: CompositeOutcomes, rows: list[int]) -> None:
        """Make them all, and put what was seen into these rows."""
        composites = self._composites
        make = {
            Family.RMW: self._modify,
            Family.CROSS: self._cross,
            Family.IMPLICIT: self._load,
            Family.TWICE: self._twice,
        }[self._family]
        words, before, reported = (
            np.concatenate([getattr(target, name) for target in self._targets], axis=1).tolist()
            for name in ("index", "before", "reported")
        )
        columns = (composites.form, composites.va, composites.cpl, composites.ac)
        slots = self._targets[0].slot
        for at, (form, va, cpl, ac, slot) in enumerate(
            zip(*(column.tolist() for column in (*columns, slots)), strict=True)
        ):
            row = rows[at]
            for place, answer in enumerate(make(at, NAMES[form], va, (cpl, ac, slot))):
                seen.kind[row, place], seen.pa[row, place] = answer.kind, answer.pa
                seen.error_code[row, place], seen.cr2[row, place] = answer.error_code, answer.cr2
            changed: dict[int, int] = {}
            for index, value, pa in zip(words[at], before[at], reported[at], strict=True):
                if index != NOWHERE and self._view[index] != value:
                    changed[pa] = changed.get(pa, 0) | self._view[index]
                    self._view[index] = value
            for place, pa in enumerate(sorted(changed)):
                seen.entry_pa[row, place], seen.entry_value[row, place] = pa, changed[pa]

    def _modify(self, at: int, name: str, va: int, issuer: _Issuer) -> tuple[Observed, ...]:
        how = name.partition(":")[2]
        byte = _ADDEND
        if how == "cmpxchg":
            # Another byte than the one there, so that the comparison fails.
            byte = _byte_of(int(self._targets[0].pa[at])) ^ _ADDEND
        run, fault_at = self._engine.modify(how, va, issuer, byte)
        fault = _fault_of(run, fault_at, f"{name} of {va:#x}")
        if fault is not None:
            return (fault,)
        read = run.rax & 0xFF
        pa = decode(
            run.low, run.high, va=va, stored=(read + byte) & 0xFF if how == "xadd" else None
        )
        if pa is None or _byte_of(pa) != read:
            raise ProbeError(f"{name} of {va:#x}: reached no marker")
        self._workspace.erase(pa)
        return (Observed(Kind.OK, pa=pa),)

    def _cross(self, at: int, name: str, va: int, issuer: _Issuer) -> tuple[Observed, ...]:
        kind = FORMS[name].types[0]
        targets = [int(target.pa[at]) for target in self._targets]
        value = ~(targets[0] >> 12 | targets[1] >> 12 << 32) & _MASK
        run, fault_at = self._engine.cross(kind, va, issuer, value)
        fault = _fault_of(run, fault_at, f"{name} at {va:#x}")
        # A store that faults may have been made in part ("Guaranteed Atomic Operations").
        found = self._taken_back(at) if kind is AccessType.WRITE else value
        if fault is not None:
            return (fault,)
        if kind is not AccessType.WRITE:
            frames = run.rax & 0xFFFF_FFFF, run.rax >> 32
            pas = [frames[0] << 12 | va & (FRAME - 1), frames[1] << 12]
        else:
            pas = targets
            if found != value:
                raise ProbeError(f"{name}: what was stored is not where the tables lead")
        return Observed(Kind.OK, pa=pas[0]), Observed(Kind.OK, pa=pas[1])

    def _taken_back(self, at: int) -> int:
        """Return what is found where a store that crosses leaves its halves, and undo it."""
        found = 0
        for half, (slots, contents) in enumerate(zip(self._slots, self._contents, strict=True)):
            index = int(slots[at])
            if index == NOWHERE:
                continue
            low, high = self._view[index], self._view[index + 1]
            found |= (low & 0xFFFF_FFFF) << 32 if half else high >> 32
            self._view[index], self._view[index + 1] = (int(word) for word in contents[at])
        return found

    def _load(self, at: int, name: str, va: int, issuer: _Issuer) -> tuple[Observed, ...]:
        index = int(self._slots[0][at])
        if name == "implicit:read" and index != NOWHERE:
            self._view[index + 1] |= _ACCESSED
        run, fault_at, base = self._engine.load(va, issuer)
        fault = _fault_of(run, fault_at, f"{name} of {va:#x}")
        marked = index != NOWHERE and bool(self._view[index + 1] & _ACCESSED)
        if index != NOWHERE:
            self._view[index + 1] = int(self._contents[0][at, 1])
        if fault is not None:
            if marked and name == "implicit:write":
                raise ProbeError(f"{name} of {va:#x}: the descriptor was marked, and a fault came")
            return (fault,)
        if not marked:
            raise ProbeError(f"{name} of {va:#x}: the descriptor was not marked")
        return (Observed(Kind.OK, pa=base << 12 | va & (FRAME - 1)),)

    def _twice(self, at: int, name: str, va: int, issuer: _Issuer) -> tuple[Observed, ...]:
        composites, form = self._composites, FORMS[name]
        then = int(composites.then_cpl[at]), bool(composites.then_ac[at]), issuer[2]
        pkru: int | None = int(composites.then_pkru[at])
        first, second = (
            (kind, place, _byte_of(int(target.pa[at])) ^ _ADDEND)
            for kind, place, target in zip(
                form.types, (va, int(composites.then_va[at])), self._targets, strict=True
            )
        )
        made = self._engine.again(first[0], first[1], issuer, first[2], first=True)
        answers = [self._reached(made, *first)]
        pkru = None if pkru == SAME_PKRU else pkru
        made = self._engine.again(second[0], second[1], then, second[2], pkru=pkru)
        answers.append(self._reached(made, *second))
        return tuple(answers)

    def _reached(self, made: tuple[Run, int], kind: AccessType, va: int, byte: int) -> Observed:
        run, fault_at = made
        what = f"{kind.name.lower()} of {va:#x}, one of two"
        fault = _fault_of(run, fault_at, what)
        if fault is not None:
            return fault
        pa: int | None = run.rax * FRAME | va % FRAME
        if kind is not AccessType.EXECUTE:
            pa = decode(run.low, run.high, va=va, stored=byte if kind is AccessType.WRITE else None)
        if pa is None:
            raise ProbeError(f"{what}: reached no marker")
        if kind is AccessType.WRITE:
            self._workspace.erase(pa)
        return Observed(Kind.OK, pa=pa)


def _workspace(
    memory: PhysicalMemory, context: PagingContext, before: Workspace | None
) -> Workspace:
    control = Control.of(context)
    if not control.long:
        raise BadInput(f"composites are of 4- and 5-level paging, not {control.mode} paging")
    return Workspace(memory, context, before)


def _check_places(composites: Composites) -> None:
    wrong = composites.misplaced()
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        name = NAMES[int(composites.form[row])]
        raise BadInput(f"{name} can't be made at {int(composites.va[row]):#x}")


def _contents(family: Family, at: int, slots: U64) -> U64:
    """Return uint64[n, 2]: the words of the slots that composites reach first (0) or second (1)."""
    found, row = np.unique(slots & np.uint64(_PHYSICAL), return_inverse=True)
    words = np.array([_content(family, at, slot) for slot in found.tolist()], np.uint64)
    return words[row]


def _content(family: Family, at: int, slot: int) -> tuple[int, int]:
    frame = slot >> 12 & 0xFFFF_FFFF
    if family is Family.CROSS:
        content = _FIRST.pack(frame, _JMP_RBP, _HLT) if at else _LAST.pack(_HLT, _MOV_RAX, frame)
        low, high = struct.unpack("<QQ", content)
        return low, high
    if family is Family.IMPLICIT:
        return 0, _SEGMENT | (frame & 0xFF_FFFF) << 16 | frame >> 24 << 56
    return marker(slot)


def _byte_of(pa: int) -> int:
    words = marker(pa & -SLOT & _PHYSICAL)
    return words[pa >> 3 & 1] >> 8 * (pa & 7) & 0xFF
