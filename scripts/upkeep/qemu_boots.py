"""The CPU time that QEMU takes to a line on the console: what stands beside Crosswalk's in tables.

QEMU runs with TCG, one CPU and a serial port, and is ended at the line. Its start-up, the firmware
and the loader are measured by the sample kernel, which prints at once, and taken off.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from tempfile import TemporaryDirectory
from time import monotonic

from crosswalk.emu.machines.iso import judges_folder, make_iso_of
from crosswalk.guest.sample import sample_kernel

__all__ = ["QemuBoot", "boot_seconds", "find_qemu", "times_at"]

_BINARY = "qemu-system-x86_64"
_FETCHED = "qemu-bookworm"
_BANNER = "sample kernel:"
_TICKS = os.sysconf("SC_CLK_TCK")
_PART = 1 << 16


@dataclass(frozen=True, slots=True)
class QemuBoot:
    """How a guest is booted: its file, arguments, modules with theirs, and RAM in MiB.

    By QEMU's own loader; or, with `grub`, by GRUB from a CD, as QEMU's doesn't load ELF files of 64
    bits by multiboot. An initial RAM disk is a module. `cpu` is QEMU's name for a model.
    """

    kernel: bytes
    arguments: str = ""
    modules: tuple[tuple[bytes, str], ...] = ()
    ram: int = 256
    grub: bool = False
    cpu: str = "qemu64"


def find_qemu() -> str | None:
    """Return QEMU's command: as scripts/judges fetched it, else of PATH; None for neither."""
    fetched = judges_folder() / _FETCHED / _BINARY
    return str(fetched.resolve()) if fetched.exists() else shutil.which(_BINARY)


def boot_seconds(qemu: str, boot: QemuBoot, text: str, seconds: float) -> float | None:
    """Return the CPU seconds from the guest's first instruction to `text` on its console.

    None where that isn't shown within `seconds` of the clock. Raises `BadInput` where a CD is
    needed and the tools that make it are missing.
    """
    started = QemuBoot(sample_kernel(), ram=boot.ram, grub=boot.grub, cpu=boot.cpu)
    before = _used(qemu, started, _BANNER, seconds)
    used = _used(qemu, boot, text, seconds)
    return None if before is None or used is None else max(used - before, 0.0)


def _used(qemu: str, boot: QemuBoot, text: str, seconds: float) -> float | None:
    with _medium(boot) as options:
        command = [
            qemu,
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-machine", "pc", "-accel", "tcg,thread=single", "-smp", "1", "-vga", "std"),
            *("-cpu", boot.cpu, "-m", str(boot.ram), "-serial", "stdio"),
            *options,
        ]
        return next(iter(times_at(command, [text], seconds)), None)


def times_at(command: Sequence[str], texts: Sequence[str], seconds: float) -> list[float]:
    """Run a command until its output has had these texts, one after another, and end it.

    Return the CPU time, in seconds, that it had used when each was there; fewer where it ends, or
    `seconds` of the clock pass, before the last.
    """
    deadline, times = monotonic() + seconds, list[float]()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            for shown in _shown(process, deadline):
                while texts[len(times)].encode() in shown:
                    times.append(_cpu_seconds(process.pid))
                    if len(times) == len(texts):
                        return times
        finally:
            process.kill()
    return times


def _shown(process: "subprocess.Popen[bytes]", deadline: float) -> Iterator[bytes]:
    """Yield all that a process has written, each time that there is more, until the deadline."""
    if process.stdout is None:
        raise ValueError("its output isn't read")
    shown = b""
    with DefaultSelector() as selector:
        selector.register(process.stdout, EVENT_READ)
        while selector.select(max(deadline - monotonic(), 0)):
            part = os.read(process.stdout.fileno(), _PART)
            if not part:
                return
            shown += part
            yield shown


def _cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process with all its threads; proc(5), /proc/pid/stat."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


@contextmanager
def _medium(boot: QemuBoot) -> Iterator[Sequence[str]]:
    """Write what QEMU boots from; yield the options that name it."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        if boot.grub:
            iso = folder / "boot.iso"
            iso.write_bytes(_grub_iso(boot))
            yield ["-cdrom", str(iso)]
            return
        kernel = folder / "kernel"
        kernel.write_bytes(boot.kernel)
        options = ["-kernel", str(kernel), "-append", boot.arguments]
        modules = []
        for number, (content, arguments) in enumerate(boot.modules):
            path = folder / f"module{number}"
            path.write_bytes(content)
            # QEMU puts the path before the arguments; a comma would end them.
            modules.append(f"{path} {arguments}".strip().replace(",", ",,"))
        yield [*options, *(("-initrd", ",".join(modules)) if modules else ())]


def _grub_iso(boot: QemuBoot) -> bytes:
    files: Mapping[str, bytes] = {
        "kernel": boot.kernel,
        **{f"module{number}": content for number, (content, _) in enumerate(boot.modules)},
    }
    lines = [f"multiboot /kernel {boot.arguments}".strip()]
    lines += [
        f"module /module{number} {_quoted(arguments)}".strip()
        for number, (_, arguments) in enumerate(boot.modules)
    ]
    return make_iso_of(files, "\n".join(lines))


def _quoted(arguments: str) -> str:
    """Return words as GRUB takes them as they are."""
    return " ".join(f"'{word}'" for word in arguments.split())
