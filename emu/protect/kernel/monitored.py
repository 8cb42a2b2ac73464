"""A Linux kernel as the guest of a monitor: loaded, entered, and run from exit to exit.

The guest's RAM lies in the machine's from `BASE` on, a copy of it behind. Timer, interrupt
controllers, CMOS and UART are the machine's own, and their interrupts go to the guest. At other
ports it finds nothing; what it sends by the UART goes through its host. CPUID shows what a kernel
needs, and leaves out what would be the host's (VMX, the APIC's timer) or makes two runs differ.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.failure import GuestFailure, console_lines
from crosswalk.emu.load.linux.image import KernelImage
from crosswalk.emu.load.linux.loader import (
    GDT,
    GDT_LIMIT,
    ZERO_PAGE,
    place_kernel,
    prepare_entry,
)
from crosswalk.emu.monitor.guest import Exit, VmxGuest, enter_vmx, long_mode
from crosswalk.emu.monitor.monitor import Monitor, MonitorEnded
from crosswalk.emu.monitor.vmx import Controls, ExitReason, Field, Primary, Secondary, msr_bit
from crosswalk.emu.pc.cmos import CMOS_PORTS
from crosswalk.emu.pc.keyboard import KEYBOARD_PORTS
from crosswalk.emu.pc.pic import PIC_PORTS
from crosswalk.emu.pc.pit import PIT_PORTS
from crosswalk.emu.pc.uart import UART_PORTS
from crosswalk.emu.protect.permissions import Bools, FrameTables
from crosswalk.emu.protect.written import copies, note_written, runs, without_flags
from crosswalk.guest.monitor import commands
from crosswalk.guest.monitor.commands import KEPT, REGISTERS, RunFlag
from crosswalk.walker.architecture import MIB
from crosswalk.walker.errors import BadInput, CrosswalkError
from crosswalk.walker.memory import FRAME, U64, WORDS
from crosswalk.walker.protection.policy import TableKind

__all__ = ["BASE", "BOCHS_SETTINGS", "MORE_FIELDS", "MonitoredKernel", "Saved"]

BASE = 256 * MIB
"""Where guest-physical address 0 lies in the machine."""

BOCHS_SETTINGS = """\
cpu: ips=50000000
clock: sync=none, time0=1577836800
com1: enabled=1, mode=null
"""
"""What Bochs needs besides for such a guest: so many instructions a second of its timers, that they
leave the kernel time; the same date in each run; a UART that sends to nowhere."""

MORE_FIELDS = (Field.FS_BASE, Field.GS_BASE, Field.EFER)
"""What is read after every exit besides; the first of `Exit.more` in this order."""

_STATE = tuple(
    field
    for field in Field
    if Field.ES_SELECTOR <= field <= Field.TR_SELECTOR
    or Field.ES_LIMIT <= field <= Field.SYSENTER_CS
    or Field.CR0 <= field <= Field.SYSENTER_EIP
    or field in {Field.DEBUGCTL, Field.EFER}
)
"""The fields that have the guest's state, which every CPU with VMX has."""

_TABLES_ABOVE = 6
_BITMAPS = 3 * FRAME
_SHOWN_LINES = 20

_DATA_PORT, _LINE_CONTROL, _DIVISOR_LATCH = UART_PORTS[0], UART_PORTS[3], 0x80
_SPEAKER, _DELAY = 0x61, 0x80
_OWN_PORTS = (*PIT_PORTS, *CMOS_PORTS, *PIC_PORTS[0], *PIC_PORTS[1], *UART_PORTS, _SPEAKER, _DELAY)
"""The ports that the guest has; those of the UART that its host has to see are exits, too."""
_SEEN_PORTS = (_DATA_PORT, _LINE_CONTROL)
_COMMAND_PORT, _PULSE = KEYBOARD_PORTS[1], 0xFE
_HALTED = 1
_TIME_STAMP_COUNTER = 0x10
_MOST_STORED = 1 << 14

_MISC_ENABLE, _FAST_STRINGS = 0x1A0, 1
"""Bochs 3 has FSRM and this bit of IA32_MISC_ENABLE clear; Linux 6.1 then copies wrongly."""

_ALL = 0xFFFF_FFFF
_HIDDEN = (3, 5, 6, 12, 17, 21, 24, 26, 27, 28, 29, 30)
"""Of leaf 1, ECX: MONITOR, VMX, SMX, FMA, PCID, x2APIC, the APIC's TSC deadline, XSAVE, OSXSAVE,
AVX, F16C, RDRAND."""
_SHOWN_EBX, _SHOWN_ECX, _SHOWN_EDX = (0, 7, 9, 20), (2,), (10, 26, 27, 28, 29, 31)
"""Of leaf 7: FSGSBASE, SMEP, ERMS, SMAP; UMIP; MD_CLEAR and the controls of speculation."""
_LAHF = 1
_EMPTY_LEAVES = (5, 6, 0xA, 0xB, 0xD, *range(0x14, 0x17), *range(0x18, 0x20))
"""MONITOR, power, counters, topology, XSAVE, tracing, clocks, and all that came later."""


def _bits(numbers: tuple[int, ...]) -> int:
    return sum(1 << number for number in numbers)


def _row(leaf: int, subleaf: int | None, kept: tuple[int, int, int, int]) -> tuple[int, ...]:
    """Return a row for `commands.handle`: of EAX, EBX, ECX, EDX these bits are kept."""
    a, b, c, d = kept
    return leaf | (_ALL if subleaf is None else subleaf) << 32, a | b << 32, c | d << 32, 0, 0


_NOTHING = (0, 0, 0, 0)
_CPUID = (
    _row(1, None, (_ALL, _ALL, _ALL & ~_bits(_HIDDEN), _ALL)),
    _row(7, 0, (0, _bits(_SHOWN_EBX), _bits(_SHOWN_ECX), _bits(_SHOWN_EDX))),
    _row(7, 1, _NOTHING),
    _row(7, 2, _NOTHING),
    *(_row(leaf, None, _NOTHING) for leaf in _EMPTY_LEAVES),
    _row(0x8000_0001, None, (_ALL, _ALL, _LAHF, _ALL)),
)

_HANDLED = (ExitReason.CPUID, ExitReason.RDMSR, ExitReason.WRMSR)


@dataclass(frozen=True, slots=True)
class Saved:
    """What a guest's CPU was: fields of the VMCS, registers by name, and what its next run does."""

    fields: Mapping[Field, int]
    registers: Mapping[str, int]
    flags: RunFlag


class MonitoredKernel:
    """A kernel that is about to begin at its entry, in `size` bytes of RAM under nested tables.

    The parameters are those of `Boot`; `kind` is that of `tables`, which grant everything.
    `console` is what it has sent, `memory` its RAM, `system` the machine's. `left` is the last
    exit; `maxphyaddr` the width of its CPU's physical addresses, in bits.

    Raises `BadInput` where the machine hasn't so much RAM, or its CPU lacks what is needed.
    """

    def __init__(
        self,
        monitor: Monitor,
        kernel: KernelImage,
        *,
        size: int,
        initrd: bytes,
        arguments: str,
        kind: TableKind,
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        frames = _TABLES_ABOVE + -(-size // (2 * MIB))
        tables = BASE + 2 * size
        self._bitmaps = tables + frames * FRAME
        cpu = enter_vmx(monitor)
        if not monitor.greeting.free(BASE, self._bitmaps + _BITMAPS - BASE):
            raise BadInput(f"{monitor.name}: no RAM for a guest with {size >> 20} MiB (--ram)")
        self.monitor, self.size = monitor, size
        self.console = bytearray()
        self.left: Exit | None = None
        self._on_line, self._shown = on_line, 0
        self._latched = False
        self._flags = KEPT
        ram = Ram(0, size)
        place_kernel(ram, kernel, arguments, initrd)
        context = prepare_entry(ram, 4)
        self._load(ram)
        words = np.zeros(frames * WORDS, np.uint64)
        self.tables = FrameTables(words, tables, size // FRAME, kind=kind, offset=BASE)
        self._written = words.copy()
        self._dirty: Bools = np.zeros(size // FRAME, np.bool_)
        self._saved = False
        monitor.write(tables, words)
        self._write_bitmaps()
        (leaf,) = monitor.perform(commands.cpuid((0x8000_0008, 0)))
        self.maxphyaddr = leaf.words[0] & 0xFF
        # What VMX forces is set for the guest to see: no bit of these registers is the host's.
        context = replace(context, cr0=context.cr0 | cpu.cr0_fixed0)
        self.controls = _controls(kind)
        self.vmx = VmxGuest(
            monitor,
            self.controls,
            long_mode(context, cpu, rip=kernel.entry) | self._own_fields(),
            handled=_HANDLED,
            cpuid=_CPUID,
        )
        self.vmx.set_registers(rsi=ZERO_PAGE)
        self.memory = self.vmx.memory(BASE, size)
        self.system = self.vmx.memory(0, self._bitmaps + _BITMAPS)

    def run(self, stop: Callable[[], bool] = lambda: False) -> Exit | None:
        """Run until an exit that is no device's, or until `stop` holds after a byte was sent.

        Returns None then. Raises `GuestFailure` where the kernel can't go on, asks for a reset, or
        runs for longer without an exit than the monitor's machine may.
        """
        while True:
            try:
                left = self.left = self.vmx.run(self._flags, MORE_FIELDS)
            except MonitorEnded as ended:
                raise self.failure(f"the kernel was running when {ended}") from ended
            self._flags = KEPT
            if not left.entered or left.reason == ExitReason.TRIPLE_FAULT:
                raise self.failure(f"the kernel can't go on: {left}")
            if left.reason == ExitReason.IO:
                if self._on_port(left) and stop():
                    return None
            elif left.reason == ExitReason.RDMSR and left.register("rcx") & _ALL == _MISC_ENABLE:
                self._read_misc_enable(left)
            else:
                return left

    def skip(self, left: Exit) -> None:
        """Go on behind the instruction that exited."""
        self.vmx.set({Field.RIP: left.rip + left.instruction_length, Field.INTERRUPTIBILITY: 0})

    def halt(self, left: Exit) -> None:
        """Halt as HLT does, and go on behind it with the next interrupt."""
        self.skip(left)
        self.vmx.set({Field.ACTIVITY: _HALTED})

    def flush(self) -> None:
        """Have the CPU use the nested tables as they are now."""
        if self._saved:
            self._note_dirty()
        words = self.tables.words
        changed = np.flatnonzero(words != self._written)
        places = (self.tables.root + 8 * changed).tolist()
        for at in range(0, len(changed), _MOST_STORED):
            part = slice(at, at + _MOST_STORED)
            pairs = zip(places[part], words[changed[part]].tolist(), strict=True)
            self.vmx.ask(commands.store(pairs))
        self._written[changed] = words[changed]
        self._flags |= RunFlag.INVEPT

    def save(self) -> "Saved":
        """Save the state that the guest is in at its last exit; there is room for one."""
        if self.left is None:
            raise CrosswalkError("the kernel hasn't begun to run")
        self.monitor.perform(commands.copy(BASE, BASE + self.size, self.size // 8))
        self._saved = True
        self._begin_clean()
        fields = dict(zip(_STATE, self.vmx.get(*_STATE), strict=True))
        return Saved(fields, dict(zip(REGISTERS, self.left.registers, strict=True)), self._flags)

    def put_back(self, saved: "Saved") -> None:
        """Put RAM and CPU back to the state saved; nested tables and intercepts stay as they are.

        Only frames that were written since are copied: those of which the EPT has D set, which bit
        6 of the EPTP has the CPU do, and those that `write` wrote.
        """
        self._note_dirty()
        self.monitor.perform(*copies(self._dirty, BASE + self.size, BASE))
        self._begin_clean()
        self.memory.forget()
        self.vmx.set(saved.fields)
        self.vmx.set_registers(
            **{name: value for name, value in saved.registers.items() if name != "rsp"}
        )
        self._flags = saved.flags | RunFlag.INVEPT

    def write(self, pa: int, data: bytes) -> None:
        """Write bytes of the guest's RAM."""
        self.memory.write(pa, data)
        self._dirty[pa // FRAME : -(-(pa + len(data)) // FRAME)] = True

    def nested_words(self) -> U64:
        """Return the nested tables as the CPU finds them, a copy, without A and D."""
        return without_flags(self.monitor.read(self.tables.root, len(self.tables.words)))

    def intercept(self, msr: int, *, write: bool, on: bool) -> None:
        """Have reads or writes of an MSR exit, or no longer."""
        byte, bit = msr_bit(msr, write=write)
        self._msrs[byte] = int(self._msrs[byte]) & ~bit | bit * on
        at = byte & -8
        word = int.from_bytes(self._msrs[at : at + 8].tobytes(), "little")
        self.vmx.ask(commands.store([(self._bitmaps + 2 * FRAME + at, word)]))

    def failure(self, message: str) -> GuestFailure:
        """Return the error of a kernel that ended, with what it had sent."""
        shown = console_lines(self.console)
        lines = [f"console, last lines of {len(shown)}:" if shown else "console: nothing"]
        lines += [f"  {line}" for line in shown[-_SHOWN_LINES:]]
        return GuestFailure(message, (*lines, f"the last exit: {self.left}"))

    @property
    def ticks(self) -> int:
        """The machine's time-stamp counter."""
        (answer,) = self.monitor.perform(commands.read_msr(_TIME_STAMP_COUNTER))
        return answer.words[0]

    def _note_dirty(self) -> None:
        """Take over from the EPT which frames the CPU has written."""
        words = self.monitor.read(self.tables.root, len(self.tables.words))
        note_written(self._dirty, words, BASE)

    def _begin_clean(self) -> None:
        """Have A and D clear in the whole EPT, and nothing count as written."""
        self.monitor.write(self.tables.root, self.tables.words)
        self._written[:] = self.tables.words
        self._dirty[:] = False
        self._flags |= RunFlag.INVEPT

    def _on_port(self, left: Exit) -> bool:
        """Do what an I/O instruction does; return whether the console has one byte more."""
        qualification = left.qualification
        port, size = qualification >> 16 & 0xFFFF, (qualification & 7) + 1
        reads, string = qualification >> 3 & 1, qualification >> 4 & 1
        if string:
            raise CrosswalkError(f"a string instruction at port {port:#x}, at {left.rip:#x}")
        rax = left.register("rax")
        if port == _COMMAND_PORT and not reads and rax & 0xFF == _PULSE:
            raise self.failure("the kernel asks for a reset")
        if port in _SEEN_PORTS:
            self._flags |= RunFlag.IO
            if port == _LINE_CONTROL and not reads:
                self._latched = bool(rax & _DIVISOR_LATCH)
            sent = port == _DATA_PORT and not reads and not self._latched
            if sent:
                self._sent(rax & 0xFF)
            return sent
        if reads:  # Nothing is there.
            mask = (1 << 8 * size) - 1
            self.vmx.set_registers(rax=mask if size == 4 else rax | mask)
        self.skip(left)
        return False

    def _sent(self, byte: int) -> None:
        self.console.append(byte)
        if byte == 0x0A and self._on_line is not None:
            for line in console_lines(self.console[self._shown :]):
                self._on_line(line)
            self._shown = len(self.console)

    def _read_misc_enable(self, left: Exit) -> None:
        (answer,) = self.monitor.perform(commands.read_msr(_MISC_ENABLE))
        value = answer.words[0] | _FAST_STRINGS
        self.vmx.set_registers(rax=value & _ALL, rdx=value >> 32)
        self.skip(left)

    def _load(self, ram: Ram) -> None:
        self.monitor.perform(commands.fill(BASE, self.size // 8))
        frames = ram.words.reshape(-1, WORDS)
        for low, high in runs(np.asarray(frames.any(axis=1))):
            self.monitor.write(BASE + low * FRAME, frames[low:high].reshape(-1))

    def _write_bitmaps(self) -> None:
        """Write the bitmaps of ports and of MSRs: what is set is an exit."""
        ports = np.ones(1 << 16, np.uint8)
        ports[list(set(_OWN_PORTS) - set(_SEEN_PORTS))] = 0
        self._msrs = np.zeros(FRAME, np.uint8)
        byte, bit = msr_bit(_MISC_ENABLE, write=False)
        self._msrs[byte] |= bit
        packed = np.packbits(ports, bitorder="little")
        self.monitor.write(self._bitmaps, np.concatenate([packed, self._msrs]).view(np.uint64))

    def _own_fields(self) -> dict[Field, int]:
        return {
            Field.EPTP: self.tables.eptp(accessed_dirty=True),
            Field.IO_BITMAP_A: self._bitmaps,
            Field.IO_BITMAP_B: self._bitmaps + FRAME,
            Field.MSR_BITMAP: self._bitmaps + 2 * FRAME,
            Field.GDTR_BASE: GDT,
            Field.GDTR_LIMIT: GDT_LIMIT,
        }


def _controls(kind: TableKind) -> Controls:
    secondary = Secondary.EPT | Secondary.RDTSCP
    if kind is TableKind.EPT_MBEC:
        secondary |= Secondary.MODE_BASED_EXECUTE
    return Controls(
        primary=Primary.HLT_EXITING | Primary.IO_BITMAPS | Primary.MSR_BITMAPS | Primary.SECONDARY,
        secondary=secondary,
    )
