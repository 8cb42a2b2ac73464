"""A guest of the monitor under VMX: its state, its runs, why they end, its memory."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.monitor.monitor import Monitor
from crosswalk.emu.monitor.vmx import (
    CAPABILITY_MSRS,
    REASON_FAILED_ENTRY,
    Capabilities,
    Controls,
    ExitReason,
    Field,
    reason_name,
)
from crosswalk.guest.monitor import commands
from crosswalk.guest.monitor.commands import KEPT, REGISTERS, Command, RunFlag
from crosswalk.walker.architecture import MSR
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import FRAME, U64, WORDS

__all__ = ["EXIT_FIELDS", "Exit", "GuestMemory", "VmxGuest", "capabilities", "long_mode"]

_UNUSABLE = 1 << 16
_BUSY_TSS, _CODE64, _DATA = 0x8B, 0xA09B, 0xC093
_TSS_LIMIT = 0x67
_DR7, _NO_LINK = 0x400, (1 << 64) - 1
_PAT = 0x0007_0406_0007_0406
_LOW = 0xFFFF_FFFF
_NOT_TO_REGISTER = 3
"""Of the access that a control register's exit was for: 0 is MOV to it."""


def capabilities(monitor: Monitor) -> Capabilities:
    """Return what VMX can on the monitor's CPU, which has to have it."""
    (answer,) = monitor.perform(commands.read_msr(*CAPABILITY_MSRS.values()))
    return Capabilities(**dict(zip(CAPABILITY_MSRS, answer.words, strict=True)))


def long_mode(
    context: PagingContext,
    cpu: Capabilities,
    *,
    rip: int,
    rsp: int = 0,
    rflags: int = 2,
    cpl: int = 0,
) -> dict[Field, int]:
    """Return the fields of a guest in 64-bit mode with flat segments and empty tables of them.

    What VMX forces in CR0 and CR4 is set beside the context's bits, and the guest doesn't see it:
    these bits are the host's.

    Source: Intel SDM vol. 3C, "Guest Register State", "Checks on the Guest State Area".
    """
    cr0 = (context.cr0 | cpu.cr0_fixed0) & cpu.cr0_fixed1
    cr4 = (context.cr4 | cpu.cr4_fixed0) & cpu.cr4_fixed1
    if (cr0 ^ context.cr0) & context.cr0 or (cr4 ^ context.cr4) & context.cr4:
        raise BadInput(
            f"the CPU lacks bits of CR0 = {context.cr0:#x} or CR4 = {context.cr4:#x} under VMX"
        )
    found = {
        Field.CR0: cr0,
        Field.CR0_MASK: cr0 ^ context.cr0,
        Field.CR0_SHADOW: context.cr0,
        Field.CR3: context.cr3,
        Field.CR4: cr4,
        Field.CR4_MASK: cr4 ^ context.cr4,
        Field.CR4_SHADOW: context.cr4,
        Field.EFER: context.efer,
        Field.PAT: _PAT,
        Field.DEBUGCTL: 0,
        Field.DR7: _DR7,
        Field.RIP: rip,
        Field.RSP: rsp,
        Field.RFLAGS: rflags,
        Field.PENDING_DEBUG: 0,
        Field.INTERRUPTIBILITY: 0,
        Field.ACTIVITY: 0,
        Field.VMCS_LINK: _NO_LINK,
        Field.SYSENTER_CS: 0,
        Field.SYSENTER_ESP: 0,
        Field.SYSENTER_EIP: 0,
        Field.GDTR_BASE: 0,
        Field.GDTR_LIMIT: 0,
        Field.IDTR_BASE: 0,
        Field.IDTR_LIMIT: 0,
        Field.LDTR_SELECTOR: 0,
        Field.LDTR_BASE: 0,
        Field.LDTR_LIMIT: 0,
        Field.LDTR_RIGHTS: _UNUSABLE,
        Field.TR_SELECTOR: 0x30,
        Field.TR_BASE: 0,
        Field.TR_LIMIT: _TSS_LIMIT,
        Field.TR_RIGHTS: _BUSY_TSS,
        Field.EXCEPTION_BITMAP: 0,
        Field.PAGE_FAULT_MASK: 0,
        Field.PAGE_FAULT_MATCH: 0,
        Field.CR3_TARGET_COUNT: 0,
        Field.EXIT_MSR_STORE_COUNT: 0,
        Field.EXIT_MSR_LOAD_COUNT: 0,
        Field.ENTRY_MSR_LOAD_COUNT: 0,
        Field.ENTRY_EVENT: 0,
    }
    for number, name in enumerate(("ES", "CS", "SS", "DS", "FS", "GS")):
        selector = 0x10 if name == "CS" else 0x18
        rights = (_CODE64 if name == "CS" else _DATA) | cpl << 5
        found |= {
            Field(Field.ES_SELECTOR + 2 * number): selector + 0x10 * bool(cpl) | cpl,
            Field(Field.ES_BASE + 2 * number): 0,
            Field(Field.ES_LIMIT + 2 * number): 0xFFFF_FFFF,
            Field(Field.ES_RIGHTS + 2 * number): rights,
        }
    return found


EXIT_FIELDS = (
    Field.EXIT_REASON,
    Field.QUALIFICATION,
    Field.GUEST_PHYSICAL_ADDRESS,
    Field.GUEST_LINEAR_ADDRESS,
    Field.INSTRUCTION_LENGTH,
    Field.INSTRUCTION_INFORMATION,
    Field.EXIT_EVENT,
    Field.EXIT_EVENT_ERROR,
    Field.IDT_VECTORING,
    Field.IDT_VECTORING_ERROR,
    Field.RIP,
    Field.RSP,
    Field.RFLAGS,
    Field.CR0,
    Field.CR3,
    Field.CR4,
    Field.SS_RIGHTS,
)
"""What is read after every exit; the fields of `Exit` in this order."""


@dataclass(frozen=True, slots=True)
class Exit:
    """Why a guest isn't running, and what the VMCS says of it then.

    `registers` are the general ones and CR2, in the order of `REGISTERS`; `handled` exits came
    before and were handled by the monitor. `more` are the fields that the run was asked for
    besides. The other ones are those of `EXIT_FIELDS`, as VMREAD gives them.
    """

    registers: tuple[int, ...]
    handled: int
    more: tuple[int, ...]
    reason_word: int
    qualification: int
    gpa: int
    gla: int
    instruction_length: int
    instruction_information: int
    event: int
    event_error: int
    idt_vectoring: int
    idt_vectoring_error: int
    rip: int
    rsp: int
    rflags: int
    cr0: int
    cr3: int
    cr4: int
    ss_rights: int

    @classmethod
    def of(cls, words: Sequence[int]) -> "Exit":
        """Return the exit that the answer to RUN with `EXIT_FIELDS` and others tells."""
        count = len(REGISTERS)
        registers, handled, values = words[:count], words[count], words[count + 1 :]
        own, more = values[: len(EXIT_FIELDS)], values[len(EXIT_FIELDS) :]
        return cls(tuple(registers), handled, tuple(more), *own)

    @property
    def reason(self) -> int:
        """The basic exit reason, an `ExitReason` or another number."""
        return self.reason_word & 0xFFFF

    @property
    def entered(self) -> bool:
        """Whether the guest was entered; else its state was refused."""
        return not self.reason_word & REASON_FAILED_ENTRY

    @property
    def cpl(self) -> int:
        """The privilege level that the guest had."""
        return self.ss_rights >> 5 & 3

    @property
    def vector(self) -> int | None:
        """The vector of the exception or interrupt that ended the run, None for another reason.

        Source: Intel SDM vol. 3C, "Information for VM Exits Due to Vectored Events".
        """
        return self.event & 0xFF if self.event >> 31 & 1 else None

    @property
    def written_register(self) -> tuple[str, int]:
        """The register whose write was the exit, "cr0" to "cr8" or "efer", and the value.

        No name for another exit, and for CLTS and LMSW.

        Source: Intel SDM vol. 3C, "Basic VM-Exit Information".
        """
        if self.reason == ExitReason.WRMSR and self.register("rcx") & _LOW == MSR.EFER:
            return "efer", (self.register("rdx") & _LOW) << 32 | self.register("rax") & _LOW
        number, how, general = (self.qualification >> at & 0xF for at in (0, 4, 8))
        if self.reason != ExitReason.CONTROL_REGISTER or how & _NOT_TO_REGISTER:
            return "", 0
        return f"cr{number}", self.register(REGISTERS[general])

    def register(self, name: str) -> int:
        """Return a register of `REGISTERS` by its name, in lower case; RSP is that of the VMCS."""
        return self.rsp if name == "rsp" else self.registers[REGISTERS.index(name)]

    def __str__(self) -> str:
        name = reason_name(self.reason)
        words = [name if self.entered else f"entry refused ({name})", f"at {self.rip:#x}"]
        words.append(f"qualification {self.qualification:#x}, GPA {self.gpa:#x}")
        if self.vector is not None:
            words.append(f"vector {self.vector}, error code {self.event_error:#x}")
        return ", ".join(words)


class VmxGuest:
    """The monitor's guest under VMX.

    `controls` are its controls, `state` fields of its VMCS (as of `long_mode`, with the EPTP among
    them). What is set is sent with the next run: an exit costs one round trip. `handled` are exit
    reasons that the monitor handles by itself, `cpuid` the rows of `Op.HANDLE`.

    Raises `BadInput` where the CPU has no VMX, or lacks a control.
    """

    def __init__(
        self,
        monitor: Monitor,
        controls: Controls,
        state: Mapping[Field, int],
        *,
        handled: Iterable[int] = (),
        cpuid: Iterable[Sequence[int]] = (),
    ) -> None:
        self.monitor = monitor
        self.capabilities = enter_vmx(monitor)
        self._pending: list[Command] = [commands.handle(handled, list(cpuid))]
        self._fields: dict[Field, int] = {}
        self._registers: list[int] = [0] * len(REGISTERS)
        self._changed = True
        self._on_run: list[Callable[[], None]] = []
        try:
            self.set(controls.fields(self.capabilities))
        except BadInput as error:
            raise BadInput(f"{monitor.version}: {error}") from error
        self.set(state)

    def set(self, values: Mapping[Field, int]) -> None:
        """Set fields of the VMCS, from the next run on."""
        self._fields.update(values)

    def get(self, *wanted: Field) -> list[int]:
        """Return fields of the VMCS, with what was set."""
        asked = [*self._prepared(), commands.read_fields(wanted)]
        return self.monitor.perform(*asked)[-1].words

    def set_registers(self, **values: int) -> None:
        """Set general registers, or `cr2`, by their names in lower case; of RSP the VMCS' field."""
        for name, value in values.items():
            if name == "rsp":
                self._fields[Field.RSP] = value
            else:
                self._registers[REGISTERS.index(name)] = value
                self._changed = True

    def ask(self, *asked: Command) -> None:
        """Have commands carried out before the next run, with no round trip of their own."""
        self._pending += asked

    def memory(self, base: int, size: int) -> "GuestMemory":
        """Return memory of the guest that lies at the physical address `base`, `size` bytes.

        What it has cached is forgotten with each run.
        """
        found = GuestMemory(self.monitor, base, size)
        self._on_run.append(found.forget)
        return found

    def run(self, flags: RunFlag = KEPT, more: Sequence[Field] = ()) -> Exit:
        """Enter the guest until an exit that the monitor doesn't handle.

        Raises `CommandFailed` where the CPU refuses the controls or the host's state; a refused
        state of the guest is an exit.
        """
        for forget in self._on_run:
            forget()
        asked = [*self._prepared(), commands.run([*EXIT_FIELDS, *more], flags)]
        ended = Exit.of(self.monitor.perform(*asked)[-1].words)
        self._registers = list(ended.registers)
        return ended

    def _prepared(self) -> list[Command]:
        asked, self._pending = self._pending, []
        if self._fields:
            asked.append(commands.write_fields(self._fields.items()))
            self._fields = {}
        if self._changed:
            asked.append(commands.set_registers(self._registers))
            self._changed = False
        return asked


def enter_vmx(monitor: Monitor) -> Capabilities:
    """Have the monitor enter VMX operation with a new VMCS; return what its CPU can.

    Raises `BadInput` where it has no VMX.
    """
    (leaf,) = monitor.perform(commands.cpuid((1, 0)))
    if not leaf.words[1] >> 5 & 1:
        raise BadInput(f"{monitor.name}: its CPU has no VMX")
    monitor.perform(commands.vmx_on())
    return capabilities(monitor)


class GuestMemory:
    """Memory of a guest through the monitor: `PhysicalMemory`, and writes.

    Guest-physical address 0 lies at the physical address `base`; there are `size` bytes. Frames are
    kept from when they are read first until `forget`.
    """

    def __init__(self, monitor: Monitor, base: int, size: int) -> None:
        if base % FRAME or size % FRAME:
            raise BadInput(f"memory of {size:#x} bytes at {base:#x} isn't whole frames")
        self._monitor, self._base, self._size = monitor, base, size
        self._frames: dict[int, U64] = {}

    @property
    def ranges(self) -> Sequence[tuple[int, int]]:
        """All of it, in one range."""
        return [(0, self._size)]

    def forget(self) -> None:
        """Read all anew from here on."""
        self._frames.clear()

    def read(self, pa: int, size: int) -> bytes:
        """Return bytes; `BadInput` for what lies outside."""
        if not 0 <= pa <= pa + size <= self._size:
            raise BadInput(f"{pa:#x} to {pa + size:#x} isn't memory of the guest")
        first = pa & -FRAME
        frames = np.arange(first, pa + size, FRAME, dtype=np.uint64)
        data = self.tables(frames).astype("<u8").tobytes()
        return data[pa - first : pa - first + size]

    def word(self, pa: int) -> int | None:
        """Return the word at `pa`, a multiple of 8; None outside."""
        if not 0 <= pa < self._size:
            return None
        self._fetch([pa & -FRAME])
        return int(self._frames[pa & -FRAME][pa % FRAME // 8])

    def backed(self, frames: U64) -> NDArray[np.bool_]:
        """Return for each frame whether it is memory of the guest."""
        return np.asarray(frames, np.uint64) < np.uint64(self._size)

    def tables(self, frames: U64) -> U64:
        """Return uint64[n, 512], the words of n frames; zeros outside."""
        found = np.zeros((len(frames), WORDS), np.uint64)
        inside = np.flatnonzero(self.backed(frames))
        addresses = [int(frames[row]) & -FRAME for row in inside]
        self._fetch(addresses)
        for row, address in zip(inside.tolist(), addresses, strict=True):
            found[row] = self._frames[address]
        return found

    def write(self, pa: int, data: bytes) -> None:
        """Write bytes; `BadInput` for what lies outside."""
        if not 0 <= pa <= pa + len(data) <= self._size:
            raise BadInput(f"{pa:#x} to {pa + len(data):#x} isn't memory of the guest")
        if not data:
            return
        first, last = pa & -8, -(-(pa + len(data)) // 8) * 8
        whole = bytearray(
            self.read(first, last - first) if (first, last) != (pa, pa + len(data)) else data
        )
        whole[pa - first : pa - first + len(data)] = data
        self._monitor.write(
            self._base + first, np.frombuffer(bytes(whole), "<u8").astype(np.uint64)
        )
        for frame in range(first & -FRAME, last, FRAME):
            self._frames.pop(frame, None)

    def _fetch(self, addresses: Iterable[int]) -> None:
        missing = sorted({each for each in addresses if each not in self._frames})
        spans: list[tuple[int, int]] = []
        for address in missing:
            if spans and address == sum(spans[-1]) and spans[-1][1] < _SPAN:
                spans[-1] = spans[-1][0], spans[-1][1] + FRAME
            else:
                spans.append((address, FRAME))
        asked = [commands.read(self._base + start, size // 8) for start, size in spans]
        if not asked:
            return
        for (start, size), answer in zip(spans, self._monitor.perform(*asked), strict=True):
            rows = answer.payload.reshape(-1, WORDS)
            for number in range(size // FRAME):
                self._frames[start + number * FRAME] = rows[number]


_SPAN = 64 * FRAME
"""Bytes of frames read at once."""
