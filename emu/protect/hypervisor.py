"""The host of the built-in guest: hypercalls, pinned control registers, nested tables."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from crosswalk.emu.protect.machine import FRAMES, GuestMachine
from crosswalk.emu.protect.permissions import (
    READ_EXECUTE,
    READ_WRITE,
    Bools,
    Permissions,
    as_listed,
    collective_permissions,
    everything,
    executes,
)
from crosswalk.guest import places
from crosswalk.walker.errors import BadInput
from crosswalk.walker.frames import Frames
from crosswalk.walker.memory import FRAME
from crosswalk.walker.protection.pagelist import MalformedRequest, PageEntry, Permission, decode
from crosswalk.walker.protection.policy import TableKind
from crosswalk.walker.tracker import RightsTracker

__all__ = ["MAX_LIST", "TABLE_POOL", "Answer", "Hypercall", "Hypervisor", "Reply", "Rules"]

MAX_LIST = 64
"""The most pages of a list: more than it takes to name every frame of RAM by itself."""
_MOST_ENTRIES = FRAME // 8 - 1
TABLE_POOL = slice(places.POOL // FRAME, places.POOL // FRAME + places.POOL_FRAMES)
"""The frames of the guest's tables, now or later: they stay executable, as the emulator crashes
where it walks a table in a frame that isn't."""


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
    """The value that a hypercall returns in RAX, by KVM's numbers.

    A request for protection that is granted returns how many frames get more than it asked for.
    """

    DONE = 0
    NOT_PERMITTED = -1
    INVALID = -22
    UNKNOWN = -1000


@dataclass(frozen=True, slots=True)
class Reply:
    """A hypercall's answer. `why` it was refused, or a remark.

    `more` frames are granted more than was requested for them, as their mappings need it.
    """

    call: int
    answer: Answer
    why: str = ""
    more: int = 0


class _Refusal(Exception):
    def __init__(self, answer: Answer, why: str) -> None:
        super().__init__(why)
        self.answer, self.why = answer, why


class Rules:
    """The host's rules on top of collective rights, from the request for protection on.

    `sealed`: the most that each frame may ever be granted; `both`: the rights to execute that each
    frame may have together with writing; `opened`: the one frame of sealed text that is open for
    patching: it may be writable, and isn't executable then.
    """

    def __init__(self, kind: TableKind = TableKind.NPT) -> None:
        self._kind = kind
        self._executes = np.uint8(executes(kind))
        self.sealed: Permissions = np.full(FRAMES, everything(kind), np.uint8)
        self.both: Permissions = np.zeros(FRAMES, np.uint8)
        self.opened: int | None = None

    def begin(self, collective: Permissions) -> None:
        """Let what is both writable and executable when protection is requested be both later."""
        both = collective & READ_WRITE == READ_WRITE
        self.both = collective & self._executes * both

    def is_text(self, frame: int) -> bool:
        """Return whether a frame was sealed as text."""
        return bool(as_listed(self.sealed[frame : frame + 1])[0] == READ_EXECUTE)

    def granted(self, collective: Permissions) -> Permissions:
        """Return what is granted where the guest's mappings need `collective`."""
        granted = self.granted_by_policy(collective)
        if self._kind is TableKind.NPT:
            granted[TABLE_POOL] |= np.uint8(Permission.EXECUTE)
        return granted

    def granted_by_policy(self, collective: Permissions) -> Permissions:
        """Return what would be granted if the emulator could walk tables that aren't executable."""
        granted = collective & self.sealed
        writable = granted & np.uint8(Permission.WRITE) != 0
        granted[writable] &= ~self._executes | self.both[writable]
        if self.opened is not None and collective[self.opened] & Permission.WRITE:
            granted[self.opened] = READ_WRITE
        return granted

    def withheld(self, collective: Permissions) -> Bools:
        """Return which frames need more than they are granted, the opened one aside."""
        withheld: Bools = collective & ~self.granted(collective) != 0
        if self.opened is not None:
            withheld[self.opened] = False
        return withheld


class Hypervisor:
    """The host of one guest, which it enters under nested tables that grant everything.

    `tables` are the nested tables, `replies` the hypercalls answered, `pins` the bits of control
    registers that the guest can't clear. `collective` are the permissions that the guest's mappings
    need, as the host tracks them; None until the guest requests protection.
    """

    def __init__(self, guest: GuestMachine) -> None:
        self.guest = guest
        self.tables = guest.tables
        self.rules = Rules(guest.tables.kind)
        self.tracker: RightsTracker | None = None
        self.collective: Permissions | None = None
        self.replies: list[Reply] = []
        self.pins = guest.pins
        self._root = 0
        guest.hypercall = self.answer
        guest.enter()
        self.pins.begin()

    @property
    def granted(self) -> Permissions:
        """The permission that each frame is to have now."""
        if self.collective is None:
            return np.full(FRAMES, everything(self.tables.kind), np.uint8)
        return self.rules.granted(self.collective)

    def answer(self, call: int, argument: int, cpl: int) -> int:
        """Carry out a hypercall that was made with these in RAX and RBX; return RAX."""
        handlers: dict[int, Callable[[int], Reply]] = {
            Hypercall.PROTECT_MEMORY: self._protect,
            Hypercall.UPDATE: self._update,
            Hypercall.OPEN_TEXT: self._open,
            Hypercall.CLOSE_TEXT: self._close,
        }
        try:
            _require_kernel(cpl)
            reply = handlers.get(call, self._unknown)(argument)
        except _Refusal as refusal:
            reply = Reply(call, refusal.answer, refusal.why)
        self.replies.append(reply)
        return (reply.answer or reply.more) & (1 << 64) - 1

    def write(self, ranges: list[tuple[int, int]] | None = None) -> None:
        """Write what is granted to the nested tables, in these ranges or everywhere."""
        self.tables.grant(self.granted, ranges)
        self.guest.flush()

    def _unknown(self, _argument: int) -> Reply:
        raise _Refusal(Answer.UNKNOWN, "no such hypercall")

    def _protect(self, pa: int) -> Reply:
        memory, context = self.guest.memory, self.guest.context
        try:
            entries = decode(memory, pa, write_execute=True, limit=MAX_LIST)
        except MalformedRequest as error:
            raise _Refusal(Answer.INVALID, str(error)) from error
        if self.collective is not None:
            collective = self.collective
            self._require(entries, self.granted)
        else:
            tracker = RightsTracker(memory, context)
            collective = self._permissions(tracker.frames())
            self._require(entries, collective)
            self.tracker, self.collective, self._root = tracker, collective, context.root
            self.rules.begin(collective)
        requested = np.zeros(FRAMES, np.uint8)
        for entry in entries:
            requested[_frames(entry)] = entry.permission
            if entry.immutable:
                self.rules.sealed[_frames(entry)] &= collective[_frames(entry)]
        self.write()
        granted = as_listed(self.rules.granted_by_policy(collective))
        more = int(np.count_nonzero((requested != 0) & (granted & ~requested != 0)))
        return Reply(Hypercall.PROTECT_MEMORY, Answer.DONE, more=more)

    def _require(self, entries: list[PageEntry], allowed: Permissions) -> None:
        """Refuse a request that is for more, anywhere, than is allowed."""
        for entry in entries:
            beyond = np.uint8(entry.permission) & ~as_listed(allowed[_frames(entry)])
            if beyond.any():
                at = entry.pa + int(np.flatnonzero(beyond)[0]) * FRAME
                more = Permission(int(beyond[beyond != 0][0]))
                raise _Refusal(Answer.NOT_PERMITTED, f"{more!r} at {at:#x}: no mapping needs it")

    def _update(self, pa: int) -> Reply:
        tracker, collective = self._protected()
        memory = self.guest.memory
        try:
            words = np.frombuffer(memory.read(pa, FRAME), np.uint64)
        except BadInput as error:
            raise _Refusal(Answer.INVALID, f"no memory of the report: {error}") from error
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
            rights = tracker.rights_within(start, size)
            collective[part] = self._permissions(rights)[part]
        self.write(inside)
        self._report(inside)
        return Reply(Hypercall.UPDATE, Answer.DONE, f"{len(touched)} ranges touched")

    def _permissions(self, frames: Frames) -> Permissions:
        return collective_permissions(frames, FRAMES, kind=self.tables.kind)

    def _report(self, ranges: list[tuple[int, int]]) -> None:
        _, collective = self._protected()
        withheld = self.rules.withheld(collective)
        for start, size in ranges:
            at = np.flatnonzero(withheld[start // FRAME : (start + size) // FRAME])
            if len(at):
                where = start + int(at[0]) * FRAME
                raise _Refusal(Answer.NOT_PERMITTED, f"{where:#x} isn't granted all that it needs")

    def _open(self, pa: int) -> Reply:
        self._protected()
        frame = pa // FRAME
        if pa % FRAME or frame >= FRAMES:
            raise _Refusal(Answer.INVALID, f"no frame at {pa:#x}")
        if self.rules.opened is not None or not self.rules.is_text(frame):
            raise _Refusal(Answer.NOT_PERMITTED, f"{pa:#x} is no sealed text, or some is open")
        self.rules.opened = frame
        self.write([(pa, FRAME)])
        return Reply(Hypercall.OPEN_TEXT, Answer.DONE)

    def _close(self, _argument: int) -> Reply:
        _, collective = self._protected()
        frame = self.rules.opened
        if frame is None or collective[frame] & Permission.WRITE:
            raise _Refusal(Answer.NOT_PERMITTED, "nothing is open, or still mapped writable")
        self.rules.opened = None
        self.write([(frame * FRAME, FRAME)])
        return Reply(Hypercall.CLOSE_TEXT, Answer.DONE)

    def _protected(self) -> tuple[RightsTracker, Permissions]:
        if self.tracker is None or self.collective is None:
            raise _Refusal(Answer.NOT_PERMITTED, "nothing is protected yet")
        if self.guest.context.root != self._root:
            raise _Refusal(Answer.NOT_PERMITTED, "CR3 isn't the protected root")
        return self.tracker, self.collective


def _require_kernel(cpl: int) -> None:
    if cpl:
        raise _Refusal(Answer.NOT_PERMITTED, "made by user code")


def _frames(entry: PageEntry) -> slice:
    return slice(entry.pa // FRAME, entry.epa // FRAME)
