"""Guests of Xen's PVH boot ABI, which QEMU and cloud hypervisors have as well.

Source: Xen docs/misc/pvh.pandoc, "PVH Specification"; Xen public/arch-x86/hvm/start_info.h; the
note's type is in public/elfnote.h.
"""

from dataclasses import dataclass, field

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.elf import ElfGuest, read_elf_guest
from crosswalk.emu.load.entering import Entry, enter_flat
from crosswalk.emu.load.handed import HandedOn
from crosswalk.emu.load.image import Format, GuestImage
from crosswalk.emu.load.start_info import add_start_info
from crosswalk.emu.load.surroundings import prepare_memory
from crosswalk.emu.pc.pc import Machine
from crosswalk.walker.errors import BadInput

__all__ = ["PvhGuest", "open_pvh", "pvh_entry"]

_OWNER, _PHYS32_ENTRY = "Xen", 18


@dataclass(slots=True)
class PvhGuest:
    """A guest of this ABI; a `Guest`."""

    image: GuestImage
    handed: HandedOn
    format: Format = Format.PVH
    _entry: Entry = field(init=False)

    def place(self, ram: Ram) -> None:
        """Write it to RAM, with its modules and the start info; `BadInput` as `Placement`."""
        around = prepare_memory(ram, self.image)
        at = add_start_info(around, self.handed, self.image)
        around.placement.write(ram)
        self._entry = Entry(self.image.entry, around, {"rbx": at})

    def enter(self, machine: Machine) -> None:
        """Bring the CPU to the entry: flat 32-bit code without paging, EBX at the start info."""
        enter_flat(machine, self._entry)


def pvh_entry(elf: ElfGuest) -> int | None:
    """Return the physical address at which a file says it is entered by this ABI, or None.

    Raises `BadInput` for a note of a length that no address has.
    """
    for note in elf.notes:
        if note.owner == _OWNER and note.type == _PHYS32_ENTRY:
            if len(note.description) not in (4, 8):
                raise BadInput(f"a damaged note of Xen's: {len(note.description)} bytes of entry")
            return int.from_bytes(note.description, "little")
    return None


def open_pvh(data: bytes, handed: HandedOn) -> PvhGuest:
    """Return the guest in a file; `BadInput` for one without the note, or a damaged one."""
    elf = read_elf_guest(data)
    entry = pvh_entry(elf)
    if entry is None:
        raise BadInput("no note XEN_ELFNOTE_PHYS32_ENTRY in the ELF file")
    if entry >= 1 << 32:
        raise BadInput(f"an entry of 32-bit code at {entry:#x}")
    return PvhGuest(elf.image(entry), handed)
