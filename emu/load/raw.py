"""Raw code: bytes that are loaded at an address and entered at the first one.

The state at its entry is the project's own, and docs/guest-formats.md has it: `RawGuest.enter`.
"""

from dataclasses import dataclass, field

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.boot_tables import LOW_4_GIB
from crosswalk.emu.load.entering import (
    Entry,
    LongEntry,
    add_real_mode,
    add_stack,
    enter_flat,
    enter_long,
    enter_real,
    prepare_tables,
)
from crosswalk.emu.load.handed import HandedOn
from crosswalk.emu.load.image import Format, GuestImage
from crosswalk.emu.load.start_info import add_start_info
from crosswalk.emu.load.surroundings import Surroundings, prepare_memory
from crosswalk.emu.pc.pc import Machine
from crosswalk.walker.architecture import MIB
from crosswalk.walker.errors import BadInput

__all__ = ["RawGuest", "open_raw"]

_REAL_END = MIB
_BOOT_DRIVE = 0x80


@dataclass(slots=True)
class RawGuest:
    """A guest of this kind; a `Guest`. `bits` is its mode; `levels` counts in long mode alone."""

    image: GuestImage
    bits: int
    handed: HandedOn
    levels: int = 4
    format: Format = Format.RAW
    _entry: Entry | LongEntry = field(init=False)

    def place(self, ram: Ram) -> None:
        """Write it to RAM, with what its mode needs; `BadInput` as `Placement`."""
        around = prepare_memory(ram, self.image)
        if self.bits == 16:
            registers = {"rdx": _BOOT_DRIVE, "rsp": add_real_mode(around)}
            self._entry = Entry(self.image.entry, around, registers)
        else:
            info = add_start_info(around, self.handed, self.image)
            registers = {"rdi": info, "rbx": info, "rsp": add_stack(around)}
            self._entry = self._after_real_mode(around, registers)
        around.placement.write(ram)

    def _after_real_mode(
        self, around: Surroundings, registers: dict[str, int]
    ) -> Entry | LongEntry:
        if self.bits == 32:
            return Entry(self.image.entry, around, registers)
        root = prepare_tables(around, self.levels, [LOW_4_GIB])
        return LongEntry(self.image.entry, around, registers, root, self.levels)

    def enter(self, machine: Machine) -> None:
        """Bring the CPU to the first byte.

        64 bits: as a bare ELF file (`crosswalk.emu.load.elf64`). 32 bits: flat segments 0x10 and
        0x18, no paging, EBX and EDI at Xen's start info, ESP at the end of a stack of 16 KiB. 16
        bits: real mode, CS the address divided by 16 for one of 64 KiB or more, else 0; the other
        segments 0, DL 0x80, SP at the end of a stack of 4 KiB below 0x7c00; there are no services
        of a BIOS, and no modules. Interrupts are off.
        """
        if isinstance(self._entry, LongEntry):
            enter_long(machine, self._entry)
        elif self.bits == 32:
            enter_flat(machine, self._entry)
        else:
            enter_real(machine, self._entry)


def open_raw(data: bytes, address: int, bits: int, handed: HandedOn, levels: int = 4) -> RawGuest:
    """Return the guest that a file's bytes are.

    Raises `BadInput` for an empty file, and for an address that real mode has none for.
    """
    if not data:
        raise BadInput("an empty file")
    if bits == 16 and (handed.modules or handed.arguments):
        raise BadInput("16-bit code is handed no modules and no arguments")
    if bits == 16 and (address + len(data) > _REAL_END or (address >= 1 << 16 and address % 16)):
        raise BadInput(
            f"16-bit code at {address:#x}, {len(data):,} bytes: it has to end below 1 MiB, and to "
            "begin in the first 64 KiB or at a multiple of 16"
        )
    return RawGuest(GuestImage(((address, data, len(data)),), address), bits, handed, levels)
