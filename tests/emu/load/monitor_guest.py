"""Images of the monitor that run a guest under SVM when they are booted."""

from crosswalk.emu.monitor.svm import SvmExit, Vmcb, VmcbSegment, svm_on, vmcb_words
from crosswalk.guest.monitor import places
from crosswalk.guest.monitor.commands import REGISTERS, encoded, run_vmcb, set_registers, write
from crosswalk.guest.monitor.image import Transport, monitor_image
from crosswalk.walker.architecture import EFER

__all__ = ["BASE", "CODE", "DATA", "NESTED", "ROOM", "VMCB", "commands_for", "image_of"]

BASE, ROOM = 0x80_0000, 0x1_0000
VMCB, CODE, STACK, NESTED, DATA = 0x20_0000, 0x20_1000, 0x20_3000, 0x30_0000, 0x40_0000
STATE = {
    Vmcb.EXCEPTION_INTERCEPTS: 0xFFFF_FFFF,
    Vmcb.SVM_INTERCEPTS: 3,
    Vmcb.ASID: 1,
    Vmcb.EFER: int(EFER.LME | EFER.LMA | EFER.SVME),
    Vmcb.CR0: 0x8001_0033,
    Vmcb.CR3: BASE + places.PML4,
    Vmcb.CR4: 0x20,
    Vmcb.RFLAGS: 2,
    Vmcb.RIP: CODE,
    Vmcb.RSP: STACK,
    Vmcb.RAX: 7,
    Vmcb.PAT: 0x0007_0406_0007_0406,
    Vmcb.DR6: 0xFFFF_0FF0,
    Vmcb.DR7: 0x400,
    **dict(VmcbSegment(0x10, 0xA9B).words(Vmcb.CS)),
    **{
        place: word
        for at in (Vmcb.SS, Vmcb.DS, Vmcb.ES)
        for place, word in VmcbSegment(0x18, 0xC93).words(at)
    },
}
"""A guest at CODE under the monitor's own tables, without nested paging."""


def commands_for(code, changed=(), **registers):
    """Commands, as words, that run this code in a guest until its first exit."""
    padded = code.ljust(16, b"\xcc")
    return encoded(
        (
            write(VMCB, [0] * 512),
            svm_on(BASE, nxe=True),
            *nested_tables(),
            vmcb_words(VMCB, {**STATE, **dict(changed)}.items()),
            write(CODE, [int.from_bytes(padded[at : at + 8], "little") for at in (0, 8)]),
            set_registers([registers.get(name, 0) for name in REGISTERS]),
            run_vmcb(VMCB, SvmExit.FIELDS),
        ),
        0,
    )


def nested_tables():
    """An identity map of 1 GiB by pages of 2 MiB, in which DATA's is read-only."""
    pages = [at << 21 | (0xE5 if at << 21 == DATA else 0xE7) for at in range(512)]
    yield write(NESTED, [NESTED + 0x1000 | 0x67])
    yield write(NESTED + 0x1000, [NESTED + 0x2000 | 0x67])
    yield write(NESTED + 0x2000, pages)


def image_of(commands):
    """A multiboot image of a monitor that carries out these commands."""
    return monitor_image(BASE, Transport.MEMORY, commands, answers=ROOM)
