"""Kernels of the distribution, fetched when a test asks for one."""

import functools
import lzma
import subprocess
from pathlib import Path

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.boot import Boot
from crosswalk.emu.load.linux.guest import LinuxGuest
from crosswalk.emu.load.linux.image import parse_kernel
from crosswalk.guest.init import init_archive

ROOT = Path(__file__).resolve().parents[4]
CLOUD, GENERIC = "linux-image-cloud-amd64", "linux-image-amd64"

MEMORY, PROTECT = "console:Memory:", "console:Freeing unused kernel image"
INIT = "console:Run /init"


@functools.cache
def fetched(package, *options):
    """The path of a package's kernel; `options` are those of the script."""
    command = [ROOT / "scripts" / "fetch-kernel", *options, package]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@functools.cache
def fetched_module(package, name):
    """The content of a module of a package's kernel, unpacked."""
    command = [ROOT / "scripts" / "fetch-kernel", "--module", name, package]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    path = Path(ran.stdout.strip())
    content = path.read_bytes()
    return lzma.decompress(content) if path.suffix == ".xz" else content


def booting(package, *, arguments="", levels=4, **options):
    kernel = parse_kernel(Path(fetched(package)).read_bytes())
    guest = LinuxGuest(kernel, init_archive(), arguments, levels)
    return Boot(Ram(0, 256 << 20), guest, **options)
