"""A machine's CPU as others want it: as an ELF core has it, and what paging depends on."""

from unicorn import x86_const as x86

from crosswalk.emu.cpu.cpu import GENERAL, SEGMENTS, Cpu
from crosswalk.emu.cpu.engine import MAXPHYADDR
from crosswalk.walker.context import PagingContext
from crosswalk.walker.formats.corewriter import CoreState, SegmentState

__all__ = ["core_state", "paging_context"]

_CONTROL = ("cr0", "cr2", "cr3", "cr4")
_KERNEL_GS_BASE, _EFER = 0xC000_0102, 0xC000_0080


def core_state(cpu: Cpu) -> CoreState:
    """Return the state of `cpu` between two instructions."""
    cpu.load()
    segments = {name: cpu.segment(name) for name in SEGMENTS}
    read = cpu.engine.reg_read
    return CoreState(
        registers={name: cpu.general(number) for number, name in enumerate(GENERAL)}
        | {"rip": cpu.rip, "rflags": cpu.rflags},
        segments={
            name: SegmentState(each.selector, each.limit, each.flags, each.base)
            for name, each in segments.items()
        },
        control={name: read(getattr(x86, f"UC_X86_REG_{name.upper()}")) for name in _CONTROL},
        kernel_gs_base=cpu.engine.reg_read(x86.UC_X86_REG_MSR, _KERNEL_GS_BASE),
    )


def paging_context(cpu: Cpu) -> PagingContext:
    """Return the control state; `BadInput` where `cpu` isn't in 4- or 5-level paging."""
    cpu.load()
    read = cpu.engine.reg_read
    return PagingContext(
        cr0=read(x86.UC_X86_REG_CR0),
        cr3=read(x86.UC_X86_REG_CR3),
        cr4=read(x86.UC_X86_REG_CR4),
        efer=read(x86.UC_X86_REG_MSR, _EFER),
        pkru=cpu.pkru,
        maxphyaddr=MAXPHYADDR,
    )
