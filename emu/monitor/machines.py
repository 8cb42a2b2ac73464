"""Machines that a monitor runs in, with a disk that both sides have."""

from functools import lru_cache
from pathlib import Path, PurePath
from typing import Protocol

from crosswalk.emu.machines.bochs import Bochs
from crosswalk.emu.machines.iso import make_iso
from crosswalk.emu.machines.machine import ANY_CPU, CpuWish
from crosswalk.emu.machines.qemu import Qemu
from crosswalk.guest.monitor.image import DISK_SECTORS

__all__ = ["BochsHost", "HostMachine", "QemuHost"]

_HEADS, _TRACK = 16, 63
_QEMU_RAM = 2000

_BOCHS_DISK = """\
clock: sync=none, time0=1577836800
ata1: enabled=1, ioaddr1=0x170, ioaddr2=0x370, irq=15
ata1-master: type=disk, path="{disk}", mode=flat, cylinders={cylinders}, heads={heads}, spt={track}
"""


class HostMachine(Protocol):
    """A machine for a monitor.

    `name` is what the command line calls it, `version` what it says of itself.
    """

    name: str

    @property
    def version(self) -> str:
        """What it is, as it says."""
        ...

    def prepared(self, folder: Path, image: bytes, disk: Path) -> list[str]:
        """Return the command that boots an image of a monitor, with the file `disk` as mailbox.

        `folder` is for what the machine reads and writes. Raises `BadInput` where it can't be had.
        """
        ...

    def last_words(self, folder: Path) -> str | None:
        """Return why it ended, where it left that in the folder; an empty text for nothing.

        None where it wasn't even started.
        """
        ...


class BochsHost:
    """Bochs 3 as a machine for a monitor: with VMX, EPT and mode-based execute control.

    `more` are lines of its settings besides, `path` is the program. Raises `BadInput` where there
    is no Bochs.
    """

    def __init__(
        self, path: str = "bochs", *, wish: CpuWish = ANY_CPU, more: str = "", name: str = "bochs"
    ) -> None:
        self._bochs, self._wish, self._more = Bochs(name, path), wish, more
        self.name = name

    @property
    def version(self) -> str:
        """Bochs' version."""
        return self._bochs.version

    def prepared(self, folder: Path, image: bytes, disk: Path) -> list[str]:
        """Return the command; see `HostMachine`."""
        more = _BOCHS_DISK.format(
            disk=PurePath(disk),
            cylinders=DISK_SECTORS // (_HEADS * _TRACK),
            heads=_HEADS,
            track=_TRACK,
        )
        return self._bochs.prepared(folder, _iso(image), self._wish, more + self._more)

    def last_words(self, folder: Path) -> str | None:
        """Return its last panic; see `HostMachine`."""
        return self._bochs.last_words(folder)


class QemuHost:
    """QEMU with TCG as a machine for a monitor: with SVM and nested paging.

    `wish` decides its CPU; it has SVM whatever its vendor. RAM ends at 2,000 MiB: behind it there
    is nothing, which is read as zeros. Raises `BadInput` where there is no QEMU.
    """

    def __init__(
        self, path: str = "qemu-system-x86_64", *, wish: CpuWish = ANY_CPU, name: str = "qemu"
    ) -> None:
        self._qemu, self._wish = Qemu(name, path), wish
        self.name = name

    @property
    def version(self) -> str:
        """QEMU's version, and how it runs guests."""
        return self._qemu.version

    def prepared(self, folder: Path, image: bytes, disk: Path) -> list[str]:
        """Return the command; see `HostMachine`."""
        kernel = folder / "kernel"
        kernel.write_bytes(image)
        return [
            *self._qemu.prepared(kernel, _QEMU_RAM, self._wish),
            *("-drive", f"file={disk},format=raw,if=ide,bus=1,unit=0,file.locking=off"),
            *("-chardev", "stdio,id=said,signal=off", "-device", "isa-debugcon,chardev=said"),
        ]

    def last_words(self, folder: Path) -> str | None:
        """Return nothing: what it says is on standard error; see `HostMachine`."""
        return "" if (folder / "kernel").exists() else None


@lru_cache(maxsize=2)
def _iso(image: bytes) -> bytes:
    return make_iso(image)
