"""All devices of a machine, and the lines between them: what a guest finds around its CPU."""

from collections.abc import Callable
from enum import Enum

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.pc.addresses import IOAPIC_BASE, LAPIC_BASE
from crosswalk.emu.pc.clock import Clock
from crosswalk.emu.pc.cmos import CMOS_PORTS, Cmos
from crosswalk.emu.pc.fw_cfg import FW_CFG_PORTS, FwCfg
from crosswalk.emu.pc.ioapic import IoApic, pin_of
from crosswalk.emu.pc.keyboard import KEYBOARD_IRQ, KEYBOARD_PORTS, Keyboard
from crosswalk.emu.pc.lapic import LocalApic
from crosswalk.emu.pc.pic import PIC_PORTS, PicPair
from crosswalk.emu.pc.pit import PIT_PORTS, SYSTEM_PORT, Pit, SystemPort
from crosswalk.emu.pc.ports import Latch, Ports
from crosswalk.emu.pc.power import (
    ACPI_PORTS,
    FAST_RESET_PORT,
    RESET_CONTROL_PORT,
    AcpiRegisters,
    DebugExit,
    FastReset,
    ResetControl,
)
from crosswalk.emu.pc.uart import UART_IRQ, UART_PORTS, Uart
from crosswalk.emu.pc.vga import (
    CRTC_PORTS,
    MDA_PORTS,
    TEXT_BYTES,
    TEXT_MEMORY,
    Crtc,
    screen_lines,
)
from crosswalk.walker.memory import FRAME

__all__ = ["Board", "WayOut"]

_TIMER_IRQ = 0
_POST_PORT = 0x80
_NEVER = 1 << 64
# Events of timers that come before one is delivered. A guest that blocks them all sleeps for ever.
_MOST_EVENTS = 1000


class WayOut(Enum):
    """How a guest ends its run by itself."""

    RESET = "reset"
    OFF = "off"
    EXIT = "exit"


class Board:
    """The devices, for a machine with `ram` bytes of RAM.

    `sent` is called with each byte that the UART sends, `left` when the guest ends its run, with
    the status of an exit or 0. `exit_port` is the port for exits, if there is one. `requested` says
    whether an interrupt waits for the CPU.

    Raises `BadInput` for an exit port that a device has.
    """

    def __init__(
        self,
        ram: int,
        *,
        sent: Callable[[int], None],
        left: Callable[[WayOut, int], None],
        exit_port: int | None = None,
    ) -> None:
        self.clock = Clock()
        self.ports = Ports()
        self.requested = False
        self._apic_enabled = True
        self._pics = PicPair()
        self._pit = Pit(self.clock)
        self._lapic = LocalApic(self.clock, self._level_ended)
        self._io_apic = IoApic(self._lapic)
        self._uart = Uart(sent)
        self._display = Crtc()
        self._keyboard = Keyboard(lambda: left(WayOut.RESET, 0))
        self._lines = (False, False)  # of the UART and the keyboard
        self._memory: dict[int, LocalApic | IoApic] = {
            LAPIC_BASE: self._lapic,
            IOAPIC_BASE: self._io_apic,
        }
        self._attach(ram, left, exit_port)
        self._due = self._next_time()
        # What an access to a port may change, of the devices that interrupts come from.
        self._after: dict[int, Callable[[], None]] = (
            dict.fromkeys((*UART_PORTS, *KEYBOARD_PORTS), self._move_lines)
            | dict.fromkeys((*PIC_PORTS[0], *PIC_PORTS[1]), self._decide)
            | dict.fromkeys(PIT_PORTS, self._look_at_timers)
        )

    def _attach(self, ram: int, left: Callable[[WayOut, int], None], exit_port: int | None) -> None:
        attach = self.ports.attach
        attach("UART", self._uart, *UART_PORTS)
        for pic, ports in zip((self._pics.first, self._pics.second), PIC_PORTS, strict=True):
            attach("interrupt controller", pic, *ports)
        attach("timer", self._pit, *PIT_PORTS)
        attach("timer's gate and speaker", SystemPort(self._pit), SYSTEM_PORT)
        attach("keyboard controller", self._keyboard, *KEYBOARD_PORTS)
        attach("CMOS clock", Cmos(self.clock, ram, IOAPIC_BASE), *CMOS_PORTS)
        attach("text display", self._display, *CRTC_PORTS)
        attach("monochrome display", Crtc(), *MDA_PORTS)
        attach("fw_cfg", FwCfg(ram), *FW_CFG_PORTS)
        attach("POST code register", Latch(1), _POST_PORT)
        attach("fast reset", FastReset(lambda: left(WayOut.RESET, 0)), FAST_RESET_PORT)
        # Four bytes at 0xcf8 are an address in PCI's configuration space.
        reset = ResetControl(lambda: left(WayOut.RESET, 0))
        attach("reset control", reset, RESET_CONTROL_PORT, alone=True)
        attach("ACPI", AcpiRegisters(self.clock, lambda: left(WayOut.OFF, 0)), *ACPI_PORTS)
        if exit_port is not None:
            attach("guest's exit", DebugExit(lambda status: left(WayOut.EXIT, status)), exit_port)

    def screen(self, ram: Ram) -> list[str]:
        """Return what the text display shows, as `screen_lines` has it.

        Nothing where RAM doesn't reach so far.
        """
        if not ram.start <= TEXT_MEMORY <= ram.start + ram.size - TEXT_BYTES:
            return []
        return screen_lines(ram.read(TEXT_MEMORY, TEXT_BYTES), self._display.start)

    def spend(self) -> None:
        """Let the time of a question to the host pass, and what is due by then happen."""
        self.clock.spend()
        if self.clock.now >= self._due:
            self._look_at_timers()

    def stamp(self) -> int:
        """Return the time-stamp counter; what is due by then happens."""
        stamp = self.clock.stamp()
        if self.clock.now >= self._due:
            self._look_at_timers()
        return stamp

    def read_port(self, port: int, size: int) -> int:
        """Return `size` bytes from an I/O port on."""
        value = self.ports.read(port, size)
        after = self._after.get(port)
        if after is not None:
            after()
        return value

    def write_port(self, port: int, size: int, value: int) -> None:
        """Write `size` bytes from an I/O port on."""
        self.ports.write(port, size, value)
        after = self._after.get(port)
        if after is not None:
            after()

    @property
    def apic_enabled(self) -> bool:
        """Whether the local APIC is there; without it the 8259s lead to the CPU directly."""
        return self._apic_enabled

    @apic_enabled.setter
    def apic_enabled(self, value: bool) -> None:
        self._apic_enabled = value
        self._decide()

    @property
    def task_priority(self) -> int:
        """The local APIC's task priority."""
        return self._lapic.task_priority

    @task_priority.setter
    def task_priority(self, value: int) -> None:
        self._lapic.task_priority = value
        self._decide()

    @property
    def nmi(self) -> bool:
        """Whether an NMI waits for the CPU."""
        return self._lapic.nmi

    def acknowledge_nmi(self) -> None:
        """Note that the CPU takes the NMI that waits."""
        self._lapic.nmi = False

    def acknowledge(self) -> int:
        """Put the interrupt that waits into service, and return its vector."""
        by_apic = self._apic_enabled and self._lapic.pending is not None
        served = self._lapic if by_apic else self._pics
        vector = served.acknowledge()
        self._decide()
        return vector

    def wait(self) -> bool:
        """Let time pass until an interrupt is requested; return whether one comes."""
        for _ in range(_MOST_EVENTS):
            if self.requested or self.nmi:
                return True
            event = self._next_wake()
            if event is None:
                return False
            self.clock.wait(event)
            self._look_at_timers()
        return False

    def tick(self) -> None:
        """Let time pass until the next event of a timer, if one is to come."""
        event = self._next_wake()
        if event is not None:
            self.clock.wait(event)
            self._look_at_timers()

    def is_device(self, pa: int) -> bool:
        """Return whether a device has its registers at this physical address."""
        return self._device_at(pa) is not None

    def read_memory(self, pa: int, size: int) -> int | None:
        """Return `size` bytes of a device's registers; None where no device is."""
        device = self._device_at(pa)
        if device is None:
            return None
        return device.read(pa % FRAME, size)

    def write_memory(self, pa: int, size: int, value: int) -> bool:
        """Write to a device's registers; return whether there is a device."""
        device = self._device_at(pa)
        if device is None:
            return False
        device.write(pa % FRAME, size, value)
        self._look_at_timers()
        return True

    @property
    def _extint_open(self) -> bool:
        return not self._apic_enabled or self._lapic.passes_extint or self._io_apic.passes_extint

    def _device_at(self, pa: int) -> LocalApic | IoApic | None:
        device = self._memory.get(pa // FRAME * FRAME)
        return None if device is self._lapic and not self._apic_enabled else device

    def _level_ended(self, vector: int) -> None:
        self._io_apic.end_of_interrupt(vector)

    def _move_lines(self) -> None:
        """Move the lines of the UART and the keyboard as they have them now."""
        lines = (self._uart.interrupting, self._keyboard.interrupting)
        if lines == self._lines:
            return
        for irq, up, before in zip((UART_IRQ, KEYBOARD_IRQ), lines, self._lines, strict=True):
            if up != before:
                self._pics.set_line(irq, up=up)
                self._io_apic.set_line(pin_of(irq), up=up)
        self._lines = lines
        self._decide()

    def _look_at_timers(self) -> None:
        """Request the interrupts of the timers' events up to now."""
        if self._pit.ticked():
            # A tick stays requested until it is acknowledged.
            self._pics.set_line(_TIMER_IRQ, up=True)
            self._io_apic.set_line(pin_of(_TIMER_IRQ), up=True)
            self._io_apic.set_line(pin_of(_TIMER_IRQ), up=False)
        self._lapic.update()
        self._due = self._next_time()
        self._decide()

    def _decide(self) -> None:
        """Find out whether an interrupt waits for the CPU."""
        by_apic = self._apic_enabled and self._lapic.pending is not None
        self.requested = by_apic or (self._extint_open and self._pics.pending)

    def _next_time(self) -> int:
        """Return when a timer has to be looked at next."""
        events = (self._pit.next_tick, self._lapic.next_fire)
        return min((event for event in events if event is not None), default=_NEVER)

    def _next_wake(self) -> int | None:
        """Return when a timer asks for an interrupt next; None where none does."""
        by_pic = self._extint_open and self._pics.enabled(_TIMER_IRQ)
        heard = by_pic or self._io_apic.enabled(pin_of(_TIMER_IRQ))
        events = (self._pit.next_tick if heard else None, self._lapic.next_fire)
        return min((event for event in events if event is not None), default=None)
