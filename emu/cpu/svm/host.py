"""The host of a guest under nested paging: its memory, VMCB, VMRUN, and what an exit tells.

Unicorn executes VMRUN and checks every guest access against the nested tables, but never leaves
guest mode again: an exit comes to the hook of exceptions, and the guest goes on, or not, from
the state that is left there.

Source: AMD APM vol. 2, "Layout of VMCB", "VMRUN Instruction", "Instruction Intercepts".
"""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import unicorn
from unicorn import x86_const as x86

from crosswalk.emu.cpu.cpu import SEGMENTS, Cpu, Segment
from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.cpu.svm.exits import FIRST_EXIT, ExitCode
from crosswalk.emu.cpu.svm.vmcb import (
    CONTROL_BYTES,
    GENERAL_INTERCEPTS,
    VMCB_FIELDS,
    VMCB_SEGMENTS,
    General,
    pack_segment,
)
from crosswalk.walker.architecture import CR0, CR4, EFER, GIB, MSR
from crosswalk.walker.errors import BadInput, CrosswalkError
from crosswalk.walker.memory import FRAME, U64

__all__ = ["HOST_EFER", "HOST_MODEL", "HOST_START", "Exit", "Host"]

HOST_MODEL = x86.UC_CPU_X86_EPYC
"""The model with SVM; it has no 5-level paging."""
HOST_START = 1 << 33
"""Where the host's memory begins: nothing that a guest has lies there."""
HOST_EFER = 0x1D00
"""EFER at VMRUN: long mode, NXE (else nested tables have no NX), SVME."""

_ROOT, _MIDDLE, _VMCB, _SAVE, _CODE, _MSR_MAP, _POOL = (
    HOST_START + at for at in (0, 0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0x8000)
)
_VMRUN, _HLT = bytes.fromhex("0f01d8"), b"\xf4"
_HUGE, _TABLE = 0x83, 0x3
_CR0, _CR4 = 0x8001_0033, 0x20
_EFER_WRITE = (0x800 + (MSR.EFER & 0x1FFF) // 4, 1 << 2 * (MSR.EFER & 3) + 1)
_CODE_SEGMENT = Segment(0x10, 0, 0xFFFF_FFFF, 0x00A0_9B00)
_DATA_SEGMENT = Segment(0x18, 0, 0xFFFF_FFFF, 0x00C0_9300)

_VMCB_BYTES = FRAME


@dataclass(frozen=True, slots=True)
class Exit:
    """Why the guest was left: an exit code, and more by its kind.

    `gpa` is the guest physical address of a nested page fault, `error_code` its cause or that of
    an intercepted exception: P 1, write 2, user 4, reserved bit 8, fetch 16.
    """

    code: int
    error_code: int = 0
    gpa: int | None = None


@dataclass(frozen=True, slots=True)
class _Intercepts:
    """What ends a guest's run besides nested page faults and the instructions of SVM.

    `cr_writes` are numbers of control registers, `exceptions` vectors; `msr_map` is the physical
    address of an MSR permission map, or None: no MSR is intercepted.
    """

    cr_writes: frozenset[int] = frozenset()
    exceptions: frozenset[int] = frozenset()
    msr_map: int | None = None


@dataclass(frozen=True, slots=True)
class _StateSave:
    """The guest's state that VMRUN loads; `words` are registers by lower-case name."""

    segments: dict[str, Segment]
    cpl: int
    words: dict[str, int]


def _control_area(nested_cr3: int, intercepts: _Intercepts) -> bytes:
    """Return the first half of a VMCB: nested paging on, ASID 1."""
    general = General.SHUTDOWN | General.INVLPGA | General.ALL_OF_SVM
    if intercepts.msr_map is not None:
        general |= General.MSR
    values = {
        "cr_writes": _mask(intercepts.cr_writes),
        "exceptions": _mask(intercepts.exceptions),
        "general": int(general),
        "msr_map": intercepts.msr_map or 0,
        "asid": 1,
        "nested": 1,
        "nested_cr3": nested_cr3,
    }
    return _block(values)[:CONTROL_BYTES]


def _pack_state(state: _StateSave) -> bytes:
    """Return the second half of a VMCB, the state-save area."""
    block = bytearray(_block({"cpl": state.cpl, **state.words}))
    for name, at in VMCB_SEGMENTS.items():
        content = pack_segment(state.segments[name])
        block[at : at + len(content)] = content
    return bytes(block[CONTROL_BYTES:])


def _block(values: Mapping[str, int]) -> bytes:
    block = bytearray(_VMCB_BYTES)
    for name, value in values.items():
        at, form = VMCB_FIELDS[name]
        struct.pack_into(f"<{form}", block, at, value)
    return bytes(block)


def _exit_info_2(block: bytes) -> int:
    """Return EXITINFO2 of a VMCB: the guest physical address of a nested page fault."""
    value: int = struct.unpack_from("<Q", block, VMCB_FIELDS["exit_info_2"][0])[0]
    return value


def _intercepts_of(block: bytes) -> bytes:
    """Return the 8 bytes of a VMCB with the intercepts that are no register's or exception's."""
    return block[GENERAL_INTERCEPTS : GENERAL_INTERCEPTS + 8]


def _mask(numbers: Iterable[int]) -> int:
    return sum(1 << number for number in numbers)


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

        The CPU may be at any privilege level, not in 5-level paging; all of its registers stay as
        they are, but for EFER.SVME, which a guest has. Writes to these control registers, these
        exceptions, and with `efer` writes to EFER, are exits. Without `nxe` the host has EFER.NXE
        clear: bit 63 of a nested entry is then reserved.

        Raises `BadInput` for a CPU in 5-level paging, `CrosswalkError` if VMRUN fails.
        """
        cpu, engine = self._cpu, self._cpu.engine
        state = self._state()
        cpu.load()
        general = [cpu.general(number) for number in range(16)]
        intercepts = _Intercepts(cr_writes, exceptions, _MSR_MAP if efer else None)
        self._memory.write(_VMCB, _control_area(nested_cr3, intercepts) + _pack_state(state))
        # Without paging first: that is what makes the mode be found anew.
        engine.reg_write(x86.UC_X86_REG_CR0, int(CR0.PE))
        engine.reg_write(x86.UC_X86_REG_CR4, _CR4)
        engine.reg_write(x86.UC_X86_REG_MSR, (MSR.EFER, HOST_EFER & ~(0 if nxe else EFER.NXE)))
        engine.reg_write(x86.UC_X86_REG_CR0, _CR0)
        engine.reg_write(x86.UC_X86_REG_CR3, _ROOT)
        engine.reg_write(x86.UC_X86_REG_MSR, (MSR.VM_HSAVE_PA, _SAVE))
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
        """Return the exit of the number that Unicorn's hook of exceptions got, None if it is none.

        The CPU then forgets the exit, and can go on from any state that it is given.
        """
        if number < FIRST_EXIT:
            return None
        cpu, code = self._cpu, number - FIRST_EXIT
        cpu.load()
        error_code = cpu.error_code
        cpu.forget_exception()
        cpu.store()
        gpa = _exit_info_2(self._memory.read(_VMCB, FRAME)) if code == ExitCode.NPF else None
        return Exit(code, error_code, gpa)

    def intercept(self, cr_writes: frozenset[int], *, efer: bool, invlpg: bool = False) -> None:
        """Make these writes exits from now on, and no others, of a guest entered with `efer`.

        With `invlpg` INVLPG is an exit, too.

        What VMRUN loaded counts, and not what the VMCB holds since: it is changed where a saved
        context has it. `CrosswalkError` if it can't be found there.
        """
        cpu = self._cpu
        with cpu.changed():
            content = cpu.snapshot()
            block = self._memory.read(_VMCB, FRAME)
            (general,) = struct.unpack("<Q", _intercepts_of(block))
            # A state that was gone back to may have INVLPG intercepted or not.
            either = [struct.pack("<QQQ", _VMCB, 0, general | on) for on in (0, General.INVLPG)]
            known = [each for each in either if content.count(each) == 1]
            if len(known) != 1:
                raise CrosswalkError("a saved context of this Unicorn doesn't show the intercepts")
            at = content.index(known[0]) + len(known[0])
            cpu.patch(at - 8, struct.pack("<Q", general | General.INVLPG * invlpg))
            # Reads of control registers come first.
            cpu.patch(at + 2, struct.pack("<H", sum(1 << number for number in cr_writes)))
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
            self._cpu.engine.reg_write(x86.UC_X86_REG_MSR, (MSR.EFER, value | EFER.SVME))
        finally:
            self._memory.write(_MSR_MAP + place, kept)

    def flush(self) -> None:
        """Have the CPU forget its translations, as after a change to nested tables."""
        self._cpu.engine.ctl(unicorn.UC_CTL_TLB_FLUSH, unicorn.UC_CTL_IO_WRITE)

    def _state(self) -> _StateSave:
        cpu, read = self._cpu, self._cpu.engine.reg_read
        cpu.load()
        words = {
            name: read(getattr(x86, f"UC_X86_REG_{name.upper()}"))
            for name in ("cr0", "cr2", "cr3", "cr4", "dr6", "dr7")
        }
        words["efer"] = read(x86.UC_X86_REG_MSR, MSR.EFER) | EFER.SVME
        words["pat"] = read(x86.UC_X86_REG_MSR, MSR.PAT)
        if words["cr4"] & CR4.LA57:
            raise BadInput("no emulated CPU has both nested paging and 5-level paging")
        words |= {"rip": cpu.rip, "rsp": cpu.rsp, "rax": cpu.general(0), "rflags": cpu.rflags}
        segments = {name: cpu.segment(name) for name in SEGMENTS}
        return _StateSave(segments, cpu.cpl, words)

    def _write_tables(self) -> None:
        memory = self._memory
        memory.words[(_ROOT - HOST_START) // 8] = _MIDDLE | _TABLE
        for gib in range(2 * HOST_START // GIB):
            memory.words[(_MIDDLE - HOST_START) // 8 + gib] = gib * GIB | _HUGE
        memory.write(_CODE, _VMRUN + _HLT)
        at, bit = _EFER_WRITE
        memory.write(_MSR_MAP + at, struct.pack("<B", bit))
