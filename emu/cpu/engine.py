"""Unicorn engines, and what its Python binding lacks, refuses, or makes slow.

Engines are of the one CPU model that enforces all of paging. The default model accepts SMAP and
PKE in CR4 and doesn't enforce them; this one has SMEP, SMAP, protection keys for user pages, LA57
and 1-GiB pages, and means it.
"""

import ctypes
import functools
import mmap
from collections.abc import Callable
from typing import Any

import unicorn
from unicorn import UC_CTL_IO_WRITE, UC_CTL_TLB_FLUSH, UC_HOOK_INTR, UcError
from unicorn import x86_const as x86
from unicorn.unicorn_py3.unicorn import uclib

from crosswalk.emu.cpu.ram import Ram
from crosswalk.walker.architecture import MSR
from crosswalk.walker.errors import BadInput

__all__ = [
    "AMD_MODELS",
    "LIBRARY",
    "MAXPHYADDR",
    "MODEL",
    "MODELS",
    "CpuState",
    "DirectHooks",
    "Engine",
    "SavedState",
    "attach",
    "handle_of",
    "hook_blocks",
    "open_engine",
    "register_writer",
]

MAXPHYADDR = 40
"""Unicorn 2.1.4 has this many physical address bits whatever the model says."""

MODEL = x86.UC_CPU_X86_ICELAKE_SERVER

MODELS = {"icelake": MODEL, "epyc": x86.UC_CPU_X86_EPYC}
"""Models of the CPU that guests run on, by short names: the one of all of paging, and AMD's SVM."""

AMD_MODELS = frozenset({x86.UC_CPU_X86_EPYC})
"""The models of AMD's processors among those in use."""

# Loaded once more, so that calls skip the checks which the binding's own handle to it makes.
LIBRARY = ctypes.CDLL(uclib._name)  # noqa: SLF001

_CODE = 1 << 28  # Bytes of address space for the code an engine makes; Unicorn's own are 2^30.
_MODES = {16: unicorn.UC_MODE_16, 32: unicorn.UC_MODE_32, 64: unicorn.UC_MODE_64}
_U64 = ctypes.c_uint64
_ON_INSTRUCTION = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_ON_IN = ctypes.CFUNCTYPE(
    ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_void_p
)
_ON_OUT = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p
)
_ON_EXCEPTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)
_ON_ACCESS = ctypes.CFUNCTYPE(
    ctypes.c_bool,
    ctypes.c_void_p,
    ctypes.c_int,
    ctypes.c_uint64,
    ctypes.c_int,
    ctypes.c_int64,
    ctypes.c_void_p,
)


class _Block(ctypes.Structure):
    """A block of translated code: its linear address, instructions, and bytes."""

    _fields_ = (("pc", _U64), ("instructions", ctypes.c_uint16), ("size", ctypes.c_uint16))


_ON_EDGE = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.POINTER(_Block), ctypes.POINTER(_Block), ctypes.c_void_p
)
_FLUSH_TLB = ctypes.c_int(UC_CTL_IO_WRITE << 30 | UC_CTL_TLB_FLUSH)


def open_engine(*rams: Ram, bits: int = 64, model: int = MODEL) -> unicorn.Uc:
    """Return a new engine that starts in 16-, 32- or 64-bit code, with RAM attached.

    `model` is one of Unicorn's `UC_CPU_X86_…`. In an engine opened with 16 or 32 bits the API
    reads and writes 32-bit registers only, also when the guest has gone to long mode: see
    `crosswalk.emu.cpu.state_layout.read_registers`. The engine must not outlive its RAM.

    Raises `BadInput` where two RAMs overlap, `MemoryError` where there is no address space for
    the code that Unicorn makes: it would end the process.
    """
    _code_memory().close()
    engine = unicorn.Uc(unicorn.UC_ARCH_X86, _MODES[bits])
    engine.ctl_set_cpu_model(model)
    engine.ctl_set_tcg_buffer_size(_CODE)
    engine.reg_read(x86.UC_X86_REG_CR0)  # Takes the memory now, and not with its first use.
    for ram in rams:
        attach(engine, ram)
    return engine


def _code_memory() -> mmap.mmap:
    try:
        return mmap.mmap(-1, _CODE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=0)
    except OSError as error:
        raise MemoryError(f"{_CODE:#x} bytes of address space for an engine") from error


def attach(engine: unicorn.Uc, ram: Ram, permissions: int = unicorn.UC_PROT_ALL) -> None:
    """Map all of `ram` at its physical address into `engine`, without a copy.

    Raises `BadInput` where the engine has something there.
    """
    try:
        engine.mem_map_ptr(ram.start, ram.size, permissions, ram.pointer)
    except UcError as error:
        raise BadInput(
            f"no room for RAM of {ram.size:#x} bytes at {ram.start:#x}: {error}"
        ) from error


def handle_of(engine: unicorn.Uc) -> ctypes.c_void_p:
    """Return the raw handle of an engine, which the binding doesn't offer."""
    return ctypes.cast(engine._uch, ctypes.c_void_p)  # noqa: SLF001


def register_writer(engine: unicorn.Uc, register: int) -> Callable[[int], None]:
    """Return a function that sets a 64-bit register, one of Unicorn's `UC_X86_REG_…`.

    The binding's own call costs several times as much.
    """
    value = _U64()
    write = functools.partial(
        LIBRARY.uc_reg_write, handle_of(engine), ctypes.c_int(register), ctypes.byref(value)
    )

    def put(content: int) -> None:
        value.value = content
        write()

    return put


class DirectHooks:
    """Hooks of an engine at a third of the binding's cost, or that the binding refuses.

    What a callback raises ends the run; `raise_error` raises it when that is over. The engine must
    not outlive this.
    """

    def __init__(self, engine: unicorn.Uc) -> None:
        self._engine = engine
        self._error: BaseException | None = None
        self._kept: list[object] = []

    def raise_error(self) -> None:
        """Raise what a callback has raised, if one has."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def instead_of(self, instruction: int, called: Callable[[], None]) -> None:
        """Have `called` instead of each RDTSC or RDTSCP, one of Unicorn's `UC_X86_INS_…`."""

        def replace(_engine: Any, _data: Any) -> int:
            try:
                called()
            except BaseException as error:  # noqa: BLE001  # It is raised when the run has ended.
                self._fail(error)
            return 1  # Not to be executed.

        self._hook(_ON_INSTRUCTION(replace), instruction)

    def port_reads(self, called: Callable[[int, int], int]) -> None:
        """Have `called` with port and size in bytes for each IN and INS; it returns the value."""

        def read(_engine: Any, port: int, size: int, _data: Any) -> int:
            try:
                return called(port, size)
            except BaseException as error:  # noqa: BLE001  # As above.
                self._fail(error)
                return 0

        self._hook(_ON_IN(read), x86.UC_X86_INS_IN)

    def port_writes(self, called: Callable[[int, int, int], None]) -> None:
        """Have `called` with port, size in bytes and value for each OUT and OUTS."""

        def write(_engine: Any, port: int, size: int, value: int, _data: Any) -> None:
            try:
                called(port, size, value)
            except BaseException as error:  # noqa: BLE001  # As above.
                self._fail(error)

        self._hook(_ON_OUT(write), x86.UC_X86_INS_OUT)

    def exceptions(self, called: Callable[[int], None]) -> None:
        """Have `called` with the vector, or the number of an exit, of each exception.

        The guest goes on from the state that the call leaves it in.
        """

        def take(_engine: Any, vector: int, _data: Any) -> None:
            try:
                called(vector)
            except BaseException as error:  # noqa: BLE001  # As above.
                self._fail(error)

        callback = _ON_EXCEPTION(take)
        _add_hook(self._engine, UC_HOOK_INTR, callback, (1, 0))
        self._kept.append(callback)

    def _hook(self, callback: object, instruction: int) -> None:
        kind = unicorn.UC_HOOK_INSN
        _add_hook(self._engine, kind, callback, (1, 0), ctypes.c_int(instruction))
        self._kept.append(callback)

    def _fail(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
        self._engine.emu_stop()


def hook_blocks(engine: unicorn.Uc, called: Callable[[int, int], None]) -> object:
    """Have `called` with linear address and size of each block when it has been translated.

    That is before it runs for the first time, and again where its translation was given up. The
    first block of a run, and a handler's that is entered from there, aren't reported: to Unicorn
    these are edges between two blocks. Returns what has to be kept alive as long as the engine
    runs. `called` must not raise.
    """

    def edge(_engine: Any, block: Any, _before: Any, _data: Any) -> None:
        called(block.contents.pc, block.contents.size)

    callback = _ON_EDGE(edge)
    _add_hook(engine, unicorn.UC_HOOK_EDGE_GENERATED, callback, (1, 0))
    return callback


def _add_hook(
    engine: unicorn.Uc, kinds: int, callback: object, span: tuple[int, int], *more: object
) -> None:
    """Add a hook as the binding does, but at a third of its cost a call."""
    hook = ctypes.c_size_t()
    error = LIBRARY.uc_hook_add(
        handle_of(engine),
        ctypes.byref(hook),
        kinds,
        callback,
        None,
        _U64(span[0]),
        _U64(span[1]),
        *more,
    )
    if error:
        raise UcError(error)


class CpuState:
    """A CPU's state in memory, read and changed in place.

    `bytes`, `longs` and `quads` show the same memory as uint8, uint32 and uint64; what lies
    where, `crosswalk.emu.cpu.state_layout` finds out.
    """

    def __init__(self, address: int, size: int) -> None:
        content = memoryview((ctypes.c_ubyte * size).from_address(address))
        self.bytes = content.cast("B")
        self.quads = self.bytes.cast("Q")
        self.longs = self.bytes.cast("I")


class SavedState(CpuState):
    """A copy of an engine's CPU state, as it is when this is made."""

    def __init__(self, engine: unicorn.Uc) -> None:
        self._context = engine.context_save()
        self.pointer = ctypes.cast(self._context.context, ctypes.c_void_p)
        super().__init__(self.pointer.value or 0, self._context.size)


class Engine:
    """An engine for 64- or 32-bit code, of a CPU `model`; the calls that a probe makes by millions.

    The binding's own cost several times the work that they do.
    """

    def __init__(self, *, bits: int = 64, model: int = MODEL) -> None:
        self.uc = open_engine(bits=bits, model=model)
        self._handle = handle_of(self.uc)
        self._callbacks: list[object] = []

    @property
    def address(self) -> int:
        """The host address that the handle points to: the engine's own state is behind it."""
        return self._handle.value or 0

    def control(self, *, cr0: int, cr3: int, cr4: int, efer: int) -> None:
        """Set the control registers; the mode of the engine's code is the same before and after."""
        self.uc.reg_write(x86.UC_X86_REG_CR4, cr4)
        self.uc.reg_write(x86.UC_X86_REG_MSR, (MSR.EFER, efer))
        self.uc.reg_write(x86.UC_X86_REG_CR0, cr0)
        self.uc.reg_write(x86.UC_X86_REG_CR3, cr3)

    def run(self, start: int, until: int) -> int:
        """Run from `start` until `until` or an exception, and return Unicorn's error number."""
        return int(LIBRARY.uc_emu_start(self._handle, _U64(start), _U64(until), _U64(0), _U64(0)))

    def hook_exceptions(self, called: Callable[[object, int, object], None]) -> None:
        """Have `called` with (engine, vector, nothing) at each exception.

        The guest goes on from the state that the call leaves it in.
        """
        self._hook(UC_HOOK_INTR, _ON_EXCEPTION(called), (1, 0))

    def hook_memory(
        self,
        kinds: int,
        called: Callable[[object, int, int, int, int, object], bool],
        span: tuple[int, int] = (1, 0),
    ) -> None:
        """Have `called` with (engine, event, physical address, size, value, nothing).

        At each event of these kinds (`UC_HOOK_MEM_…`) in the physical range [first, last] `span`,
        before it is done; anywhere if none is given. What it returns says whether an access to
        where nothing is goes on.
        """
        self._hook(kinds, _ON_ACCESS(called), span)

    def _hook(self, kinds: int, callback: object, span: tuple[int, int]) -> None:
        _add_hook(self.uc, kinds, callback, span)
        self._callbacks.append(callback)

    def flush_tlb(self) -> None:
        """Empty the TLB."""
        LIBRARY.uc_ctl(self._handle, _FLUSH_TLB)

    def exchange(self, saved: SavedState) -> tuple[Callable[[], int], Callable[[], int]]:
        """Return two functions without arguments that do `save(saved)` and `restore(saved)`."""
        given = (self._handle, saved.pointer)
        return (
            functools.partial(LIBRARY.uc_context_save, *given),
            functools.partial(LIBRARY.uc_context_restore, *given),
        )

    def restore(self, saved: SavedState) -> None:
        """Take the CPU's state from `saved`; memory and TLB stay as they are."""
        LIBRARY.uc_context_restore(self._handle, saved.pointer)

    def save(self, saved: SavedState) -> None:
        """Put the CPU's state into `saved`."""
        LIBRARY.uc_context_save(self._handle, saved.pointer)
