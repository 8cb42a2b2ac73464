"""A Linux kernel and what goes with it: the options, and reading them."""

import argparse
from pathlib import Path

from crosswalk.emu.load.linux.image import KernelImage, parse_kernel
from crosswalk.guest.init import init_archive
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import parse_int

__all__ = [
    "KERNEL_HELP",
    "add_kernel_options",
    "boot_seconds",
    "ram_size",
    "read_initrd",
    "read_kernel",
    "read_limited",
]

KERNEL_HELP = "a bzImage (vmlinuz), or an ELF vmlinux"

_MIB = 1 << 20
_MAX_RAM = 3072
_MAX_FILE = 1 << 30


def add_kernel_options(group: "argparse._ArgumentGroup") -> None:
    """Add --initrd, --append, --ram, --timeout and --console."""
    group.add_argument(
        "--initrd", metavar="FILE", type=Path, help="the initial RAM disk (one with its own init)"
    )
    group.add_argument("--append", metavar="ARGS", help="more arguments for the kernel")
    group.add_argument("--ram", metavar="MIB", help="RAM in MiB (256)")
    group.add_argument(
        "--timeout", metavar="SECONDS", help="the most time that the kernel may take (600)"
    )
    group.add_argument(
        "--console", action="store_true", help="show the guest's console on standard error"
    )


def read_kernel(path: Path) -> KernelImage:
    """Return the kernel in a file; `BadInput` names the file."""
    try:
        return parse_kernel(read_limited(path))
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error


def read_initrd(options: argparse.Namespace, *, patching: bool = False) -> bytes:
    """Return the initial RAM disk: the one given, or the project's own, as `init_archive`."""
    if options.initrd is None:
        return init_archive(patching=patching)
    return read_limited(options.initrd)


def ram_size(options: argparse.Namespace) -> int:
    """Return the bytes of RAM asked for; `BadInput` for too few or too many."""
    mib = parse_int(options.ram or "256", "--ram")
    if not 16 <= mib <= _MAX_RAM:
        raise BadInput(f"--ram {mib}: 16 to {_MAX_RAM} MiB")
    return mib * _MIB


def boot_seconds(options: argparse.Namespace) -> int:
    """Return the most seconds that the kernel may take."""
    return parse_int(options.timeout or "600", "--timeout")


def read_limited(path: Path) -> bytes:
    """Return a file's content; `BadInput` where it can't be read or has more than 1 GiB."""
    try:
        if path.stat().st_size > _MAX_FILE:
            raise BadInput(f"{path}: more than {_MAX_FILE:,} bytes")
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from error
