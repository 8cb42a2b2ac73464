"""The host's side: hypercalls answered, control registers pinned, nested tables kept."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from unicorn import x86_const as x86

from emu.machine.cpu import GENERAL
from emu.machine.svm.exits import ExitCode
from emu.machine.svm.host import Exit
from emu.protect.grants import ALL, Permissions, Rules, permissions_of, stretches
from emu.protect.guest import FRAMES, Guest
from guest import places
from walker.errors import BadInput
from walker.memory import FRAME
from walker.nested.tables import NestedTables
from walker.protection.pagelist import MalformedRequest, PageEntry, decode
from walker.protection.permission import Permission
from walker.tracker import RightsTracker

__all__ = ["MAX_LIST", "Answer", "Hypercall", "Hypervisor", "Reply"]

_PINNED = {ExitCode.CR0_WRITE: 0x8001_0001, ExitCode.CR4_WRITE: 0x0030_0020}
_REGISTERS = {ExitCode.CR0_WRITE: x86.UC_X86_REG_CR0, ExitCode.CR4_WRITE: x86.UC_X86_REG_CR4}
_EFER, _EFER_SVME = 0xC000_0080, 1 << 12
_VMMCALL, _WRMSR = 3, 2
_MOV_TO_CR = b"\x0f\x22"
_RAX, _RDX, _RBX = (GENERAL.index(name) for name in ("rax", "rdx", "rbx"))
MAX_LIST = 64
"""The most pages of a list: more than it takes to name every frame of RAM by itself."""
_MOST_ENTRIES = FRAME // 8 - 1


class Hypercall(IntEnum):
    """The number that the guest has in RAX; its argument is in RBX.

    The first is that of the Heki series, with a page list's address; the others are of the same
    manner: the address of a page with a count and the addresses of as many changed table
    entries; the address of a frame of text to patch; nothing.
    """

    PROTECT_MEMORY = 14
    UPDATE = 0x100
    OPEN_TEXT = 0x101
    CLOSE_TEXT = 0x102


class Answer(IntEnum):
    """What a hypercall returns in RAX, as KVM's numbers have it."""

    DONE = 0
    NOT_PERMITTED = -1
    INVALID = -22
    UNKNOWN = -1000


@dataclass(frozen=True, slots=True)
class Reply:
    """A hypercall answered: why if it was refused, and else what there is to say about it."""

    call: int
    answer: Answer
    why: str = ""


class _Refusal(Exception):
    def __init__(self, answer: Answer, why: str) -> None:
        super().__init__(why)
        self.answer, self.why = answer, why


class Hypervisor:
    """The host of one guest, which is entered under nested tables that grant everything.

    `tables` are the nested tables, `replies` the hypercalls answered, `pinned` the bits of control
    registers that the guest can't change. `collective` is what the guest's mappings need as the
    host has it, None until the guest asks for protection.
    """

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.tables = NestedTables(guest.host.pool, guest.host.pool_start)
        self.tables.set(0, places.RAM_SIZE, ALL)
        self.rules = Rules()
        self.tracker: RightsTracker | None = None
        self.collective: Permissions | None = None
        self.replies: list[Reply] = []
        self.pinned = dict(_PINNED)
        self._root = 0
        guest.handle = self.handle
        guest.enter(self.tables.root)

    @property
    def granted(self) -> Permissions:
        """What each frame is to be granted now."""
        if self.collective is None:
            return np.full(FRAMES, ALL, np.uint8)
        return self.rules.granted(self.collective)

    def handle(self, left: Exit) -> bool:
        """Deal with an exit; whether the guest goes on."""
        if left.code == ExitCode.VMMCALL:
            self._hypercall()
            return True
        if left.code in (ExitCode.CR0_WRITE, ExitCode.CR4_WRITE):
            return self._control_register(ExitCode(left.code))
        return left.code == ExitCode.MSR and self._efer()

    def write(self, ranges: list[tuple[int, int]] | None = None) -> None:
        """Bring the nested tables up to what is granted, in these ranges or everywhere."""
        within = ranges if ranges is not None else [(0, places.RAM_SIZE)]
        self.tables.update(
            (start, size, Permission(value))
            for start, size, value in stretches(self.granted, within)
        )
        self.guest.host.flush()

    def _hypercall(self) -> None:
        cpu = self.guest.cpu
        cpu.load()
        call, argument = cpu.general(_RAX), cpu.general(_RBX)
        handlers: dict[int, Callable[[int], str]] = {
            Hypercall.PROTECT_MEMORY: self._protect,
            Hypercall.UPDATE: self._update,
            Hypercall.OPEN_TEXT: self._open,
            Hypercall.CLOSE_TEXT: self._close,
        }
        try:
            self._require_kernel()
            note = handlers.get(call, self._unknown)(argument)
            reply = Reply(call, Answer.DONE, note)
        except _Refusal as refusal:
            reply = Reply(call, refusal.answer, refusal.why)
        self.replies.append(reply)
        with cpu.changed():
            cpu.set_general(_RAX, reply.answer & (1 << 64) - 1)
            cpu.rip += _VMMCALL

    def _require_kernel(self) -> None:
        if self.guest.cpu.cpl:
            raise _Refusal(Answer.NOT_PERMITTED, "user code asks")

    def _unknown(self, _argument: int) -> str:
        raise _Refusal(Answer.UNKNOWN, "no such hypercall")

    def _protect(self, pa: int) -> str:
        memory, context = self.guest.booted.memory, self.guest.context
        try:
            entries = decode(memory, pa, write_execute=True, limit=MAX_LIST)
        except MalformedRequest as error:
            raise _Refusal(Answer.INVALID, str(error)) from error
        if self.collective is not None:
            collective = self.collective
            self._require(entries, self.granted)
        else:
            tracker = RightsTracker(memory, context)
            collective = permissions_of(tracker.frames())
            self._require(entries, collective)
            self.tracker, self.collective, self._root = tracker, collective, context.root
            self.rules.both = collective & ALL == ALL
        asked = np.zeros(FRAMES, np.uint8)
        for entry in entries:
            asked[_frames(entry)] = entry.permission
            if entry.immutable:
                self.rules.sealed[_frames(entry)] &= collective[_frames(entry)]
        self.write()
        more = int(np.count_nonzero((asked != 0) & (collective & ~asked != 0)))
        return f"{more:,} frames are granted more than asked for, as mappings need it"

    def _require(self, entries: list[PageEntry], allowed: Permissions) -> None:
        """Refuse a request that is for more, anywhere, than is allowed."""
        for entry in entries:
            beyond = np.uint8(entry.permission) & ~allowed[_frames(entry)]
            if beyond.any():
                at = entry.pa + int(np.flatnonzero(beyond)[0]) * FRAME
                more = Permission(int(beyond[beyond != 0][0]))
                raise _Refusal(Answer.NOT_PERMITTED, f"{more!r} at {at:#x}: no mapping needs it")

    def _update(self, pa: int) -> str:
        tracker, collective = self._protected()
        memory = self.guest.booted.memory
        try:
            words = np.frombuffer(memory.read(pa, FRAME), np.uint64)
        except BadInput as error:
            raise _Refusal(Answer.INVALID, str(error)) from error
        count = int(words[0])
        if pa % FRAME or not 1 <= count <= _MOST_ENTRIES:
            raise _Refusal(Answer.INVALID, f"{count} changed entries, listed at {pa:#x}")
        touched = tracker.update(words[1 : 1 + count].tolist())
        inside = [
            (start, min(size, places.RAM_SIZE - start))
            for start, size in touched
            if start < places.RAM_SIZE
        ]
        for start, size in inside:
            part = slice(start // FRAME, -(-(start + size) // FRAME))
            collective[part] = permissions_of(tracker.rights_within(start, size))[part]
        self.write(inside)
        self._report(inside)
        return f"{len(touched)} ranges touched"

    def _report(self, ranges: list[tuple[int, int]]) -> None:
        _, collective = self._protected()
        withheld = self.rules.withheld(collective)
        for start, size in ranges:
            at = np.flatnonzero(withheld[start // FRAME : (start + size) // FRAME])
            if len(at):
                where = start + int(at[0]) * FRAME
                raise _Refusal(Answer.NOT_PERMITTED, f"not all granted that {where:#x} would need")

    def _open(self, pa: int) -> str:
        self._protected()
        frame = pa // FRAME
        if pa % FRAME or frame >= FRAMES:
            raise _Refusal(Answer.INVALID, f"no frame at {pa:#x}")
        text = Permission.READ | Permission.EXECUTE
        if self.rules.opened is not None or self.rules.sealed[frame] != text:
            raise _Refusal(Answer.NOT_PERMITTED, f"{pa:#x} is no sealed text, or some is open")
        self.rules.opened = frame
        self.write([(pa, FRAME)])
        return ""

    def _close(self, _argument: int) -> str:
        _, collective = self._protected()
        frame = self.rules.opened
        if frame is None or collective[frame] & Permission.WRITE:
            raise _Refusal(Answer.NOT_PERMITTED, "nothing is open, or still mapped writable")
        self.rules.opened = None
        self.write([(frame * FRAME, FRAME)])
        self.guest.engine.ctl_flush_tb()
        return ""

    def _protected(self) -> tuple[RightsTracker, Permissions]:
        if self.tracker is None or self.collective is None:
            raise _Refusal(Answer.NOT_PERMITTED, "nothing is protected yet")
        if self.guest.context.root != self._root:
            raise _Refusal(Answer.NOT_PERMITTED, "CR3 isn't the protected root")
        return self.tracker, self.collective

    def _control_register(self, code: ExitCode) -> bool:
        """Let a MOV to CR0 or CR4 happen that leaves what is pinned."""
        cpu, engine = self.guest.cpu, self.guest.engine
        cpu.load()
        code_bytes = cpu.read(cpu.rip, 4) or b"\0" * 4
        rex = code_bytes[0] if code_bytes[0] & 0xF0 == 0x40 else 0
        size = 4 if rex else 3
        if code_bytes[size - 3 : size - 1] != _MOV_TO_CR:
            return False
        source = code_bytes[size - 1] & 7 | (rex & 1) << 3
        value, register = cpu.general(source), _REGISTERS[code]
        if (value ^ engine.reg_read(register)) & self.pinned.get(code, 0):
            return False
        engine.reg_write(register, value)
        with cpu.changed():
            cpu.rip += size
        return True

    def _efer(self) -> bool:
        """Let a WRMSR to EFER happen that changes nothing."""
        cpu = self.guest.cpu
        cpu.load()
        value = cpu.general(_RDX) << 32 | cpu.general(_RAX) & 0xFFFF_FFFF
        now = self.guest.engine.reg_read(x86.UC_X86_REG_MSR, _EFER)
        if (value ^ now) & ~_EFER_SVME:
            return False
        cpu.rip += _WRMSR
        cpu.store()
        return True


def _frames(entry: PageEntry) -> slice:
    return slice(entry.pa // FRAME, entry.epa // FRAME)
