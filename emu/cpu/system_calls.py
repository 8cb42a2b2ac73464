"""SYSCALL and SYSENTER: Unicorn leaves them to a hook; SYSRET and SYSEXIT it does by itself.

Source: Intel SDM vol. 2B, "SYSCALL—Fast System Call", "SYSENTER—Fast System Call"; AMD APM vol. 3,
"SYSCALL", for what only AMD's processors have outside 64-bit mode.
"""

from unicorn import x86_const as x86

from crosswalk.emu.cpu.cpu import GENERAL, Cpu
from crosswalk.emu.cpu.descriptors import Segment
from crosswalk.emu.cpu.events import Fault
from crosswalk.walker.architecture import EFER, MSR, RFlags, Vector

__all__ = ["enter_syscall", "enter_sysenter", "length_of_system_call"]

_LONGEST, _ESCAPE, _OPCODE_BYTES = 15, b"\x0f", 2
_RCX, _R11 = GENERAL.index("rcx"), GENERAL.index("r11")
# What they load: flat segments, whatever the descriptor tables say.
_LONG_CODE, _CODE, _STACK, _LIMIT = 0x00A0_9B00, 0x00C0_9B00, 0x00C0_9300, 0xFFFF_FFFF
_TOP = (1 << 64) - 1


def length_of_system_call(cpu: Cpu) -> int:
    """Return the length of the SYSCALL or SYSENTER at RIP, with its prefixes, in bytes."""
    cpu.load()
    return max(cpu.code_ahead(_LONGEST).find(_ESCAPE), 0) + _OPCODE_BYTES


def enter_syscall(cpu: Cpu, length: int, *, amd: bool = False) -> None:
    """Do what SYSCALL does, RIP being at the instruction of this `length`.

    RIP is left `length` short of the handler: Unicorn moves it on afterwards. Outside 64-bit mode
    only AMD's processors have the instruction.

    Raises `Fault` for the #UD where EFER.SCE is clear, or there is no such instruction.
    """
    cpu.load()
    if not cpu.efer & EFER.SCE or (cpu.bits != 64 and not amd) or not cpu.protected:
        raise Fault(Vector.UD, 0)
    star = _msr(cpu, MSR.STAR)
    rflags = cpu.rflags
    cpu.set_general(_RCX, cpu.rip + length & _TOP)
    if cpu.long_mode:
        cpu.set_general(_R11, rflags & ~RFlags.RF)
        target = _msr(cpu, MSR.LSTAR if cpu.bits == 64 else MSR.CSTAR)
        cleared = _msr(cpu, MSR.FMASK)
    else:
        target, cleared = star & 0xFFFF_FFFF, RFlags.IF | RFlags.VM
    _go(cpu, star >> 32 & 0xFFFC, target - length)
    cpu.store()
    cpu.rflags = rflags & ~(cleared | RFlags.RF) | RFlags.FIXED


def enter_sysenter(cpu: Cpu, length: int, *, amd: bool = False) -> None:
    """Do what SYSENTER does, RIP being at the instruction of this `length`.

    RIP is left `length` short of the handler: Unicorn moves it on afterwards. AMD's processors
    don't have the instruction in IA-32e mode.

    Raises `Fault` for the #GP(0) in real-address mode and with a null selector in
    IA32_SYSENTER_CS, and for the #UD.
    """
    cpu.load()
    if amd and cpu.long_mode:
        raise Fault(Vector.UD, 0)
    selector = _msr(cpu, MSR.SYSENTER_CS) & 0xFFFC
    if not cpu.protected or not selector:
        raise Fault(Vector.GP, 0)
    rflags, mask = cpu.rflags, _TOP if cpu.long_mode else 0xFFFF_FFFF
    cpu.rsp = _msr(cpu, MSR.SYSENTER_ESP) & mask
    _go(cpu, selector, (_msr(cpu, MSR.SYSENTER_EIP) & mask) - length)
    cpu.store()
    cpu.rflags = rflags & ~(RFlags.VM | RFlags.IF | RFlags.RF)


def _go(cpu: Cpu, selector: int, rip: int) -> None:
    code = Segment(selector, 0, _LIMIT, _LONG_CODE if cpu.long_mode else _CODE)
    cpu.enter(code, 0, Segment(selector + 8, 0, _LIMIT, _STACK))
    cpu.rip = rip & _TOP


def _msr(cpu: Cpu, number: int) -> int:
    return int(cpu.engine.reg_read(x86.UC_X86_REG_MSR, number))
