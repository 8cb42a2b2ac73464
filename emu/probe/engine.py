"""The calls into Unicorn that a probe makes millions of, without the binding's overhead."""

import ctypes
import functools
from collections.abc import Callable

from unicorn import UC_CTL_IO_WRITE, UC_CTL_TLB_FLUSH, UC_HOOK_INTR, UcError
from unicorn import x86_const as x86

from crosswalk.emu.cpu.engine import MODEL, open_engine
from crosswalk.emu.cpu.library import LIBRARY as _LIBRARY
from crosswalk.walker.errors import CrosswalkError

__all__ = ["Engine", "ProbeError", "Saved", "State"]

_MSR_EFER = 0xC000_0080
_U64 = ctypes.c_uint64
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
_FLUSH_TLB = ctypes.c_int(UC_CTL_IO_WRITE << 30 | UC_CTL_TLB_FLUSH)


class ProbeError(CrosswalkError):
    """The emulator did what no access should lead to, so that there is no outcome to compare."""


class Engine:
    """A 64- or 32-bit engine of a CPU that has, and enforces, SMEP, SMAP, PKU and LA57.

    Or of another `model`, with what that one has.
    """

    def __init__(self, *, bits: int = 64, model: int = MODEL) -> None:
        self.uc = open_engine(bits=bits, model=model)
        # The binding offers no raw handle, and its calls cost several times the work they do.
        self._handle = ctypes.cast(self.uc._uch, ctypes.c_void_p)  # noqa: SLF001
        self._callbacks: list[object] = []

    @property
    def address(self) -> int:
        """Where the handle points: what lies there is the engine's own affair."""
        return self._handle.value or 0

    def control(self, *, cr0: int, cr3: int, cr4: int, efer: int) -> None:
        """Set the control registers; the mode of the engine's code is the same before and after."""
        self.uc.reg_write(x86.UC_X86_REG_CR4, cr4)
        self.uc.reg_write(x86.UC_X86_REG_MSR, (_MSR_EFER, efer))
        self.uc.reg_write(x86.UC_X86_REG_CR0, cr0)
        self.uc.reg_write(x86.UC_X86_REG_CR3, cr3)

    def run(self, start: int, until: int) -> int:
        """Run from `start` until `until` or an exception, and return Unicorn's error number."""
        return int(_LIBRARY.uc_emu_start(self._handle, _U64(start), _U64(until), _U64(0), _U64(0)))

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
        # As the binding's own hooks, but at a third of their cost a call.
        hook = ctypes.c_size_t()
        error = _LIBRARY.uc_hook_add(
            self._handle, ctypes.byref(hook), kinds, callback, None, _U64(span[0]), _U64(span[1])
        )
        if error:
            raise UcError(error)
        self._callbacks.append(callback)

    def flush_tlb(self) -> None:
        """Empty the TLB."""
        _LIBRARY.uc_ctl(self._handle, _FLUSH_TLB)

    def exchange(self, saved: "Saved") -> tuple[Callable[[], int], Callable[[], int]]:
        """Return two functions without arguments that do `save(saved)` and `restore(saved)`."""
        given = (self._handle, saved.pointer)
        return (
            functools.partial(_LIBRARY.uc_context_save, *given),
            functools.partial(_LIBRARY.uc_context_restore, *given),
        )

    def restore(self, saved: "Saved") -> None:
        """Take the CPU's state from `saved`; memory and TLB stay as they are."""
        _LIBRARY.uc_context_restore(self._handle, saved.pointer)

    def save(self, saved: "Saved") -> None:
        """Put the CPU's state into `saved`."""
        _LIBRARY.uc_context_save(self._handle, saved.pointer)


class State:
    """A CPU state in memory, that can be read and changed in place.

    `bytes`, `longs` and `quads` show the same memory as uint8, uint32 and uint64.
    """

    def __init__(self, address: int, size: int) -> None:
        content = memoryview((ctypes.c_ubyte * size).from_address(address))
        self.bytes = content.cast("B")
        self.quads = self.bytes.cast("Q")
        self.longs = self.bytes.cast("I")


class Saved(State):
    """A saved CPU state."""

    def __init__(self, engine: Engine) -> None:
        self._context = engine.uc.context_save()
        self.pointer = ctypes.cast(self._context.context, ctypes.c_void_p)
        super().__init__(self.pointer.value or 0, self._context.size)
