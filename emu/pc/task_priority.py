"""CR8, the upper half of the local APIC's task priority.

Unicorn has no local APIC: it reads 0 from CR8 and ignores what is written.

Source: Intel SDM vol. 3A, "Task Priority in IA-32e Mode"; vol. 2B, "MOV—Move to/from Control
Registers".
"""

from crosswalk.emu.cpu.cpu import Cpu
from crosswalk.emu.cpu.decoding import instruction_at, register_number
from crosswalk.emu.cpu.events import Fault, NotEmulated
from crosswalk.emu.cpu.intercepts import Intercepts
from crosswalk.emu.cpu.svm.exits import ExitCode
from crosswalk.emu.pc.board import Board
from crosswalk.walker.architecture import Vector

__all__ = ["TaskPriority"]

_CR8 = frozenset({8})
_HIGHEST = 0xF


class TaskPriority:
    """MOV from and to CR8, intercepted.

    The guest of a guest's own hypervisor is left alone: with V_INTR_MASKING its CR8 is its own.
    """

    def __init__(self, cpu: Cpu, intercepts: Intercepts, board: Board) -> None:
        self._cpu, self._board = cpu, board
        intercepts.intercept(cr_reads=_CR8, cr_writes=_CR8)

    def carry_out(self, code: int) -> bool:
        """Do the MOV at RIP that was intercepted with this exit code, if it is one of CR8.

        Returns whether it was one. The CPU's state is loaded before; afterwards RIP is behind the
        instruction.

        Raises `Fault` where a processor refuses it, with the CPU as it was.
        """
        if code not in (ExitCode.CR8_READ, ExitCode.CR8_WRITE):
            return False
        cpu = self._cpu
        found = instruction_at(cpu)
        # The register is the other operand, whichever way it goes.
        operand = found.operands[1 if code == ExitCode.CR8_WRITE else 0]
        number = register_number(found.reg_name(operand.reg))
        if number is None:
            raise NotEmulated(f"{found.mnemonic} {found.op_str}")
        if code == ExitCode.CR8_READ:
            cpu.set_general(number, self._board.task_priority >> 4)
        else:
            value = cpu.general(number) & (1 << 8 * int(operand.size)) - 1
            if value > _HIGHEST:
                cpu.store()
                raise Fault(Vector.GP, 0)
            self._board.task_priority = value << 4
        cpu.skip(int(found.size))
        cpu.store()
        return True
