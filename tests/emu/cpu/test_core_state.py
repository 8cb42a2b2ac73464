"""The state of a CPU outside 64-bit mode, in a core and out of it."""

from dataclasses import replace

import pytest

from crosswalk.emu.cpu.cpu import core_state, paging_context
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.corewriter import core_parts
from crosswalk.walker.formats.load import open_source
from crosswalk.walker.memory import Segments
from tests.emu.cpu.legacy_machine import CODE, CODE0, Legacy


def written(machine, path):
    """Write the machine's core; its paging."""
    context = paging_context(machine.cpu)
    state = replace(core_state(machine.cpu), paging=context)
    memory = Segments([(machine.ram.start, machine.ram.bytes)])
    path.write_bytes(b"".join(bytes(part) for part in core_parts(memory, state)))
    return context, state


@pytest.mark.parametrize("paging", ["32-bit", "PAE"])
def test_a_core_of_a_32_bit_guest_is_read_with_its_paging(tmp_path, paging):
    machine = Legacy(paging)
    machine.start("nop\nud2")
    context, state = written(machine, tmp_path / "core")
    source = open_source(str(tmp_path / "core"))
    assert paging == source.context.mode == context.mode
    assert context == source.context
    assert () == tuple(source.assumed)
    assert (CODE0, 0) == (state.segments["cs"].selector, state.segments["cs"].base)
    assert machine.cpu.rip == state.registers["rip"] != CODE


def test_without_paging_there_is_nothing_to_walk():
    with pytest.raises(BadInput, match="paging is off: CR0 = 0x11 lacks PG or PE"):
        paging_context(Legacy().cpu)
