"""What a PC's firmware leaves in memory: the memory map, and tables that describe the hardware.

They lie below 1 MiB, where systems look for them: an EBDA with nothing in it, and behind 0xf0000
ACPI's tables and the MultiProcessor table. Both describe one processor, one I/O APIC and the PC's
interrupt lines.

Sources: ACPI Specification, "Root System Description Pointer (RSDP)", "Fixed ACPI Description Table
(FADT)", "Multiple APIC Description Table (MADT)"; MultiProcessor Specification, "MP Configuration
Table".
"""

import struct
from collections.abc import Iterator

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.pc.addresses import (
    ACPI_CONTROL_PORT,
    ACPI_EVENT_PORT,
    ACPI_IRQ,
    ACPI_TIMER_PORT,
    IOAPIC_BASE,
    IOAPIC_ID,
    IOAPIC_VERSION,
    LAPIC_BASE,
    LAPIC_ID,
    LAPIC_VERSION,
    TIMER_PIN,
)
from crosswalk.walker.architecture import MIB
from crosswalk.walker.errors import BadInput

__all__ = ["RSDP", "memory_ranges", "write_firmware"]

_KIB = 1024
_BDA_EBDA, _BDA_BASE_MEMORY, _BDA_COM1 = 0x40E, 0x413, 0x400
_COM1 = 0x3F8
_EBDA, _EBDA_SIZE = 639 * _KIB, _KIB
_ROM, _ROM_SIZE = 0xF_0000, 64 * _KIB
_HIGH = MIB
_HOLE = IOAPIC_BASE
_FOUR_GIB = 1 << 32

RSDP = 0xF_0000
"""The physical address of ACPI's root pointer."""

_RSDP_SIZE, _RSDP_CHECKED = 36, 20
_TABLES = RSDP + 0x40
_OEM, _NAME, _CREATOR = b"CRSWLK", b"CROSSWLK", b"CRSW"
_HEADER = struct.Struct("<4sIBB6s8sI4sI")
_ALIGNMENT = 16

_LEGACY_DEVICES, _KEYBOARD = 0x01, 0x02  # of the FADT's boot architecture flags
_WBINVD, _SLEEP_BUTTON, _POWER_BUTTON, _TIMER_32 = 1 << 0, 1 << 5, 1 << 4, 1 << 8
_IO_SPACE = 1  # of a generic address structure
# Name(_S5, Package(4) {0, 0, 0, 0}): SLP_TYP 0 is soft-off.
_DSDT = bytes.fromhex("08 5f53355f 12 06 04 00000000")

_ENABLED, _PCAT = 1, 1
_ACTIVE_HIGH_LEVEL = 0x0D
_ANY = 0xFF

_MP_INT, _MP_NMI, _MP_EXTINT = 0, 1, 3
_ISA_LINES = 16


def memory_ranges(size: int) -> list[tuple[int, int, bool]]:
    """Return the memory map of a machine with `size` bytes of RAM from address 0 on.

    Each range is (start, bytes, whether it may be used), in ascending order. What lies between 640
    KiB and 1 MiB, and the place of the APICs, isn't listed or not usable.
    """
    low = [(0, _EBDA, True), (_EBDA, _EBDA_SIZE, False), (_ROM, _ROM_SIZE, False)]
    below = min(size, _HOLE)
    high = [(_HIGH, below - _HIGH, True)] if below > _HIGH else []
    high.append((_HOLE, _FOUR_GIB - _HOLE, False))
    if size > _FOUR_GIB:
        high.append((_FOUR_GIB, size - _FOUR_GIB, True))
    return low + high


def write_firmware(ram: Ram) -> None:
    """Write the BIOS data area's pointers and all tables to RAM.

    Raises `BadInput` where RAM doesn't begin at address 0 and reach 1 MiB.
    """
    if ram.start or ram.size < _HIGH:
        raise BadInput(
            f"RAM of {ram.size >> 10} KiB has no room for a PC's firmware: 1 MiB (--ram)"
        )
    ram.write(_BDA_COM1, struct.pack("<H", _COM1))
    ram.write(_BDA_EBDA, struct.pack("<H", _EBDA >> 4))
    ram.write(_BDA_BASE_MEMORY, struct.pack("<H", _EBDA // _KIB))
    ram.write(_EBDA, bytes([_EBDA_SIZE // _KIB]))
    at = _write_acpi(ram)
    _write_mp(ram, at)


def _write_acpi(ram: Ram) -> int:
    """Write ACPI's tables; return the first free address behind them."""
    places = _Places(ram, _TABLES)
    dsdt = places.put(_table(b"DSDT", 1, _DSDT))
    facs = places.put(_facs(), alignment=64)
    fadt = places.put(_table(b"FACP", 3, _fadt(facs, dsdt)))
    madt = places.put(_table(b"APIC", 1, b"".join(_madt())))
    rsdt = places.put(_table(b"RSDT", 1, struct.pack("<2I", fadt, madt)))
    xsdt = places.put(_table(b"XSDT", 1, struct.pack("<2Q", fadt, madt)))
    first = _summed(b"RSD PTR " + b"\0" + _OEM + struct.pack("<BI", 2, rsdt), 8)
    rest = struct.pack("<IQB3x", _RSDP_SIZE, xsdt, 0)
    ram.write(RSDP, _summed(first + rest, 32))
    return places.end


class _Places:
    """Pieces put into RAM one behind the other."""

    def __init__(self, ram: Ram, start: int) -> None:
        self._ram = ram
        self.end = start

    def put(self, content: bytes, alignment: int = _ALIGNMENT) -> int:
        at = -(-self.end // alignment) * alignment
        self._ram.write(at, content)
        self.end = at + len(content)
        return at


def _summed(content: bytes, at: int) -> bytes:
    """Return it with the byte at `at`, 0 so far, such that all bytes add up to 0."""
    return content[:at] + bytes([-sum(content) & 0xFF]) + content[at + 1 :]


def _table(signature: bytes, revision: int, body: bytes) -> bytes:
    size = _HEADER.size + len(body)
    header = _HEADER.pack(signature, size, revision, 0, _OEM, _NAME, 1, _CREATOR, 1)
    return _summed(header + body, 9)


def _facs() -> bytes:
    return struct.pack("<4sI", b"FACS", 64).ljust(64, b"\0")


def _fadt(facs: int, dsdt: int) -> bytes:
    """Return the body of a FADT of revision 3, for a machine that is always in ACPI mode."""
    ports = struct.pack("<8I", ACPI_EVENT_PORT, 0, ACPI_CONTROL_PORT, 0, 0, ACPI_TIMER_PORT, 0, 0)
    # Lengths of the event, control, PM2, timer and GPE blocks; then GPE1's base and C-states'
    # control, latencies of C2 and C3 too long to be used, cache and duty-cycle data, and indices
    # of the RTC.
    sizes = struct.pack("<8B2H2H5B", 4, 2, 0, 4, 0, 0, 0, 0, 0x0FFF, 0x0FFF, 0, 0, 0, 0, 0, 0, 0)
    flags = _WBINVD | _POWER_BUTTON | _SLEEP_BUTTON | _TIMER_32
    head = struct.pack("<2IBBHI4B", facs, dsdt, 0, 0, ACPI_IRQ, 0, 0, 0, 0, 0)
    legacy = struct.pack("<HBI", _LEGACY_DEVICES | _KEYBOARD, 0, flags)
    reset = _address(0, 0) + bytes(4)
    wide = struct.pack("<2Q", facs, dsdt) + b"".join(
        _address(port, bits)
        for port, bits in (
            *((ACPI_EVENT_PORT, 32), (0, 0), (ACPI_CONTROL_PORT, 16), (0, 0), (0, 0)),
            *((ACPI_TIMER_PORT, 32), (0, 0), (0, 0)),
        )
    )
    return head + ports + sizes + legacy + reset + wide


def _address(port: int, bits: int) -> bytes:
    """Return a generic address structure for an I/O port; all zeros where there is none."""
    return struct.pack("<4BQ", _IO_SPACE if bits else 0, bits, 0, 0, port)


def _madt() -> Iterator[bytes]:
    yield struct.pack("<2I", LAPIC_BASE, _PCAT)
    yield struct.pack("<4BI", 0, 8, 0, LAPIC_ID, _ENABLED)
    yield struct.pack("<4B2I", 1, 12, IOAPIC_ID, 0, IOAPIC_BASE, 0)
    yield struct.pack("<4BIH", 2, 10, 0, 0, TIMER_PIN, 0)
    yield struct.pack("<4BIH", 2, 10, 0, ACPI_IRQ, ACPI_IRQ, _ACTIVE_HIGH_LEVEL)
    yield struct.pack("<3BHB", 4, 6, _ANY, 0, 1)


def _write_mp(ram: Ram, at: int) -> None:
    """Write the MultiProcessor table, and the pointer to it, at `at` or behind."""
    places = _Places(ram, at)
    entries = list(_mp_entries())
    size = 44 + sum(map(len, entries))
    header = struct.pack(
        "<4sHBB8s12sIHHIHBx",
        *(b"PCMP", size, 4, 0, _NAME, b"PC".ljust(12), 0, 0, len(entries), LAPIC_BASE, 0, 0),
    )
    table = places.put(_summed(header + b"".join(entries), 7))
    places.put(_summed(struct.pack("<4sI3B5x", b"_MP_", table, 1, 4, 0), 10))


def _mp_entries() -> Iterator[bytes]:
    bootstrap = 2
    signature, features = 0x600, 0x201  # Family 6; FPU and APIC.
    yield struct.pack(
        "<4B2I8x", 0, LAPIC_ID, LAPIC_VERSION, _ENABLED | bootstrap, signature, features
    )
    yield struct.pack("<2B6s", 1, 0, b"ISA".ljust(6))
    yield struct.pack("<4BI", 2, IOAPIC_ID, IOAPIC_VERSION, _ENABLED, IOAPIC_BASE)
    for line in range(_ISA_LINES):
        if line != TIMER_PIN:  # The line that the second 8259 uses.
            pin = TIMER_PIN if line == 0 else line
            yield struct.pack("<2BH4B", 3, _MP_INT, 0, 0, line, IOAPIC_ID, pin)
    yield struct.pack("<2BH4B", 3, _MP_EXTINT, 0, 0, 0, IOAPIC_ID, 0)
    yield struct.pack("<2BH4B", 4, _MP_EXTINT, 0, 0, 0, _ANY, 0)
    yield struct.pack("<2BH4B", 4, _MP_NMI, 0, 0, 0, _ANY, 1)
