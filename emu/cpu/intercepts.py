"""Instructions at which the host gets control: accesses to control registers, MSRs, and others.

Unicorn has no hook for them. But each CPU model has SVM's intercepts, which are looked at where the
CPU's state says that a guest runs: told so, without a VMRUN, it goes on as before, at no cost, and
an instruction that is intercepted comes to the hook of exceptions before it is executed.

A VMCB that nothing but the map of MSRs is read of lies at the end of the physical address space,
where guests have nothing.

Source: AMD APM vol. 2, "Intercept Operation", "MSR Intercepts", "Layout of VMCB".
"""

import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import unicorn

from crosswalk.emu.cpu.cpu import Cpu
from crosswalk.emu.cpu.engine import attach
from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.cpu.svm.exits import FIRST_EXIT
from crosswalk.emu.cpu.svm.guest_mode import NO_GUEST, guest_mode, set_intercepts
from crosswalk.emu.cpu.svm.vmcb import VMCB_FIELDS, General
from crosswalk.walker.memory import FRAME

__all__ = ["Intercepts"]

_MSR_MAP = NO_GUEST + FRAME
_SPAN = 4 * FRAME
# The first MSR of each part of the map, and where the part begins, in bytes.
_MSR_PARTS = ((0x0, 0x000), (0xC000_0000, 0x800), (0xC001_0000, 0x1000))
_PART = 0x2000
_NOTHING = General(0)


class Intercepts:
    """What of the instructions of `cpu` is intercepted while its code runs.

    They count between `begin` and `end`, so that the state is the guest's own in between: the API's
    accesses to an MSR would be intercepted, too. A guest that runs under SVM is left alone: what is
    intercepted then is its hypervisor's choice.
    """

    def __init__(self, cpu: Cpu) -> None:
        self._cpu = cpu
        self._memory = Ram(NO_GUEST, _SPAN)
        attach(cpu.engine, self._memory, unicorn.UC_PROT_READ)
        self._memory.write(NO_GUEST + VMCB_FIELDS["msr_map"][0], struct.pack("<Q", _MSR_MAP))
        self._cr_reads: set[int] = set()
        self._cr_writes: set[int] = set()
        self._general = _NOTHING
        self._begun = False

    def intercept(
        self,
        *,
        cr_reads: frozenset[int] = frozenset(),
        cr_writes: frozenset[int] = frozenset(),
        general: General = _NOTHING,
    ) -> None:
        """Intercept accesses to these control registers, and these of `General`, as well."""
        self._cr_reads |= cr_reads
        self._cr_writes |= cr_writes
        self._general |= general
        self.renew()

    def intercept_msr(self, number: int, *, read: bool = False, write: bool = False) -> None:
        """Intercept RDMSR and WRMSR of one of the MSRs that there are, or no more of it."""
        first, at = next(part for part in reversed(_MSR_PARTS) if number >= part[0])
        if number - first >= _PART:
            raise ValueError(f"no MSR {number:#x} in the map")
        bit = 2 * (number - first)
        place = _MSR_MAP + at + bit // 8
        value = self._memory.read(place, 1)[0] & ~(3 << bit % 8)
        value |= (read | write << 1) << bit % 8
        self._memory.write(place, bytes([value]))
        self._general |= General.MSR
        self.renew()

    def intercept_msrs_but(self, numbers: Iterable[int]) -> None:
        """Intercept RDMSR and WRMSR of all MSRs but these, which stay as they are."""
        size = len(_MSR_PARTS) * _PART // 4
        content = bytearray(b"\xff" * size)
        before = self._memory.read(_MSR_MAP, size)
        for number in numbers:
            first, at = next(part for part in reversed(_MSR_PARTS) if number >= part[0])
            bit = 2 * (number - first)
            place, mask = at + bit // 8, 3 << bit % 8
            content[place] = content[place] & ~mask | before[place] & mask
        self._memory.write(_MSR_MAP, bytes(content))
        self._general |= General.MSR
        self.renew()

    def begin(self) -> None:
        """Have them count from now on."""
        self._begun = True
        self.renew()

    def renew(self) -> None:
        """Have them count in the state that the CPU has now, if they have begun."""
        if not self._begun:
            return
        self._cpu.load()
        if guest_mode(self._cpu) is None:
            reads, writes = (
                sum(1 << number for number in numbers)
                for numbers in (self._cr_reads, self._cr_writes)
            )
            set_intercepts(self._cpu, cr_reads=reads, cr_writes=writes, general=self._general)
            self._cpu.store()

    def end(self) -> None:
        """Have them count no more."""
        self._begun = False
        self._cpu.load()
        if guest_mode(self._cpu) is None:
            set_intercepts(self._cpu, cr_reads=0, cr_writes=0, general=0)
            self._cpu.store()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Have none of them count for a while, for an access to an MSR by the API."""
        begun = self._begun
        self.end()
        yield
        self._begun = begun
        self.renew()

    def exit_code(self, number: int) -> int | None:
        """Return the exit code of the number that Unicorn's hook of exceptions got.

        None where it is no exit of these intercepts. The CPU's state is loaded then, and forgets
        that the exit came once it is stored.
        """
        if number < FIRST_EXIT:
            return None
        self._cpu.load()
        if guest_mode(self._cpu) is not None:
            return None
        self._cpu.forget_exception()
        return number - FIRST_EXIT
