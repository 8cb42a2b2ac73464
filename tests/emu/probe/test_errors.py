"""What is no outcome of an access is an error, never an agreement."""

from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.check import check
from crosswalk.emu.probe import ProbeError, Prober
from crosswalk.emu.probe import access_engine as engines
from crosswalk.emu.probe.bulk import BulkEngine, BulkOutcomes
from crosswalk.emu.probe.page_marker import marker
from crosswalk.emu.probe.trampoline import Trampoline
from crosswalk.walker.errors import CrosswalkError
from tests.emu.accesses import every, execute, observe, probe, read, write
from tests.tables import PageTables, context

VA = 0x40_0000


@pytest.fixture
def asked():
    return Prober(PageTables().map(VA, 0x8000).memory, context())


def answers(monkeypatch, **changes):
    """Make the CPU answer every access with these things different."""
    attempt = engines.AccessEngine.attempt

    def changed(self, *arguments, **options):
        return attempt(self, *arguments, **options)._replace(**changes)

    monkeypatch.setattr(engines.AccessEngine, "attempt", changed)


HOLE = read(VA + 0x1000)


@pytest.mark.parametrize(
    ("access", "changes", "message"),
    [
        (HOLE, {"vector": 6}, "no outcome .*vector 6"),
        (HOLE, {"vector": 8}, "no outcome .*vector 8"),
        (HOLE, {"vector": 13, "error_code": 8}, "no outcome .*vector 13, error code 0x8"),
        (HOLE, {"rip": 0x1234}, "no outcome .*RIP 0x1234"),
        (HOLE, {"completed": True}, "no outcome"),
        (HOLE, {"error": 0}, "no outcome .engine error 0"),
        (read(VA), {"completed": False}, "no outcome"),
        (execute(VA), {"completed": False}, "no outcome"),
        (write(VA), {"error": 12, "completed": False}, "no outcome .engine error 12"),
    ],
)
def test_an_impossible_answer_is_refused(asked, monkeypatch, access, changes, message):
    answers(monkeypatch, **changes)
    with pytest.raises(ProbeError, match=message):
        probe(asked, access, bulk=False)


def test_a_silent_fault_is_not_taken_for_a_success(asked, monkeypatch):
    answers(monkeypatch, error=0, completed=False, rip=VA)
    with pytest.raises(ProbeError, match="read of 0x401000 at CPL 0: no outcome"):
        probe(asked, HOLE, bulk=False)


def test_user_mode_that_was_not_reached_is_refused(monkeypatch):
    monkeypatch.setattr(engines, "USER_CODE", 0x33)
    with pytest.raises(ProbeError, match="the probe's own code stopped"):
        observe(PageTables().memory, context(), read(VA, 3))


def test_own_code_that_can_not_run_is_refused(monkeypatch):
    monkeypatch.setattr(Trampoline, "prepare", lambda *_: None)
    with pytest.raises(ProbeError, match="the probe's own code stopped at 0x"):
        observe(PageTables().memory, context(), read(VA, 3))


def test_a_store_to_a_page_that_says_it_is_a_table_is_refused(asked, monkeypatch):
    monkeypatch.setattr(asked._workspace, "_mark", lambda slots, at: None)
    root = asked._workspace.control.root
    asked._workspace.space.words[0x8000 // 8 : 0x8010 // 8] = marker(root)
    with pytest.raises(ProbeError, match=f"a store reached {root:#x}, which is none of the marked"):
        probe(asked, write(VA), bulk=False)


def test_what_a_bulk_run_can_not_decide_is_made_again_by_itself(asked, monkeypatch):
    expected = probe(asked, *every(VA), *every(VA + 0x1000))
    monkeypatch.setattr(BulkEngine, "make", lambda self, job, *_: BulkOutcomes.nothing(len(job)))
    assert expected == probe(asked, *every(VA), *every(VA + 0x1000))


def test_a_bulk_run_that_says_something_else_than_a_single_probe_is_an_error(monkeypatch):
    make = BulkEngine.make

    def wrong(self, *given):
        found = make(self, *given)
        return replace(found, error_code=found.error_code | np.uint16(0x40))

    builder = PageTables().map(VA, 0x8000)
    assert 0 == check(builder.memory, context()).divergent
    monkeypatch.setattr(BulkEngine, "make", wrong)
    with pytest.raises(ProbeError, match="bulk and single probes differ: "):
        check(builder.memory, context())


def test_its_errors_are_the_projects_own():
    assert issubclass(ProbeError, CrosswalkError)
