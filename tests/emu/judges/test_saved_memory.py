"""One guest that stands still, saved by QEMU in each format that it has: the memory is the same."""

import random
import subprocess

import numpy as np
import pytest

from crosswalk.walker.formats import open_contents

FRAME, LOADED, FRAMES = 4096, 0x400000, 16
COMMANDS = """\
dump-guest-memory memory.elf
dump-guest-memory -z memory.kdump
migrate "exec:cat > memory.qevm"
quit
"""
FORMATS = {
    "memory.kdump": "kdump-compressed file (zlib, flattened)",
    "memory.qevm": "QEMU migration stream (savevm)",
}


@pytest.fixture(scope="module")
def saved(qemu, tmp_path_factory):
    """The folder with a file of each format, and one whose memory is of another guest."""
    folder = tmp_path_factory.mktemp("saved")
    for name, seed in (("here", 1), ("there", 2)):
        place = folder / name
        place.mkdir()
        (place / "load.bin").write_bytes(random.Random(seed).randbytes(FRAMES * FRAME))
        program = qemu.partition(":")[2] or "qemu-system-x86_64"
        guest = "-M q35 -m 16 -smp 2 -nodefaults -display none -S -monitor stdio"
        load = f"-device loader,file=load.bin,addr={LOADED},force-raw=on"
        subprocess.run(
            [program, *guest.split(), *load.split()],
            input=COMMANDS,
            cwd=place,
            check=True,
            text=True,
            capture_output=True,
            timeout=120,
        )
    return folder


def differing(one, other):
    """How many frames that both have differ, and how many there are, from 1 MiB on.

    Below it a PC has ROM in place of RAM; cores have the first, streams the second.
    """
    count, differ = 0, 0
    for start, size in other.ranges:
        frames = np.arange(start, start + size, FRAME, dtype=np.uint64)
        frames = frames[one.backed(frames) & (frames >= 1 << 20)]
        count += len(frames)
        differ += int((one.tables(frames) != other.tables(frames)).any(axis=1).sum())
    return differ, count


@pytest.mark.parametrize("name", FORMATS)
def test_what_qemu_saves_of_one_guest_is_the_same_memory_in_each_format(name, saved):
    core, found = (open_contents(saved / "here" / each) for each in ("memory.elf", name))
    assert FORMATS[name] == found.format
    expected = random.Random(1).randbytes(FRAMES * FRAME)
    assert expected == found.memory.read(LOADED, len(expected))
    differ, count = differing(core.memory, found.memory)
    assert 0 == differ
    assert count >= (0x1000000 - (1 << 20)) // FRAME


@pytest.mark.parametrize("name", FORMATS)
def test_of_another_guest_the_frames_that_were_loaded_differ(name, saved):
    core, found = open_contents(saved / "here/memory.elf"), open_contents(saved / "there" / name)
    assert FRAMES == differing(core.memory, found.memory)[0]


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_has_the_registers_of_the_core(name, saved):
    core, found = (open_contents(saved / "here" / each) for each in ("memory.elf", name))
    expected, registers = (
        [(cpu.cr0, cpu.cr3, cpu.cr4) for cpu in each.cpus] for each in (core, found)
    )
    assert [(0x60000010, 0, 0)] * 2 == expected == registers
