"""Segments of an ELF core that have some memory in common, as those of /proc/vmcore."""

import pytest

from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.elfcore import read_core

RAM = b"".join(at.to_bytes(4, "little") for at in range(0x1400))


@pytest.mark.parametrize(
    "parts",
    [
        [(0, 0x5000), (0x1000, 0x2000)],
        [(0x1000, 0x2000), (0, 0x5000)],
        [(0, 0x5000), (0, 0x5000)],
        [(0, 0x3000), (0x2000, 0x5000)],
        [(0, 0x1000), (0, 0x5000), (0x1000, 0x4000)],
        [(0, 0x4000), (0x1000, 0x2000), (0x3000, 0x5000)],
        [(0, 0x2000), (0x1000, 0x3000), (0x2000, 0x5000), (0x4800, 0x5000)],
        [(0, 0x800), (0x400, 0x5000)],
    ],
    ids=str,
)
def test_segments_may_overlap_where_they_have_the_same_bytes(elf, parts):
    loads = [(start, RAM[start:end]) for start, end in parts]
    memory = read_core(elf.mapped(elf.Core(loads=loads).build())).memory
    assert [(0, 0x5000)] == list(memory.ranges)
    assert RAM == memory.read(0, 0x5000)


@pytest.mark.parametrize("at", [0x1000, 0x1FFF, 0x2FFF])
def test_segments_that_differ_in_a_byte_are_refused(elf, at):
    other = bytearray(RAM[0x1000:0x3000])
    other[at - 0x1000] ^= 1
    core = elf.Core(loads=[(0, RAM), (0x1000, bytes(other))])
    with pytest.raises(BadInput) as caught:
        read_core(elf.mapped(core.build()))
    assert "ELF core: segments overlap at 0x1000 and differ there" == str(caught.value)
