import struct

import pytest
from unicorn import x86_const as x86

from crosswalk.emu.cpu import state_layout as layouts
from crosswalk.emu.cpu.engine import Engine, SavedState, open_engine
from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.cpu.state_layout import (
    NO_VECTOR,
    CalibrationError,
    live_state,
    read_registers,
    state_layout,
)
from crosswalk.emu.probe import Prober
from crosswalk.walker.errors import CrosswalkError
from tests.emu.accesses import columns
from tests.emu.seeded_tables import seeded_tables


@pytest.fixture(autouse=True)
def _looked_for_anew():
    layouts._pointer.cache_clear()
    yield
    layouts._pointer.cache_clear()


def test_the_layout_is_found_once_and_every_place_is_another():
    layout = state_layout()
    longs = [layout.mode, layout.pkru, layout.error_code, layout.software, layout.vector]
    places = [*(2 * at for at in layout.quads.values()), *longs]
    assert 23 + 5 == len(set(places)) == len(places)
    assert layout is state_layout()
    assert layout == state_layout.__wrapped__()


def test_a_register_is_read_and_written_where_the_layout_says():
    engine, rdi = Engine(), state_layout().quads["rdi"]
    engine.uc.reg_write(x86.UC_X86_REG_RDI, 0x1234_5678_9ABC_DEF0)
    saved = SavedState(engine.uc)
    assert 0x1234_5678_9ABC_DEF0 == saved.quads[rdi]
    saved.quads[rdi] = 7
    engine.restore(saved)
    assert 7 == engine.uc.reg_read(x86.UC_X86_REG_RDI)


def test_a_cpu_without_an_exception_shows_no_vector():
    assert NO_VECTOR == SavedState(Engine().uc).longs[state_layout().vector]


def with_fault(monkeypatch, **changes):
    """Expect something else of the first of the provoked faults."""
    names = ("code", "va", "vector", "error_code")
    first = dict(zip(names, layouts._FAULTS[0], strict=True)) | changes
    faults = (tuple(first.values()), *layouts._FAULTS[1:])
    monkeypatch.setattr(layouts, "_FAULTS", faults)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"va": layouts._STACK - 8}, "no exception where vector 14 was due"),
        ({"error_code": 0x5A5A_5A5A}, "error code found at 0 places"),
        ({"vector": 0x5A5A_5A5A}, "no exception where vector 1515870810 was due"),
    ],
    ids=["no fault", "error code", "vector"],
)
def test_a_cpu_that_answers_otherwise_is_refused(monkeypatch, changes, message):
    with_fault(monkeypatch, **changes)
    with pytest.raises(CalibrationError, match=message):
        state_layout.__wrapped__()


def test_too_few_faults_leave_the_error_code_open(monkeypatch):
    monkeypatch.setattr(layouts, "_FAULTS", layouts._FAULTS[:1])
    with pytest.raises(CalibrationError, match="error code found at"):
        state_layout.__wrapped__()


def test_a_value_at_two_places_is_refused(monkeypatch):
    monkeypatch.setitem(layouts._KNOWN, "rbx", layouts._KNOWN["rax"])
    with pytest.raises(CalibrationError, match=r"rax found at \d+ places"):
        state_layout.__wrapped__()


def test_an_interrupt_that_looks_like_a_fault_is_refused(monkeypatch):
    monkeypatch.setattr(layouts, "_INT", "8a03")
    monkeypatch.setattr(layouts, "_INTERRUPT", 14)
    with pytest.raises(CalibrationError, match="doesn't tell INT from a fault"):
        state_layout.__wrapped__()


def test_its_errors_are_the_projects_own():
    assert issubclass(CalibrationError, CrosswalkError)


def test_registers_of_a_16_bit_engine_are_read_in_full():
    ram = Ram(0, 0x1000)
    engine = open_engine(ram, bits=16)
    # mov eax, 0x89abcdef; mov ebp, 0x12345678; hlt
    ram.write(0x100, bytes.fromhex("66b8efcdab89 66bd78563412 f4"))
    engine.emu_start(0x100, 0xFFFF)
    values = read_registers(engine)
    assert (0x89ABCDEF, 0x12345678, 0x10D) == (values["rax"], values["rbp"], values["rip"])


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_an_engine_of_any_width_is_opened_without_a_warning(capfd, bits):
    SavedState(open_engine(bits=bits))
    assert ("", "") == capfd.readouterr()


def test_registers_of_a_64_bit_engine_are_what_the_api_says():
    engine = open_engine()
    names = [name for name in read_registers(engine) if name not in {"rip", "cr3"}]
    for number, name in enumerate(names, 1):
        engine.reg_write(getattr(x86, f"UC_X86_REG_{name.upper()}"), number << 56 | number)
    values = read_registers(engine)
    assert {name: number << 56 | number for number, name in enumerate(names, 1)} == {
        name: values[name] for name in names
    }


def test_what_the_api_writes_is_seen_in_the_live_state_and_the_other_way_round():
    engine = Engine()
    state = live_state(engine)
    at = state_layout().quads["r12"]
    for value in (0x1234_5678_9ABC_DEF0, 7):
        engine.uc.reg_write(x86.UC_X86_REG_R12, value)
        assert value == state.quads[at]
    state.quads[at] = 0xFEED
    assert 0xFEED == engine.uc.reg_read(x86.UC_X86_REG_R12)


def test_each_engine_has_a_state_of_its_own_and_is_left_as_it_was():
    one, other = Engine(), Engine()
    for engine, value in ((one, 11), (other, 22)):
        engine.uc.reg_write(x86.UC_X86_REG_R9, value)
    before, after = SavedState(one.uc), SavedState(one.uc)
    at = state_layout().quads["r9"]
    assert [11, 22] == [live_state(engine).quads[at] for engine in (one, other)]
    one.save(after)
    first = 8 * state_layout().quads["rax"]
    assert bytes(before.bytes[first:]) == bytes(after.bytes[first:])


def test_a_saved_state_is_never_taken_for_the_live_one():
    engine = Engine()
    layouts._mark(engine, 3)
    copy = SavedState(engine.uc)
    address = copy.pointer.value
    with layouts._host_memory() as memory:
        assert not layouts._is_live(memory, engine, address)


def test_a_place_that_does_not_hold_the_state_is_not_used(monkeypatch):
    at, behind = layouts._pointer()
    for wrong in ((at, behind + 8), (at + 4, behind), (0, -(1 << 60))):
        monkeypatch.setattr(layouts, "_pointer", lambda wrong=wrong: wrong)
        assert None is live_state(Engine())


def test_memory_that_can_not_be_read_reads_as_nothing():
    with layouts._host_memory() as memory:
        assert b"" == layouts._read_host(memory, 8, 16)
        assert b"" == layouts._read_host(memory, 1 << 64, 16)
    assert b"" == layouts._read_host(None, 8, 16)


@pytest.mark.parametrize("reason", ["no /proc", "not found"])
def test_without_it_all_is_observed_the_same(monkeypatch, reason):
    several = [seeded_tables(seed, 200) for seed in range(4)]
    expected = [columns(Prober(each.memory, each.context).probe(each.accesses)) for each in several]
    layouts._pointer.cache_clear()
    if reason == "no /proc":
        real = layouts.os.open

        def no_proc(path, *given):
            if str(path).startswith("/proc"):
                raise FileNotFoundError(path)
            return real(path, *given)

        monkeypatch.setattr(layouts.os, "open", no_proc)
    else:
        monkeypatch.setattr(layouts, "_ENGINE", 0)
    for each, outcomes in zip(several, expected, strict=True):
        prober = Prober(each.memory, each.context)
        assert None is prober._engines.bulk._live
        assert not prober._engines.watching.possible
        assert outcomes == columns(prober.probe(each.accesses))


def test_the_marks_lie_in_the_order_of_the_registers():
    places = [state_layout().quads[name] for name in layouts._MARKED]
    assert list(range(places[0], places[0] + 8)) == places
    assert struct.calcsize("<8Q") == layouts._MARKS.size


def test_what_another_engine_left_behind_is_not_taken_for_the_state(monkeypatch):
    expected = layouts._pointer()
    layouts._pointer.cache_clear()
    read, offset = layouts._read_host, 8 * state_layout().quads[layouts._MARKED[0]]

    def littered(memory, address, size):
        found = read(memory, address, size)
        if size != layouts._REACH or len(found) < size:
            return found
        # The marks of an engine that is gone, in front of those that there are.
        marks = layouts._MARKS.pack(*(0x5157_A7E0_0000_0001 + (at << 32) for at in range(8)))
        return found[:offset] + marks + found[offset + len(marks) :]

    monkeypatch.setattr(layouts, "_read_host", littered)
    assert expected == layouts._pointer()


def test_a_pointer_that_leads_to_one_engines_state_alone_is_not_taken(monkeypatch):
    expected = layouts._pointer()
    layouts._pointer.cache_clear()
    candidates, engines = layouts._candidates, []

    def misled(memory, engine):
        engines.append(engine)
        return candidates(memory, engine) | {(0, 0x100 * len(engines))}

    monkeypatch.setattr(layouts, "_candidates", misled)
    assert None is not expected == layouts._pointer()
    assert len(engines) > 1
