import struct

import pytest
from unicorn import x86_const as x86

from crosswalk.emu.cpu import live_state as live
from crosswalk.emu.cpu.live_state import live_state
from crosswalk.emu.cpu.registers import register_offsets
from crosswalk.emu.probe import Prober
from crosswalk.emu.probe.engine import Engine, Saved
from crosswalk.emu.probe.prober import LongProber
from tests.emu.observing import columns
from tests.emu.soups import soup


@pytest.fixture(autouse=True)
def _looked_for_anew():
    live._place.cache_clear()
    yield
    live._place.cache_clear()


def test_what_the_api_writes_is_seen_in_the_live_state_and_the_other_way_round():
    engine = Engine()
    state = live_state(engine)
    at = register_offsets()["r12"] >> 3
    for value in (0x1234_5678_9ABC_DEF0, 7):
        engine.uc.reg_write(x86.UC_X86_REG_R12, value)
        assert value == state.quads[at]
    state.quads[at] = 0xFEED
    assert 0xFEED == engine.uc.reg_read(x86.UC_X86_REG_R12)


def test_each_engine_has_a_state_of_its_own_and_is_left_as_it_was():
    one, other = Engine(), Engine()
    for engine, value in ((one, 11), (other, 22)):
        engine.uc.reg_write(x86.UC_X86_REG_R9, value)
    before, after = Saved(one), Saved(one)
    at = register_offsets()["r9"] >> 3
    assert [11, 22] == [live_state(engine).quads[at] for engine in (one, other)]
    one.save(after)
    first = register_offsets()["rax"]
    assert bytes(before.bytes[first:]) == bytes(after.bytes[first:])


def test_a_saved_state_is_never_taken_for_the_live_one():
    engine = Engine()
    live._mark(engine, 3)
    copy = Saved(engine)
    address = copy.pointer.value
    with live._memory() as memory:
        assert not live._is_live(memory, engine, address)


def test_a_place_that_does_not_hold_the_state_is_not_used(monkeypatch):
    at, behind = live._place()
    for wrong in ((at, behind + 8), (at + 4, behind), (0, -(1 << 60))):
        monkeypatch.setattr(live, "_place", lambda wrong=wrong: wrong)
        assert live_state(Engine()) is None


def test_memory_that_can_not_be_read_reads_as_nothing():
    with live._memory() as memory:
        assert b"" == live._read(memory, 8, 16)
        assert b"" == live._read(memory, 1 << 64, 16)
    assert b"" == live._read(None, 8, 16)


@pytest.mark.parametrize("reason", ["no /proc", "not found"])
def test_without_it_all_is_observed_the_same(monkeypatch, reason):
    soups = [soup(seed, 200) for seed in range(4)]
    expected = [columns(Prober(each.memory, each.context).probe(each.accesses)) for each in soups]
    live._place.cache_clear()
    if reason == "no /proc":
        real = live.os.open

        def no_proc(path, *given):
            if str(path).startswith("/proc"):
                raise FileNotFoundError(path)
            return real(path, *given)

        monkeypatch.setattr(live.os, "open", no_proc)
    else:
        monkeypatch.setattr(live, "_ENGINE", 0)
    for each, outcomes in zip(soups, expected, strict=True):
        prober = LongProber(each.memory, each.context)
        assert prober._bulk._live is None
        assert not prober._watch.possible
        assert outcomes == columns(prober.probe(each.accesses))


def test_the_marks_lie_in_the_order_of_the_registers():
    offsets = register_offsets()
    places = [offsets[name] for name in live._MARKED]
    assert list(range(places[0], places[0] + 64, 8)) == places
    assert struct.calcsize("<8Q") == live._MARKS.size


def test_what_another_engine_left_behind_is_not_taken_for_the_state(monkeypatch):
    expected = live._place()
    live._place.cache_clear()
    read, offset = live._read, register_offsets()[live._MARKED[0]]

    def littered(memory, address, size):
        found = read(memory, address, size)
        if size != live._REACH or len(found) < size:
            return found
        # The marks of an engine that is gone, in front of those that there are.
        marks = live._MARKS.pack(*(0x5157_A7E0_0000_0001 + (at << 32) for at in range(8)))
        return found[:offset] + marks + found[offset + len(marks) :]

    monkeypatch.setattr(live, "_read", littered)
    assert expected == live._place()


def test_a_pointer_that_leads_to_one_engines_state_alone_is_not_taken(monkeypatch):
    candidates, engines = live._candidates, []

    def misled(memory, engine):
        engines.append(engine)
        return candidates(memory, engine) | {(0, 0x100 * len(engines))}

    monkeypatch.setattr(live, "_candidates", misled)
    assert {live._place()} == candidates_of(candidates)
    assert len(engines) > 1


def candidates_of(candidates):
    with live._memory() as memory:
        return candidates(memory, Engine())
