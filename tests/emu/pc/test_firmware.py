"""The tables, read as a system that looks for them would."""

import struct
from itertools import pairwise

import pytest

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.pc.firmware import RSDP, memory_ranges, write_firmware
from crosswalk.walker.errors import BadInput

MIB, GIB = 1 << 20, 1 << 30
LAPIC, IOAPIC = 0xFEE0_0000, 0xFEC0_0000


@pytest.fixture(scope="module")
def ram():
    ram = Ram(0, 2 * MIB)
    write_firmware(ram)
    return ram


def unpack(ram, form, at):
    return struct.unpack(form, ram.read(at, struct.calcsize(form)))


def table(ram, at):
    """Return an ACPI table's signature, revision and body."""
    signature, size, revision = unpack(ram, "<4sIB", at)
    content = ram.read(at, size)
    assert 0 == sum(content) & 0xFF
    return signature, revision, content[36:]


def root_tables(ram):
    _, rsdt, _, xsdt = unpack(ram, "<16sIIQ", RSDP)
    signature, _, body = table(ram, rsdt)
    assert b"RSDT" == signature
    narrow = struct.unpack(f"<{len(body) // 4}I", body)
    signature, _, body = table(ram, xsdt)
    assert b"XSDT" == signature
    assert narrow == struct.unpack(f"<{len(body) // 8}Q", body)
    return {table(ram, at)[0]: table(ram, at) for at in narrow}


def test_the_root_pointer_is_found_by_its_signature_on_16_bytes_with_both_sums(ram):
    area = ram.read(0xE_0000, 0x2_0000)
    places = [at for at in range(0, len(area), 16) if area[at : at + 8] == b"RSD PTR "]
    assert [RSDP - 0xE_0000] == places
    pointer = ram.read(RSDP, 36)
    assert (0, 0, 2) == (sum(pointer[:20]) & 0xFF, sum(pointer) & 0xFF, pointer[15])


def test_the_madt_has_one_processor_the_io_apic_and_the_timers_pin(ram):
    _, _, body = root_tables(ram)[b"APIC"]
    assert (LAPIC, 1) == struct.unpack_from("<2I", body)
    entries, at = [], 8
    while at < len(body):
        entries.append(body[at : at + body[at + 1]])
        at += body[at + 1]
    assert struct.pack("<4BI", 0, 8, 0, 0, 1) == entries[0]
    assert struct.pack("<4B2I", 1, 12, 1, 0, IOAPIC, 0) == entries[1]
    assert struct.pack("<4BIH", 2, 10, 0, 0, 2, 0) == entries[2]
    assert [0, 1, 2, 2, 4] == [entry[0] for entry in entries]


def test_the_fadt_leads_to_the_dsdt_and_to_ports_of_the_lengths_that_it_says(ram):
    _, revision, body = root_tables(ram)[b"FACP"]
    facs, dsdt = struct.unpack_from("<2I", body)
    assert (3, 244 - 36, b"FACS", 0) == (revision, len(body), ram.read(facs, 4), facs % 64)
    assert b"DSDT" == table(ram, dsdt)[0]
    # Offsets in the table: PM1a event and control, PM timer; their lengths; the same once more.
    assert (0x600, 0x604, 0x608) == tuple(
        struct.unpack_from("<I", body, at - 36)[0] for at in (56, 64, 76)
    )
    assert (4, 2, 4) == (body[88 - 36], body[89 - 36], body[91 - 36])
    assert (facs, dsdt) == struct.unpack_from("<2Q", body, 132 - 36)
    for at, port, bits in ((148, 0x600, 32), (172, 0x604, 16), (208, 0x608, 32)):
        assert (1, bits, port) == struct.unpack_from("<2BxxQ", body, at - 36)


def test_the_multiprocessor_table_is_found_and_its_entries_are_as_many_as_it_says(ram):
    area = ram.read(0xF_0000, 0x1_0000)
    (place,) = [at for at in range(0, len(area), 16) if area[at : at + 4] == b"_MP_"]
    assert 0 == sum(area[place : place + 16]) & 0xFF
    at = unpack(ram, "<4sI", 0xF_0000 + place)[1]
    signature, size, _, _ = unpack(ram, "<4sHBB", at)
    content = ram.read(at, size)
    assert (b"PCMP", 0) == (signature, sum(content) & 0xFF)
    count, lapic = struct.unpack_from("<HI", content, 34)
    entries, offset = [], 44
    while offset < size:
        length = 20 if content[offset] == 0 else 8
        entries.append(content[offset : offset + length])
        offset += length
    assert (LAPIC, count) == (lapic, len(entries))
    assert [0, 0, 0x14, 3] == list(entries[0][:4])
    assert struct.pack("<4BI", 2, 1, 0x11, 1, IOAPIC) == entries[2]
    lines = {entry[5]: entry[7] for entry in entries if entry[0] == 3 and entry[1] == 0}
    assert {0: 2} | {line: line for line in range(16) if line not in (0, 2)} == lines


def test_the_bios_data_area_names_the_ebda_and_the_memory_below_it(ram):
    assert (0x9FC0, 639) == (unpack(ram, "<H", 0x40E)[0], unpack(ram, "<H", 0x413)[0])
    assert 1 == ram.read(639 * 1024, 1)[0]


@pytest.mark.parametrize("size", [MIB, 64 * MIB, 3 * GIB, 4 * GIB - MIB, 5 * GIB])
def test_the_memory_map_is_in_order_and_hides_what_devices_have(size):
    ranges = memory_ranges(size)
    for (start, length, _), (following, _, _) in pairwise(ranges):
        assert start + length <= following
    usable = [(start, start + length) for start, length, use in ranges if use]
    assert (0, 639 * 1024) == usable[0]
    assert all(end <= size for _, end in usable)
    assert not any(start < 1 << 32 and end > IOAPIC for start, end in usable)
    hidden = MIB - 639 * 1024 + max(0, min(size, 1 << 32) - IOAPIC)
    assert size - hidden == sum(end - start for start, end in usable)


def test_ram_that_is_too_small_for_firmware_is_refused():
    with pytest.raises(BadInput, match="512 KiB has no room"):
        write_firmware(Ram(0, MIB // 2))
