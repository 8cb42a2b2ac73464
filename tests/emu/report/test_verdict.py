from dataclasses import replace

from crosswalk.emu.check import Divergence, Place, Verdict
from crosswalk.emu.report import verdict
from crosswalk.guest.status import Taken
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.columns import Kind
from crosswalk.walker.outcome import PageFault, Translation
from crosswalk.walker.translate import walk
from tests.tables import PageTables, context

VA = 0x40_0000


def test_exceptions_are_counted_by_name_and_those_from_user_code_again():
    kernel = Taken(14, 3, 0x1000, 0x10, 2, 0x2000, 0x18, 0x3000, 0x2000)
    taken = [kernel, replace(kernel, cs=0x2B), replace(kernel, vector=0x20, cs=0x2B)]
    line = "its handlers took 3 exceptions as intended (2 #PF, 1 INT 0x20), 2 from CPL 3"
    assert line == verdict.exceptions_text(taken)


def test_a_verdict_counts_by_place_privilege_and_outcome():
    counts = {
        (Place.HOLE, AccessType.READ, 0, Kind.PAGE_FAULT): 12,
        (Place.PAGE_4K, AccessType.WRITE, 3, Kind.OK): 34,
    }
    known = {"maxphyaddr-40": 5}
    lines = list(verdict.verdict_lines(Verdict(46, 1, (), known, counts, 2.0)))
    assert ["unmapped", "read", "·", "12", "·", "·", "·", "·"] == lines[2].split()
    assert ["write", "·", "·", "·", "34", "·", "·"] == lines[6].split()
    assert "46 probes in 2.0 s (23 a second): 40 agree, 1 diverge" == lines[-2]
    assert lines[-1].startswith("5 known emulator divergences, maxphyaddr-40: ")


def test_a_verdict_that_took_no_time_has_no_rate():
    assert (
        "0 probes in 0.0 s (0 a second): 0 agree, 0 diverge"
        == list(verdict.verdict_lines(Verdict(0, 0, (), {}, {}, 0.0)))[-1]
    )


def test_a_divergence_shows_both_sides_and_the_walk():
    memory = PageTables().map(VA, 0x8000).memory
    access = Access(VA, AccessType.READ, 0, False)
    divergence = Divergence(
        access, Translation(0x8000), PageFault(0, VA), walk(memory, context(), VA)
    )
    lines = list(verdict.divergence_lines(divergence, context()))
    assert [
        "divergence: read of 0x400000 at CPL 0",
        "  predicted: ok, pa 0x8000",
        "  observed:  #PF, error code 0x0 (none), CR2 0x400000",
    ] == lines[:3]
    assert 4 == len(lines[3:])
