"""The host of a guest under nested paging: its memory, VMRUN, and what an exit tells.

Unicorn executes VMRUN and checks every guest access against the nested tables, but never leaves
guest mode again: an exit comes to the hook of exceptions, and the guest goes on, or not, from
the state that is left there.
"""

import struct
from dataclasses import dataclass

import unicorn
from unicorn import x86_const as x86

from crosswalk.emu.cpu.cpu import SEGMENTS, Cpu, Segment
from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.cpu.svm.exits import FIRST_EXIT, ExitCode
from crosswalk.emu.cpu.svm.vmcb import (
    Intercepts,
    StateSave,
    control_area,
    exit_info_2,
    intercepts_of,
    pack_state,
)
from crosswalk.walker.errors import BadInput, CrosswalkError
from crosswalk.walker.memory import FRAME, U64

__all__ = ["HOST_EFER", "HOST_MODEL", "HOST_START", "Exit", "Host"]

HOST_MODEL = x86.UC_CPU_X86_EPYC
"""The model with SVM; it has no 5-level paging."""
HOST_START = 1 << 33
"""Where the host's memory begins: nothing that a guest has lies there."""
HOST_EFER = 0x1D00
"""EFER at VMRUN: long mode, NXE (else nested tables have no NX), SVME."""

_GIB = 1 << 30
_ROOT, _MIDDLE, _VMCB, _SAVE, _CODE, _MSR_MAP, _POOL = (
    HOST_START + at for at in (0, 0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0x8000)
)
_VMRUN, _HLT = bytes.fromhex("0f01d8"), b"\xf4"
_HUGE, _TABLE = 0x83, 0x3
_CR0, _CR4 = 0x8001_0033, 0x20
_EFER, _HSAVE, _PAT = 0xC000_0080, 0xC001_0117, 0x277
_SVME, _NXE, _LA57 = 1 << 12, 1 << 11, 1 << 12
_EFER_WRITE = (0x800 + (_EFER & 0x1FFF) // 4, 1 << 2 * (_EFER & 3) + 1)
_CODE_SEGMENT = Segment(0x10, 0, 0xFFFF_FFFF, 0x00A0_9B00)
_DATA_SEGMENT = Segment(0x18, 0, 0xFFFF_FFFF, 0x00C0_9300)


@dataclass(frozen=True, slots=True)
class Exit:
    """Why the guest was left: an exit code, and more by its kind.

    `gpa` is the guest physical address of a nested page fault, `error_code` its cause or that of
    an intercepted exception: P 1, write 2, user 4, reserved bit 8, fetch 16.
    """

    code: int
    error_code: int = 0
    gpa: int | None = None


class Host:
    """The host of the guest that runs, or will run, on `cpu`.

    `cpu`'s engine is of `HOST_MODEL` and has `memory` attached, made by `Host.memory`. `pool` are
    the words of all of the host's memory that nothing is in, from physical address `pool_start`
    on: for nested tables.
    """

    def __init__(self, cpu: Cpu, memory: Ram) -> None:
        self._cpu = cpu
        self._memory = memory
        self._write_tables()
        self.pool_start = _POOL
        self.pool: U64 = memory.words[(_POOL - HOST_START) // 8 :]

    @staticmethod
    def memory(frames: int) -> Ram:
        """Return memory for a host with room for this many nested tables."""
        return Ram(HOST_START, _POOL - HOST_START + frames * FRAME)

    def enter(
        self,
        nested_cr3: int,
        *,
        cr_writes: frozenset[int] = frozenset(),
        exceptions: frozenset[int] = frozenset(),
        efer: bool = False,
        nxe: bool = True,
    ) -> None:
        """Execute VMRUN: what the CPU does now, it does as a guest from here on.

        The CPU has to be at CPL 0, not in 5-level paging; all of its registers stay as they are,
        but for EFER.SVME, which a guest has. Writes to these control registers, these exceptions,
        and with `efer` writes to EFER, are exits. Without `nxe` the host has EFER.NXE clear: bit 63
        of a nested entry is then reserved.

        Raises `BadInput` for a CPU that is in user mode or in 5-level paging, `CrosswalkError` if
        VMRUN fails.
        """
        cpu, engine = self._cpu, self._cpu.engine
        state = self._state()
        cpu.load()
        general = [cpu.general(number) for number in range(16)]
        intercepts = Intercepts(cr_writes, exceptions, _MSR_MAP if efer else None)
        self._memory.write(_VMCB, control_area(nested_cr3, intercepts) + pack_state(state))
        engine.reg_write(x86.UC_X86_REG_CR4, _CR4)
        engine.reg_write(x86.UC_X86_REG_MSR, (_EFER, HOST_EFER & ~(0 if nxe else _NXE)))
        engine.reg_write(x86.UC_X86_REG_CR0, _CR0)
        engine.reg_write(x86.UC_X86_REG_CR3, _ROOT)
        engine.reg_write(x86.UC_X86_REG_MSR, (_HSAVE, _SAVE))
        with cpu.changed():
            cpu.enter(_CODE_SEGMENT, 0)
            cpu.set_segment("ss", _DATA_SEGMENT)
            cpu.set_general(0, _VMCB)
            cpu.rip = _CODE
        before = cpu.snapshot()
        try:
            engine.emu_start(_CODE, 0, count=1)
        except unicorn.UcError as error:
            raise CrosswalkError(f"VMRUN failed: {error}") from error
        cpu.load()
        entered = cpu.snapshot()
        # The next run looks up what ran while it was counted, and in the guest's tables that is a
        # page fault, which would make a double fault of the guest's first: have it be run here.
        cpu.revert(before)
        engine.emu_start(_CODE + len(_VMRUN), 0)
        cpu.revert(entered)
        self.flush()
        if cpu.rip != state.words["rip"]:
            raise CrosswalkError(f"VMRUN failed: the CPU is at {cpu.rip:#x}")
        with cpu.changed():
            for number, value in enumerate(general):
                cpu.set_general(number, value)

    def left(self, number: int) -> Exit | None:
        """Return what an exit is about, told the number that Unicorn's hook got; None if none.

        The CPU then forgets the exit, and can go on from any state that it is given.
        """
        if number < FIRST_EXIT:
            return None
        cpu, code = self._cpu, number - FIRST_EXIT
        cpu.load()
        error_code = cpu.error_code
        cpu.forget_exception()
        cpu.store()
        gpa = exit_info_2(self._memory.read(_VMCB, FRAME)) if code == ExitCode.NPF else None
        return Exit(code, error_code, gpa)

    def intercept(self, cr_writes: frozenset[int], *, efer: bool) -> None:
        """Make these writes exits from now on, and no others, of a guest entered with `efer`.

        What VMRUN loaded counts, and not what the VMCB holds since: it is changed where a saved
        context has it. `CrosswalkError` if it can't be found there.
        """
        cpu = self._cpu
        with cpu.changed():
            content = cpu.snapshot()
            block = self._memory.read(_VMCB, FRAME)
            known = struct.pack("<QQ", _VMCB, 0) + intercepts_of(block)
            if content.count(known) != 1:
                raise CrosswalkError("a saved context of this Unicorn doesn't show the intercepts")
            at = content.index(known) + len(known) + 2  # Reads of control registers come first.
            cpu.patch(at, struct.pack("<H", sum(1 << number for number in cr_writes)))
        place, bit = _EFER_WRITE
        self._memory.write(_MSR_MAP + place, struct.pack("<B", bit if efer else 0))

    def write_efer(self, value: int) -> None:
        """Write the guest's EFER, which is no exit then; SVME stays set, as it has to in a guest.

        Source: AMD APM vol. 2, "VMRUN Instruction".
        """
        place, _ = _EFER_WRITE
        kept = self._memory.read(_MSR_MAP + place, 1)
        self._memory.write(_MSR_MAP + place, b"\0")
        try:
            self._cpu.engine.reg_write(x86.UC_X86_REG_MSR, (_EFER, value | _SVME))
        finally:
            self._memory.write(_MSR_MAP + place, kept)

    def flush(self) -> None:
        """Have the CPU forget its translations, as after a change to nested tables."""
        self._cpu.engine.ctl(unicorn.UC_CTL_TLB_FLUSH, unicorn.UC_CTL_IO_WRITE)

    def _state(self) -> StateSave:
        cpu, read = self._cpu, self._cpu.engine.reg_read
        cpu.load()
        words = {
            name: read(getattr(x86, f"UC_X86_REG_{name.upper()}"))
            for name in ("cr0", "cr2", "cr3", "cr4", "dr6", "dr7")
        }
        words["efer"] = read(x86.UC_X86_REG_MSR, _EFER) | _SVME
        words["pat"] = read(x86.UC_X86_REG_MSR, _PAT)
        if cpu.cpl:
            raise BadInput("a CPU in user mode can't be taken into guest mode")
        if words["cr4"] & _LA57:
            raise BadInput("no emulated CPU has both nested paging and 5-level paging")
        words |= {"rip": cpu.rip, "rsp": cpu.rsp, "rax": cpu.general(0), "rflags": cpu.rflags}
        segments = {name: cpu.segment(name) for name in SEGMENTS}
        return StateSave(segments, cpu.cpl, words)

    def _write_tables(self) -> None:
        memory = self._memory
        memory.words[(_ROOT - HOST_START) // 8] = _MIDDLE | _TABLE
        for gib in range(2 * HOST_START // _GIB):
            memory.words[(_MIDDLE - HOST_START) // 8 + gib] = gib * _GIB | _HUGE
        memory.write(_CODE, _VMRUN + _HLT)
        at, bit = _EFER_WRITE
        memory.write(_MSR_MAP + at, struct.pack("<B", bit))
