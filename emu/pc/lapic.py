"""The local APIC: interrupts by priority, messages of the processor to itself, and its timer.

Source: Intel SDM vol. 3A, "Local APIC", "Local Vector Table", "APIC Timer", "Handling Interrupts",
"Interrupt Command Register (ICR)", "Spurious Interrupt". One processor, in xAPIC mode: no x2APIC,
no deadline of the time-stamp counter. SMI, INIT and start-up messages do nothing.
"""

from collections.abc import Callable

from crosswalk.emu.pc.addresses import LAPIC_ID, LAPIC_VERSION
from crosswalk.emu.pc.clock import TSC_HZ, Clock

__all__ = ["LAPIC_HZ", "LocalApic"]

LAPIC_HZ = 1_000_000_000
"""The rate of the timer's clock, before it is divided."""

_CYCLES = TSC_HZ // LAPIC_HZ

_ID, _VERSION, _TPR, _APR, _PPR, _EOI = 0x20, 0x30, 0x80, 0x90, 0xA0, 0xB0
_LDR, _DFR, _SVR, _ESR, _ICR_LOW, _ICR_HIGH = 0xD0, 0xE0, 0xF0, 0x280, 0x300, 0x310
_TIMER, _THERMAL, _COUNTERS, _LINT0, _LINT1, _ERROR = 0x320, 0x330, 0x340, 0x350, 0x360, 0x370
_INITIAL, _CURRENT, _DIVIDE = 0x380, 0x390, 0x3E0
_SERVICE_BITS, _LEVEL_BITS, _REQUEST_BITS = 0x100, 0x180, 0x200  # 256 each, of 32 a register
_BITS_END = 0x280

_VECTORS = (_TIMER, _THERMAL, _COUNTERS, _LINT0, _LINT1, _ERROR)
_WRITABLE = {
    _ID: 0xFF00_0000,
    _LDR: 0xFF00_0000,
    _SVR: 0x11FF,
    _ICR_HIGH: 0xFF00_0000,
    _TIMER: 0x7_00FF,
    _THERMAL: 0x1_07FF,
    _COUNTERS: 0x1_07FF,
    _LINT0: 0x1_A7FF,
    _LINT1: 0x1_A7FF,
    _ERROR: 0x1_00FF,
    _INITIAL: 0xFFFF_FFFF,
    _DIVIDE: 0xB,
}
_ENABLED = 0x100  # of SVR
_MASKED, _PERIODIC = 0x1_0000, 0x2_0000
_FIXED, _LOWEST, _NMI, _EXTINT = 0, 1, 4, 7
_LOGICAL = 0x800  # of the ICR
_NOBODY, _SELF, _ALL, _OTHERS = range(4)  # shorthands
_BROADCAST = 0xFF
_ILLEGAL_SENT, _ILLEGAL_RECEIVED = 0x20, 0x40  # of ESR
_LOWEST_VECTOR = 16
_FLAT = 0xF  # of DFR, in its upper four bits


class LocalApic:
    """The registers of one page, 32 bits each on 16 bytes.

    It is as a PC's firmware leaves it: enabled, with the 8259s' interrupts passed through LINT0.
    `ended` is called with the vector of a level-triggered interrupt whose handler has ended. `nmi`
    says whether an NMI waits for the CPU; who delivers it clears it. `task_priority` is the TPR, of
    which CR8 is the upper four bits.
    """

    def __init__(self, clock: Clock, ended: Callable[[int], None]) -> None:
        self.nmi = False
        self._clock = clock
        self._ended = ended
        self._registers = dict.fromkeys(_VECTORS, _MASKED) | {
            _ID: LAPIC_ID << 24,
            _LDR: 0,
            _DFR: 0xFFFF_FFFF,
            _SVR: _ENABLED | 0xFF,
            _ICR_LOW: 0,
            _ICR_HIGH: 0,
            _LINT0: _EXTINT << 8,
            _LINT1: _NMI << 8,
            _INITIAL: 0,
            _DIVIDE: 0,
        }
        self.task_priority = 0
        self._requests = self._in_service = self._level = 0
        self._errors = self._shown_errors = 0
        self._begun = 0
        self._fired = 0

    @property
    def passes_extint(self) -> bool:
        """Whether the interrupt of the 8259s passes through LINT0."""
        lint = self._registers[_LINT0]
        return not lint & _MASKED and lint >> 8 & 7 == _EXTINT

    def accepts(self, destination: int, *, logical: bool) -> bool:
        """Return whether a message's destination is, or includes, this processor."""
        if destination == _BROADCAST:
            return True
        if not logical:
            return destination == self._registers[_ID] >> 24
        own = self._registers[_LDR] >> 24
        if self._registers[_DFR] >> 28 == _FLAT:
            return bool(own & destination)
        return own >> 4 == destination >> 4 and bool(own & destination & 0xF)

    def receive(self, vector: int, *, level: bool = False) -> None:
        """Take an interrupt message with a vector."""
        if vector < _LOWEST_VECTOR:
            self._note_error(_ILLEGAL_RECEIVED)
        elif self._registers[_SVR] & _ENABLED:
            self._requests |= 1 << vector
            kept = self._level & ~(1 << vector)
            self._level = kept | 1 << vector if level else kept

    @property
    def pending(self) -> int | None:
        """The vector to be served: the highest one requested, if its class is above the PPR's."""
        highest = self._requests.bit_length() - 1
        return highest if highest >> 4 > self._processor_priority >> 4 else None

    def acknowledge(self) -> int:
        """Put the pending interrupt into service, and return its vector."""
        vector = self.pending
        if vector is None:
            raise ValueError("no interrupt is pending")
        self._requests &= ~(1 << vector)
        self._in_service |= 1 << vector
        return vector

    @property
    def next_fire(self) -> int | None:
        """When the timer fires next; None where it doesn't, or where it is requested already."""
        vector = self._registers[_TIMER]
        if vector & _MASKED or not self._registers[_INITIAL]:
            return None
        if self._requests >> (vector & 0xFF) & 1 or (self._fired and not vector & _PERIODIC):
            return None
        return self._begun + (self._fired + 1) * self._period

    def update(self) -> None:
        """Request the timer's interrupt where it has fired since this was asked before."""
        if not self._registers[_INITIAL]:
            return
        vector = self._registers[_TIMER]
        fired = (self._clock.now - self._begun) // self._period
        if not vector & _PERIODIC:
            fired = min(fired, 1)
        due, self._fired = fired > self._fired, fired
        if due and not vector & _MASKED:
            self.receive(vector & 0xFF)

    def read(self, offset: int, size: int) -> int:
        """Return `size` bytes at an offset into the page; what isn't a register reads as 0."""
        at = offset & 0xFF0
        value = self._register(at) if offset & 0xF < 4 else 0
        return value >> 8 * (offset & 3) & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Write to a register; nothing where it isn't all of one."""
        if size != 4 or offset & 0xF:
            return
        if offset == _EOI:
            self._end_of_interrupt()
        elif offset == _TPR:
            self.task_priority = value & 0xFF
        elif offset == _ESR:
            self._shown_errors, self._errors = self._errors, 0
        elif offset == _DFR:
            self._registers[_DFR] = value | 0x0FFF_FFFF
        elif offset == _ICR_LOW:
            self._registers[_ICR_LOW] = value & 0xC_CFFF
            self._send()
        elif offset in _WRITABLE:
            self._set(offset, value & _WRITABLE[offset])

    def _register(self, at: int) -> int:
        for first, bits in (
            (_SERVICE_BITS, self._in_service),
            (_LEVEL_BITS, self._level),
            (_REQUEST_BITS, self._requests),
        ):
            if first <= at < first + 0x80:
                return bits >> 2 * (at - first) & 0xFFFF_FFFF
        special = {
            _VERSION: LAPIC_VERSION | len(_VECTORS) - 1 << 16,
            _TPR: self.task_priority,
            _PPR: self._processor_priority,
            _APR: self._processor_priority,
            _ESR: self._shown_errors,
        }
        if at == _CURRENT:
            return self._current
        return special[at] if at in special else self._registers.get(at, 0)

    def _set(self, offset: int, value: int) -> None:
        if offset in (_INITIAL, _DIVIDE):
            current = self._current
            self._registers[offset] = value
            self._begin(value if offset == _INITIAL else current)
            return
        if offset in _VECTORS and not self._registers[_SVR] & _ENABLED:
            value |= _MASKED
        if offset == _TIMER and (value ^ self._registers[_TIMER]) & _PERIODIC:
            self.update()
        self._registers[offset] = value
        if offset == _SVR and not value & _ENABLED:
            for each in _VECTORS:
                self._registers[each] |= _MASKED

    @property
    def _processor_priority(self) -> int:
        served = max(self._in_service.bit_length() - 1, 0)
        return self.task_priority if self.task_priority >> 4 >= served >> 4 else served & 0xF0

    @property
    def _period(self) -> int:
        """The cycles of the time-stamp counter in which the timer's count goes down to 0."""
        code = self._registers[_DIVIDE]
        divisor = 1 << ((code >> 1 & 4 | code & 3) + 1 & 7)
        return self._registers[_INITIAL] * divisor * _CYCLES

    @property
    def _current(self) -> int:
        initial = self._registers[_INITIAL]
        if not initial:
            return 0
        passed = self._clock.now - self._begun
        if passed >= self._period and not self._registers[_TIMER] & _PERIODIC:
            return 0
        left = self._period - passed % self._period
        return -(-left * initial // self._period)

    def _begin(self, count: int) -> None:
        """Let the timer go on from a count, which may be less than the initial one."""
        self._fired = 0
        self._begun = self._clock.now
        if self._registers[_INITIAL]:
            gone = self._registers[_INITIAL] - count
            self._begun -= gone * self._period // self._registers[_INITIAL]

    def _end_of_interrupt(self) -> None:
        if not self._in_service:
            return
        vector = self._in_service.bit_length() - 1
        self._in_service &= ~(1 << vector)
        if self._level >> vector & 1:
            self._ended(vector)

    def _send(self) -> None:
        """Send the message that the ICR holds, if it is for this processor."""
        command = self._registers[_ICR_LOW]
        shorthand = command >> 18 & 3
        target = self._registers[_ICR_HIGH] >> 24
        if shorthand == _NOBODY:
            own = self.accepts(target, logical=bool(command & _LOGICAL))
        else:
            own = shorthand in (_SELF, _ALL)
        kind = command >> 8 & 7
        if own and kind == _NMI:
            self.nmi = True
        if not own or kind not in (_FIXED, _LOWEST):
            return
        if command & 0xFF < _LOWEST_VECTOR:
            self._note_error(_ILLEGAL_SENT)
        self.receive(command & 0xFF)

    def _note_error(self, error: int) -> None:
        self._errors |= error
        vector = self._registers[_ERROR]
        if not vector & _MASKED and vector & 0xFF >= _LOWEST_VECTOR:
            self.receive(vector & 0xFF)
