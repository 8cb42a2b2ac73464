"""Ways out of a run, and ACPI's timer."""

import pytest

from crosswalk.emu.pc.clock import TSC_HZ, Clock
from crosswalk.emu.pc.ports import Ports
from crosswalk.emu.pc.power import ACPI_PORTS, AcpiRegisters, DebugExit, FastReset, ResetControl


@pytest.fixture
def out():
    return []


@pytest.mark.parametrize(("value", "status"), [(0, 1), (1, 3), (0xFF, 0x1FF)])
def test_an_exits_status_is_the_value_twice_and_one(out, value, status):
    port = DebugExit(out.append)
    port.write(0, value)
    assert ([status], 0) == (out, port.read(0))


def test_port_92_has_a20_on_and_resets(out):
    port = FastReset(lambda: out.append(True))
    port.write(0, 2)
    assert ([], 2) == (out, port.read(0))
    port.write(0, 3)
    assert [True] == out


def test_port_cf9_resets_with_the_bit_for_that(out):
    port = ResetControl(lambda: out.append(True))
    port.write(0, 2)
    assert ([], 2) == (out, port.read(0))
    port.write(0, 6)
    assert [True] == out


def acpi(clock, out):
    ports = Ports()
    ports.attach("ACPI", AcpiRegisters(clock, lambda: out.append(True)), *ACPI_PORTS)
    return ports


def test_acpi_is_always_on_and_sleeping_switches_the_machine_off(out):
    ports = acpi(Clock(), out)
    assert 1 == ports.read(0x604, 2)
    ports.write(0x604, 2, 5 << 10)
    assert ([], 5 << 10 | 1) == (out, ports.read(0x604, 2))
    ports.write(0x604, 2, 5 << 10 | 1 << 13)
    assert [True] == out


def test_acpis_events_can_be_enabled_and_never_come(out):
    ports = acpi(Clock(), out)
    ports.write(0x600, 4, 0x0123_FFFF)
    assert 0x0123_0000 == ports.read(0x600, 4)


def test_acpis_timer_runs_at_its_rate(out):
    clock = Clock()
    ports = acpi(clock, out)
    clock.now = 7 * TSC_HZ
    assert 7 * 3_579_545 == ports.read(0x608, 4)
