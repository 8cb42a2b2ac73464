import dataclasses

import pytest
from unicorn import x86_const as x86

from crosswalk.emu.cpu import fault_state as calibrate
from crosswalk.emu.cpu.fault_state import CalibrationError, context_layout
from crosswalk.emu.probe.engine import Engine, Saved
from crosswalk.walker.errors import CrosswalkError


def test_the_layout_is_found_once_and_every_place_is_another():
    layout = context_layout()
    places = dataclasses.astuple(layout)
    assert len(set(places)) == len(places) == 13
    assert layout is context_layout()
    assert layout == context_layout.__wrapped__()


def test_a_register_is_read_and_written_where_the_layout_says():
    engine, layout = Engine(), context_layout()
    engine.uc.reg_write(x86.UC_X86_REG_RDI, 0x1234_5678_9ABC_DEF0)
    saved = Saved(engine)
    assert saved.quads[layout.rdi >> 3] == 0x1234_5678_9ABC_DEF0
    saved.quads[layout.rdi >> 3] = 7
    engine.restore(saved)
    assert engine.uc.reg_read(x86.UC_X86_REG_RDI) == 7


def test_a_cpu_without_an_exception_shows_vector_minus_one():
    assert Saved(Engine()).longs[context_layout().vector >> 2] == 0xFFFF_FFFF


def with_fault(monkeypatch, **changes):
    """Expect something else of the first of the provoked faults."""
    names = ("code", "va", "vector", "error_code")
    first = dict(zip(names, calibrate._FAULTS[0], strict=True)) | changes
    faults = (tuple(first.values()), *calibrate._FAULTS[1:])
    monkeypatch.setattr(calibrate, "_FAULTS", faults)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"va": calibrate._READ_ONLY}, "no exception where vector 14 was due"),
        ({"error_code": 0x5A5A_5A5A}, "error code found at 0 places"),
        ({"vector": 0x5A5A_5A5A}, "vector found at 0 places"),
    ],
    ids=["no fault", "error code", "vector"],
)
def test_a_cpu_that_answers_otherwise_is_refused(monkeypatch, changes, message):
    with_fault(monkeypatch, **changes)
    with pytest.raises(CalibrationError, match=message):
        context_layout.__wrapped__()


def test_a_value_at_two_places_is_refused(monkeypatch):
    monkeypatch.setattr(calibrate, "_places", lambda content, pattern: [8, 16])
    with pytest.raises(CalibrationError, match="found at 2 places"):
        context_layout.__wrapped__()


def test_its_errors_are_the_projects_own():
    assert issubclass(CalibrationError, CrosswalkError)
