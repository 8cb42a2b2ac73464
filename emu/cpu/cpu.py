"""The CPU between two instructions: its state, read, changed, and as ELF cores have it."""

import ctypes
import functools
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import unicorn
from unicorn import x86_const as x86

from crosswalk.emu.cpu.descriptors import BIG, Segment
from crosswalk.emu.cpu.engine import LIBRARY, MAXPHYADDR, MODEL, SavedState, handle_of
from crosswalk.emu.cpu.events import Event
from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.cpu.state_layout import GENERAL, NO_VECTOR, SEGMENT_BYTES, state_layout
from crosswalk.walker.architecture import CR0, CR4, EFER, MSR, PAGE_BYTES, RFlags
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput, CrosswalkError
from crosswalk.walker.formats.corewriter import CoreState, SegmentState

__all__ = ["GENERAL", "SEGMENTS", "Cpu", "Guarded", "Segment", "core_state", "paging_context"]

SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs", "ldt", "tr", "gdt", "idt")

_SEGMENT = struct.Struct("<IxxxxQII")
_BASE_AND_LIMIT = struct.Struct("<8xQI")
_FLAGS_AT = 20
# Of ES, CS, SS and DS, which lie in this order: bases of ES, SS and DS, and the flags of SS.
_DATA_SEGMENTS = struct.Struct("<8xQ40xQ4xI8xQ")
_RSP = GENERAL.index("rsp")
# Bits of QEMU's word of modes, which has the CPL, too (QEMU target/i386/cpu.h, HF_…).
_CPL, _SHADOW, _CODE_32, _STACK_32, _BASED = 3, 1 << 3, 1 << 4, 1 << 5, 1 << 6
_PROTECTED, _LMA, _CODE_64, _VM = 1 << 7, 1 << 14, 1 << 15, 1 << 17
_GUEST = 1 << 21  # A guest under SVM runs.
_OF_CODE = _CPL | _SHADOW | _CODE_32 | _STACK_32 | _BASED | _CODE_64
_IN_PAGE, _HALF_4, _HALF_5 = PAGE_BYTES - 1, 1 << 47, 1 << 56
_LA57, _WRAP = int(CR4.LA57), 1 << 64
_CONTROL = ("cr0", "cr2", "cr3", "cr4")
_TOP, _TOP_32 = (1 << 64) - 1, (1 << 32) - 1
_LIMITS = {16: 0xFFFF, 32: 0xFFFF_FFFF, 64: 0xFFFF_FFFF}
_CODE_FLAGS = {16: 0x0000_9B00, 32: 0x00C0_9B00, 64: 0x00A0_9B00}
_DATA_FLAGS = {16: 0x0000_9300, 32: 0x00C0_9300, 64: 0x00C0_9300}


class Guarded(CrosswalkError):
    """The CPU's guard refuses what an event's delivery needs; `during` is that event."""

    during: Event | None = None


class Cpu:
    """The CPU of `engine`, with `ram`: what delivering an exception to it reads and changes.

    Registers are read and changed inside `with cpu.changed():` or after `cpu.load()`; a change
    takes effect at the end of the former. Memory is reached as the CPU itself would reach it.

    `guard` is called with an address, and whether it is written to, before the CPU is asked to
    translate it. Under nested paging it has to raise `Guarded` where a nested table would refuse:
    such an exit, in the course of another event, is more than Unicorn can take. `intercept` is
    called with an exception that the delivery of an event raises, and that event; it raises
    `Guarded`, too, where that ends the delivery.
    """

    def __init__(self, engine: unicorn.Uc, ram: Ram) -> None:
        self.engine = engine

        self._layout = layout = state_layout()
        self.guard: Callable[[int, bool], None] | None = None
        self.intercept: Callable[[Event, Event], None] | None = None
        self._has_guests = engine.ctl_get_cpu_model() != MODEL
        self._handle = handle_of(engine)
        self._saved = saved = SavedState(engine)
        self._bytes, self._longs, self._quads = saved.bytes, saved.longs, saved.quads
        self._general = [layout.quads[name] for name in GENERAL]
        self._rip, self._cr2 = layout.quads["rip"], layout.quads["cr2"]
        self._cr0, self._cr3, self._cr4 = (layout.quads[name] for name in ("cr0", "cr3", "cr4"))
        self._efer = layout.quads["efer"]
        self._segments = {
            name: layout.segments + SEGMENT_BYTES * number for number, name in enumerate(SEGMENTS)
        }
        self._content, self._start, self._size = ram.bytes.data, ram.start, ram.size
        self._mode_at = layout.mode
        self._va, self._pa, self._flags = ctypes.c_uint64(), ctypes.c_uint64(), ctypes.c_uint64()
        # The binding's own calls take several times as long.
        self._save, self._restore = (
            functools.partial(call, self._handle, saved.pointer)
            for call in (LIBRARY.uc_context_save, LIBRARY.uc_context_restore)
        )
        of_flags = (self._handle, ctypes.c_int(x86.UC_X86_REG_EFLAGS), ctypes.byref(self._flags))
        self._read_flags = functools.partial(LIBRARY.uc_reg_read, *of_flags)
        self._write_flags = functools.partial(LIBRARY.uc_reg_write, *of_flags)
        self._walk_to_read, self._walk_to_write = (
            functools.partial(
                LIBRARY.uc_vmem_translate,
                self._handle,
                self._va,
                ctypes.c_uint32(kind),
                ctypes.byref(self._pa),
            )
            for kind in (unicorn.UC_PROT_READ, unicorn.UC_PROT_WRITE)
        )

    def load(self) -> None:
        """Take over the CPU's state."""
        self._save()

    @contextmanager
    def changed(self) -> Iterator[None]:
        """Take over the CPU's state, and give it back as changed at the end."""
        self.load()
        yield
        self.store()

    def store(self) -> None:
        """Give the CPU its state; TLB and memory stay as they are."""
        self._restore()

    @property
    def rip(self) -> int:
        """The instruction pointer."""
        return self._quads[self._rip]

    @rip.setter
    def rip(self, value: int) -> None:
        self._quads[self._rip] = value & _TOP

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
        self._read_flags()
        return self._flags.value & _TOP_32

    @rflags.setter
    def rflags(self, value: int) -> None:
        self._flags.value = value
        self._write_flags()

    @property
    def interruptible(self) -> bool:
        """Whether an interrupt would be taken now: IF is set, and no STI or MOV SS shadows it."""
        return bool(self.rflags & RFlags.IF and not self._mode & _SHADOW)

    def end_shadow(self) -> None:
        """End the shadow of an STI or a MOV SS: the instruction in it is completed."""
        self._longs[self._mode_at] = self._mode & ~_SHADOW

    @property
    def cr0(self) -> int:
        """CR0, as it was taken over."""
        return self._quads[self._cr0]

    @property
    def cr3(self) -> int:
        """CR3, as it was taken over."""
        return self._quads[self._cr3]

    @property
    def cr4(self) -> int:
        """CR4, as it was taken over."""
        return self._quads[self._cr4]

    @property
    def efer(self) -> int:
        """EFER, as it was taken over."""
        return self._quads[self._efer]

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

    @property
    def bits(self) -> int:
        """The size of the code: 16, 32 or 64 bits."""
        mode = self._mode
        return 64 if mode & _CODE_64 else 32 if mode & _CODE_32 else 16

    @property
    def long_mode(self) -> bool:
        """Whether the CPU is in IA-32e mode: in 64-bit or compatibility mode."""
        return bool(self._mode & _LMA)

    @property
    def protected(self) -> bool:
        """Whether CR0.PE is set."""
        return bool(self._mode & _PROTECTED)

    def segment(self, name: str) -> Segment:
        """Return a segment or table register, by its name in `SEGMENTS`."""
        return Segment._make(_SEGMENT.unpack_from(self._bytes, self._segments[name]))

    def table(self, name: str) -> tuple[int, int]:
        """Return base and limit of a segment or table register, by its name in `SEGMENTS`."""
        found: tuple[int, int] = _BASE_AND_LIMIT.unpack_from(self._bytes, self._segments[name])
        return found

    def selector(self, name: str) -> int:
        """Return the selector of a segment register, by its name in `SEGMENTS`."""
        return self._longs[self._segments[name] >> 2]

    def segment_flags(self, name: str) -> int:
        """Return the flags of a segment register, as `Segment` has them."""
        return self._longs[self._segments[name] + _FLAGS_AT >> 2]

    def set_segment(self, name: str, value: Segment) -> None:
        """Set a segment or table register, with none of the checks that an instruction makes.

        CS, and SS, DS and ES outside 64-bit mode, count from the next `enter` on.
        """
        _SEGMENT.pack_into(self._bytes, self._segments[name], *value)

    def set_cpl(self, cpl: int) -> None:
        """Reach memory with the rights of a privilege level, whatever the code segment says."""
        self._longs[self._mode_at] = self._mode & ~_CPL | cpl

    def enter(self, code: Segment, cpl: int, stack: Segment | None = None) -> None:
        """Go to a code segment at a privilege level, with another stack segment if one is given.

        The size of the code is the segment's: 64 bits in IA-32e mode if it has L.
        """
        self.set_segment("cs", code)
        if stack is not None:
            self.set_segment("ss", stack)
        mode = self._mode & ~_OF_CODE | cpl
        if mode & _LMA and code.long:
            mode |= _CODE_64
        else:
            es, ss, flags, ds = _DATA_SEGMENTS.unpack_from(self._bytes, self._layout.segments)
            if code.flags & BIG:
                mode |= _CODE_32
            if flags & BIG:
                mode |= _STACK_32
            if ss or ds or es or not mode & _CODE_32 or not mode & _PROTECTED or mode & _VM:
                mode |= _BASED
        self._longs[self._mode_at] = mode

    def set_mode(  # a mode is as many registers
        self,
        bits: int,
        *,
        cr0: int = CR0.PE,
        cr3: int = 0,
        cr4: int = 0,
        efer: int = 0,
        code: int = 0x10,
        data: int = 0x18,
    ) -> None:
        """Bring the CPU to 16-, 32- or 64-bit code with these control registers, at CPL 0.

        Segments are flat, of the selectors `code` and `data`, with no look at a descriptor table;
        in real mode (`cr0` without PE) they lie where their selectors say, and have 64 KiB.
        EFER.LMA follows from LME and CR0.PG. RFLAGS are cleared: interrupts are off. General
        registers, RIP and table registers stay as they are.

        Raises `BadInput` where no processor has this state.
        """
        paged, protected = bool(cr0 & CR0.PG), bool(cr0 & CR0.PE)
        long_mode = paged and bool(efer & EFER.LME)
        if (
            bits not in _LIMITS
            or (paged and not protected)
            or (long_mode and not cr4 & CR4.PAE)
            or (bits == 64 and not long_mode)
            or (bits == 32 and not protected)
        ):
            raise BadInput(
                f"no {bits}-bit mode with CR0 = {cr0:#x}, CR4 = {cr4:#x}, EFER = {efer:#x}"
            )
        write = self.engine.reg_write
        # Out of the mode that the engine is in, and into the other, as a guest would go.
        write(x86.UC_X86_REG_CR0, CR0.ET | CR0.PE)
        self.clear_lma()
        write(x86.UC_X86_REG_CR4, cr4)
        write(x86.UC_X86_REG_MSR, (MSR.EFER, efer & ~EFER.LMA))
        write(x86.UC_X86_REG_CR0, cr0 | CR0.ET)
        write(x86.UC_X86_REG_CR3, cr3)
        self.rflags = RFlags.FIXED
        with self.changed():
            at_code, at_data = (0, 0) if protected else (code << 4, data << 4)
            stack = Segment(data, at_data, _LIMITS[bits], _DATA_FLAGS[bits])
            for name in ("ds", "es", "fs", "gs"):
                self.set_segment(name, stack)
            self.enter(Segment(code, at_code, _LIMITS[bits], _CODE_FLAGS[bits]), 0, stack)

    def clear_lma(self) -> None:
        """Clear EFER.LMA, which no write to the register reaches; paging is off."""
        with self.changed():
            self._quads[self._efer] &= ~EFER.LMA
            self._longs[self._mode_at] &= ~_LMA

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

    def code(self, offset: int, size: int) -> bytes | None:
        """Return `size` bytes of code, from RIP plus `offset` on, or None as `read` does."""
        return self.read(self.linear(self.rip + offset), size)

    def code_ahead(self, longest: int) -> bytes:
        """Return up to `longest` bytes of code from RIP on: those that the CPU can read now.

        None of them where it executes what it can't read, as from a TLB that the guest hasn't
        flushed.
        """
        va = self.linear(self.rip)
        in_page = min(longest, PAGE_BYTES - va % PAGE_BYTES)
        return self.read(va, longest) or self.read(va, in_page) or b""

    def skip(self, length: int) -> None:
        """Move RIP on by the bytes of an instruction, around the end of 16- and 32-bit code."""
        self.rip = self.rip + length & (_TOP if self.bits == 64 else _LIMITS[self.bits])

    def linear(self, offset: int) -> int:
        """Return the linear address of an offset in the code segment."""
        if self._mode & _CODE_64:
            return offset & _TOP
        return self.segment("cs").base + offset & _TOP_32

    def read(self, va: int, size: int) -> bytes | None:
        """Return `size` bytes at `va`, or None where the CPU can't read them all now.

        Where there is no RAM, all bits read as ones.
        """
        if va & _IN_PAGE <= PAGE_BYTES - size and self.guard is None:
            # As below, without the calls: this is what delivering an event mostly does.
            self._va.value = va if self._longs[self._mode_at] & _LMA else va & _TOP_32
            if self._walk_to_read():
                self._keep_cr2()
                return None
            start = self._pa.value - self._start
            if 0 <= start < self._size:
                return self._content[start : start + size].tobytes()
            return b"\xff" * size
        found = b""
        while len(found) < size:
            at = va + len(found) & self._top
            pa = self._translate(at, write=False)
            if pa is None:
                return None
            found += self.physical(pa, min(size - len(found), PAGE_BYTES - at % PAGE_BYTES))
        return found

    def write(self, va: int, data: bytes) -> int | None:
        """Write `data` to `va`; None, or the first address that the CPU can't write to now.

        In the latter case nothing is written. Where there is no RAM, nothing is kept.
        """
        parts, done = [], 0
        while done < len(data):
            at = va + done & self._top
            pa = self._translate(at, write=True)
            if pa is None:
                return at
            part = data[done : done + PAGE_BYTES - at % PAGE_BYTES]
            parts.append((pa, part))
            done += len(part)
        for pa, part in parts:
            self._keep(pa, part)
        return None

    def push(self, bottom: int, frame: bytes, first: int) -> bool:
        """Write a frame that lies in one page; return whether the CPU can do that now.

        `first` is the address of the value that is pushed first: the one that would fault.
        """
        if self.guard is not None:
            self.guard(first & self._top, True)  # as `guard` is called
        self._va.value = first if self._longs[self._mode_at] & _LMA else first & _TOP_32
        if self._walk_to_write():
            self._keep_cr2()
            return False
        start = self._pa.value - (first - bottom) - self._start
        if 0 <= start < self._size:
            self._content[start : start + len(frame)] = frame
        return True

    def _keep(self, pa: int, data: bytes) -> None:
        start = pa - self._start
        if 0 <= start < self._size:
            self._content[start : start + len(data)] = data

    def physical(self, pa: int, size: int) -> bytes:
        """Return `size` bytes of one page at physical address `pa`; ones where there is no RAM."""
        start = pa - self._start
        if not 0 <= start < self._size:
            return b"\xff" * size
        return bytes(self._content[start : start + size])

    def _translate(self, va: int, *, write: bool) -> int | None:
        """Return the physical address of `va` as the CPU finds it now, or None where it faults.

        The CPU walks, at its current privilege level: it sets A, and D for a write, and answers
        from its TLB.
        """
        if self.guard is not None:
            self.guard(va, write)
        self._va.value = va
        if self._walk_to_write() if write else self._walk_to_read():
            self._keep_cr2()
            return None
        return self._pa.value

    def _keep_cr2(self) -> None:
        """Give the CPU its CR2 back, which it has changed where a walk that was asked for fails."""
        self.engine.reg_write(x86.UC_X86_REG_CR2, self.cr2)

    def canonical(self, va: int) -> bool:
        """Return whether `va` is canonical under the guest's paging."""
        half = _HALF_5 if self._quads[self._cr4] & _LA57 else _HALF_4
        return va < half or va >= _WRAP - half

    @property
    def _top(self) -> int:
        """The last linear address."""
        return _TOP if self._mode & _LMA else _TOP_32

    @property
    def _mode(self) -> int:
        return self._longs[self._mode_at]


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
