"""An engine that makes composites: more than one access, or an access of more than one byte."""

from unicorn import UC_ERR_EXCEPTION, UC_ERR_OK
from unicorn import x86_const as x86

from crosswalk.emu.probe.access_engine import Rig, Run
from crosswalk.emu.probe.errors import ProbeError
from crosswalk.emu.probe.page_marker import SLOT
from crosswalk.emu.probe.routines import CROSS, DONE, IMPLICIT, LANDED, MARK, REKEY, RMW, START
from crosswalk.emu.probe.single import Observed
from crosswalk.emu.probe.space import Space
from crosswalk.walker.access import AccessType
from crosswalk.walker.architecture import Vector
from crosswalk.walker.columns import Kind

__all__ = ["Mover", "answer_of"]

_SELECTOR = 0x0B  # The second descriptor of the GDT, at RPL 3.


class Mover(Rig):
    """A rig that makes composites with one slot lent, one step a call.

    Each method returns the state after it and the RIP that a fault of the access has to show.
    """

    def __init__(self, space: Space, own: tuple[int, int]) -> None:
        super().__init__(space, own, fetch=True)
        self._at = self._layout.quads

    def modify(self, how: str, va: int, who: tuple[int, bool, int], byte: int) -> tuple[Run, int]:
        """Make a locked read-modify-write with `byte` in AL; `who` is CPL, AC and slot."""
        registers = {"rax": byte, "rbx": va, "rcx": va & -SLOT, "rdx": byte ^ 0xFF}
        return self._step(RMW[how], who, registers)

    def cross(
        self, kind: AccessType, va: int, who: tuple[int, bool, int], value: int
    ) -> tuple[Run, int]:
        """Make an access of eight bytes, a write of `value`, or fetch an instruction."""
        run, at = self._step(CROSS[kind], who, {"rax": value, "rbx": va})
        return run, va if kind is AccessType.EXECUTE else at

    def load(self, va: int, who: tuple[int, bool, int]) -> tuple[Run, int, int]:
        """Load FS with the descriptor at `va`; return the base that it has then as well."""
        table = (0, va - 8, 0xFFFF, 0)
        run, at = self._step(IMPLICIT, who, {"rax": _SELECTOR}, table=table)
        return run, at, int(self.uc.reg_read(x86.UC_X86_REG_FS_BASE))

    def again(
        self,
        kind: AccessType,
        va: int,
        who: tuple[int, bool, int],
        byte: int,
        *,
        pkru: int | None = None,
        first: bool = False,
    ) -> tuple[Run, int]:
        """Make an access of one byte with the TLB as it is, empty if it is the `first`.

        With `pkru`, guest code writes that to PKRU before.
        """
        registers = {"rax": byte, "rbx": va, "rcx": va & -SLOT}
        if pkru is None:
            run, at = self._step(START[kind], who, registers, flush=first)
        else:
            cpl, _, lent = who
            at = self._code(lent, cpl) + START[kind]
            moved = {"rax": pkru, "rcx": 0, "r8": at, "r9": byte, "r10": va & -SLOT}
            run, _ = self._step(REKEY, who, registers | moved, flush=first)
        return run, va if kind is AccessType.EXECUTE else at

    def _step(
        self,
        routine: int,
        who: tuple[int, bool, int],
        registers: dict[str, int],
        *,
        flush: bool = True,
        table: tuple[int, int, int, int] | None = None,
    ) -> tuple[Run, int]:
        cpl, ac, lent = who
        code = self._code(lent, cpl)
        state = self._state(lent, cpl, ac=ac)
        quads, at, engine = state.quads, self._at, self._engine
        quads[at["rdx"]] = 0
        quads[at["rbp"]] = code + LANDED
        for name, value in registers.items():
            quads[at[name]] = value
        engine.restore(state)
        if table is not None:
            self.uc.reg_write(x86.UC_X86_REG_GDTR, table)
        if flush:
            engine.flush_tlb()
        error = engine.run(code + routine, code + DONE)
        engine.save(self._after)
        quads, longs, layout = self._after.quads, self._after.longs, self._layout
        rip = quads[at["rip"]]
        run = Run(
            error,
            rip == code + DONE and quads[at["rdi"]] == MARK,
            longs[layout.vector],
            longs[layout.error_code],
            quads[at["cr2"]],
            rip,
            quads[at["rax"]],
            quads[at["rdx"]],
            quads[at["rsi"]],
        )
        return run, code + routine


def answer_of(run: Run, at: int, what: str) -> Observed | None:
    """Return the fault that a run ended with, None where it came to its end.

    `at` is the RIP that a fault has to show; `ProbeError` for anything else, about `what`.
    """
    if run.error == UC_ERR_OK and run.completed:
        return None
    if run.error == UC_ERR_EXCEPTION and run.rip == at and not run.completed:
        if run.vector == Vector.PF:
            return Observed(Kind.PAGE_FAULT, error_code=run.error_code, cr2=run.cr2)
        if run.vector == Vector.GP and run.error_code == 0:
            return Observed(Kind.GENERAL_PROTECTION)
    raise ProbeError(
        f"{what}: no outcome (engine error {run.error}, vector {run.vector}, "
        f"error code {run.error_code:#x}, RIP {run.rip:#x})"
    )
