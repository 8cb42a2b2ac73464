"""The guard of a CPU, which stands before what a delivery reads and writes."""

from crosswalk.emu.cpu.cpu import Guarded
from crosswalk.emu.pc.results import Stop
from tests.emu.cpu.machine import CODE, CODE0, GDT, IDT, STACK


def test_what_the_guard_refuses_ends_the_run_with_the_cpu_as_it_was(bare):
    asked = []

    def guard(va, write):
        asked.append((va, write))
        if write:
            raise Guarded(f"{va:#x} is not to be written")

    bare.cpu.guard = guard
    ended = bare.start("ud2")
    assert (Stop.REFUSED, f"{STACK - 24:#x} is not to be written") == (ended.stop, ended.detail)
    assert [(IDT + 16 * 6, False), (GDT + CODE0, False), (STACK - 24, True)] == asked
    assert (CODE, 0, STACK - 8) == (bare.cpu.rip, bare.cpu.cpl, bare.cpu.rsp)
