"""QEMU as a machine: an image is booted by its own multiboot loader."""

import mmap
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

from crosswalk.emu.machines.machine import ANY_CPU, CpuWish, Printed
from crosswalk.emu.workers.command import Ran, run_command
from crosswalk.emu.workers.sandbox import Limits
from crosswalk.guest.boot.image import Output, Results, results_of
from crosswalk.guest.boot.log import came_to_end
from crosswalk.walker.control import Vendor
from crosswalk.walker.errors import BadInput

__all__ = ["Qemu", "require_kvm"]

_BINARY = "qemu-system-x86_64"
_RAM = 4096
"""MiB: three GiB below 4 GiB, and one above, sparse."""

_BELOW = 3 << 30
"""Below it physical addresses are offsets in the file of RAM, on the machine `pc`."""

_NOTHING_FROM = 1 << 33
"""No device of the machine `pc` without any that are asked for has an address from here up.

What has none is read as zeros, by page walks as well."""

_MEMORY = 1 << 36
"""Of address space: the RAM, the code buffer of TCG, and what the libraries reserve."""

_NOISE = 1 << 20
_PATIENCE = 4.0
_SHORT = Limits(seconds=10.0)

_VENDORS = {Vendor.INTEL: "GenuineIntel", Vendor.AMD: "AuthenticAMD"}

Accelerator = Literal["tcg", "mttcg", "kvm"]

_ACCELERATORS: dict[str, list[str]] = {
    "tcg": ["-accel", "tcg,thread=single", "-smp", "1"],
    "mttcg": ["-accel", "tcg,thread=multi", "-smp", "2"],
    "kvm": ["-accel", "kvm", "-smp", "1"],
}


class Qemu:
    """QEMU with TCG and one CPU, with TCG and two in threads (`mttcg`), or with KVM.

    Results are read from the RAM that it shares, so that they outlive QEMU. TCG takes all wishes;
    KVM's CPU is the host's. Raises `BadInput` where there is no QEMU, or no KVM.
    """

    output = Output.MEMORY

    def __init__(self, name: str, path: str = _BINARY, accelerator: Accelerator = "tcg") -> None:
        if accelerator == "kvm":
            require_kvm()
        self.name, self._path, self._accelerator = name, path, accelerator
        # KVM may be an emulator itself, without a cache of what it has translated.
        self.loads_in = 15.0 if accelerator == "kvm" else 4.0
        # KVM has such accesses made by an emulator of its own.
        self.nothing_from = None if accelerator == "kvm" else _NOTHING_FROM
        said = run_command([path, "--version"], _SHORT)
        found = re.search(rb"QEMU emulator version ([\w.]+)", said.output)
        if found is None:
            raise BadInput(f"{path}: no QEMU: {said.said or said.ended or 'says no version'}")
        self._number = found[1].decode()

    @property
    def version(self) -> str:
        """QEMU's version, and how it runs guests."""
        return f"QEMU {self._number}, {self._accelerator.upper()}"

    def heeded(self, wish: CpuWish) -> CpuWish:
        """Return a wish without features: TCG's CPU has all, KVM's has the host's."""
        return (
            CpuWish(ram=wish.ram)
            if self._accelerator == "kvm"
            else replace(wish, features=ANY_CPU.features)
        )

    def boot(self, image: bytes, *, seconds: float, wish: CpuWish = ANY_CPU) -> Printed:
        """Boot an image; see `Machine`."""
        results = results_of(image)
        if results.address + results.size > _BELOW:
            raise BadInput("the results of the image lie above 3 GiB")
        with _nameless(image) as kernel, _nameless() as ram:
            memory = _MEMORY + (wish.ram or 0)
            ran = run_command(
                self._command(kernel, ram, wish),
                Limits(seconds=seconds, output=_NOISE, memory=memory, patience=_PATIENCE),
                fatal=b"KVM internal error",
            )
            data = _written(ram, results)
        if not data and (ran.ended or "").startswith("ended with status"):  # It refuses to start.
            raise BadInput(f"{self._path} {ran.ended}: {ran.said}")
        return Printed(data, *_ending(ran, data), ran.said)

    def prepared(self, kernel: Path, mib: int, wish: CpuWish = ANY_CPU) -> list[str]:
        """Return the command that boots an image with so much RAM, and no devices but the PC's."""
        return [*self._machine(wish), "-machine", "pc", "-m", str(mib), "-kernel", str(kernel)]

    def close(self) -> None:
        """Nothing is kept between boots."""

    def _machine(self, wish: CpuWish) -> list[str]:
        return [
            self._path,
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *_ACCELERATORS[self._accelerator],
            *("-cpu", self._cpu(wish)),
        ]

    def _command(self, kernel: Path, ram: Path, wish: CpuWish) -> list[str]:
        # What is above 3 GiB begins at 4 GiB.
        size = _RAM if wish.ram is None else (wish.ram >> 20) - 1024
        return [
            *self._machine(wish),
            *("-machine", "pc,memory-backend=ram", "-m", str(size)),
            *("-object", f"memory-backend-file,id=ram,size={size}M,mem-path={ram},share=on"),
            *("-kernel", str(kernel)),
        ]

    def _cpu(self, wish: CpuWish) -> str:
        if self._accelerator == "kvm":
            return "host,-arch-capabilities"
        # `max` has all that TCG can do.
        words = ["max"]
        if wish.maxphyaddr is not None:
            words.append(f"phys-bits={wish.maxphyaddr}")
        if wish.vendor is not None:
            words.append(f"vendor={_VENDORS[wish.vendor]}")
        if wish.page1gb is not None:
            words.append(f"{'+' if wish.page1gb else '-'}pdpe1gb")
        return ",".join(words)


def require_kvm() -> None:
    """Raise `BadInput` with the reason where /dev/kvm can't be used."""
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise BadInput(f"KVM can't be used: /dev/kvm: {error.strerror}") from None


def _ending(ran: Ran, data: bytes) -> tuple[str | None, bool]:
    """Return how it ended before the image had, None if it hadn't; and whether others did it."""
    if came_to_end(data):
        return None, False
    # With -no-reboot a reset, as a triple fault's, ends QEMU in peace.
    return "resets" if ran.ended is None else ran.ended, ran.by_others


def _written(ram: Path, results: Results) -> bytes:
    """Return the results up to the last byte that isn't zero, in whole words."""
    if ram.stat().st_size < results.address + results.size:
        return b""
    start = results.address & -mmap.ALLOCATIONGRANULARITY
    size = results.address + results.size - start
    with (
        ram.open("rb") as file,
        mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ, offset=start) as view,
    ):
        data = view[results.address - start :]
    return data[: -(-len(data.rstrip(b"\0")) // 8) * 8]


@contextmanager
def _nameless(content: bytes = b"") -> Iterator[Path]:
    """Give a file in memory that is gone with the processes that use it, however they end.

    Others find it while this process lives; memfd_create(2). Only Linux has that; elsewhere it is
    a file that stays where this process is killed.
    """
    if sys.platform == "linux":
        descriptor = os.memfd_create("crosswalk")
        path = Path(f"/proc/{os.getpid()}/fd/{descriptor}")
    else:
        descriptor, name = tempfile.mkstemp(prefix="crosswalk-")
        path = Path(name)
    try:
        path.write_bytes(content)
        yield path
    finally:
        os.close(descriptor)
        if sys.platform != "linux":
            path.unlink()
