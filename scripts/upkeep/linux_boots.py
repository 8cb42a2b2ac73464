"""Boots of a kernel without any check: here, and in QEMU, from one console line to another.

    python -m scripts.upkeep.linux_boots KERNEL POINT…

boots a kernel in this process, up to the last point, and prints what `Boot` below has as JSON.
"""

import hashlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.boot import Boot as Booting
from crosswalk.emu.load.formats import open_kernel
from crosswalk.emu.load.linux.guest import ARGUMENTS
from crosswalk.emu.load.points import parse_point
from crosswalk.guest.init import init_archive
from scripts.upkeep.qemu_boots import times_at

__all__ = ["FIRST", "LAST", "RAM_MIB", "Boot", "here", "in_qemu"]

FIRST, LAST = "Linux version ", "Run /init as init process"
"""The lines of the console between which a boot's time is taken: a decompressor runs before."""

RAM_MIB = 256
_SECONDS = 3600


class Boot(msgspec.Struct, frozen=True):
    """A boot in this process: CPU seconds between the lines, and a digest of RAM at the end."""

    cpu_seconds: float
    ram: str


def here(kernel: Path, points: list[str]) -> Boot:
    """Boot a kernel in a process of its own, up to the last point; `RuntimeError` if it fails."""
    command = [sys.executable, "-m", "scripts.upkeep.linux_boots", str(kernel), *points]
    ran = subprocess.run(command, capture_output=True, check=False)
    if ran.returncode:
        last = ran.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise RuntimeError(f"an unchecked boot failed: {' '.join(last) or ran.returncode}")
    return msgspec.json.decode(ran.stdout, type=Boot)


def in_qemu(qemu: str, kernel: Path, bits: int, seconds: float = 600) -> float:
    """Return QEMU TCG's CPU seconds between the lines; `RuntimeError` where one isn't shown.

    The machine has no devices but a serial port, and the kernel the arguments that it has here.
    """
    with tempfile.NamedTemporaryFile() as initrd:
        initrd.write(init_archive(bits=bits))
        initrd.flush()
        command = [
            *(qemu, "-M", "pc", "-accel", "tcg,thread=single", "-cpu", "Icelake-Server,-la57"),
            *("-m", str(RAM_MIB), "-nodefaults", "-no-reboot", "-display", "none"),
            *("-serial", "stdio", "-kernel", str(kernel), "-initrd", initrd.name),
            *("-append", ARGUMENTS),
        ]
        times = times_at(command, (FIRST, LAST), seconds)
    if len(times) < 2:
        raise RuntimeError(f"QEMU: {(FIRST, LAST)[len(times)]!r} didn't appear on the console")
    return times[1] - times[0]


def _boot(kernel: Path, texts: list[str]) -> Boot:
    guest = open_kernel(kernel)
    times: dict[str, float] = {}

    def on_line(line: str) -> None:
        for text in (FIRST, LAST):
            if text in line:
                times.setdefault(text, time.process_time())

    *points, until = [parse_point(text, guest.image.symbols) for text in texts]
    ram = Ram(0, RAM_MIB << 20)
    boot = Booting(ram, guest, on_line=on_line)
    for _ in boot.run(points, until, _SECONDS):
        pass
    missing = [text for text in (FIRST, LAST) if text not in times]
    if missing:
        sys.exit(f"{missing[0]!r} didn't appear on the console")
    return Boot(times[LAST] - times[FIRST], hashlib.sha256(ram.bytes).hexdigest())


if __name__ == "__main__":
    sys.stdout.write(msgspec.json.encode(_boot(Path(sys.argv[1]), sys.argv[2:])).decode())
