"""The baseline: the Heki walk in C, compiled when it is needed, over the same bytes."""

import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scripts.benchmarks.images import Image

__all__ = ["MAPPING", "CWalker", "compiler_version"]

MAPPING = np.dtype([("va", "u8"), ("pa", "u8"), ("size", "u8"), ("flags", "u8")])
"""What the C walker records of each page."""

_SOURCE = Path(__file__).with_name("heki.c")
_END = 1 << 47


class _Memory(ctypes.Structure):
    _fields_ = (("bytes", ctypes.c_void_p), ("size", ctypes.c_uint64))


class _Args(ctypes.Structure):
    _fields_ = (
        ("now", ctypes.c_uint64 * 4),
        ("found", ctypes.c_void_p),
        ("count", ctypes.c_size_t),
        ("room", ctypes.c_size_t),
    )


def compiler_version() -> str | None:
    """Return the first line of the C compiler's version, None if there is none."""
    command = _compiler()
    if command is None:
        return None
    done = subprocess.run([command, "--version"], check=True, capture_output=True, text=True)
    return done.stdout.splitlines()[0]


def _compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


class CWalker:
    """The C walk, compiled with -O2 into a folder that goes with it."""

    def __init__(self) -> None:
        command = _compiler()
        if command is None:
            raise FileNotFoundError("no C compiler: none of cc, gcc, clang")
        self._folder = tempfile.TemporaryDirectory(prefix="crosswalk-bench-")
        library = Path(self._folder.name) / "heki.so"
        flags = ["-O2", "-shared", "-fPIC", "-o", str(library), str(_SOURCE)]
        subprocess.run([command, *flags], check=True)
        self._library = ctypes.CDLL(str(library))
        self._library.heki_walk.restype = None
        self._found = np.zeros(0, MAPPING)

    def reserve(self, image: Image) -> None:
        """Make room for the mappings of an image, and touch all of it."""
        args = _Args()
        self._run(image, self._library.count, args)
        self._found = np.zeros(args.count, MAPPING)
        self._found.fill(0)

    def walk(self, image: Image) -> NDArray[np.void]:
        """Return all mappings, in address order, in the array that was reserved."""
        return self._record(image, self._library.record)

    def walk_by_field(self, image: Image) -> NDArray[np.void]:
        """Return the same, by way of the quicker callback."""
        return self._record(image, self._library.record_by_field)

    def _record(self, image: Image, callback: object) -> NDArray[np.void]:
        args = _Args(found=self._found.ctypes.data, room=len(self._found))
        self._run(image, callback, args)
        return self._found[: args.count]

    def _run(self, image: Image, callback: object, args: _Args) -> None:
        memory = _Memory(image.words.ctypes.data, image.words.nbytes)
        self._library.heki_walk(
            ctypes.byref(memory),
            ctypes.c_uint64(0),
            ctypes.c_uint64(0),
            ctypes.c_uint64(_END),
            callback,
            ctypes.byref(args),
        )
