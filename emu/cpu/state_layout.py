"""Where Unicorn keeps its CPU's state, found by experiment: in a saved context, in a live engine.

Unicorn's API gives no access to much of it: the error code and vector of a fault, CPL without what
a load of CS would check, the upper halves of registers of an engine for 16-bit code. All of it lies
in the bytes of a saved context. Where, depends on the build: each process writes known values and
provokes exceptions with known answers, once, and looks where they turn up.

A bulk probe's hook has no time to save and restore a state: it changes the engine's own, in place.
Where that lies is found with values that only the engine under test has, and every engine has to
pass the same test. No pointer is followed blindly: memory is read by way of the system, which
answers with an error where there is none.
"""

import functools
import os
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import unicorn
from unicorn import x86_const as x86

from crosswalk.emu.cpu.engine import CpuState, Engine, SavedState, attach
from crosswalk.emu.cpu.ram import Ram
from crosswalk.walker.architecture import CR4, MSR, Vector
from crosswalk.walker.errors import CrosswalkError

__all__ = [
    "GENERAL",
    "NO_VECTOR",
    "SEGMENT_BYTES",
    "CalibrationError",
    "StateLayout",
    "live_state",
    "read_registers",
    "state_layout",
]

GENERAL = (
    *("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
)
"""The general registers in the order of their encoding."""

SEGMENT_BYTES = 24
"""Bytes of a segment in a saved context: selector, padding, base (8), limit, flags."""

NO_VECTOR = 0xFFFF_FFFF
"""The vector of a CPU that has raised no exception."""


class CalibrationError(CrosswalkError):
    """This build of Unicorn doesn't keep its state where, or as, it can be found."""


@dataclass(frozen=True, slots=True)
class StateLayout:
    """What lies where in a saved context of `size` bytes.

    `quads` are indices of 8-byte words by register: those of `GENERAL`, "rip", "cr0", "cr2",
    "cr3", "cr4", "efer", and "vm_hsave_pa", an MSR in front of what SVM keeps. Indices of 4-byte
    words are `mode`, which has the CPL in its low two bits, `pkru`, and of the
    exception raised last `error_code`, `software` (1 after INT n and INT3) and `vector`
    (`NO_VECTOR` if none was). `segments` is the offset in bytes of ES, CS, SS, DS, FS, GS, LDT,
    TR, GDT and IDT, each of `SEGMENT_BYTES`.
    """

    size: int
    quads: Mapping[str, int]
    mode: int
    pkru: int
    error_code: int
    software: int
    vector: int
    segments: int


# What a live state is found by: marks in registers.
_MARKED = tuple(f"r{number}" for number in range(8, 16))
_MARKS = struct.Struct(f"<{len(_MARKED)}Q")
_ENGINE = 4096  # Of what lies behind an engine's handle, where a pointer is looked for.
_REACH = 1 << 16  # How far behind a pointer the state may lie.
_ENGINES = 3

# Values that nothing else in a state has. Of CR3, the address field may be all that is kept.
_KNOWN = {name: 0x1E55_AA00_0000 + at for at, name in enumerate((*GENERAL, "rip", "cr2"))} | {
    "cr3": 0x1E55_AB00_1018
}
_KEYS = (0x1234_5678, 0x0BAD_C0DC)
# Registers that don't hold just any value: two for each, as the engine has them afterwards.
_CONTROL = {"cr0": (0x11, 0x1_0013), "cr4": (0x20, 0xA0), "efer": (0xD00, 0x501)}
_HSAVE = (0x1E55_AC00_0000, 0x1E55_AD00_1000)
_BASES = {4: 0x1E55_0000_0001, 5: 0x1E55_0000_0002, 7: 0x1E55_0000_0003}
"""Bases of FS, GS and TR, by their place among the segments."""

# The memory of the experiments: four levels of tables, then pages at their own addresses.
_ROOT, _GDT, _CODE, _STACK, _USER, _UNMAPPED = 0x1000, 0x5000, 0x6000, 0x8000, 0x9000, 0xA000
_READ_ONLY, _RESERVED = 0xB000, 0xC000
_NOT_CANONICAL = 1 << 47
_WRPKRU_AT = _CODE + 0x100
_TO_USER = bytes.fromhex("6a1b 54 6a02 6a13 51 48cf")  # push SS RSP RFLAGS CS RCX; iretq
_WRPKRU = bytes.fromhex("0f01ef")
_LOAD, _STORE, _JUMP, _INT = "8a03", "8803", "ffe3", "cd80"  # via RBX; INT 0x80
_SNIPPET = 16  # Bytes from one of the user's to the next.
_INTERRUPT = 0x80
# The user's code, the address in RBX, the vector and the error code that an Intel CPU answers.
_FAULTS = (
    (_LOAD, _UNMAPPED, Vector.PF, 0x04),
    (_STORE, _UNMAPPED, Vector.PF, 0x06),
    (_STORE, _READ_ONLY, Vector.PF, 0x07),
    (_LOAD, _RESERVED, Vector.PF, 0x0D),
    (_JUMP, _UNMAPPED, Vector.PF, 0x14),
    (_LOAD, _CODE, Vector.PF, 0x05),  # A supervisor page.
    (_LOAD, _NOT_CANONICAL, Vector.GP, 0x00),
)


@functools.cache
def state_layout() -> StateLayout:
    """Return the layout of this process's Unicorn; `CalibrationError` if it can't be found."""
    known = Engine()
    for name, value in _KNOWN.items():
        known.uc.reg_write(getattr(x86, f"UC_X86_REG_{name.upper()}"), value)
    content = _content(known)
    quads = {name: _only(name, _where([content], [value], "Q")) for name, value in _KNOWN.items()}
    quads |= _control()
    segments = _segments()
    ram = _experiment()  # An engine doesn't keep it alive.
    engine = Engine()
    attach(engine.uc, ram)
    engine.control(cr0=0x8001_0033, cr3=_ROOT, cr4=CR4.PAE, efer=0xD00)
    engine.uc.reg_write(x86.UC_X86_REG_GDTR, (0, _GDT, 0x1F, 0))
    pkru = _only("PKRU", _pkru(engine, quads))
    clean, raised = SavedState(engine.uc), _provoke(engine, quads)
    *faults, _ = raised
    error_code = _only("error code", _where(faults, [code for *_, code in _FAULTS]))
    vectors = [NO_VECTOR, *(vector for _, _, vector, _ in _FAULTS)]
    vector = _only("vector", _where([bytes(clean.bytes), *faults], vectors))
    software, mode = error_code + 1, segments // 4 - 2
    if not _where(raised, [0] * len(faults) + [1]) & {software}:
        raise CalibrationError("a saved context of this Unicorn doesn't tell INT from a fault")
    if [each[4 * mode] & 3 for each in (bytes(clean.bytes), *raised)] != [0] + [3] * len(raised):
        raise CalibrationError("a saved context of this Unicorn doesn't show the CPL")
    return StateLayout(len(content), quads, mode, pkru, error_code, software, vector, segments)


def read_registers(engine: unicorn.Uc) -> dict[str, int]:
    """Return the general registers, RIP, CR2 and CR3, by lower-case name and in full width.

    In an engine that was opened for 16-bit code the API reads the upper half of a register as 0,
    or all of it, for ever.
    """
    quads, places = SavedState(engine).quads, state_layout().quads
    return {name: quads[places[name]] for name in _KNOWN}


def _control() -> dict[str, int]:
    """Return where registers lie that an engine doesn't give just any value."""
    engine, found = Engine(), {}
    write, msrs = engine.uc.reg_write, {"efer": MSR.EFER, "vm_hsave_pa": MSR.VM_HSAVE_PA}
    for name, values in (*_CONTROL.items(), ("vm_hsave_pa", _HSAVE)):
        contents = []
        for value in values:
            if name in msrs:
                write(x86.UC_X86_REG_MSR, (msrs[name], value))
            else:
                write(getattr(x86, f"UC_X86_REG_{name.upper()}"), value)
            contents.append(_content(engine))
        found[name] = _only(name, _where(contents, values, "Q"))
    return found


def _segments() -> int:
    engine = Engine()
    engine.uc.reg_write(x86.UC_X86_REG_FS_BASE, _BASES[4])
    engine.uc.reg_write(x86.UC_X86_REG_GS_BASE, _BASES[5])
    engine.uc.reg_write(x86.UC_X86_REG_TR, (0x28, _BASES[7], 0x67, 0x8B00))
    content = _content(engine)
    found = {
        8 * (_only(f"segment {number}", _where([content], [base], "Q")) - 1)
        - number * SEGMENT_BYTES
        for number, base in _BASES.items()
    }
    return _only("segments", found)


def _pkru(engine: Engine, quads: Mapping[str, int]) -> set[int]:
    """Return the words that hold what WRPKRU writes; the CPU's state is then as before."""
    before, contents = SavedState(engine.uc), []
    engine.uc.reg_write(x86.UC_X86_REG_CR4, CR4.PAE | CR4.PKE)
    state = SavedState(engine.uc)
    for value in _KEYS:
        state.quads[quads["rax"]] = value
        engine.restore(state)
        if engine.run(_WRPKRU_AT, _WRPKRU_AT + len(_WRPKRU)):
            raise CalibrationError("WRPKRU does not run")
        engine.uc.reg_write(x86.UC_X86_REG_RAX, 0)  # It holds the same value.
        contents.append(_content(engine))
    engine.restore(before)
    return _where(contents, _KEYS)


def _provoke(engine: Engine, quads: Mapping[str, int]) -> list[bytes]:
    """Return the state after each of `_FAULTS` and an INT, raised by code at CPL 3."""
    start, after, vectors, found = SavedState(engine.uc), SavedState(engine.uc), [], []

    def note(_engine: object, vector: int, _data: object) -> None:
        vectors.append(vector)
        engine.save(after)
        engine.uc.emu_stop()

    engine.hook_exceptions(note)
    start.quads[quads["rsp"]] = _STACK
    for number, (va, due) in enumerate(
        [*((va, due) for _, va, due, _ in _FAULTS), (0, _INTERRUPT)]
    ):
        vectors.clear()
        start.quads[quads["rbx"]], start.quads[quads["rcx"]] = va, _USER + _SNIPPET * number
        engine.restore(start)
        engine.run(_CODE, 0)
        if vectors != [due]:
            raise CalibrationError(f"no exception where vector {due} was due: {vectors}")
        found.append(bytes(after.bytes))
    return found


def _experiment() -> Ram:
    """Return RAM with tables, descriptors for both privilege levels, and the code."""
    ram = Ram(0, 0x10000)
    for level in range(3):
        ram.words[(_ROOT + 0x1000 * level) // 8] = _ROOT + 0x1000 * (level + 1) | 7
    pages = ((_GDT, 3), (_CODE, 3), (_STACK - 0x1000, 7), (_USER, 7), (_READ_ONLY, 5))
    for page, flags in (*pages, (_RESERVED, 1 << 51 | 7)):
        ram.words[(_ROOT + 0x3000 + page // 0x200) // 8] = page | flags
    for number, descriptor in enumerate(
        (0x00AF_9B00_0000_FFFF, 0x00AF_FB00_0000_FFFF, 0x00CF_F300_0000_FFFF), 1
    ):
        ram.words[_GDT // 8 + number] = descriptor
    ram.write(_CODE, _TO_USER)
    ram.write(_WRPKRU_AT, _WRPKRU)
    snippets = (*(code for code, *_ in _FAULTS), _INT)
    user = b"".join(bytes.fromhex(code).ljust(_SNIPPET, b"\xf4") for code in snippets)
    ram.write(_USER, user)
    return ram


def _content(engine: Engine) -> bytes:
    return bytes(SavedState(engine.uc).bytes)


def _where(
    contents: Sequence[bytes], values: Sequence[int], word: Literal["I", "Q"] = "I"
) -> set[int]:
    """Return the words at which each of these states has its value, by their indices."""
    views = [memoryview(each).cast(word) for each in contents]
    return {at for at, of_each in enumerate(zip(*views, strict=True)) if of_each == tuple(values)}


def _only(name: str, places: Collection[int]) -> int:
    if len(places) != 1:
        raise CalibrationError(f"{name} found at {len(places)} places of a saved context, not at 1")
    return next(iter(places))


def live_state(engine: Engine) -> CpuState | None:
    """Return the engine's own state, laid out as a saved one, or None where it isn't found.

    It is good as long as the engine is.
    """
    found = _pointer()
    if found is None:
        return None
    before = SavedState(engine.uc)
    at, behind = found
    with _host_memory() as memory:
        (pointer,) = struct.unpack("<Q", _read_host(memory, engine.address + at, 8).ljust(8, b"\0"))
        live = _is_live(memory, engine, pointer + behind)
    engine.restore(before)
    return CpuState(pointer + behind, len(before.bytes)) if live else None


@functools.cache
def _pointer() -> tuple[int, int] | None:
    """Return where an engine has the pointer that leads to the state, and how far behind it.

    The same in several engines that are there at once: a pointer to something else may lead to the
    state of one of them, if that happens to lie behind it.
    """
    engines = [Engine() for _ in range(_ENGINES)]
    with _host_memory() as memory:
        found = [_candidates(memory, engine) for engine in engines]
    return min(set.intersection(*found), default=None)


def _candidates(memory: int | None, engine: Engine) -> set[tuple[int, int]]:
    """Return the pointers, by their places, that lead to this engine's state; how far behind."""
    offset = 8 * state_layout().quads[_MARKED[0]]
    pattern = _mark(engine, 0x5157_A7E0_0000_0001)
    pointers = _read_host(memory, engine.address, _ENGINE)
    places = []
    for at in range(0, len(pointers) - 7, 8):
        (pointer,) = struct.unpack_from("<Q", pointers, at)
        content = _read_host(memory, pointer, _REACH)
        behind = content.find(pattern)
        while behind >= 0:  # What an engine left that is gone may come first.
            places.append((at, pointer, behind - offset))
            behind = content.find(pattern, behind + 1)
    return {(at, b) for at, pointer, b in places if _is_live(memory, engine, pointer + b)}


def _is_live(memory: int | None, engine: Engine, address: int) -> bool:
    """Return whether what the engine's registers get is seen at this address, twice."""
    offset = 8 * state_layout().quads[_MARKED[0]]
    for seed in (0x1E57_0000_0000_0003, 0x2B1D_0000_0000_0005):
        pattern = _mark(engine, seed)
        now = SavedState(engine.uc)
        # All of it, but for what a saved state has in front of the CPU's.
        first = 8 * state_layout().quads["rax"]
        seen = _read_host(memory, address + first, len(now.bytes) - first)
        if seen != bytes(now.bytes[first:]) or seen[offset - first :][: _MARKS.size] != pattern:
            return False
    return True


def _mark(engine: Engine, seed: int) -> bytes:
    values = [seed + (number << 32) for number in range(len(_MARKED))]
    for name, value in zip(_MARKED, values, strict=True):
        engine.uc.reg_write(getattr(x86, f"UC_X86_REG_{name.upper()}"), value)
    return _MARKS.pack(*values)


@contextmanager
def _host_memory() -> Iterator[int | None]:
    """Yield what this process's memory can be read by, None where the system offers nothing."""
    try:
        memory = os.open("/proc/self/mem", os.O_RDONLY)
    except OSError:
        yield None
        return
    try:
        yield memory
    finally:
        os.close(memory)


def _read_host(memory: int | None, address: int, size: int) -> bytes:
    """Return what lies there, as far as there is anything."""
    if memory is None:
        return b""
    try:
        return os.pread(memory, size, address)
    except (OSError, OverflowError):
        return b""
