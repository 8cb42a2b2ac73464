"""The page-table walk of QEMU's monitor, under test: its command `gva2gpa`.

sudo apt-get install -y qemu-system-x86
crosswalk fuzz --walker-memory 1200000 \\
    --walker 'exec:python3 qemu_walker.py'

A machine without devices is started, and never runs. Its memory is a file with holes, 1 TiB as most
physical addresses in layouts are below that, so that QEMU needs as much address space. Its control
registers are set as a debugger sets them, by QEMU's gdb stub.
"""

import json
import os
import re
import socket
import subprocess
import tempfile
from pathlib import Path

from protocol import FRAME, serve

MEMORY = 1 << 40
REGISTERS = {"cr0": 27, "cr3": 29, "cr4": 30, "efer": 32}
"""Their numbers in QEMU's description of the CPU for gdb."""

PAGING, MODE_BITS = 1 << 31, 0x8000_0011  # PG; PG, ET, PE


class Machine:
    """A QEMU that is stopped before its first instruction."""

    def __init__(self):
        folder = Path(tempfile.mkdtemp())
        memory, stub = folder / "memory", folder / "stub"
        command = [
            "qemu-system-x86_64",
            "-S",
            "-M",
            "none,memory-backend=ram",
            "-cpu",
            "max,apic-id=0",
        ]
        command += ["-m", str(MEMORY >> 20), "-accel", "tcg,tb-size=16", "-display", "none"]
        backend = f"memory-backend-file,id=ram,size={MEMORY},mem-path={memory},share=on"
        command += ["-object", backend, "-gdb", f"unix:{stub},server=on,wait=off", "-qmp", "stdio"]
        pipe = subprocess.PIPE
        self.qmp = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1)
        json.loads(self.qmp.stdout.readline())
        self.execute("qmp_capabilities")
        self.memory = os.open(memory, os.O_RDWR)
        self.stub = socket.socket(socket.AF_UNIX)
        self.stub.connect(str(stub))
        memory.unlink()
        stub.unlink()
        folder.rmdir()
        self.send("qXfer:features:read:target.xml:0,ffb")  # Else it sets no single register.
        self.written = []

    def execute(self, command, **arguments):
        """Return what a command of QMP returns."""
        self.qmp.stdin.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        while True:
            line = json.loads(self.qmp.stdout.readline())
            if "return" in line:
                return line["return"]
            if "error" in line:
                raise RuntimeError(line["error"]["desc"])

    def monitor(self, line):
        """Return what the monitor prints for a command."""
        return self.execute("human-monitor-command", **{"command-line": line})

    def send(self, packet):
        """Send a packet to the gdb stub, and return its answer."""
        self.stub.sendall(f"${packet}#{sum(packet.encode()) & 255:02x}".encode())
        got = b""
        while not re.search(rb"\$[^#]*#..\Z", got):
            got += self.stub.recv(FRAME)
        self.stub.sendall(b"+")
        return got.partition(b"$")[2][:-3].decode()

    def set(self, name, value):
        """Set a control register."""
        said = self.send(f"P{REGISTERS[name]:x}={value.to_bytes(8, 'little').hex()}")
        if said != "OK":
            raise RuntimeError(f"{name}: {said}")

    def load(self, space):
        """Put an address space into memory and registers."""
        for frame in self.written:
            os.pwrite(self.memory, bytes(FRAME), frame)
        frames = space.frames()
        for frame, content in frames.items():
            os.pwrite(self.memory, content, frame)
        self.written = list(frames)
        self.set("cr0", MODE_BITS & ~PAGING)
        self.set("efer", space.efer & ~(1 << 10))
        for name in ("cr4", "cr3", "cr0", "efer"):
            self.set(name, getattr(space, name))


machine = Machine()


def gva2gpa(va):
    """Return the physical address that `gva2gpa` prints, None where it prints no mapping."""
    said = machine.monitor(f"gva2gpa {va:#x}")
    found = re.search(r"gpa: (?:0x)?([0-9a-f]+)", said)
    return int(found[1], 16) if found else None


def attach(space):
    """Return the function that answers about an address space, None for one without room."""
    fits = max(space.words, default=0) < MEMORY and max(space.cr3, space.cr4) < 1 << 32
    if not fits:
        return None
    machine.load(space)
    return gva2gpa


if __name__ == "__main__":
    serve(["translation"], ["32bit", "pae", "4level", "5level"], attach)
