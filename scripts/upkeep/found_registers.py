"""A bug that no access shows: a machine that doesn't refuse a value of CR4, by a boot image."""

import numpy as np

from crosswalk.emu.machines.machine import Machine
from crosswalk.guest.boot.image import Place, boot_image, digest_of
from crosswalk.guest.boot.log import read_log
from crosswalk.guest.boot.programs import Op, Program, Run, Step
from crosswalk.walker.context import PagingContext, PagingMode

__all__ = ["moved_to_cr4"]

_PLACE = Place(0x800_0000)
_ROOT, _SLOT = 0x10_0000, 256
_ALIAS = 0xFFFF_8000_0000_0000


def moved_to_cr4(machine: Machine, value: int) -> str:
    """Return what a MOV of `value` to CR4 in 64-bit mode comes to, in words.

    "CR4 = … refused" where it raises #GP(0); "taken"; or how the machine ended.
    """
    context = PagingContext(cr3=_ROOT)
    lent = (_ROOT + 8 * _SLOT, _PLACE.lent(PagingMode.LEVEL4, user=False))
    run = Run(
        mode=PagingMode.LEVEL4,
        cr0=context.cr0,
        cr3=context.cr3,
        cr4=value,
        efer=context.efer,
        alias=_ALIAS,
        user=_ALIAS,
        clear=np.array([_ROOT], np.uint64),
        words=np.array([lent], np.uint64),
        programs=(Program((Step(Op.READ),)),),
    )
    image = boot_image([run], _PLACE, machine.output)
    printed = machine.boot(image, seconds=machine.loads_in)
    log = read_log(printed.data, digest=digest_of(image))
    if not log.complete:
        return f"the machine {printed.ended}"
    return log.runs[0].refused or "taken"
