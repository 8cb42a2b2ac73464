"""The sample kernel in QEMU: the same texts and the same end as in the emulator, with every bug."""

import subprocess

import pytest

from crosswalk.guest.sample import EXIT_PORT, Bug, sample_kernel
from scripts.upkeep.qemu_boots import find_qemu

TEXTS = """\
sample kernel: long mode, own page tables
the timer ticks
a module was loaded and answers
hello from user mode
done
"""
LEFT_WITH_0 = 1
"""QEMU's exit status where a guest has written 0 to isa-debug-exit."""


@pytest.mark.slow
@pytest.mark.skipif(find_qemu() is None, reason="no QEMU: scripts/judges qemu-bookworm")
@pytest.mark.parametrize("bug", [None, *Bug])
def test_it_runs_in_qemu_with_every_bug_and_shows_none(tmp_path, bug):
    kernel = tmp_path / "kernel.elf"
    kernel.write_bytes(sample_kernel(bug))
    done = subprocess.run(
        [
            find_qemu(),
            *("-nodefaults", "-display", "none", "-no-reboot", "-m", "64", "-serial", "stdio"),
            *("-device", f"isa-debug-exit,iobase={EXIT_PORT:#x}", "-kernel", kernel),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (LEFT_WITH_0, TEXTS) == (done.returncode, done.stdout.replace("\r", ""))
