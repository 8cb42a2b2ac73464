"""The built-in guest on a CPU of Intel's: under EPT, by the monitor's VMX."""

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.load.guest import Booted
from crosswalk.emu.monitor.guest import Exit, GuestMemory, VmxGuest, enter_vmx, long_mode
from crosswalk.emu.monitor.monitor import Monitor
from crosswalk.emu.monitor.vmx import (
    Controls,
    ExitReason,
    Field,
    Primary,
    Secondary,
    msr_bit,
    reason_name,
)
from crosswalk.emu.protect.agent import USER_LEFT
from crosswalk.emu.protect.attack_kinds import CR0_WRITTEN, CR4_WRITTEN, EFER_WRITTEN
from crosswalk.emu.protect.events import (
    Fault,
    GuestEvent,
    VmExit,
    departure_of,
    departures_of,
    describe_event,
)
from crosswalk.emu.protect.machine import FRAMES
from crosswalk.emu.protect.permissions import Bools, FrameTables
from crosswalk.emu.protect.pins import PINNED, cleared
from crosswalk.emu.protect.written import copies, note_written, runs, without_flags
from crosswalk.guest import places
from crosswalk.guest.monitor import commands
from crosswalk.guest.monitor.commands import KEPT, RunFlag
from crosswalk.walker.access import Access
from crosswalk.walker.architecture import CR4, EFER, MIB, MSR, Vector
from crosswalk.walker.context import PagingContext, Vendor
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.memory import FRAME, U64, WORDS
from crosswalk.walker.nested import (
    EptCapability,
    EptContext,
    EptMisconfiguration,
    EptViolation,
    NestedContext,
    translate_nested,
)
from crosswalk.walker.outcome import GeneralProtection, PageFault
from crosswalk.walker.protection.policy import TableKind

__all__ = ["BASE", "COPY", "MSR_BITMAP", "EptGuest"]

BASE = 256 * MIB
"""Where guest-physical address 0 lies in the machine. Behind the guest's RAM: a copy of it, a
smaller one, the EPT, the MSR bitmap."""
COPY = BASE + places.RAM_SIZE
_SCRATCH, _SCRATCH_SIZE = COPY + places.RAM_SIZE, 2 * MIB
# A table for each 2 MiB of RAM, and three above them, are all that the EPT can take.
_TABLES, _TABLE_FRAMES = _SCRATCH + _SCRATCH_SIZE, places.RAM_SIZE // (2 * MIB) + 3
MSR_BITMAP = _TABLES + _TABLE_FRAMES * FRAME
_END = MSR_BITMAP + FRAME

_AGENT = places.KERNEL + places.AGENT
_GDT = places.KERNEL + places.DESCRIPTORS
_TSS, _IDT = _GDT + 0x80, _GDT + 0x100
_GDT_LIMIT, _IDT_LIMIT = 0x3F, 0x20F
_LEAVE = 0x20
_GATE = places.DESCRIPTORS + 0x100 + 16 * _LEAVE
_FOR_USER = 0xEE00
"""Of a gate: present, DPL 3, an interrupt gate."""
_STACK_TOP = places.KERNEL + places.STACK + places.STACK_PAGES * FRAME

_WRITTEN = {"cr0": CR0_WRITTEN, "cr4": CR4_WRITTEN, "efer": EFER_WRITTEN}
_ERROR_CODE_VALID = 1 << 11
_LOW = 0xFFFF_FFFF
_PIECE = 1 << 14
"""The most words of one command."""


@dataclass(frozen=True, slots=True)
class _Saved:
    guest: "EptGuest"
    ram: GuestMemory
    control: dict[str, int]

    def read(self, pa: int, size: int) -> bytes:
        """Return what the guest's RAM was."""
        return self.ram.read(pa, size)

    def restore(self) -> None:
        """Put RAM and CPU back to this state."""
        self.guest.put_back(self.control)


class _Pins:
    """The pinned bits of CR0, CR4 and EFER: in guest/host masks, and where EFER is written.

    Source: Intel SDM vol. 3C, "Guest/Host Masks and Read Shadows for CR0 and CR4".
    """

    def __init__(self, changed: Callable[[], None], control: Mapping[str, int]) -> None:
        self._changed, self._control = changed, control
        self._kept: dict[str, int] = {}

    @property
    def kept(self) -> dict[str, int]:
        """A value by register: of the bits set in it, those of `PINNED` can't be cleared."""
        return self._kept

    @kept.setter
    def kept(self, kept: dict[str, int]) -> None:
        self._kept = kept
        self._changed()

    def begin(self) -> None:
        """Pin the bits that are set now."""
        self.kept = {name: self._control[name] for name in PINNED}

    def mask(self, name: str) -> int:
        """Return the pinned bits of a register."""
        return sum(PINNED[name].values()) & self._kept.get(name, 0)


class EptGuest:
    """The guest on a monitor's CPU, under an EPT of this kind; a `GuestMachine`.

    The CPU delivers the INT by which user code ends, to a HLT. Other exceptions are exits, and
    events. RAM that differs from what was saved is known by the D bits of the EPT, which bit 6 of
    the EPTP has the CPU set, and by what the host wrote itself.

    Raises `BadInput` where the CPU lacks VMX, EPT or what `kind` needs.
    """

    def __init__(self, booted: Booted, monitor: Monitor, kind: TableKind) -> None:
        if not monitor.greeting.free(BASE, _END - BASE):
            raise CrosswalkError(f"{monitor.name}: no RAM from {BASE:#x} to {_END:#x}")
        self.booted, self.monitor = booted, monitor
        words = np.zeros(_TABLE_FRAMES * WORDS, np.uint64)
        self.tables = FrameTables(words, _TABLES, FRAMES, kind=kind, offset=BASE)
        self.hypercall: Callable[[int, int, int], int] | None = None
        self.events: list[tuple[GuestEvent, int]] = []
        self.left_user = self.delivered = False
        self.user_result = 0
        self._dirty: Bools = np.zeros(FRAMES, np.bool_)
        self._flags = KEPT
        self._departures = departures_of(monitor.name, monitor.version)
        capabilities = enter_vmx(monitor)
        (leaf,) = monitor.perform(commands.cpuid((0x8000_0008, 0)))
        start = booted.context
        self._start = replace(
            start,
            cr4=start.cr4 & ~CR4.PKE,
            pkru=0,
            vendor=Vendor.INTEL,
            maxphyaddr=leaf.words[0] & 0xFF,
        )
        self._ept = EptContext(
            eptp=self.tables.eptp(accessed_dirty=True),
            mbec=kind is TableKind.EPT_MBEC,
            maxphyaddr=self._start.maxphyaddr,
            capabilities=EptCapability(capabilities.ept_vpid & sum(EptCapability)),
        )
        self._control = {name: getattr(self._start, name) for name in ("cr0", "cr3", "cr4", "efer")}
        self.pins = _Pins(self._set_control, self._control)
        state = long_mode(self._start, capabilities, rip=_AGENT, rsp=_STACK_TOP)
        self._forced = {"cr0": state[Field.CR0_MASK], "cr4": state[Field.CR4_MASK]}
        self._vmx = VmxGuest(monitor, _controls(kind), state | self._own_state())
        self.memory = self._vmx.memory(BASE, places.RAM_SIZE)
        self._system = self._vmx.memory(0, _END)
        self._load()

    @property
    def context(self) -> PagingContext:
        """The registers that the guest's paging depends on now."""
        return replace(self._start, **self._control)

    def enter(self) -> None:
        """Have the guest be under its nested tables, and writes of EFER be exits."""
        byte, bit = msr_bit(MSR.EFER, write=True)
        bitmap = np.zeros(FRAME, np.uint8)
        bitmap[byte] |= bit
        self.monitor.write(MSR_BITMAP, bitmap.view(np.uint64))
        self.flush()

    def flush(self) -> None:
        """Have the CPU use the nested tables as they are now."""
        self._note_dirty()
        self.monitor.write(_TABLES, self.tables.words)
        self._flags = RunFlag.INVEPT

    def nested_words(self) -> U64:
        """Return the nested tables as the CPU finds them, a copy, without A and D."""
        return without_flags(self.monitor.read(_TABLES, _TABLE_FRAMES * WORDS))

    def predict(self, access: Access) -> GuestEvent | None:
        """Predict an access with the nested walk: the event that ends it, None if it succeeds."""
        context = NestedContext(self.context, self._ept)
        outcome = translate_nested(self._system, context, access)
        if isinstance(outcome, EptViolation | EptMisconfiguration):
            return replace(outcome, entries=())
        if isinstance(outcome, PageFault):
            return Fault(Vector.PF, outcome.error_code, outcome.cr2)
        if isinstance(outcome, GeneralProtection):
            return Fault(Vector.GP, 0, 0)
        return None

    def departure(self, predicted: GuestEvent | None, observed: GuestEvent | None) -> str:
        """Return the machine's known departures that make this of what is predicted, by name."""
        return departure_of(self._departures, predicted, observed)

    def run(self, rip: int, *, faults: int = 1) -> None:
        """Run kernel code at `rip` on the kernel's stack up to its HLT.

        Raises `CrosswalkError` where it doesn't get there, or has more than `faults` events.
        """
        self.events, self.left_user = [], False
        self._vmx.set(_at_kernel(rip))
        while True:
            ended = self._vmx.run(self._flags, (Field.EFER,))
            self._flags = KEPT
            self._control.update(self._seen(ended))
            if not ended.entered or ended.reason == ExitReason.TRIPLE_FAULT:
                raise CrosswalkError(f"the guest can't go on: {ended}")
            if ended.reason == ExitReason.HLT:
                self.left_user = ended.rip == _AGENT + USER_LEFT
                self.user_result = ended.register("rax")
                return
            if self._handled(ended):
                continue
            event = _event_of(ended)
            self.events.append((event, ended.register("rdi")))
            if len(self.events) > faults:
                raise CrosswalkError(f"more events than expected: {describe_event(event)}")
            if ended.cpl:  # Where it would go on, in the kernel, is to halt.
                return
            self._vmx.set({Field.RIP: ended.register("r15")})

    def read(self, pa: int, size: int) -> bytes:
        """Return bytes of the guest's RAM."""
        return self.memory.read(pa, size)

    def words(self, addresses: Sequence[int]) -> U64:
        """Return words of the guest's RAM."""
        pieces = [addresses[at : at + _PIECE] for at in range(0, len(addresses), _PIECE)]
        answers = self.monitor.perform(
            *(commands.load([BASE + address for address in piece]) for piece in pieces)
        )
        return np.concatenate([np.zeros(0, np.uint64), *(each.payload for each in answers)])

    def write(self, pa: int, data: bytes) -> None:
        """Write bytes of the guest's RAM."""
        self.memory.write(pa, data)
        self._touch(pa, len(data))

    @contextmanager
    def patched(self, at: int, frames: NDArray[np.intp], data: NDArray[np.uint8]) -> Iterator[None]:
        """Have `data` at an offset of these frames meanwhile; after an error, until `restore`."""
        rows = data.view(np.uint64)
        addresses = [BASE + frame * FRAME + at for frame in frames.tolist()]
        size = rows.shape[1]
        kept = self.monitor.perform(*(commands.read(place, size) for place in addresses))
        self._put(addresses, rows)
        self._dirty[frames] = True
        yield
        self._put(addresses, [answer.payload for answer in kept])

    @contextmanager
    def preserved(self, pa: int, size: int) -> Iterator[None]:
        """Put this RAM back, but after an error, to what it is now; 2 MiB at most."""
        if size > _SCRATCH_SIZE:
            raise CrosswalkError(f"no room to preserve {size:#x} bytes")
        self.monitor.perform(commands.copy(BASE + pa, _SCRATCH, size // 8))
        yield
        self.monitor.perform(commands.copy(_SCRATCH, BASE + pa, size // 8))
        self._touch(pa, size)

    def save(self) -> _Saved:
        """Save the state; there is room for one."""
        self.monitor.perform(commands.copy(BASE, COPY, places.RAM_SIZE // 8))
        self.flush()
        self._dirty[:] = False
        copy = GuestMemory(self.monitor, COPY, places.RAM_SIZE)
        return _Saved(self, copy, dict(self._control))

    def put_back(self, control: Mapping[str, int]) -> None:
        """Put RAM back to what was saved, and the control registers to these."""
        self._note_dirty()
        self.monitor.perform(*copies(self._dirty, COPY, BASE))
        self.flush()
        self._dirty[:] = False
        self.memory.forget()
        self._system.forget()
        self._control.update(control)
        self._vmx.set({Field.CR3: control["cr3"]})
        self._set_control()

    def _own_state(self) -> dict[Field, int]:
        return {
            Field.EPTP: self._ept.eptp,
            Field.MSR_BITMAP: MSR_BITMAP,
            Field.EXCEPTION_BITMAP: _LOW,
            Field.GDTR_BASE: _GDT,
            Field.GDTR_LIMIT: _GDT_LIMIT,
            Field.IDTR_BASE: _IDT,
            Field.IDTR_LIMIT: _IDT_LIMIT,
            Field.TR_BASE: _TSS,
        }

    def _load(self) -> None:
        """Write the guest's RAM, and the gate of the INT by which user code ends.

        What lies where the EPT will be is zeros: no entry there has a D bit.
        """
        self.monitor.perform(
            commands.fill(BASE, places.RAM_SIZE // 8),
            commands.fill(_TABLES, _TABLE_FRAMES * WORDS),
        )
        frames = self.booted.ram.words.reshape(-1, WORDS)
        used = np.asarray(frames.any(axis=1))
        for low, high in runs(used):
            self.monitor.write(BASE + low * FRAME, frames[low:high].reshape(-1))
        handler = _AGENT + USER_LEFT
        low_word = handler & 0xFFFF | 0x10 << 16 | _FOR_USER << 32 | (handler >> 16 & 0xFFFF) << 48
        self.memory.write(_GATE, struct.pack("<QQ", low_word, handler >> 32))

    def _note_dirty(self) -> None:
        """Take over from the EPT which frames the CPU has written."""
        words = self.monitor.read(_TABLES, _TABLE_FRAMES * WORDS)
        note_written(self._dirty, words, BASE)
        self.memory.forget()
        self._system.forget()

    def _touch(self, pa: int, size: int) -> None:
        self._dirty[pa // FRAME : -(-(pa + size) // FRAME)] = True
        self.memory.forget()
        self._system.forget()

    def _put(self, where: list[int], rows: "list[U64] | U64") -> None:
        self.monitor.perform(
            *(commands.write(place, row) for place, row in zip(where, rows, strict=True))
        )
        self.memory.forget()
        self._system.forget()

    def _set_control(self) -> None:
        """Set CR0, CR4 and EFER as the guest sees them, and what of them is the host's."""
        self._vmx.set({Field.EFER: self._control["efer"]})
        for name, value, mask, shadow in (
            ("cr0", Field.CR0, Field.CR0_MASK, Field.CR0_SHADOW),
            ("cr4", Field.CR4, Field.CR4_MASK, Field.CR4_SHADOW),
        ):
            seen, forced = self._control[name], self._forced[name]
            self._vmx.set({value: seen | forced, mask: forced | self.pins.mask(name), shadow: seen})

    def _seen(self, ended: Exit) -> dict[str, int]:
        """Return the control registers as the guest sees them."""
        seen = {"cr3": ended.cr3, "efer": ended.more[0]}
        for name, value in (("cr0", ended.cr0), ("cr4", ended.cr4)):
            forced = self._forced[name]
            seen[name] = value & ~forced | self._control[name] & forced
        return seen

    def _handled(self, ended: Exit) -> bool:
        """Carry out a hypercall, or the write of a register if it clears no pinned bit."""
        if ended.reason == ExitReason.VMCALL and self.hypercall is not None:
            rax, rbx = ended.register("rax"), ended.register("rbx")
            self._vmx.set_registers(rax=self.hypercall(rax, rbx, ended.cpl))
        else:
            name, value = ended.written_register
            if name not in _WRITTEN or cleared(name, self.pins.kept.get(name, 0), value):
                return False
            if name == "efer":
                value = value & ~EFER.LMA | self._control["efer"] & EFER.LMA
            self._control[name] = value
            self._set_control()
        self._vmx.set({Field.RIP: ended.rip + ended.instruction_length})
        return True


def _controls(kind: TableKind) -> Controls:
    secondary = Secondary.EPT
    if kind is TableKind.EPT_MBEC:
        secondary |= Secondary.MODE_BASED_EXECUTE
    return Controls(
        primary=Primary.HLT_EXITING | Primary.MSR_BITMAPS | Primary.SECONDARY, secondary=secondary
    )


def _at_kernel(rip: int) -> dict[Field, int]:
    """Return the fields of kernel code that begins on its stack, whatever ran before."""
    return {
        Field.RIP: rip,
        Field.RSP: _STACK_TOP,
        Field.RFLAGS: 2,
        Field.CS_SELECTOR: 0x10,
        Field.CS_BASE: 0,
        Field.CS_LIMIT: _LOW,
        Field.CS_RIGHTS: 0xA09B,
        Field.SS_SELECTOR: 0x18,
        Field.SS_BASE: 0,
        Field.SS_LIMIT: _LOW,
        Field.SS_RIGHTS: 0xC093,
        Field.INTERRUPTIBILITY: 0,
        Field.ACTIVITY: 0,
        Field.PENDING_DEBUG: 0,
    }


def _event_of(ended: Exit) -> GuestEvent:
    """Return the event that an exit is.

    Source: Intel SDM vol. 3C, "Basic VM-Exit Information", "Information for VM Exits Due to
    Vectored Events".
    """
    if ended.reason == ExitReason.EPT_VIOLATION:
        return EptViolation(ended.qualification, ended.gpa, ended.gla)
    if ended.reason == ExitReason.EPT_MISCONFIGURATION:
        return EptMisconfiguration(ended.gpa)
    if ended.reason == ExitReason.EXCEPTION and ended.vector is not None:
        error_code = ended.event_error if ended.event & _ERROR_CODE_VALID else 0
        return Fault(
            ended.vector, error_code, ended.qualification if ended.vector == Vector.PF else 0
        )
    name, _ = ended.written_register
    return VmExit(_WRITTEN.get(name) or reason_name(ended.reason))
