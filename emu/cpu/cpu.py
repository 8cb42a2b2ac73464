"""The CPU between two instructions: its state, read, changed, and as ELF cores have it."""

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import unicorn
from unicorn import x86_const as x86

from crosswalk.emu.cpu.engine import LIBRARY, MAXPHYADDR, MODEL, SavedState, handle_of, translate
from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.cpu.state_layout import GENERAL, NO_VECTOR, SEGMENT_BYTES, state_layout
from crosswalk.walker.architecture import CR4, MSR, PAGE_BYTES
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.formats.corewriter import CoreState, SegmentState

__all__ = ["GENERAL", "SEGMENTS", "Cpu", "Guarded", "Segment", "core_state", "paging_context"]

SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs", "ldt", "tr", "gdt", "idt")

_SEGMENT = struct.Struct("<IxxxxQII")
_RSP = GENERAL.index("rsp")
# Bits of QEMU's word of modes, which has the CPL, too (QEMU target/i386/cpu.h, HF_…).
_CODE_32, _STACK_32, _CODE_64, _SHADOW, _CPL = 1 << 4, 1 << 5, 1 << 15, 1 << 3, 3
_GUEST = 1 << 21  # A guest under SVM runs.
_CONTROL = ("cr0", "cr2", "cr3", "cr4")
_TOP = (1 << 64) - 1


class Guarded(CrosswalkError):
    """The CPU's guard refuses an address that an event's delivery needs."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment or table register: selector, base, limit in bytes, and flags.

    `flags` are the upper 32 bits of the descriptor, without those of base and limit.
    """

    selector: int
    base: int
    limit: int
    flags: int


class Cpu:
    """The CPU of `engine`, with `ram`: what delivering an exception to it reads and changes.

    Registers are read and changed inside `with cpu.changed():` or after `cpu.load()`; a change
    takes effect at the end of the former. Memory is reached as the CPU itself would reach it.

    `guard` is called with an address, and whether it is written to, before the CPU is asked to
    translate it. Under nested paging it has to raise `Guarded` where a nested table would refuse:
    such an exit, in the course of another event, is more than Unicorn can take.
    """

    def __init__(self, engine: unicorn.Uc, ram: Ram) -> None:
        self.engine = engine
        self._ram = ram
        self._layout = layout = state_layout()
        self.guard: Callable[[int, bool], None] | None = None
        self._has_guests = engine.ctl_get_cpu_model() != MODEL
        self._handle = handle_of(engine)
        self._saved = saved = SavedState(engine)
        self._pointer = saved.pointer
        self._bytes, self._longs, self._quads = saved.bytes, saved.longs, saved.quads
        self._general = [layout.quads[name] for name in GENERAL]
        self._rip, self._cr2 = layout.quads["rip"], layout.quads["cr2"]

    def load(self) -> None:
        """Take over the CPU's state."""
        LIBRARY.uc_context_save(self._handle, self._pointer)

    @contextmanager
    def changed(self) -> Iterator[None]:
        """Take over the CPU's state, and give it back as changed at the end."""
        self.load()
        yield
        self.store()

    def store(self) -> None:
        """Give the CPU its state; TLB and memory stay as they are."""
        LIBRARY.uc_context_restore(self._handle, self._pointer)

    @property
    def rip(self) -> int:
        """The instruction pointer."""
        return self._quads[self._rip]

    @rip.setter
    def rip(self, value: int) -> None:
        self._quads[self._rip] = value

    @property
    def rsp(self) -> int:
        """The stack pointer."""
        return self.general(_RSP)

    @rsp.setter
    def rsp(self, value: int) -> None:
        self.set_general(_RSP, value)

    def general(self, number: int) -> int:
        """Return a general register, by its number in `GENERAL`."""
        return self._quads[self._general[number]]

    def set_general(self, number: int, value: int) -> None:
        """Set a general register, by its number in `GENERAL`."""
        self._quads[self._general[number]] = value

    @property
    def cr2(self) -> int:
        """The address of the last page fault."""
        return self._quads[self._cr2]

    @cr2.setter
    def cr2(self, value: int) -> None:
        self._quads[self._cr2] = value

    @property
    def rflags(self) -> int:
        """RFLAGS, as the CPU has it now; a change takes effect at once."""
        # The upper half is reserved, and under this name any kind of engine has the lower.
        return int(self.engine.reg_read(x86.UC_X86_REG_EFLAGS))

    @rflags.setter
    def rflags(self, value: int) -> None:
        self.engine.reg_write(x86.UC_X86_REG_EFLAGS, value)

    @property
    def error_code(self) -> int:
        """The error code of the exception raised."""
        return self._longs[self._layout.error_code]

    @property
    def software(self) -> bool:
        """Whether the exception raised was an INT n, INT3 or INTO."""
        return bool(self._longs[self._layout.software])

    @property
    def pkru(self) -> int:
        """The protection key rights of user pages."""
        return self._longs[self._layout.pkru]

    @property
    def cpl(self) -> int:
        """The current privilege level."""
        return self._mode & _CPL

    def msr(self, number: int) -> int:
        """Return an MSR, as the CPU has it now.

        To Unicorn a look through its API is the guest's RDMSR: an exit, outside of any run, where
        a host under SVM intercepts that. So it is made outside of guest mode.
        """
        read = self.engine.reg_read
        if not self._has_guests:
            return int(read(x86.UC_X86_REG_MSR, number))
        loaded = self._bytes.tobytes()
        self.load()
        at, flags = self._layout.mode, self._mode
        if flags & _GUEST:
            self._longs[at] = flags & ~_GUEST
            self.store()
        value = int(read(x86.UC_X86_REG_MSR, number))
        if flags & _GUEST:
            self._longs[at] = flags
            self.store()
        self._bytes[:] = loaded
        return value

    def forget_exception(self) -> None:
        """Make the CPU take the next exception as the first one."""
        self._longs[self._layout.vector] = NO_VECTOR
        self._longs[self._layout.software] = 0

    def segment(self, name: str) -> Segment:
        """Return a segment or table register, by its name in `SEGMENTS`."""
        at = self._layout.segments + SEGMENT_BYTES * SEGMENTS.index(name)
        return Segment(*_SEGMENT.unpack_from(self._bytes, at))

    def set_segment(self, name: str, value: Segment) -> None:
        """Set a segment or table register, with none of the checks that an instruction makes."""
        at = self._layout.segments + SEGMENT_BYTES * SEGMENTS.index(name)
        _SEGMENT.pack_into(self._bytes, at, value.selector, value.base, value.limit, value.flags)

    def enter(self, code: Segment, cpl: int) -> None:
        """Go to a 64-bit code segment at a privilege level."""
        self.set_segment("cs", code)
        kept = self._mode & ~(_CPL | _CODE_32 | _STACK_32 | _SHADOW)
        self._longs[self._layout.mode] = kept | _CODE_64 | cpl

    def snapshot(self) -> bytes:
        """Return the state as it was taken over or changed."""
        return self._bytes.tobytes()

    def patch(self, at: int, content: bytes) -> None:
        """Change the state as it was taken over, at an offset into a `snapshot`."""
        self._bytes[at : at + len(content)] = content

    def revert(self, snapshot: bytes) -> None:
        """Go back to an earlier state, and give it to the CPU."""
        self._bytes[:] = snapshot
        self.store()

    def read(self, va: int, size: int) -> bytes | None:
        """Return `size` bytes at `va`, or None where the CPU can't read them all now.

        Where there is no RAM, all bits read as ones.
        """
        found = b""
        while len(found) < size:
            at = va + len(found) & _TOP
            pa = self._translate(at, write=False)
            if pa is None:
                return None
            part = min(size - len(found), PAGE_BYTES - at % PAGE_BYTES)
            found += self._ram.read(pa, part) if self._is_ram(pa) else b"\xff" * part
        return found

    def write(self, va: int, value: int) -> bool:
        """Write 8 bytes to `va`, a multiple of 8; whether the CPU can do that now.

        Where there is no RAM, nothing is kept.
        """
        pa = self._translate(va, write=True)
        if pa is not None and self._is_ram(pa):
            self._ram.write(pa, struct.pack("<Q", value))
        return pa is not None

    def _translate(self, va: int, *, write: bool) -> int | None:
        if self.guard is not None:
            self.guard(va, write)
        return translate(self.engine, va, write=write)

    def canonical(self, va: int) -> bool:
        """Return whether `va` is canonical under the guest's paging."""
        width = 57 if self.engine.reg_read(x86.UC_X86_REG_CR4) & CR4.LA57 else 48
        return va >> (width - 1) in (0, (1 << (65 - width)) - 1)

    def _is_ram(self, pa: int) -> bool:
        return self._ram.start <= pa < self._ram.start + self._ram.size

    @property
    def _mode(self) -> int:
        return self._longs[self._layout.mode]


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
        kernel_gs_base=cpu.msr(MSR.KERNEL_GS_BASE),
    )


def paging_context(cpu: Cpu) -> PagingContext:
    """Return the control state; `BadInput` where `cpu` isn't in 4- or 5-level paging."""
    cpu.load()
    read = cpu.engine.reg_read
    return PagingContext(
        cr0=read(x86.UC_X86_REG_CR0),
        cr3=read(x86.UC_X86_REG_CR3),
        cr4=read(x86.UC_X86_REG_CR4),
        efer=cpu.msr(MSR.EFER),
        pkru=cpu.pkru,
        maxphyaddr=MAXPHYADDR,
    )
