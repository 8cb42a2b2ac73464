"""CPUID without the features that would make two runs differ, and with one that holds here.

RDRAND and RDSEED exist in Unicorn and give real random numbers, so they are hidden. A CPU of AMD's
says that no store is bypassed by a load, as holds for an emulator: a kernel that knows nothing
better protects itself by an MSR of the family's, and Linux 5.10 without SMP then takes a page fault
in the first process that installs a filter of system calls. A local APIC that was switched off
isn't there.

Source: Intel SDM vol. 3A, "Local APIC"; AMD APM vol. 3, "Processor Capacity Parameters and
Extended Feature Identification".
"""

import functools

import unicorn
from unicorn import x86_const as x86

from crosswalk.emu.cpu.engine import MODEL, open_engine
from crosswalk.emu.cpu.ram import Ram
from crosswalk.walker.architecture import CR4

__all__ = ["answer_cpuid", "ask_cpuid"]

_CODE = bytes.fromhex("0fa2 f4")  # cpuid; hlt
_REGISTERS = (
    x86.UC_X86_REG_RAX,
    x86.UC_X86_REG_RBX,
    x86.UC_X86_REG_RCX,
    x86.UC_X86_REG_RDX,
)
_RDRAND, _OSXSAVE, _APIC = 1 << 30, 1 << 27, 1 << 9  # of leaf 1, ECX, ECX and EDX
_RDSEED, _OSPKE = 1 << 18, 1 << 4  # of leaf 7, EBX and ECX
_CAPACITY, _SSBD_NOT_REQUIRED = 0x8000_0008, 1 << 26  # A leaf, and a bit of its EBX.
_AMD = int.from_bytes(b"Auth", "little")  # of leaf 0, EBX: the vendor's first letters


def answer_cpuid(engine: unicorn.Uc, model: int = MODEL, *, apic: bool = True) -> bool:
    """Answer the CPUID instruction at RIP; False where Unicorn is to do it.

    `model` is what the engine was opened with; `apic` says whether its local APIC is on.
    """
    leaf = engine.reg_read(x86.UC_X86_REG_EAX)
    subleaf = engine.reg_read(x86.UC_X86_REG_ECX)
    if leaf == _CAPACITY:
        if ask_cpuid(model, 0, 0)[1] != _AMD:
            return False
    elif leaf != 1 and (leaf, subleaf) != (7, 0):
        return False
    a, b, c, d = ask_cpuid(model, leaf, subleaf)
    cr4 = engine.reg_read(x86.UC_X86_REG_CR4)
    if leaf == 1:
        c = c & ~(_RDRAND | _OSXSAVE) | (_OSXSAVE if cr4 & CR4.OSXSAVE else 0)
        d &= -1 if apic else ~_APIC
    elif leaf == _CAPACITY:
        b |= _SSBD_NOT_REQUIRED
    else:
        b &= ~_RDSEED
        c = c & ~_OSPKE | (_OSPKE if cr4 & CR4.PKE else 0)
    for register, value in zip(_REGISTERS, (a, b, c, d), strict=True):
        engine.reg_write(register, value)
    return True


@functools.cache
def ask_cpuid(model: int, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
    """Return the model's EAX, EBX, ECX and EDX for a leaf, from an engine of its own."""
    ram = Ram(0, 0x1000)
    ram.write(0, _CODE)
    engine = open_engine(ram, model=model)
    engine.reg_write(x86.UC_X86_REG_RAX, leaf)
    engine.reg_write(x86.UC_X86_REG_RCX, subleaf)
    engine.emu_start(0, len(_CODE) - 1)
    values = [engine.reg_read(register) & 0xFFFF_FFFF for register in _REGISTERS]
    return values[0], values[1], values[2], values[3]
