"""A Linux kernel as a guest: with its arguments and its initial RAM disk, at its entry."""

from dataclasses import dataclass

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.image import Format
from crosswalk.emu.load.linux.image import KernelImage
from crosswalk.emu.load.linux.loader import enter_kernel, enter_kernel_32, place_kernel
from crosswalk.emu.pc.firmware import write_firmware
from crosswalk.emu.pc.pc import Machine

__all__ = ["ARGUMENTS", "LinuxGuest"]

ARGUMENTS = (
    "console=ttyS0 earlyprintk=ttyS0,115200 panic=-1 nokaslr nolapic noapic acpi=off nosmp "
    "nohz=off highres=off tsc_early_khz=2000000 lpj=4000000"
)
"""The first arguments of every kernel: it uses the UART, and no hardware that is missing."""


@dataclass(frozen=True, slots=True)
class LinuxGuest:
    """A kernel, its initial RAM disk, and arguments behind `ARGUMENTS`; a `Guest`.

    A `bare` image gets its arguments alone, and finds the firmware's tables in memory.
    `levels` is 4 or 5, the paging of a 64-bit kernel's entry.
    """

    kernel: KernelImage
    initrd: bytes
    arguments: str = ""
    levels: int = 4

    @property
    def image(self) -> KernelImage:
        """What its file holds."""
        return self.kernel

    @property
    def format(self) -> Format:
        """Its format, by the entry."""
        return Format.LINUX64 if self.kernel.bits == 64 else Format.LINUX32

    def place(self, ram: Ram) -> None:
        """Write them to RAM, with the zero page; errors as in `place_kernel`."""
        arguments = f"{ARGUMENTS} {self.arguments}".strip()
        if self.kernel.bare:
            # No Linux, which would take these arguments, and be told to do without tables.
            arguments = self.arguments
            write_firmware(ram)
        place_kernel(ram, self.kernel, arguments, self.initrd)

    def enter(self, machine: Machine) -> None:
        """Bring the CPU to the kernel's 64-bit or 32-bit entry."""
        if self.kernel.bits == 32:
            enter_kernel_32(machine, self.kernel.entry)
        else:
            enter_kernel(machine, self.kernel.entry, self.levels)
