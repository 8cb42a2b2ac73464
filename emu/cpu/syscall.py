"""SYSCALL, which Unicorn leaves to whoever hooks it; SYSRET it does by itself.

Source: Intel SDM vol. 2B, "SYSCALL—Fast System Call".
"""

from unicorn import x86_const as x86

from crosswalk.emu.cpu.cpu import GENERAL, Cpu, Segment
from crosswalk.walker.architecture import RFlags

__all__ = ["SYSCALL_LENGTH", "enter_system_call", "system_calls_enabled"]

_STAR, _LSTAR, _FMASK = 0xC000_0081, 0xC000_0082, 0xC000_0084
SYSCALL_LENGTH = 2
"""The length of the instruction, in bytes."""

_EFER, _SCE = 0xC000_0080, 1
_RCX, _R11 = GENERAL.index("rcx"), GENERAL.index("r11")
# Flat segments, whatever the descriptor tables say.
_CODE = 0x00A0_9B00
_STACK = 0x00C0_9300
_LIMIT = 0xFFFF_FFFF


def system_calls_enabled(cpu: Cpu) -> bool:
    """Return whether EFER.SCE is set; where it isn't, SYSCALL is an invalid opcode."""
    return bool(cpu.engine.reg_read(x86.UC_X86_REG_MSR, _EFER) & _SCE)


def enter_system_call(cpu: Cpu) -> None:
    """Do what SYSCALL does in 64-bit code, RIP being at the instruction.

    RIP is left `SYSCALL_LENGTH` short of the handler: Unicorn moves it on afterwards.
    """
    read = cpu.engine.reg_read
    star, target, mask = (read(x86.UC_X86_REG_MSR, each) for each in (_STAR, _LSTAR, _FMASK))
    cpu.load()
    rflags = cpu.rflags
    cpu.set_general(_RCX, cpu.rip + SYSCALL_LENGTH)
    cpu.set_general(_R11, rflags & ~RFlags.RF)
    selector = star >> 32 & 0xFFFC
    cpu.enter(Segment(selector, 0, _LIMIT, _CODE), 0)
    cpu.set_segment("ss", Segment(selector + 8, 0, _LIMIT, _STACK))
    cpu.rip = target - SYSCALL_LENGTH
    cpu.store()
    cpu.rflags = rflags & ~(mask | RFlags.RF) | 2
