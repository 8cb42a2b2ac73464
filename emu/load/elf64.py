"""A bare ELF file of 64-bit code: no boot protocol, entered in long mode.

The state at its entry is the project's own, and docs/guest-formats.md has it: `Elf64Guest.enter`.
"""

from dataclasses import dataclass, field

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.boot_tables import LOW_4_GIB
from crosswalk.emu.load.elf import ElfGuest, read_elf_guest
from crosswalk.emu.load.entering import LongEntry, add_stack, enter_long, prepare_tables
from crosswalk.emu.load.handed import HandedOn
from crosswalk.emu.load.image import Format, GuestImage
from crosswalk.emu.load.start_info import add_start_info
from crosswalk.emu.load.surroundings import prepare_memory
from crosswalk.emu.pc.pc import Machine
from crosswalk.walker.architecture import PAGE_BYTES
from crosswalk.walker.errors import BadInput

__all__ = ["Elf64Guest", "open_elf64"]


@dataclass(slots=True)
class Elf64Guest:
    """A guest of this kind; a `Guest`. `levels` is 4 or 5, the paging of the entry."""

    elf: ElfGuest
    image: GuestImage
    handed: HandedOn
    levels: int = 4
    format: Format = Format.ELF64
    _entry: LongEntry = field(init=False)

    def place(self, ram: Ram) -> None:
        """Write it to RAM, with modules, start info, stack and tables.

        Segments are loaded at their physical addresses, and mapped at their linear ones. Raises
        `BadInput` as `Placement`, and where these differ by no whole pages.
        """
        around = prepare_memory(ram, self.image)
        info = add_start_info(around, self.handed, self.image)
        stack = add_stack(around)
        for number, each in enumerate(self.elf.segments):
            if (each.va - each.pa) % PAGE_BYTES:
                raise BadInput(
                    f"segment {number} at {each.va:#x} can't be mapped to {each.pa:#x}: they "
                    "differ by no whole pages"
                )
        spans = [(each.va, each.pa, each.size) for each in self.elf.segments if each.va != each.pa]
        root = prepare_tables(around, self.levels, [LOW_4_GIB, *spans])
        around.placement.write(ram)
        registers = {"rdi": info, "rbx": info, "rsp": stack}
        self._entry = LongEntry(self.elf.entry, around, registers, root, self.levels)

    def enter(self, machine: Machine) -> None:
        """Bring the CPU to the entry, in 64-bit code.

        RDI and RBX are the physical address of Xen's start info, RSP the end of a stack of 16 KiB;
        other general registers are 0. Selectors are 0x20 and 0x18, flat; interrupts are off; there
        is no IDT. CR0 has PE, ET and PG, CR4 PAE (and LA57), EFER LME and LMA, and nothing else.
        The first 4 GiB are mapped to themselves, and the segments at their linear addresses, all
        with every right for the supervisor.
        """
        enter_long(machine, self._entry)


def open_elf64(data: bytes, handed: HandedOn, levels: int = 4) -> Elf64Guest:
    """Return the guest in a file; `BadInput` for one that isn't for x86-64, or is damaged."""
    elf = read_elf_guest(data)
    if (elf.bits, elf.machine) != (64, "EM_X86_64"):
        raise BadInput(f"not 64-bit code: an ELF{elf.bits} file of {elf.machine}")
    return Elf64Guest(elf, elf.image(), handed, levels)
