"""What hosts of a Linux kernel have in common: what is granted, followed and refused.

A host grants each frame what the kernel's mappings allow together, handles nested faults by the
rules (`crosswalk.emu.protect.kernel.rules`), and withdraws what no mapping has any more. How a
guest is run, what its tables of the second level are, and how it is intercepted, is the host's own.
"""

import time
from abc import ABC, abstractmethod
from collections import Counter

import numpy as np

from crosswalk.emu.load.linux.image import KernelImage
from crosswalk.emu.protect.kernel.facts import GuestState, find_facts
from crosswalk.emu.protect.kernel.rights import RightsFollower, image_frames, kept_frames
from crosswalk.emu.protect.kernel.rules import Cause, Grants, decide, grant, grant_each, may
from crosswalk.emu.protect.permissions import Bools, FrameTables, Permissions, executes
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.protection.pagelist import Permission
from crosswalk.walker.protection.policy import TableKind, Use

__all__ = ["Enforcement"]

_FOLLOWED_EACH = 50


class Enforcement(ABC):
    """What a host withholds from a kernel in `memory`, by its nested tables `nested`.

    `exits` counts all exits by name, `causes` the nested faults by the rule that decided them.
    Rights are followed where a rule needs them, and after each so many patches, when frames that no
    mapping may write any more lose writing. With `pins` off, control registers are the guest's.

    `followed` are the frames that were granted writing since, `withdrawn` those that lost it since,
    each as it is now; `lost` counts all losses. `user_code` are those that users were granted
    execution of. `patched` are the numbers of sealed frames that were opened, `loaded` those of
    others; `open` are those that are open now.
    """

    rights: RightsFollower
    grants: Grants
    followed: Bools
    withdrawn: Bools
    user_code: Bools

    def __init__(self, memory: PhysicalMemory, kernel: KernelImage, nested: FrameTables) -> None:
        self.memory, self.nested, self._kernel = memory, nested, kernel
        self.kind: TableKind = nested.kind
        self.causes: Counter[Cause] = Counter()
        self.exits: Counter[str] = Counter()
        self.pins = True
        self.open: set[int] = set()
        self.patched: set[int] = set()
        self.loaded: set[int] = set()
        self.lost = 0
        self.policy_seconds = 0.0
        self._closed = 0

    @property
    @abstractmethod
    def state(self) -> GuestState:
        """The guest's registers now."""

    @property
    @abstractmethod
    def root(self) -> int:
        """The physical address of the guest's present root table."""

    @property
    @abstractmethod
    def pinned(self) -> dict[str, list[str]]:
        """The names of the bits that are pinned, by register."""

    @abstractmethod
    def read_back(self) -> Permissions:
        """Return what the entries of the nested tables grant each frame, as the CPU finds them."""

    @abstractmethod
    def intercept(self) -> None:
        """Have those writes to control registers exit that have to, now."""

    @abstractmethod
    def flush(self) -> None:
        """Have the CPU use the nested tables as they are now."""

    def begin(self, context: PagingContext) -> Grants:
        """Find out what the kernel's mappings allow now; return what is to be granted."""
        self.rights = RightsFollower(self.memory, context, self.kind)
        count = self.rights.count
        image, tables = image_frames(self._kernel, count), self.rights.tables()
        kept = kept_frames(self._kernel, count)
        if self.kind is TableKind.NPT:
            self.grants = grant(self.rights.initial, image, kept, tables)
        else:
            self.grants = grant_each(
                self.rights.initial, image, kept, tables, executes=executes(self.kind)
            )
        self.followed = np.zeros(count, np.bool_)
        self.withdrawn, self.user_code = self.followed.copy(), self.followed.copy()
        return self.grants

    def follow(self) -> None:
        """Follow the changes of the kernel's tables; its CPU time is added to `policy_seconds`."""
        began = time.process_time()
        self.rights.update(self.root)
        self.policy_seconds += time.process_time() - began

    def withdraw(self) -> None:
        """Follow, and withdraw writing from the frames that no mapping may write any more.

        Not to be called while a window is open: its mapping counts, too.
        """
        self.follow()
        frames = np.flatnonzero(self.writable & ~self.rights.writable).tolist()
        for frame in frames:
            self.nested.withhold(frame, Permission.WRITE)
            self.followed[frame], self.withdrawn[frame] = False, True
        self.lost += len(frames)
        self.flush()

    @property
    def writable(self) -> Bools:
        """Which frames the rules let be written now, but for those that are open."""
        granted = may(self.grants.permissions, Permission.WRITE)
        found: Bools = (granted & ~self.withdrawn) | self.followed
        return found

    @property
    def due(self) -> Permissions:
        """What the rules grant each frame now, but for those that are open."""
        every = np.uint8(executes(self.kind))
        found: Permissions = (
            self.grants.permissions & every
            | np.uint8(self._for_users) * self.user_code
            | np.uint8(Permission.READ)
            | np.uint8(Permission.WRITE) * self.writable
        )
        return found

    def decide(self, frame: int, *, write: bool, fetch: bool) -> Cause:
        """Handle a nested fault at a frame of RAM: grant what the rules do; return the rule."""
        sealed, text = bool(self.grants.sealed[frame]), bool(self.grants.text[frame])
        if write and not sealed:
            self.follow()
        facts = find_facts(
            self.state, self.memory, self.grants, self.rights, frame, write=write, fetch=fetch
        )
        cause = decide(facts, sealed=sealed, text=text, kept=bool(self.grants.kept[frame]))
        self.causes[cause] += 1
        if cause in {Cause.USER_CODE, Cause.PROCESS_CODE}:
            self.user_code[frame] = True
            self.nested.allow(frame, self._for_users)
            self.flush()
        elif cause is Cause.FOLLOWED:
            self.grant_writing(frame)
        elif cause is not Cause.REFUSED:
            self.open.add(frame)
            (self.patched if cause is Cause.PATCHED else self.loaded).add(frame)
            self.nested.allow(frame, Permission.WRITE)
            self.intercept()
            self.flush()
        return cause

    def grant_writing(self, frame: int) -> None:
        """Grant writing to a frame that isn't sealed."""
        self.followed[frame], self.withdrawn[frame] = True, False
        self.nested.allow(frame, Permission.WRITE)
        self.flush()

    def root_written(self) -> None:
        """CR3 was written while frames were open: close them."""
        self._close()
        self._closed += 1
        if self._closed % _FOLLOWED_EACH == 0:
            self.withdraw()

    @property
    def _for_users(self) -> Permission | Use:
        """The right to execute that a user's code is granted."""
        if self.kind is TableKind.EPT_MBEC:
            return Use.USER_EXECUTE
        return Permission.EXECUTE

    def _close(self) -> None:
        """Close the frames that were opened for patching."""
        for frame in self.open:
            self.nested.withhold(frame, Permission.WRITE)
        self.open = set()
        self.intercept()
        self.flush()
