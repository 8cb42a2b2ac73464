"""The EPT of a walk in two dimensions, by the manual or as a machine is known to make it instead.

Written from the manual independently of the walker: of a host's context it takes raw registers and
features.

Source: Intel SDM vol. 3C, "EPT Translation Mechanism", "EPT Misconfigurations", "EPT
Violations" and "Basic VM-Exit Information".
"""

from dataclasses import dataclass

from crosswalk.emu.check.nested_deviations import Deviation
from crosswalk.emu.check.nested_words import Refused, Words
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.nested.context import EptCapability, EptContext
from crosswalk.walker.nested.outcome import EptMisconfiguration, EptViolation
from crosswalk.walker.rights import Grant

__all__ = ["EptTables"]

_R, _W, _X, _PS, _A, _D, _XU = (1 << bit for bit in (0, 1, 2, 7, 8, 9, 10))
_READ, _WRITE, _FETCH = 1, 2, 4
_GRANTED = 3
"""The rights of the page, R, W and X, begin at this bit of the qualification; XU is bit 6."""

_LINEAR, _PAGE = 1 << 7, 1 << 8
_USER, _WRITABLE, _NO_FETCH = 1 << 9, 1 << 10, 1 << 11
_BIT_6, _BIT_13, _BIT_14 = 1 << 6, 1 << 13, 1 << 14
_NO_TYPES = frozenset({2, 3, 7})
_OFFSET = 12


@dataclass(slots=True)
class EptTables:
    """An EPT, asked for one guest-physical address after another."""

    words: Words
    context: EptContext
    deviations: Deviation

    def table(self, gpa: int, va: int) -> int:
        """Return the address of a guest's entry, which is read, or with EPT's A and D written."""
        if not self._marks:
            return self._reach(gpa, _READ, va, 0, 0)
        told = _WRITE if Deviation.TABLE_WRITE in self.deviations else _READ | _WRITE
        return self._reach(gpa, _WRITE, va, told, 0)

    def update(self, gpa: int, va: int) -> None:
        """Write a guest's entry that was read before."""
        if not self._marks and Deviation.UNCHECKED not in self.deviations:
            # A read-modify-write: whether bit 0 is set is the processor's choice.
            self._reach(gpa, _WRITE, va, _READ | _WRITE, _READ)

    def page(self, gpa: int, access: Access, grant: Grant) -> int:
        """Return the address of the byte that is accessed."""
        asked = {AccessType.READ: _READ, AccessType.WRITE: _WRITE, AccessType.EXECUTE: _FETCH}
        user = bool(grant & Grant.USER)
        more = _PAGE
        if self._has(EptCapability.ADVANCED):
            more |= _USER if user else 0
            more |= _WRITABLE if grant & Grant.WRITE else 0
            more |= 0 if grant & Grant.EXECUTE else _NO_FETCH
        return self._reach(gpa, asked[access.type], access.va, more, 0, user=user)

    @property
    def _marks(self) -> bool:
        """Whether EPT has A and D."""
        return bool(self.context.eptp & 1 << 6)

    def _reach(
        self, gpa: int, asked: int, va: int, told: int, either: int, *, user: bool = False
    ) -> int:
        """Return the system-physical address of a guest-physical one.

        `asked` is the right that it takes. `told` are bits that the qualification of a violation
        has beside it, `either` those that it may have or not.
        """
        levels = (self.context.eptp >> 3 & 7) + 1
        mbec = self.context.mbec
        rights = _R | _W | _X | _XU
        kinds = _R | _W | _X | (_XU if mbec else 0)
        table = self.context.eptp & self._frames
        used: list[int] = []
        level = levels
        while True:
            pa = table + 8 * (gpa >> 3 + 9 * level & 511)
            wide = gpa >> _OFFSET + 9 * levels
            entry = 0 if wide else self.words.word(pa)
            if not entry & kinds:
                # Where no entry is read, the manual doesn't say what their rights are.
                either |= 0xF << _GRANTED if wide else 0
                raise Refused(self._violation(gpa, va, asked, 0, told, either))
            leaf = level == 1 or (level < 4 and bool(entry & _PS))
            if self._malformed(entry, level, leaf=leaf):
                raise Refused(EptMisconfiguration(gpa))
            rights &= entry
            used.append(pa)
            if leaf:
                break
            if self._marks:
                self.words.mark(pa, _A)
            table = entry & self._frames
            level -= 1
        needed = _XU if asked == _FETCH and mbec and user else asked
        if not rights & needed:
            raise Refused(self._violation(gpa, va, asked, rights, told, either))
        if self._marks:
            self.words.mark(pa, _A | _D if asked == _WRITE else _A)
        offset = (1 << 3 + 9 * level) - 1
        return entry & self._frames & ~offset | gpa & offset

    def _has(self, capability: EptCapability) -> bool:
        return bool(self.context.capabilities & capability)

    @property
    def _frames(self) -> int:
        return (1 << self.context.maxphyaddr) - (1 << _OFFSET)

    def _malformed(self, entry: int, level: int, *, leaf: bool) -> bool:
        """Return whether a present entry is one that the processor doesn't support."""
        run = entry & (_X | _XU if self.context.mbec else _X)
        if not entry & _R and (entry & _W or (run and not self._has(EptCapability.EXECUTE_ONLY))):
            return True
        reserved = (1 << 52) - (1 << self.context.maxphyaddr)
        if not leaf:
            # Bits 6:3, and PS where an entry can't map a page.
            reserved |= 0x78 | (_PS if level > 3 else 0)
            return bool(entry & reserved)
        size = {2: EptCapability.PAGE_2M, 3: EptCapability.PAGE_1G}.get(level)
        if size is not None and not self._has(size):
            return True
        low = (1 << 3 + 9 * level) - (1 << _OFFSET)
        if Deviation.BIT_12 in self.deviations:
            low &= ~(1 << 12)
        return bool(entry & (reserved | low)) or entry >> 3 & 7 in _NO_TYPES

    def _violation(
        self, gpa: int, va: int, asked: int, rights: int, told: int, either: int
    ) -> EptViolation:
        """Return an EPT violation where the entries have these rights together."""
        page = bool(told & _PAGE)
        code = asked | told | _LINEAR | (rights & (_R | _W | _X)) << _GRANTED
        either |= _BIT_14  # Undefined without shadow stacks.
        if not self.context.mbec:
            either |= _BIT_6
        elif rights & _XU:
            code |= _BIT_6
        if not page or not self._has(EptCapability.ADVANCED):
            either |= _USER | _WRITABLE | _NO_FETCH
        if self.context.mbec and asked != _FETCH and Deviation.BIT_13 in self.deviations:
            code = code & ~_BIT_6 | (_BIT_13 if code & _BIT_6 else 0)
        return EptViolation(code, gpa, va, open=either)
