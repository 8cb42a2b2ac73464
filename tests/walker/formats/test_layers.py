"""Files that volatility3's layers read, made here: a page of tables, and memory that tells."""

import random
import sys

import numpy as np
import pytest
from volatility3.framework import contexts
from volatility3.framework.layers import physical, qemu

from crosswalk.walker.errors import BadInput, CrosswalkError
from crosswalk.walker.formats import (
    Registers,
    SourceKind,
    layers,
    open_contents,
    open_source,
)
from crosswalk.walker.formats.registers import NOT_GIVEN
from crosswalk.walker.mappings import mappings
from tests.walker.formats.saved_states import FRAME, libvirt, page, qevm, vmware, windows, xen


@pytest.fixture
def opened(tmp_path):
    def opened(content, name="memory.state", **settings):
        path = tmp_path / name
        path.write_bytes(content)
        return open_contents(path, **settings)

    return opened


PAGES = [(number, page(number)) for number in (3, 1, 2, 40)]


def test_pages_of_a_qemu_stream_are_memory_in_any_order(opened):
    found = opened(qevm([*PAGES, (41, 0), (42, 0x5A)]))
    assert (SourceKind.LAYER, "QEMU migration stream (savevm)") == (found.kind, found.format)
    assert [(FRAME, 3 * FRAME), (40 * FRAME, 3 * FRAME)] == list(found.memory.ranges)
    for number, content in [*PAGES, (41, bytes(FRAME)), (42, b"\x5a" * FRAME)]:
        assert content == found.memory.read(number * FRAME, FRAME)


def test_of_pages_that_were_sent_several_times_the_last_one_counts(opened):
    sent = [*PAGES, (2, 0), (3, page(7)), (5, 0), (5, page(9)), (3, page(8))]
    memory = opened(qevm(sent)).memory
    expected = {1: page(1), 2: bytes(FRAME), 3: page(8), 5: page(9), 40: page(40)}
    found = {number: memory.read(number * FRAME, FRAME) for number in expected}
    assert expected == found


@pytest.mark.parametrize("command", [b"", b"abc"])
@pytest.mark.parametrize("form", [bytes, libvirt])
def test_commands_between_the_sections_of_a_stream_are_passed_over(command, form, opened):
    found = opened(form(qevm([*PAGES, (41, 0)], cpus=VALUES, command=command)))
    for number, content in [*PAGES, (41, bytes(FRAME))]:
        assert content == found.memory.read(number * FRAME, FRAME)
    assert len(VALUES) == len(found.cpus)


@pytest.mark.parametrize("timer", [b"\x08" * 24, b"\xfe\xe0\x09" * 8])
@pytest.mark.parametrize("command", [None, b"abc"])
def test_the_pages_are_read_whatever_the_first_devices_state_begins_with(timer, command, opened):
    found = opened(qevm(PAGES, cpus=VALUES, command=command, timer=timer))
    for number, content in PAGES:
        assert content == found.memory.read(number * FRAME, FRAME)
    assert len(VALUES) == len(found.cpus)


def test_volatility_itself_reads_the_same_pages(tmp_path, opened):
    """Where each was sent once: of several it takes any."""
    content = qevm(sorted([*PAGES, (41, 0), (42, 0x5A)]))
    session = contexts.Context()
    session.add_layer(physical.BufferDataLayer(session, "base", "base", content))
    session.config["layer.base_layer"] = "base"
    layer = qemu.QemuSuspendLayer(session, "layer", "layer")
    memory = opened(content).memory
    numbers = [1, 2, 3, 40, 41, 42]
    expected = [layer.read(number * FRAME, FRAME) for number in numbers]
    assert expected == [memory.read(number * FRAME, FRAME) for number in numbers]
    assert expected != [memory.read(number * FRAME, FRAME) for number in numbers[::-1]]


@pytest.mark.parametrize(
    ("machine", "high"),
    [(b"pc-q35-7.2", 0x8000_0000), (b"pc-i440fx-7.2", 0xC000_0000)],
)
def test_memory_above_the_hole_of_a_machine_is_above_4_gib(machine, high, opened):
    last = high // FRAME
    stream = qevm(
        [(1, page(1)), (last - 1, page(2)), (last, page(3))], machine=machine, ram=1 << 32
    )
    memory = opened(stream).memory
    assert page(2) == memory.read(high - FRAME, FRAME)
    assert page(3) == memory.read(1 << 32, FRAME)
    assert None is memory.word(high)


def test_without_the_machines_hole_its_memory_above_4_gib_is_not_guessed(opened):
    stream = qevm([(1, page(1)), (0xC0000, page(3))], machine=b"pc-i440fx-jammy-hpb", ram=1 << 32)
    with pytest.raises(
        BadInput, match=r"a machine pc-i440fx-jammy-hpb has its memory above 4 GiB isn't"
    ):
        opened(stream)
    assert page(1) == opened(qevm(PAGES, machine=b"pc-i440fx-jammy-hpb")).memory.read(FRAME, FRAME)


VALUES = [
    (0x40202, 0x80050033, 0x1000, 0x370EF0, 0xD01, 0x55555554),
    (0x202, 0x80050033, 0x2000, 0x1020, 0xD01, 0),
]


@pytest.mark.parametrize("form", [bytes, libvirt])
def test_registers_come_from_the_states_of_qemus_cpus(form, opened):
    content = form(qevm(PAGES, cpus=VALUES))
    found = [opened(content, cpu=number) for number in (0, 1)]
    expected = [
        Registers(rflags_ac=bool(flags & 1 << 18), cr0=cr0, cr3=cr3, cr4=cr4, efer=efer, pkru=pkru)
        for flags, cr0, cr3, cr4, efer, pkru in VALUES
    ]
    assert expected == [each.registers for each in found] == list(found[0].cpus)
    with pytest.raises(BadInput, match=r"no CPU 2; the file has the registers of 2$"):
        opened(content, cpu=2)


def test_pat_is_that_of_qemus_cpu_unless_no_cpu_can_have_it(opened):
    found = opened(qevm(PAGES, cpus=[(*VALUES[0], 0x0407_0506_0007_0106), VALUES[1]]))
    assert [0x0407_0506_0007_0106, None] == [each.pat for each in found.cpus]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"array_len": 16', b'"array_len": 15'),
        (b'"array_len": 16', b'"array_len": -1'),
        (b'"size": 8', b'"size":9e99'),
        (b'"size": 8', b'"sise": 8'),
        (b'"version": 12', b'"version": 13'),
        (b'"vmsd_name": "cpu/pkru"', b'"vmsd_name": "cpu/pkrs"'),
        (b'"instance_id": 1', b'"instance_id": 2'),
        (b'"devices"', b'"device_"'),
    ],
)
def test_cpus_that_do_not_fit_their_description_have_no_registers(old, new, opened):
    content = qevm(PAGES, cpus=VALUES)
    assert 1 <= content.count(old)
    found = opened(content.replace(old, new))
    assert () == found.cpus
    assert NOT_GIVEN == found.registers
    assert page(40) == found.memory.read(40 * FRAME, FRAME)


def test_a_libvirt_save_file_is_qemus_stream_behind_a_header(opened):
    found = opened(libvirt(qevm(PAGES)))
    assert "libvirt save file" == found.format
    assert page(40) == found.memory.read(40 * FRAME, FRAME)
    with pytest.raises(BadInput, match=r"its stream is compressed \(xz\); save with"):
        opened(libvirt(b"", packed=3))
    with pytest.raises(BadInput, match="no stream of QEMU's at byte 102"):
        opened(libvirt(b"more"))


@pytest.mark.parametrize("kind", [1, 5])
def test_a_windows_dump_has_its_runs_of_pages_and_the_root_of_its_header(kind, tmp_path):
    (tmp_path / "memory.dmp").write_bytes(windows(kind=kind))
    source = open_source(tmp_path / "memory.dmp")
    assert "Windows crash dump" == source.format
    assert [(0, 3 * FRAME), (0x10000, 2 * FRAME)] == list(source.memory.ranges)
    assert page(2) == source.memory.read(0x11000, FRAME)
    assert [(0x20_0000, 0, 1 << 21)] == [
        (each.va, each.pa, each.size) for each in mappings(source.memory, source.context)
    ]


def test_a_vmware_state_places_the_regions_of_the_file_beside_it(tmp_path, opened):
    (tmp_path / "guest.vmem").write_bytes(page(1) + page(2) + page(3))
    found = opened(vmware([(0, 0, 2), (2, 0x100000, 1)]), "guest.vmss")
    assert "VMware suspended state" == found.format
    assert [(0, 2 * FRAME), (1 << 32, FRAME)] == list(found.memory.ranges)
    assert page(3) == found.memory.read(1 << 32, FRAME)
    with pytest.raises(
        BadInput, match=r"truncated VMware suspended state's \.vmem: the pages from"
    ):
        opened(vmware([(0, 0, 4)]), "guest.vmsn")
    with pytest.raises(BadInput, match=r"its memory is in a file other\.vmem, not there$"):
        opened(vmware([(0, 0, 2)]), "other.vmss")


def test_of_a_vmem_file_the_state_beside_it_is_named(tmp_path):
    (tmp_path / "guest.vmem").write_bytes(page(1))
    said = []
    open_contents(tmp_path / "guest.vmem", notice=said.append)
    assert [] == said
    (tmp_path / "guest.vmss").write_bytes(vmware([(0, 0, 1)]))
    open_contents(tmp_path / "guest.vmem", notice=said.append)
    assert [f"{tmp_path}/guest.vmss says where the parts of this file belong: give that"] == said


def test_a_xen_core_has_its_pages_by_frame_number(opened):
    found = opened(xen(PAGES))
    assert (SourceKind.LAYER, "Xen core") == (found.kind, found.format)
    for number, content in PAGES:
        assert content == found.memory.read(number * FRAME, FRAME)
    with pytest.raises(BadInput, match="of a paravirtualised guest, whose tables hold machine"):
        opened(xen(PAGES, b".xen_p2m"))


WHOLE = {
    "QEMU migration stream (savevm)": qevm(PAGES, cpus=VALUES),
    "libvirt save file": libvirt(qevm(PAGES)),
    "Windows crash dump": windows(),
    "VMware suspended state": vmware([(0, 0, 1)]),
    "Xen core": xen(PAGES),
}


@pytest.mark.parametrize("name", WHOLE)
def test_without_volatility_the_command_that_installs_it_is_named(name, opened, monkeypatch):
    for module in [each for each in sys.modules if each.startswith("volatility3")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "volatility3", None)
    with pytest.raises(BadInput) as refusal:
        opened(WHOLE[name])
    assert str(refusal.value).endswith(
        f"memory.state: {name}: pip install 'crosswalk-x86[volatility3]' reads it"
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (windows(count=43), "damaged Windows crash dump: 43 runs of pages, and room for 42"),
        (windows(kind=5, count=1 << 40), "a bitmap of 1,099,511,627,776 pages; at most"),
        (windows(kind=2), "volatility3 says WindowsCrashDumpFormatException: unsupported dump"),
        (windows(runs=[(0, 6)]), "truncated Windows crash dump: the pages from 0x0 on end at byte"),
        (windows(runs=[(0, 3), (2, 2)]), "memory ranges overlap at 0x2000"),
        (windows(runs=[(1 << 40, 2)]), "pages at 0x10000000000000 end beyond 52 bits"),
        (windows()[:5000], "truncated Windows crash dump: its header ends after byte 5,000"),
        (qevm(PAGES, block=b"mem"), "no pages of pc.ram, the memory of QEMU's PCs"),
        (qevm(PAGES)[:9000], "QEMU migration stream .savevm.: volatility3 says "),
        (vmware([])[:90], "its memory is in a file memory.vmem, not there"),
        (
            qevm(PAGES).replace(b"\x03\0\0\0\x02\0", b"\x09\0\0\0\x02\0", 1),
            "section encountered: 9",
        ),
        (xen(PAGES)[:300], "damaged Xen core: 4 sections"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(content, expected, opened):
    with pytest.raises(CrosswalkError, match=rf"memory.state: .*{expected}"):
        opened(content)


def test_another_file_is_no_layer(opened):
    with pytest.raises(BadInput, match="none of the formats that volatility3's layers read"):
        opened(bytes(FRAME), kind="layer")


@pytest.mark.parametrize("name", WHOLE)
def test_a_changed_file_is_read_or_refused_in_one_line(name, tmp_path):
    seed, path = random.Random(name), tmp_path / "memory.vmss"
    (tmp_path / "memory.vmem").write_bytes(page(1))
    for _ in range(40):
        content = bytearray(WHOLE[name])
        for _ in range(seed.randrange(1, 3)):
            content[seed.randrange(8, min(len(content), 400))] = seed.choice([0, 1, 0x7F, 0xFF])
        path.write_bytes(content[: seed.choice([len(content), seed.randrange(9, len(content))])])
        assert "\n" not in refused(path)


def refused(path):
    """The error of a file whose frames are read; empty where there is none."""
    try:
        memory = open_contents(path).memory
        frames = [start for start, size in memory.ranges if size >= FRAME][:64]
        memory.tables(np.array(frames, np.uint64))
    except CrosswalkError as error:
        return str(error)
    return ""


def test_each_format_is_known_by_its_first_bytes():
    assert {name for name, _ in layers.LAYERS.values()} >= {*WHOLE} - {"Xen core"}
