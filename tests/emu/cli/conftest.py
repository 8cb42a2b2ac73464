import pytest

from crosswalk.walker.formats import Case, Cpu, Probe, dump_case
from tests.emu.cli.running import crosswalk
from tests.tables import OPEN, RW, XD, P, PageTables, context
from tests.walker.formats.conftest import Core, cpu_state, qemu_notes


@pytest.fixture
def run(capfd):
    return lambda *arguments: crosswalk(capfd, *arguments)


def small():
    """A few pages: read-write, read-execute, everything for the user."""
    return (
        PageTables(ram=((0, 0x10000),))
        .map(0x40_0000, 0x8000, P | RW | XD)
        .map(0x40_1000, 0x9000, P)
        .map(0x80_0000, 0xA000, OPEN)
    )


def case_of(*probes, words=None, **cpu):
    builder = small()
    return Case(
        cpu=Cpu.from_context(context(**cpu)),
        ram=builder.ram,
        entries=builder.words if words is None else words,
        probes=probes,
    )


@pytest.fixture
def small_case(tmp_path):
    path = tmp_path / "small.json"
    path.write_bytes(
        dump_case(
            case_of(
                Probe(va=0x40_0123, access="write", cpl=0, ac=False),
                Probe(va=0x40_1000, access="write", cpl=0, ac=False),
                Probe(va=0x40_2000, access="read", cpl=3, ac=False),
                Probe(va=1 << 60, access="execute", cpl=0, ac=False),
            )
        )
    )
    return path


def small_bytes():
    return small().memory.read(0, 0x10000)


@pytest.fixture
def small_raw(tmp_path):
    path = tmp_path / "small.bin"
    path.write_bytes(small_bytes())
    return path


@pytest.fixture
def small_core(tmp_path):
    path = tmp_path / "small.elf"
    notes = qemu_notes(cpu_state(cr0=0x8001_0033, cr3=0x1000, cr4=0x20))
    path.write_bytes(Core(loads=[(0, small_bytes())], notes=notes).build())
    return path


@pytest.fixture
def guest_raw(tmp_path, guest4):
    path = tmp_path / "guest.bin"
    path.write_bytes(guest4.ram.bytes.tobytes())
    return path


@pytest.fixture
def raw(tmp_path):
    def raw(tables, name="image"):
        path = tmp_path / name
        path.write_bytes(tables.memory.read(0, 0x10000))
        return path

    return raw


@pytest.fixture
def case(tmp_path):
    def case(tables, **cpu):
        path = tmp_path / "image.json"
        cpu = Cpu.from_context(context(**cpu))
        path.write_bytes(dump_case(Case(cpu=cpu, ram=tables.ram, entries=tables.words)))
        return path

    return case
