"""A machine's CPU as an ELF core has it."""

from unicorn import x86_const as x86

from emu.machine.cpu import GENERAL, SEGMENTS, Cpu
from walker.source.corewriter import CoreState, SegmentState

__all__ = ["core_state"]

_CONTROL = ("cr0", "cr2", "cr3", "cr4")
_KERNEL_GS_BASE = 0xC000_0102


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
