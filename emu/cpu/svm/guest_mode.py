"""What Unicorn knows of SVM: whether a guest runs, under which VMCB, and what VMRUN took from that.

None of it is in Unicorn's API; all of it lies in a saved context. Where, is found by a VMRUN with
known values, once a process.

Source: AMD APM vol. 2, "VMRUN Instruction", "Layout of VMCB"; for the flags, QEMU
target/i386/cpu.h, HF_… and HF2_….
"""

import functools
import struct
from dataclasses import dataclass

from unicorn import x86_const as x86

from crosswalk.emu.cpu.cpu import Cpu, Segment
from crosswalk.emu.cpu.engine import MAXPHYADDR, Engine, attach
from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.cpu.state_layout import CalibrationError, state_layout
from crosswalk.emu.cpu.svm.exits import FIRST_EXIT, ExitCode
from crosswalk.emu.cpu.svm.vmcb import General, Interrupts, Vmcb
from crosswalk.walker.architecture import MSR

__all__ = [
    "NO_GUEST",
    "SVM_MODEL",
    "GuestMode",
    "clear_gif",
    "guest_mode",
    "interrupts_enabled",
    "leave_guest_mode",
    "set_intercepts",
]

SVM_MODEL = x86.UC_CPU_X86_EPYC
"""The model with SVM; it has no 5-level paging."""

NO_GUEST = (1 << MAXPHYADDR) - 0x4000
"""The address of a VMCB under which no guest runs, but instructions are intercepted."""

# Of the first and the second word of flags.
_SHADOW, _GUEST = 1 << 3, 1 << 21
_GIF, _HOST_IF, _MASKING, _NESTED = 1 << 0, 1 << 1, 1 << 3, 1 << 6
# VMCB, TSC offset, intercepts: general, CR reads and writes, DR reads and writes, exceptions; what
# fills up to 8 bytes; nested CR3, modes of the nested walk, V_TPR.
_HELD = struct.Struct("<QQQ4HI4xQIB")
_PAE, _LONG, _NXE = 1, 2, 4

# The experiment: a page of each.
_ROOT, _VMCB, _SAVE, _CODE, _GUEST_CODE = 0x1000, 0x6000, 0x7000, 0x8000, 0x9000
_EFER = 0x1D00
_KNOWN = {
    "tsc_offset": 0x1E55_0000_AB00,
    "general": int(General.HLT | General.VMRUN),
    "cr_reads": 0x1E55,
    "cr_writes": 0x2B0D,
    "dr_reads": 0x3C5A,
    "dr_writes": 0x4D69,
    "exceptions": 0x5A5A_0000,
    "asid": 1,
    "nested": 1,
    "nested_cr3": _ROOT,
    "interrupts": int(Interrupts.V_INTR_MASKING) | 5,
    "efer": _EFER,
    "cr0": 0x8001_0033,
    "cr3": _ROOT,
    "cr4": 0x20,
    "rflags": 2,
    "rip": _GUEST_CODE,
}


@dataclass(frozen=True, slots=True)
class GuestMode:
    """A guest under SVM that runs, and what VMRUN took over from its VMCB at physical `vmcb`.

    `nested_cr3` is None without nested paging; `pae`, `long` and `nxe` are what the host's paging
    was then, which is the nested tables'. `shadow` says that interrupts are held back for one
    instruction.
    """

    vmcb: int
    nested_cr3: int | None
    pae: bool
    long: bool
    nxe: bool
    exceptions: int
    general: int
    v_tpr: int
    shadow: bool


def guest_mode(cpu: Cpu) -> GuestMode | None:
    """Return the guest that runs on `cpu`, whose state is loaded, or None where none does."""
    content = cpu.snapshot()
    flags, more = _flags(content)
    if not flags & _GUEST:
        return None
    vmcb, _, general, *_, exceptions, nested_cr3, modes, v_tpr = _HELD.unpack_from(
        content, _layout()
    )
    if vmcb == NO_GUEST:
        return None
    return GuestMode(
        vmcb=vmcb,
        nested_cr3=nested_cr3 if more & _NESTED else None,
        pae=bool(modes & _PAE),
        long=bool(modes & _LONG),
        nxe=bool(modes & _NXE),
        exceptions=exceptions,
        general=general,
        v_tpr=v_tpr,
        shadow=bool(flags & _SHADOW),
    )


def leave_guest_mode(cpu: Cpu) -> None:
    """Make the loaded state of `cpu` the host's in everything that is SVM's; GIF becomes 0.

    No intercepts, no nested paging, no offset of the TSC, no interrupt shadow.
    """
    flags, more = _flags(cpu.snapshot())
    at = 4 * state_layout().mode
    flags &= ~(_GUEST | _SHADOW)
    more &= ~(_GIF | _HOST_IF | _MASKING | _NESTED)
    cpu.patch(at, struct.pack("<II", flags, more))
    held = _layout()
    cpu.patch(held + 8, bytes(_HELD.size - 8))


def set_intercepts(cpu: Cpu, *, cr_reads: int, cr_writes: int, general: int) -> None:
    """Have the loaded state of `cpu` intercept instructions though no guest runs.

    Reads and writes of control registers, as masks by their numbers, and what `General` lists; MSRs
    by the map that the VMCB at `NO_GUEST` names. With none, the state is as it was without.
    """
    flags, more = _flags(cpu.snapshot())
    flags = flags | _GUEST if cr_reads or cr_writes or general else flags & ~_GUEST
    cpu.patch(4 * state_layout().mode, struct.pack("<II", flags, more))
    vmcb = NO_GUEST if flags & _GUEST else 0
    cpu.patch(_layout(), _HELD.pack(vmcb, 0, general, cr_reads, cr_writes, 0, 0, 0, 0, 0, 0))


def clear_gif(cpu: Cpu) -> None:
    """Clear GIF in the loaded state of `cpu`, as CLGI does."""
    flags, more = _flags(cpu.snapshot())
    cpu.patch(4 * state_layout().mode, struct.pack("<II", flags, more & ~_GIF))


def interrupts_enabled(cpu: Cpu, *, rflags_if: bool) -> bool:
    """Return whether `cpu`, whose state is loaded, takes external interrupts now.

    `rflags_if` is its RFLAGS.IF. A guest whose VMCB has V_INTR_MASKING leaves that to its host's.

    Source: AMD APM vol. 2, "Global Interrupt Flag, STGI and CLGI Instructions", "Injecting Virtual
    (INTR) Interrupts".
    """
    flags, more = _flags(cpu.snapshot())
    if not more & _GIF or flags & _SHADOW:
        return False
    if flags & _GUEST and more & _MASKING:
        return bool(more & _HOST_IF)
    return rflags_if


def _flags(content: bytes) -> tuple[int, int]:
    flags, more = struct.unpack_from("<II", content, 4 * state_layout().mode)
    return flags, more


@functools.cache
def _layout() -> int:
    """Return where `_HELD` lies in a saved context; `CalibrationError` where it isn't found."""
    before, inside = _experiment()
    held = _HELD.pack(
        _VMCB,
        *(_KNOWN[name] for name in ("tsc_offset", "general", "cr_reads", "cr_writes")),
        *(_KNOWN[name] for name in ("dr_reads", "dr_writes", "exceptions", "nested_cr3")),
        *(_PAE | _LONG | _NXE, _KNOWN["interrupts"] & 0xF),
    )
    known = held[: _HELD.size - 17]  # What fills may be anything.
    found = inside.find(known)
    same = found >= 0 and _HELD.unpack_from(inside, found) == _HELD.unpack(held)
    if not same or inside.count(known) != 1:
        raise CalibrationError("a saved context of this Unicorn doesn't show a guest's VMCB")
    flags = [_flags(before), _flags(inside)]
    if [(each & _GUEST, more) for each, more in flags] != [
        (0, _GIF),
        (_GUEST, _GIF | _MASKING | _NESTED),
    ]:
        raise CalibrationError("a saved context of this Unicorn doesn't show whether a guest runs")
    return found


def _experiment() -> tuple[bytes, bytes]:
    """Return the state before a VMRUN with the known values, and at the guest's first exit."""
    ram, engine = Ram(0, 0x10000), Engine(model=SVM_MODEL)
    attach(engine.uc, ram)
    ram.words[_ROOT // 8] = _ROOT + 0x1000 | 7
    ram.words[(_ROOT + 0x1000) // 8] = _ROOT + 0x2000 | 7
    ram.words[(_ROOT + 0x2000) // 8] = 0x87
    ram.write(_CODE, bytes.fromhex("0f01d8 f4"))
    ram.write(_GUEST_CODE, b"\xf4")
    vmcb = Vmcb(ram, _VMCB)
    for name, value in _KNOWN.items():
        vmcb[name] = value
    vmcb.set_segment("cs", Segment(8, 0, 0xFFFF_FFFF, 0x00A0_9B00))
    vmcb.set_segment("ss", Segment(16, 0, 0xFFFF_FFFF, 0x00C0_9300))
    engine.control(cr0=0x8001_0033, cr3=_ROOT, cr4=0x20, efer=_EFER)
    engine.uc.reg_write(x86.UC_X86_REG_MSR, (MSR.VM_HSAVE_PA, _SAVE))
    engine.uc.reg_write(x86.UC_X86_REG_RAX, _VMCB)
    cpu, found, numbers = Cpu(engine.uc, ram), [], []
    cpu.load()
    before = cpu.snapshot()

    def note(_engine: object, number: int, _data: object) -> None:
        numbers.append(number)
        cpu.load()
        found.append(cpu.snapshot())
        engine.uc.emu_stop()

    engine.hook_exceptions(note)
    engine.run(_CODE, 0)
    if numbers[:1] != [FIRST_EXIT + ExitCode.HLT]:
        raise CalibrationError(f"no exit for HLT where one was due: {numbers}")
    return before, found[0]
