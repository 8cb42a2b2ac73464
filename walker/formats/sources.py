"""Sources: physical memory, the context to read it in, and where both come from."""

from dataclasses import dataclass
from enum import StrEnum

from crosswalk.walker.context import CR0, PagingContext
from crosswalk.walker.formats.case import Case
from crosswalk.walker.formats.registers import NOT_GIVEN, Registers
from crosswalk.walker.memory import FRAME, PhysicalMemory

__all__ = ["Contents", "Source", "SourceKind"]


class SourceKind(StrEnum):
    """The kinds of places that memory can come from.

    LAYER is a file that one of volatility3's layers reads, KCORE is /proc/kcore, LIVE a guest that
    runs.
    """

    CASE = "case"
    ELF = "elf"
    RAW = "raw"
    LIME = "lime"
    KDUMP = "kdump"
    AVML = "avml"
    LAYER = "layer"
    KCORE = "kcore"
    LIVE = "live"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """Physical memory, and the other contents of its file.

    `name` is the path as it was given, made printable; `registers` are those of the chosen CPU in
    the file. `case` is the case as it stands in the file; None for other kinds. `complete` says
    that this is all memory of the machine, as in a case file and in a guest that was booted here;
    else the file may lack some. `begins_as` is the format whose first bytes a raw image has, which
    the caller chose to read as raw; else empty. `format` is the format in words for people, empty
    where `kind` says it all. `excluded` is the number of bytes of RAM that a dump leaves out on
    purpose and that aren't backed, `vmcoreinfo` the text of Linux' VMCOREINFO that the file has in
    a note or header, and `unpacked` what was unpacked to read it, in words; empty else.

    Of an ELF core or a kdump: `machine` is "386" or "x86-64", `notes` the name, type and size in
    bytes of each note, `missing` the bytes of memory that the file should hold or speaks of, and
    that are neither backed nor `excluded`, `cpus` the registers of each CPU, `cpu` the number of
    the chosen one, and `why` what decided its paging mode, if EFER didn't.
    """

    name: str
    kind: SourceKind
    memory: PhysicalMemory
    registers: Registers = NOT_GIVEN
    case: Case | None = None
    complete: bool = False
    begins_as: str = ""
    format: str = ""
    excluded: int = 0
    vmcoreinfo: str = ""
    unpacked: str = ""
    machine: str = ""
    notes: tuple[tuple[str, int, int], ...] = ()
    missing: int = 0
    cpus: tuple[Registers, ...] = ()
    cpu: int = 0
    why: str = ""

    @property
    def address_spaces(self) -> int:
        """The number of different tables that CR3 of the CPUs names; 1 without CPUs.

        CPUs that don't page have none, and of CR3 only the address of a frame counts.
        """
        paging = {
            each.cr3 & -FRAME & (1 << 52) - 1
            for each in self.cpus
            if each.cr3 is not None and each.cr0 is not None and each.cr0 & CR0.PG
        }
        return max(len(paging), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source(Contents):
    """Physical memory and the context to read it in.

    `assumed` lists the values that neither the file nor the caller gave, as texts like
    "efer = 0xd00"; `width_known` says whether MAXPHYADDR is not among them. `remarks` are sentences
    for people about values that were inferred.
    """

    context: PagingContext
    assumed: tuple[str, ...] = ()
    width_known: bool = True
    remarks: tuple[str, ...] = ()
