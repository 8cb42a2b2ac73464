"""A distribution's kernel by a protocol that isn't the project's own."""

from pathlib import Path

import numpy as np
import pytest

from crosswalk.emu.check.crosscheck import check
from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.boot import Boot
from crosswalk.emu.load.formats import Given, open_image, parse_as
from crosswalk.emu.load.linux.image import unpack_bzimage
from crosswalk.emu.load.placing import Module
from crosswalk.emu.load.points import parse_point
from crosswalk.guest.init import init_archive
from tests.emu.load.linux.distribution_kernels import CLOUD, fetched

pytestmark = pytest.mark.slow

ARGUMENTS = "console=ttyS0 earlyprintk=ttyS0,115200 panic=-1 nokaslr tsc_early_khz=2000000"
INIT = parse_point("console:Run /init")


def boot(vmlinux):
    given = Given(modules=(Module("initrd", init_archive()),), arguments=ARGUMENTS)
    booting = Boot(Ram(0, 256 << 20), open_image(vmlinux, "vmlinux", parse_as("pvh"), given))
    (reached,) = booting.run([], INIT, 600)
    return booting, reached


def test_linux_takes_what_pvh_hands_it_and_two_boots_are_the_same():
    vmlinux = unpack_bzimage(Path(fetched(CLOUD)).read_bytes())
    first, reached = boot(vmlinux)
    console = first.machine.console.decode()
    # The memory map, the module, the arguments, and ACPI's tables by the address of their root.
    assert "BIOS-e820: [mem 0x0000000000100000-0x000000000fffffff] usable" in console
    assert f"Command line: {ARGUMENTS}" in console
    assert "RAMDISK: [mem " in console
    assert "ACPI: RSDP 0x00000000000F0000" in console
    verdict = check(first.memory, reached.context)
    assert 0 == verdict.divergent
    assert verdict.probes > 50_000
    second, _ = boot(vmlinux)
    assert np.array_equal(first.machine.ram.bytes, second.machine.ram.bytes)
