"""A Linux guest in QEMU that counts in user space, and what QEMU's monitor says of its mappings.

`info tlb` lists the leaves with the flags of their entries, `info mem` ranges with the rights that
all levels leave. Both are read here from their text alone.
"""

import json
import os
import re
import shutil
import socket
import subprocess
from contextlib import contextmanager

import pytest

from crosswalk.emu.machines.iso import judges_folder
from tests.emu.load.linux.distribution_kernels import CLOUD, ROOT
from tests.emu.load.linux.kernels import vmlinux
from tests.processes import until

COUNTER = 0x1000_0000
"""The linear address of the word that two processes count up."""

_SAID = b"counting"
_BASE = 0x40_0000
_INIT = f"""
    mov eax, 9                      # mmap: a page, shared, anonymous, at this address
    mov edi, {COUNTER}
    mov esi, 4096
    mov edx, 3
    mov r10d, 0x31
    mov r8, -1
    xor r9d, r9d
    syscall
    mov eax, 57                     # fork
    syscall
    test eax, eax
    jz count
    mov eax, 1                      # write
    mov edi, 1
    lea rsi, [rip + text]
    mov edx, {len(_SAID)}
    syscall
count:
    mov ebx, {COUNTER}
again:
    inc qword ptr [rbx]
    jmp again
text: .ascii "{_SAID.decode()}"
"""
_FLAGS = {63: "X", 8: "G", 7: "P", 6: "D", 5: "A", 4: "C", 3: "T", 2: "U", 1: "W"}
_LEAF = re.compile(r"([0-9a-f]{16}): ([0-9a-f]{16}) ([XGPDACTUW-]{9})")
_RANGE = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16}) [0-9a-f]{16} ([u-])r([w-])")


def _archive():
    """An initial RAM disk in the format "newc": a console, and /init, which counts."""
    program = vmlinux(_INIT, own_tables=False, base=_BASE, entry=_BASE)
    files = [
        ("dev", 0o040755, b"", (0, 0)),
        ("dev/console", 0o020600, b"", (5, 1)),
        ("init", 0o100755, program, (0, 0)),
        ("TRAILER!!!", 0, b"", (0, 0)),
    ]
    made = b""
    for number, (name, mode, content, device) in enumerate(files, 1):
        size = len(name) + 1
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, *device, size, 0)
        head = b"070701" + b"".join(b"%08x" % each for each in fields) + name.encode() + b"\0"
        made += head.ljust(-(-len(head) // 4) * 4, b"\0")
        made += content.ljust(-(-len(content) // 4) * 4, b"\0")
    return made


def _missing(reason):
    (pytest.fail if os.environ.get("CROSSWALK_NEEDS_JUDGES") else pytest.skip)(reason)


def qemus():
    """The QEMUs that there are: on PATH, else bookworm's, and the newer ones of scripts/judges."""
    fetched = {each.parent.name: str(each) for each in judges_folder().glob("qemu-*/qemu-system-*")}
    first = shutil.which("qemu-system-x86_64") or fetched.get("qemu-bookworm")
    return [each for each in (first, fetched.get("qemu-trixie"), fetched.get("qemu-sid")) if each]


def a_qemu():
    return next(iter(qemus()), None) or _missing(
        "no qemu-system-x86_64, nor fetched by scripts/judges"
    )


def a_kernel():
    """A kernel of the distribution that scripts/fetch-kernel has fetched."""
    found = sorted((ROOT / ".kernels" / CLOUD / "boot").glob("vmlinuz-*"))
    return found[-1] if found else _missing("no kernel fetched by scripts/fetch-kernel")


class LiveGuest:
    """A guest with two CPUs: `name` is its stub's, as SOURCE; commands go to QEMU by QMP."""

    def __init__(self, name, qmp):
        self.name, self._file = name, qmp
        self._file.readline()
        self.execute("qmp_capabilities")

    def execute(self, command, **arguments):
        self._file.write(json.dumps({"execute": command, "arguments": arguments}))
        self._file.flush()
        while True:
            answer = json.loads(self._file.readline())
            assert "error" not in answer, answer
            if "return" in answer:
                return answer["return"]

    def monitor(self, command, cpu=0):
        return self.execute("human-monitor-command", **{"command-line": command, "cpu-index": cpu})

    @property
    def status(self):
        return self.execute("query-status")["status"]

    def leaves(self, cpu):
        """Of each leaf its address: where it leads, and the names of the flags of its entry."""
        found = [_LEAF.match(line) for line in self.monitor("info tlb", cpu).splitlines()]
        return {int(each[1], 16): (int(each[2], 16), each[3]) for each in found}

    def ranges(self, cpu):
        """(start, end, user, writable) of the ranges that are mapped with these rights."""
        found = [_RANGE.match(line) for line in self.monitor("info mem", cpu).splitlines()]
        return [(int(e[1], 16), int(e[2], 16), e[3] == "u", e[4] == "w") for e in found]

    def counts(self):
        """Whether both CPUs run a process that counts; where the counter lies is noted."""
        self.execute("stop")
        found = [self.leaves(cpu).get(COUNTER) for cpu in (0, 1)]
        self.execute("cont")
        self.counter = found[0] and found[0][0]
        return all(found)

    def word(self, pa):
        """The eight bytes at a physical address, as a number."""
        return int(self.monitor(f"xp /1gx {pa:#x}").split()[-1], 16)


@contextmanager
def live_guest(folder, *, qemu, cpu="max", append="", memory=128):
    """A guest that has booted, and counts."""
    archive, console = folder / "initrd", folder / "console"
    archive.write_bytes(_archive())
    console.touch()
    command = [
        *(qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-accel", "tcg", "-smp", "2", "-m", str(memory), "-cpu", cpu),
        *("-kernel", str(a_kernel()), "-initrd", str(archive)),
        *("-append", f"console=ttyS0 quiet panic=-1 nokaslr {append}"),
        *("-serial", f"file:{console}"),
        *("-qmp", f"unix:{folder / 'qmp'},server=on,wait=off"),
        *("-gdb", f"unix:{folder / 'gdb'},server=on,wait=off"),
    ]
    running = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        until(lambda: running.poll() is not None or _SAID in console.read_bytes())
        assert None is running.poll(), "QEMU has ended"
        with socket.socket(socket.AF_UNIX) as qmp:
            qmp.connect(str(folder / "qmp"))
            with qmp.makefile("rw", encoding="utf-8") as file:
                guest = LiveGuest(f"gdb:{folder / 'gdb'}", file)
                until(guest.counts)
                yield guest
    finally:
        running.kill()
        running.wait()


def leaves_of(records):
    """What `info tlb` would list, of the records that `walk --json` printed."""
    found = {}
    for record in records:
        flags = int(record["flags"], 16)
        names = "".join(name if flags >> bit & 1 else "-" for bit, name in _FLAGS.items())
        found[int(record["va"], 16)] = int(record["pa"], 16), names
    return found


def ranges_of(records):
    """What `info mem` would list, of the same: neighbours with the same rights are one range."""
    found = []
    for record in records:
        rights = record["rights"]
        user = rights["user"] != "---"
        writable = "w" in rights["user"] + rights["supervisor"]
        start = int(record["va"], 16)
        if found and found[-1][1:] == (start, user, writable):
            start = found.pop()[0]
        found.append((start, int(record["va"], 16) + record["size"], user, writable))
    return found
