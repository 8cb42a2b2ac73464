"""Unicorn's functions that its Python binding lacks, refuses, or makes slow."""

import ctypes
from collections.abc import Callable
from typing import Any

import unicorn
from unicorn import UcError
from unicorn.unicorn_py3.unicorn import uclib

__all__ = ["LIBRARY", "handle_of", "hook_instruction", "translate"]

# Loaded once more, so that calls skip the checks which the binding's own handle to it makes.
LIBRARY = ctypes.CDLL(uclib._name)  # noqa: SLF001

_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


def handle_of(engine: unicorn.Uc) -> ctypes.c_void_p:
    """Return the raw handle of an engine, which the binding doesn't offer."""
    return ctypes.cast(engine._uch, ctypes.c_void_p)  # noqa: SLF001


def hook_instruction(engine: unicorn.Uc, instruction: int, called: Callable[[], None]) -> object:
    """Have `called` instead of each RDTSC or RDTSCP, which the binding refuses to hook.

    `instruction` is one of Unicorn's `UC_X86_INS_…`. Returns what has to be kept alive as long
    as the engine runs. `called` must not raise.
    """

    def replace(_engine: Any, _data: Any) -> int:
        called()
        return 1  # Not to be executed.

    callback = _CALLBACK(replace)
    hook = ctypes.c_size_t()
    error = LIBRARY.uc_hook_add(
        handle_of(engine),
        ctypes.byref(hook),
        unicorn.UC_HOOK_INSN,
        callback,
        None,
        ctypes.c_uint64(1),
        ctypes.c_uint64(0),
        ctypes.c_int(instruction),
    )
    if error:
        raise UcError(error)
    return callback


def translate(engine: unicorn.Uc, va: int, *, write: bool) -> int | None:
    """Return the physical address of `va` as the CPU finds it now, or None where it faults.

    The CPU walks, at its current privilege level: it sets A, and D for a write, and answers
    from its TLB.
    """
    pa = ctypes.c_uint64()
    kind = unicorn.UC_PROT_WRITE if write else unicorn.UC_PROT_READ
    error = LIBRARY.uc_vmem_translate(
        handle_of(engine), ctypes.c_uint64(va), ctypes.c_uint32(kind), ctypes.byref(pa)
    )
    return None if error else pa.value
