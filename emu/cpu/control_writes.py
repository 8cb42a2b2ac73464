"""Writes to control registers and EFER by a guest, checked as a processor does, and carried out.

Unicorn takes nearly any value. MOV to CR0, CR3 and CR4, LMSW, CLTS, and WRMSR to EFER are
intercepted; what the manual refuses raises #GP(0).

Source: Intel SDM vol. 2B, "MOV—Move to/from Control Registers"; vol. 2D, "WRMSR—Write to Model
Specific Register"; vol. 3A, "Control Registers", "Initializing IA-32e Mode", "PDPTE Registers",
"Enumeration of Paging Features by CPUID"; AMD APM vol. 2, "Extended Feature Enable Register
(EFER)".
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import capstone
from capstone import x86_const as instructions
from unicorn import x86_const as x86

from crosswalk.emu.cpu.cpu import GENERAL, Cpu
from crosswalk.emu.cpu.cpuid import ask_cpuid
from crosswalk.emu.cpu.decoding import instruction_at, register_number
from crosswalk.emu.cpu.engine import AMD_MODELS, MAXPHYADDR, MODEL
from crosswalk.emu.cpu.events import Fault, NotEmulated
from crosswalk.emu.cpu.intercepts import Intercepts
from crosswalk.emu.cpu.svm.exits import ExitCode
from crosswalk.emu.cpu.svm.memory_operands import accesses
from crosswalk.emu.cpu.svm.nested_walk import Access
from crosswalk.walker.architecture import CR0, CR3, CR4, EFER, MSR, Vector

__all__ = ["ControlState", "ControlWrites", "refusal", "writable"]

_TS = 1 << 3
_NW, _CD = 1 << 29, 1 << 30
_LMSW_MAY_SET, _LMSW_MAY_CLEAR = 0xF, 0xE
_LOW = 0xFFFF_FFFF
_RAX, _RCX, _RDX = (GENERAL.index(name) for name in ("rax", "rcx", "rdx"))
_REGISTERS = {
    "cr0": x86.UC_X86_REG_CR0,
    "cr3": x86.UC_X86_REG_CR3,
    "cr4": x86.UC_X86_REG_CR4,
}
_TSS_TYPE, _SHORT_TSS = 0x1F00, frozenset({0x0100, 0x0300})
# Changes that have PDPTEs loaded in PAE paging, and the bits of a PDPTE that are reserved.
_LOADING = {"cr0": CR0.PG | _CD | _NW, "cr4": CR4.PAE | CR4.PGE | CR4.PSE | CR4.SMEP}
_PDPTES, _PDPTE_BYTES, _PDPTE_RESERVED = 4, 8, 0x1E6 | ~((1 << MAXPHYADDR) - 1)

# A bit of CR4 or EFER, the leaf of CPUID, its register (EAX to EDX), and the bit that reports it.
_CR4_FEATURES = (
    *((0, 1, 3, 1), (1, 1, 3, 1), (2, 1, 3, 4), (3, 1, 3, 2), (4, 1, 3, 3), (5, 1, 3, 6)),
    *((6, 1, 3, 7), (7, 1, 3, 13), (9, 1, 3, 24), (10, 1, 3, 25), (11, 7, 2, 2), (12, 7, 2, 16)),
    *((13, 1, 2, 5), (14, 1, 2, 6), (16, 7, 1, 0), (17, 1, 2, 17), (18, 1, 2, 26), (20, 7, 1, 7)),
    *((21, 7, 1, 20), (22, 7, 2, 3)),
)
_PCE = 1 << 8  # Reported by no bit.
_EFER_FEATURES = (
    *((0, 0x8000_0001, 3, 11), (8, 0x8000_0001, 3, 29), (11, 0x8000_0001, 3, 20)),
    *((12, 0x8000_0001, 2, 2), (14, 0x8000_0001, 3, 25), (15, 0x8000_0001, 2, 17)),
)


@functools.cache
def writable(model: int) -> tuple[int, int]:
    """Return the bits of CR4 and of EFER that aren't reserved on a CPU model, by its CPUID."""
    cr4, efer = (
        sum(1 << bit for bit, leaf, of, at in table if ask_cpuid(model, leaf, 0)[of] >> at & 1)
        for table in (_CR4_FEATURES, _EFER_FEATURES)
    )
    return cr4 | _PCE, efer | EFER.LMA


@dataclass(frozen=True, slots=True)
class ControlState:
    """What of a CPU decides whether a write is refused, before it.

    `bits` is the size of the code, `code_long` whether CS has L, `short_tss` whether TR has a
    16-bit TSS. `cr4_bits` and `efer_bits` are those that aren't reserved.
    """

    cr0: int
    cr3: int
    cr4: int
    efer: int
    bits: int
    code_long: bool
    short_tss: bool
    cr4_bits: int
    efer_bits: int


def refusal(name: str, value: int, state: ControlState) -> str:
    """Return why a processor refuses to write `value` to "cr0", "cr3", "cr4" or "efer", or nothing.

    #GP(0) is what the instruction raises then.
    """
    return _REFUSALS[name](value, state)


def _first(*reasons: tuple[object, str]) -> str:
    return next((reason for holds, reason in reasons if holds), "")


def _cr0(value: int, state: ControlState) -> str:
    starts = value & CR0.PG and not state.cr0 & CR0.PG
    ends = state.cr0 & CR0.PG and not value & CR0.PG
    long = starts and state.efer & EFER.LME
    return _first(
        (value >> 32, "CR0 has 32 bits"),
        (value & CR0.PG and not value & CR0.PE, "PG without PE"),
        (value & _NW and not value & _CD, "NW without CD"),
        (long and not state.cr4 & CR4.PAE, "PG with EFER.LME and without CR4.PAE"),
        (long and state.code_long, "IA-32e mode entered by a code segment with L"),
        (long and state.short_tss, "IA-32e mode entered with a 16-bit TSS"),
        (ends and state.bits == 64, "PG cleared in 64-bit mode"),
        (ends and state.cr4 & CR4.PCIDE, "PG cleared with CR4.PCIDE"),
    )


def _cr3(value: int, state: ControlState) -> str:
    if not state.efer & EFER.LMA:
        return ""
    kept = value & ~CR3.NO_FLUSH if state.cr4 & CR4.PCIDE else value
    return _first((kept >> MAXPHYADDR, "reserved bits of CR3"))


def _cr4(value: int, state: ControlState) -> str:
    long, changed = state.efer & EFER.LMA, value ^ state.cr4
    sets_pcide = changed & value & CR4.PCIDE
    return _first(
        (value & ~state.cr4_bits, "reserved bits of CR4"),
        (long and not value & CR4.PAE, "PAE cleared in IA-32e mode"),
        (long and changed & CR4.LA57, "LA57 changed in IA-32e mode"),
        (sets_pcide and not long, "PCIDE set outside IA-32e mode"),
        (sets_pcide and state.cr3 & 0xFFF, "PCIDE set with a PCID in CR3"),
    )


def _efer(value: int, state: ControlState) -> str:
    changed = value ^ state.efer
    return _first(
        (value & ~state.efer_bits, "reserved bits of EFER"),
        (changed & EFER.LME and state.cr0 & CR0.PG, "LME changed while paging is on"),
    )


_REFUSALS = {"cr0": _cr0, "cr3": _cr3, "cr4": _cr4, "efer": _efer}


class ControlWrites:
    """The writes to control registers of the guest on `cpu`, of a CPU `model`.

    Those of CR0, CR4 and EFER are intercepted; those of CR3 only where `follow_roots` asks for it,
    for they are many. `intercepts` may have more.
    """

    def __init__(self, cpu: Cpu, model: int = MODEL) -> None:
        self._cpu, self._model = cpu, model
        self._root_written: Callable[[], None] | None = None
        self.intercepts = Intercepts(cpu)
        self.intercepts.intercept(cr_writes=frozenset({0, 4}))
        self.intercepts.intercept_msr(MSR.EFER, write=True)

    def follow_roots(self, called: Callable[[], None]) -> None:
        """Have `called` after each MOV to CR3 from now on."""
        self._root_written = called
        self.intercepts.intercept(cr_writes=frozenset({3}))

    def carry_out(self, code: int) -> bool:
        """Do the instruction at RIP that was intercepted with this exit code, if it is a write.

        Returns whether it was one. The CPU's state is loaded before; afterwards RIP is behind the
        instruction.

        Raises `Fault` where a processor refuses it, with the CPU as it was, and `NotEmulated` for
        an instruction that isn't known.
        """
        written = self._written(code)
        if written is None:
            return False
        name, value, size = written
        cpu = self._cpu
        if refusal(name, value, self._state()) or self._refused_pdptes(name, value):
            cpu.store()
            raise Fault(Vector.GP, 0)
        cpu.skip(size)
        cpu.store()
        self._write(name, value)
        if name == "cr3" and self._root_written is not None:
            self._root_written()
        return True

    def _written(self, code: int) -> tuple[str, int, int] | None:
        """Return the register, the value, and the size of the instruction; None for another."""
        cpu = self._cpu
        if code == ExitCode.MSR:
            found = instruction_at(self._cpu)
            if found.id != instructions.X86_INS_WRMSR or cpu.general(_RCX) & _LOW != MSR.EFER:
                return None
            value = (cpu.general(_RDX) & _LOW) << 32 | cpu.general(_RAX) & _LOW
            return "efer", value, found.size
        name = f"cr{code - ExitCode.CR0_WRITE}"
        if name not in _REGISTERS:
            return None
        found = instruction_at(self._cpu)
        if found.id == instructions.X86_INS_CLTS:
            return name, cpu.cr0 & ~_TS, found.size
        if found.id == instructions.X86_INS_LMSW:
            kept = cpu.cr0 & ~_LMSW_MAY_CLEAR
            return name, kept | self._operand(found) & _LMSW_MAY_SET, found.size
        if found.id != instructions.X86_INS_MOV:
            raise NotEmulated(f"a write to {name.upper()} by {found.mnemonic} {found.op_str}")
        return name, self._operand(found), found.size

    def _operand(self, found: capstone.CsInsn) -> int:
        """Return the last operand: a general register, or 2 bytes of memory."""
        operand = found.operands[-1]
        if operand.type == instructions.X86_OP_REG:
            number = register_number(found.reg_name(operand.reg))
            if number is None:
                raise NotEmulated(f"{found.mnemonic} {found.op_str}")
            value = self._cpu.general(number)
            return value & (1 << 8 * int(operand.size)) - 1
        code = self._cpu.code(0, found.size) or b""
        va = next(at for at, access in accesses(self._cpu, code) if access is Access.READ)
        data = self._cpu.read(va, 2)
        if data is None:
            raise Fault(Vector.PF, 0, va)
        return int.from_bytes(data, "little")

    def _state(self) -> ControlState:
        cpu = self._cpu
        cr4_bits, efer_bits = writable(self._model)
        return ControlState(
            cr0=cpu.cr0,
            cr3=cpu.cr3,
            cr4=cpu.cr4,
            efer=cpu.efer,
            bits=cpu.bits,
            code_long=cpu.segment("cs").long,
            short_tss=cpu.segment("tr").flags & _TSS_TYPE in _SHORT_TSS,
            cr4_bits=cr4_bits,
            efer_bits=efer_bits,
        )

    def _refused_pdptes(self, name: str, value: int) -> bool:
        """Return whether a write loads PDPTEs of which one sets reserved bits, on Intel's CPUs."""
        cpu = self._cpu
        before = {"cr0": cpu.cr0, "cr3": cpu.cr3, "cr4": cpu.cr4}
        after = before | {name: value}
        loads = name == "cr3" or (name in _LOADING and (value ^ before[name]) & _LOADING[name])
        pae = after["cr0"] & CR0.PG and after["cr4"] & CR4.PAE
        if not loads or not pae or cpu.efer & EFER.LME or self._model in AMD_MODELS:
            return False
        data = cpu.physical(after["cr3"] & 0xFFFF_FFE0, _PDPTES * _PDPTE_BYTES)
        entries = [
            int.from_bytes(data[at : at + _PDPTE_BYTES], "little")
            for at in range(0, len(data), _PDPTE_BYTES)
        ]
        return any(entry & 1 and entry & _PDPTE_RESERVED for entry in entries)

    def _write(self, name: str, value: int) -> None:
        write = self._cpu.engine.reg_write
        if name == "cr0":
            value |= CR0.ET  # Always set, and by the API only where it is asked for.
        if name == "efer":
            with self.intercepts.paused():
                write(x86.UC_X86_REG_MSR, (MSR.EFER, value & ~EFER.LMA))
        else:
            write(_REGISTERS[name], value & ~CR3.NO_FLUSH if name == "cr3" else value)
