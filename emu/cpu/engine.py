"""Unicorn engines of the one CPU model that enforces all of paging."""

import unicorn
from unicorn import x86_const

from crosswalk.emu.cpu.ram import Ram
from crosswalk.walker.errors import BadInput

__all__ = ["MAXPHYADDR", "MODEL", "MODES", "attach", "open_engine"]

MODES = {16: unicorn.UC_MODE_16, 32: unicorn.UC_MODE_32, 64: unicorn.UC_MODE_64}

# Unicorn 2.1.4 has this many physical address bits whatever the model says.
MAXPHYADDR = 40

# The default model accepts SMAP and PKE in CR4 and doesn't enforce them; this one has SMEP, SMAP,
# protection keys for user pages, LA57 and 1-GiB pages, and means it.
MODEL = x86_const.UC_CPU_X86_ICELAKE_SERVER


def open_engine(*rams: Ram, bits: int = 64, model: int = MODEL) -> unicorn.Uc:
    """Return a new engine that starts in 16-, 32- or 64-bit code, with RAM attached.

    `model` is one of Unicorn's `UC_CPU_X86_…`. In an engine opened with 16 or 32 bits the API
    reads and writes 32-bit registers only, also when the guest has gone to long mode: see
    `crosswalk.emu.cpu.registers`. The engine must not outlive its RAM.

    Raises `BadInput` where two RAMs overlap.
    """
    engine = unicorn.Uc(unicorn.UC_ARCH_X86, MODES[bits])
    engine.ctl_set_cpu_model(model)
    for ram in rams:
        attach(engine, ram)
    return engine


def attach(engine: unicorn.Uc, ram: Ram, permissions: int = unicorn.UC_PROT_ALL) -> None:
    """Map all of `ram` at its physical address into `engine`, without a copy.

    Raises `BadInput` where the engine has something there.
    """
    try:
        engine.mem_map_ptr(ram.start, ram.size, permissions, ram.pointer)
    except unicorn.UcError as error:
        raise BadInput(
            f"no room for RAM of {ram.size:#x} bytes at {ram.start:#x}: {error}"
        ) from error
