"""A walker in C: `c:library.so`, with the interface of `crosswalk.h`."""

import ctypes
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emu.peers.claims import Claim
from emu.peers.leaflist import answers_by_range
from walker.columns import Accesses, Kind, Outcomes
from walker.context import PagingContext, Vendor
from walker.errors import BadInput
from walker.memory import FRAME, PhysicalMemory

__all__ = ["CLibrary"]

_Frame = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint64)


class _Memory(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_uint64) for name in ("cr0", "cr3", "cr4", "efer")),
        *((name, ctypes.c_uint32) for name in ("pkru", "maxphyaddr", "page1gb", "amd")),
        ("frame", _Frame),
    )


class _Args(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("va", "pa", "size", "flags"))


_Callback = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Args))


class CLibrary:
    """A shared library that walks memory which it is lent; `claims` follow from its exports.

    Raises `BadInput` where it can't be loaded or lacks what it has to export.
    """

    def __init__(self, path: str) -> None:
        try:
            self._library = ctypes.CDLL(str(Path(path).resolve()))
        except OSError as error:
            raise BadInput(f"c:{path}: {error}") from error
        for name in ("crosswalk_attach",):
            if not hasattr(self._library, name):
                raise BadInput(f"c:{path}: exports no {name}")
        if hasattr(self._library, "crosswalk_translate"):
            self.claims = frozenset({Claim.TRANSLATION, Claim.RIGHTS})
        elif hasattr(self._library, "heki_walk"):
            self.claims = frozenset({Claim.LEAVES})
        else:
            raise BadInput(f"c:{path}: exports neither heki_walk nor crosswalk_translate")

    def answer(
        self, memory: PhysicalMemory, context: PagingContext, accesses: Accesses
    ) -> Outcomes:
        """Return what the library says of each access."""
        lent = _Lent(memory)
        state = _Memory(
            context.cr0,
            context.cr3,
            context.cr4,
            context.efer,
            context.pkru,
            context.maxphyaddr,
            int(context.page1gb),
            int(context.vendor is Vendor.AMD),
            lent.callback,
        )
        self._library.crosswalk_attach(ctypes.byref(state))
        if Claim.LEAVES in self.claims:
            return answers_by_range(context, accesses, self._listed)
        return self._translated(accesses)

    def _listed(self, va: int, end: int) -> Sequence[tuple[int, int, int]]:
        found = []
        args = _Args()
        callback = _Callback(lambda at: found.append((at[0].va, at[0].pa, at[0].size)))
        self._library.heki_walk(
            ctypes.c_uint64(va), ctypes.c_uint64(end), callback, ctypes.byref(args)
        )
        return found

    def _translated(self, accesses: Accesses) -> Outcomes:
        out = Outcomes.empty(len(accesses))
        pa = ctypes.c_uint64()
        translate = self._library.crosswalk_translate
        columns = (accesses.va, accesses.type, accesses.cpl, accesses.ac)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        for row, (va, kind, cpl, ac) in enumerate(rows):
            allowed = translate(ctypes.c_uint64(va), kind, cpl, int(ac), ctypes.byref(pa))
            out.kind[row] = Kind.OK if allowed else Kind.PAGE_FAULT
            out.pa[row] = pa.value if allowed else 0
        return out


class _Lent:
    """Frames of memory at addresses of this process, copied when they are first asked for."""

    def __init__(self, memory: PhysicalMemory) -> None:
        self._memory = memory
        self._frames: dict[int, ctypes.Array[ctypes.c_char] | None] = {}
        self.callback = _Frame(self._frame)

    def _frame(self, pa: int) -> int | None:
        at = pa // FRAME * FRAME
        if at not in self._frames:
            frame = np.array([at], np.uint64)
            backed = bool(self._memory.backed(frame)[0])
            content = self._memory.tables(frame).tobytes() if backed else b""
            self._frames[at] = ctypes.create_string_buffer(content, FRAME) if backed else None
        found = self._frames[at]
        return None if found is None else ctypes.addressof(found)
