"""AMD's SVM with nested paging, as a machine has it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from crosswalk.emu.cpu.svm.exits import ExitCode
from crosswalk.emu.judges.judge import Reason, Unjudged
from crosswalk.emu.judges.nested.outcomes import Left
from crosswalk.emu.judges.nested.workspace import QUIET_ROOT
from crosswalk.emu.monitor.monitor import Greeting
from crosswalk.emu.monitor.svm import SvmExit, Vmcb, VmcbSegment, svm_on, vmcb_words
from crosswalk.guest.monitor.commands import (
    REGISTERS,
    Answer,
    Command,
    cpuid,
    fill,
    run_vmcb,
    set_registers,
)
from crosswalk.walker.architecture import CR4, EFER, Vector
from crosswalk.walker.context import PagingContext, Vendor
from crosswalk.walker.memory import FRAME
from crosswalk.walker.nested.context import NestedContext
from crosswalk.walker.nested.outcome import NestedPageFault

__all__ = ["NestedEntries", "Svm"]

_EXCEPTIONS = 0x40
_ALL = (1 << 64) - 1
_ALL_OF_SVM = 0x3FFF
_FLUSH_ALL = 1 << 32
_CODE = {0: VmcbSegment(0x10, 0xA9B), 3: VmcbSegment(0x2B, 0xAFB)}
_DATA = {0: VmcbSegment(0x18, 0xC93), 3: VmcbSegment(0x23, 0xCF3)}
_DR6, _DR7, _PAT = 0xFFFF_0FF0, 0x400, 0x0007_0406_0007_0406
_TABLE, _LEAF, _WRITABLE = 0x67, 0x65, 2
_WIDTHS, _FEATURES, _SVM = (0x8000_0008, 0), (0x8000_0001, 0), (0x8000_000A, 0)
_HAS_SVM, _HAS_1G, _HAS_NESTED = 1 << 2, 1 << 26, 1


class NestedEntries:
    """Entries of nested tables: those of long mode."""

    def table(self, pa: int) -> int:
        """Return an entry that leads to a table."""
        return pa | _TABLE

    def page(self, pa: int, *, writable: bool) -> int:
        """Return an entry of the last level."""
        return pa | _LEAF | (_WRITABLE if writable else 0)


class Svm:
    """SVM, with a VMCB and maps that intercept everything at `at`: four frames of RAM.

    The CPU's MAXPHYADDR and 1-GiB pages are those of both dimensions.
    """

    keeps_code = False
    enters_anywhere = True

    def __init__(self, at: int) -> None:
        self.form = NestedEntries()
        self._at = at
        self._base = self._cr3 = 0
        self._width, self._page1gb, self._missing = 40, True, ""

    @property
    def version(self) -> str:
        """What CPU it is."""
        return f"SVM, {self._width} bits"

    def began(self, greeting: Greeting) -> list[Command]:
        """Return what fills the maps, and asks what the CPU has."""
        self._base = greeting.base
        words = FRAME // 8
        return [
            fill(self._at, words),
            fill(self._at + FRAME, 3 * words, _ALL),
            cpuid(_WIDTHS, _FEATURES, _SVM),
        ]

    def learn(self, answers: Sequence[Answer]) -> None:
        """Take what the CPU has."""
        widths, _, _, features, _, nested = answers[-1].words
        ecx, edx = features & 0xFFFF_FFFF, features >> 32
        self._width, self._page1gb = widths & 0xFF, bool(edx & _HAS_1G)
        self._missing = ""
        if not ecx & _HAS_SVM:
            self._missing = "the CPU has no SVM"
        elif not nested >> 32 & _HAS_NESTED:
            self._missing = "the CPU has no nested paging"

    def refuses(self, context: NestedContext) -> Reason | None:
        """Return why a context can't be had, or None."""
        text = self._missing
        if not isinstance(context.host, PagingContext):
            text = "the CPU has nested paging, not EPT"
        elif context.gmet:
            text = "the CPU has no GMET"
        elif context.guest.levels != 4 or context.host.levels != 4:
            text = "5-level paging under nested paging"
        elif context.guest.pke:
            text = "protection keys under nested paging"
        return Reason(Unjudged.NOT_SHOWN, text) if text else None

    def met(self, context: NestedContext) -> NestedContext:
        """Return a context with this CPU's width and 1-GiB pages, of AMD's, on both sides."""
        guest, host = (
            replace(side, maxphyaddr=self._width, page1gb=self._page1gb, vendor=Vendor.AMD)
            for side in (context.guest, context.npt)
        )
        return NestedContext(guest, host)

    def host_root(self, context: NestedContext) -> int:
        """Return nCR3's table."""
        return context.npt.root

    def enter(self, context: NestedContext) -> list[Command]:
        """Return what writes all of the VMCB that accesses leave alone."""
        guest, host = context.guest, context.npt
        self._cr3 = guest.cr3
        maps = self._at + FRAME
        words = {
            Vmcb.CONTROL_INTERCEPTS: _ALL,
            Vmcb.EXCEPTION_INTERCEPTS: _ALL,
            Vmcb.SVM_INTERCEPTS: _ALL_OF_SVM,
            Vmcb.IO_MAP: maps,
            Vmcb.MSR_MAP: maps,
            Vmcb.ASID: 1 | _FLUSH_ALL,
            Vmcb.INTERRUPTS: 0,
            Vmcb.NESTED: 1,
            Vmcb.NESTED_CR3: host.cr3,
            Vmcb.CLEAN: 0,
            Vmcb.EFER: guest.efer | EFER.SVME,
            Vmcb.CR4: guest.cr4 & ~int(CR4.PKE),
            Vmcb.CR0: guest.cr0,
            Vmcb.PAT: _PAT,
            Vmcb.DR7: _DR7,
        }
        for at in (Vmcb.ES, Vmcb.DS, Vmcb.FS, Vmcb.GS):
            words |= dict(_DATA[0].words(at))
        for at in (Vmcb.GDTR, Vmcb.IDTR, Vmcb.LDTR, Vmcb.TR):
            words |= dict(VmcbSegment(limit=0).words(at))
        return [svm_on(self._base, nxe=host.nxe), vmcb_words(self._at, words.items())]

    def run(
        self, rip: int, cpl: int, *, quiet: bool, rflags: int, registers: Mapping[str, int]
    ) -> list[Command]:
        """Return what runs the guest until it is left."""
        words = {
            Vmcb.SHADOW: 0,
            Vmcb.EXIT_CODE: 0,
            Vmcb.EXIT_INFO_1: 0,
            Vmcb.EXIT_INFO_2: 0,
            Vmcb.ENTRY_EVENT: 0,
            **dict(_CODE[cpl].words(Vmcb.CS)),
            **dict(_DATA[cpl].words(Vmcb.SS)),
            Vmcb.CPL: cpl << 24,
            Vmcb.CR3: QUIET_ROOT if quiet else self._cr3,
            Vmcb.DR6: _DR6,
            Vmcb.RFLAGS: rflags,
            Vmcb.RIP: rip,
            Vmcb.RSP: registers.get("rsp", 0),
            Vmcb.RAX: registers.get("rax", 0),
            Vmcb.CR2: 0,
        }
        return [
            vmcb_words(self._at, words.items()),
            set_registers([registers.get(name, 0) for name in REGISTERS]),
            run_vmcb(self._at, SvmExit.FIELDS),
        ]

    def left(self, answer: Answer) -> Left:
        """Return how the guest was left."""
        found = SvmExit.of(answer.words)
        rsi = found.registers[REGISTERS.index("rsi")]
        left = Left(found.rip, found.rax, rsi, what=f"exit code {found.code:#x}")
        if not found.entered:
            return replace(left, other="VMRUN refuses the guest's state")
        if found.code == ExitCode.NPF:
            return replace(left, fault=NestedPageFault(found.info_1, found.info_2))
        if _EXCEPTIONS <= found.code < _EXCEPTIONS + 32:
            vector, code, address = found.code - _EXCEPTIONS, found.info_1, found.info_2
            address = address if vector == Vector.PF else 0
            return replace(left, vector=vector, error_code=code, address=address)
        if found.code == ExitCode.SHUTDOWN:
            return replace(left, other="the guest shuts down")
        return left
