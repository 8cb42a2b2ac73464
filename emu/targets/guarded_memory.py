"""Physical memory, lent to code of this process: read-only, with nothing behind each frame."""

import ctypes
import mmap

import numpy as np

from crosswalk.walker.memory import FRAME, PhysicalMemory

__all__ = ["Lent"]

_GUARDED = 8192  # Each takes two of the 65,530 mappings that a process may have.


class Lent:
    """Frames at addresses of this process, copied when they are first asked for.

    `function` is what C calls: it takes a physical address and returns where its frame is, a
    null pointer where no RAM is. Who writes there, or reads on past the frame, dies of it.
    """

    Function = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint64)

    def __init__(self, memory: PhysicalMemory) -> None:
        self._memory = memory
        self._kept: list[object] = []
        self._zeros = self._guarded(bytes(FRAME))
        self._at: dict[int, int | None] = {}
        self.function = self.Function(self._frame)

    def _frame(self, pa: int) -> int | None:
        start = pa // FRAME * FRAME
        if start not in self._at:
            self._at[start] = self._found(np.array([start], np.uint64))
        return self._at[start]

    def _found(self, frame: "np.ndarray[tuple[int], np.dtype[np.uint64]]") -> int | None:
        if not self._memory.backed(frame)[0]:
            return None
        content = self._memory.tables(frame).tobytes()
        if not any(content):
            return self._zeros
        if len(self._kept) < 2 * _GUARDED:
            return self._guarded(content)
        buffer = ctypes.create_string_buffer(content, FRAME)
        self._kept.append(buffer)
        return ctypes.addressof(buffer)

    def _guarded(self, content: bytes) -> int:
        pages = mmap.mmap(-1, 2 * FRAME, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        pages[:FRAME] = content
        view = ctypes.c_char.from_buffer(pages)
        self._kept += [pages, view]
        at = ctypes.addressof(view)
        for address, rights in ((at, mmap.PROT_READ), (at + FRAME, 0)):
            if _LIBC.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(FRAME), rights):
                raise OSError(ctypes.get_errno(), "mprotect")
        return at


_LIBC = ctypes.CDLL(None, use_errno=True)
