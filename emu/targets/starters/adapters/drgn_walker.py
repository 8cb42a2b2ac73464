"""The page-table walk of drgn, under test: it reads memory of a kernel, a core without any.

sudo apt-get install -y python3-drgn
crosswalk fuzz --walker 'exec:/usr/bin/python3 drgn_walker.py'

drgn walks page tables to read a process' memory. It believes the core to be Linux because of a
VMCOREINFO note; what it reads is answered by `read`, and the last that it reads is one byte at the
physical address which it found.
"""

import struct
import tempfile

from _drgn import _linux_helper_read_vm
from drgn import FaultError, Program
from protocol import FRAME, serve

ROOT_AT = 0xFFFF_C000_0000_0000
"""The linear address at which drgn looks for the root; it reads the others by physical address."""

VMCOREINFO = """\
OSRELEASE=6.1.0
PAGESIZE=4096
KERNELOFFSET=0
SYMBOL(init_uts_ns)=0
SYMBOL(swapper_pg_dir)=ffffffff82000000
NUMBER(phys_base)=0
NUMBER(pgtable_l5_enabled)={five}
"""


def core(five):
    """Return an ELF core of a kernel, with a note and no memory."""
    name, info = b"VMCOREINFO\0\0", VMCOREINFO.format(five=five).encode()
    note = struct.pack("<III", 11, len(info), 0) + name + info + bytes(-len(info) % 4)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = struct.pack("<16sHHIQQQIHHHHHH", ident, 4, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return header + struct.pack("<IIQQQQQQ", 4, 0, 120, 0, 0, len(note), 0, 0) + note


class Kernel:
    """A program whose physical memory is that of the address space asked about."""

    def __init__(self, five):
        self.frames, self.root, self.last = {}, 0, 0
        self.program = Program()
        with tempfile.NamedTemporaryFile() as file:
            file.write(core(five))
            file.flush()
            self.program.set_core_dump(file.name)
        self.program.add_memory_segment(0, 1 << 64 - 1, self.read, True)
        self.program.add_memory_segment(ROOT_AT, FRAME, self.read, False)

    def read(self, address, count, offset, physical):
        """Return memory: what lies at ROOT_AT is the root."""
        self.last = address if physical else self.root + offset
        frame = self.frames.get(self.last & -FRAME, bytes(FRAME))
        return bytes(frame[self.last % FRAME : self.last % FRAME + count])

    def translate(self, va):
        """Return the physical address that drgn reads for a linear one."""
        try:
            _linux_helper_read_vm(self.program, ROOT_AT, va, 1)
        except FaultError:
            return None
        return self.last


KERNELS = {"4level": Kernel(0), "5level": Kernel(1)}


def attach(space):
    """Return a function that translates with drgn."""
    kernel = KERNELS[space.mode]
    kernel.frames, kernel.root = space.frames(), space.root
    return kernel.translate


if __name__ == "__main__":
    serve(["translation"], list(KERNELS), attach)
