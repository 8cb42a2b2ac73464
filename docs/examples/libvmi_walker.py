"""The page-table walk of LibVMI, under test: a library that you have built, with its file driver.

crosswalk fuzz --walker-memory 1200000 \\
    --walker 'exec:python3 docs/examples/libvmi_walker.py CHECKOUT/build/libvmi/libvmi.so'

The guest is a file of memory with holes, 1 TiB as most physical addresses in layouts are below it.
"""

import ctypes
import os
import sys
import tempfile
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent
sys.path.insert(0, str(EXAMPLES.parents[1] / "emu" / "targets" / "starters" / "adapters"))

from protocol import FRAME, serve  # noqa: E402 -- Found by the line above.

MEMORY = 1 << 40
FILE, BY_NAME = 2, 1  # VMI_FILE, VMI_INIT_DOMAINNAME
SUCCESS = 0
PAGE_MODES = {"32bit": 2, "pae": 3, "4level": 4}  # VMI_PM_LEGACY, VMI_PM_PAE, VMI_PM_IA32E

library = ctypes.CDLL(sys.argv[1])
library.vmi_nested_pagetable_lookup.argtypes = [
    *(ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int),  # The guest, nested tables and their mode,
    *(ctypes.c_uint64, ctypes.c_int, ctypes.c_uint64),  # its tables, their mode, the address,
    *(ctypes.POINTER(ctypes.c_uint64), ctypes.c_void_p),  # and what it is translated to.
]
library.vmi_v2pcache_flush.argtypes = [ctypes.c_void_p, ctypes.c_uint64]
library.vmi_pagecache_flush.argtypes = [ctypes.c_void_p]


class Guest:
    """A guest of the file driver, whose memory is written for each address space."""

    def __init__(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "memory"
            self.memory = os.open(path, os.O_RDWR | os.O_CREAT)
            os.ftruncate(self.memory, MEMORY)
            self.vmi = ctypes.c_void_p()
            name = os.fsencode(path)
            if library.vmi_init(ctypes.byref(self.vmi), FILE, name, BY_NAME, None, None):
                raise RuntimeError("LibVMI doesn't take a file for a guest")
        self.written = []

    def load(self, space):
        """Put an address space into memory."""
        for frame in self.written:
            os.pwrite(self.memory, bytes(FRAME), frame)
        frames = space.frames()
        for frame, content in frames.items():
            os.pwrite(self.memory, content, frame)
        self.written = list(frames)
        library.vmi_pagecache_flush(self.vmi)
        library.vmi_v2pcache_flush(self.vmi, (1 << 64) - 1)

    def translate(self, space, va):
        """Return the physical address that LibVMI gives for a linear one, None for none."""
        pa, mode = ctypes.c_uint64(), PAGE_MODES[space.mode]
        status = library.vmi_nested_pagetable_lookup(
            self.vmi, 0, 0, space.cr3, mode, va, ctypes.byref(pa), None
        )
        return pa.value if status == SUCCESS else None


guest = Guest()


def attach(space):
    """Return the function that answers about an address space, None for one without room.

    The file driver takes CR4.PSE to be set.
    """
    if max(space.words, default=0) >= MEMORY or not (space.cr4 >> 4 & 1 or space.mode != "32bit"):
        return None
    guest.load(space)
    return lambda va: guest.translate(space, va)


if __name__ == "__main__":
    serve(["translation"], list(PAGE_MODES), attach)
