"""What hosts of a Linux kernel have in common: what is granted, followed and refused.

A host grants each frame what the kernel's mappings allow together, handles nested faults by the
rules (`crosswalk.emu.protect.kernel.rules`), and withdraws what no mapping has any more. How a
guest is run, what its tables of the second level are, and how it is intercepted, is the host's own.
"""

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from crosswalk.emu.load.image import GuestImage
from crosswalk.emu.protect.kernel.facts import GuestState, find_facts
from crosswalk.emu.protect.kernel.guestwalk import find_kernel_root
from crosswalk.emu.protect.kernel.rights import (
    RightsFollower,
    image_frames,
    kept_frames,
    section_frames,
)
from crosswalk.emu.protect.kernel.rules import Cause, Grants, decide, grant, grant_each, may
from crosswalk.emu.protect.kernel.sealing import LaterSeals
from crosswalk.emu.protect.permissions import Bools, FrameTables, Permissions, executes
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import FRAME, PhysicalMemory
from crosswalk.walker.protection.pagelist import Permission
from crosswalk.walker.protection.policy import TableKind, Use

__all__ = ["Enforcement"]

_CODE = (".text",)
"""Sections of a kernel's code."""
_NOTED = ("later", "followed", "withdrawn", "user_code", "loaded_code", "unloaded")
"""What is noted of frames, and says with `Grants` what is due."""


class Enforcement(ABC):
    """What a host withholds from a kernel in `memory`, by its nested tables `nested`.

    `keeps`: sections that are named as data never become anything else, as it is in Linux.

    `exits` counts all exits by name, `causes` the nested faults by the rule that decided them.
    Rights are followed where a rule needs them, and when the kernel has the CPU drop translations
    after entries that had something writable have changed: what no mapping may write any more loses
    writing then, and what is more than plain memory is sealed (`later`). With `pins` off, control
    registers are the guest's.

    `followed` are the frames that were granted writing since, `withdrawn` those that lost it since,
    each as it is now; `lost` counts all losses. `user_code` are those that users were granted
    execution of, and that weren't sealed since. `patched` are the numbers of sealed frames that
    were opened, `loaded` those of others; `open` are those that are open now. `flushes` counts what
    dropped translations, `late` the frames that lost writing at another moment.
    """

    rights: RightsFollower
    grants: Grants
    later: LaterSeals
    followed: Bools
    withdrawn: Bools
    user_code: Bools
    loaded_code: Bools
    unloaded: Bools

    def __init__(
        self,
        memory: PhysicalMemory,
        kernel: GuestImage,
        nested: FrameTables,
        *,
        keeps: bool = True,
    ) -> None:
        self._keeps = keeps
        self.memory, self.nested, self.kernel = memory, nested, kernel
        self.kind: TableKind = nested.kind
        self.causes: Counter[Cause] = Counter()
        self.exits: Counter[str] = Counter()
        self.pins = True
        self.open: set[int] = set()
        self.patched: set[int] = set()
        self.loaded: set[int] = set()
        self.lost = self.late = self.flushes = 0
        self.policy_seconds = self.flush_seconds = 0.0
        self._missed = False

    @property
    @abstractmethod
    def state(self) -> GuestState:
        """The guest's registers now."""

    @property
    @abstractmethod
    def context(self) -> PagingContext:
        """The guest's paging now."""

    @property
    def root(self) -> int:
        """The physical address of the guest's present root table."""
        return self.context.root

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
        """Find out what the kernel's mappings allow now; return what is to be granted.

        They are those of the kernel's own root table, where one is found in the image: a process's
        comes and goes. Where no entry can withhold execution, it isn't a right to execute that
        tells text from what else is sealed, but the image's sections, where they are named.
        """
        ((_, size),) = self.memory.ranges
        image = image_frames(self.kernel, size // FRAME)
        places = np.flatnonzero(image).astype(np.uint64) * np.uint64(FRAME)
        if (root := find_kernel_root(self.memory, context, places)) is not None:
            context = replace(context, cr3=root)
        self.rights = RightsFollower(self.memory, context, self.kind)
        count = self.rights.count
        tables = self.rights.tables()
        kept = kept_frames(self.kernel, count) if self._keeps else np.zeros(count, np.bool_)
        if self.kind is TableKind.NPT:
            self.grants = grant(self.rights.initial, image, kept, tables)
        else:
            self.grants = grant_each(
                self.rights.initial, image, kept, tables, executes=executes(self.kind)
            )
        if not context.nxe and (named := section_frames(self.kernel, _CODE, count)).any():
            self.grants = replace(self.grants, text=self.grants.sealed & named)
        self.followed = np.zeros(count, np.bool_)
        self.withdrawn, self.user_code = self.followed.copy(), self.followed.copy()
        self.loaded_code, self.unloaded = self.followed.copy(), self.followed.copy()
        self.later = LaterSeals(self.memory, count)
        self.later.add(self.rights, ~self.grants.sealed)
        return self.grants

    def noted(self) -> Mapping[str, LaterSeals | Bools]:
        """Return what is noted of frames now, apart from what comes; see `note_again`."""
        return {name: getattr(self, name).copy() for name in _NOTED}

    def note_again(self, noted: Mapping[str, LaterSeals | Bools]) -> None:
        """Have of frames noted what was then."""
        for name, each in noted.items():
            setattr(self, name, each.copy())

    def follow(self) -> None:
        """Follow the changes of the kernel's tables; its CPU time is added to `policy_seconds`."""
        began = time.process_time()
        self.rights.update(self.root)
        self.policy_seconds += time.process_time() - began

    def flushed(self) -> None:
        """Look for what lost writing, as the kernel has had the CPU drop translations.

        While a window is open, whose mapping counts too, that waits until it closes.
        """
        began = time.process_time()
        self.flushes += 1
        if self.open:
            self._missed = True
        elif self.rights.narrowed():
            self.withdraw(late=False)
        self.flush_seconds += time.process_time() - began

    def withdraw(self, *, late: bool = True) -> None:
        """Follow, withdraw writing from frames that no mapping may write any more, and seal them.

        `late` says that the kernel may long have taken it away. Not to be called while a window is
        open.
        """
        self.follow()
        lost = self.writable & ~self.rights.writable
        frames = np.flatnonzero(lost).tolist()
        for frame in frames:
            self.nested.withhold(frame, Permission.WRITE)
            self.followed[frame], self.withdrawn[frame] = False, True
        self.lost += len(frames)
        self.late += len(frames) if late else 0
        self.seal(lost)
        self.flush()

    def seal(self, frames: Bools) -> None:
        """Seal those of these frames, which lost writing, that are to be; see `to_seal`.

        What users were granted execution of, when it was theirs, isn't theirs any more.
        """
        before = self.later.frames.copy()
        self.later.add(self.rights, frames & ~self.grants.sealed)
        for frame in np.flatnonzero(self.later.frames & ~before & self.user_code).tolist():
            self.user_code[frame] = False
            self.nested.withhold(frame, executes(self.kind) & ~int(self.due[frame]))

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
            self.grants.permissions & every & ~(every * self.unloaded)
            | np.uint8(self._for_users) * self.user_code
            | np.uint8(self._for_kernel) * self.loaded_code
            | np.uint8(Permission.READ)
            | np.uint8(Permission.WRITE) * self.writable
        )
        return found

    def decide(self, frame: int, *, write: bool, fetch: bool) -> Cause:
        """Handle a nested fault at a frame of RAM: grant what the rules do; return the rule."""
        sealed, text = bool(self.grants.sealed[frame]), bool(self.grants.text[frame])
        freed, later = False, not sealed
        if later and (write or self.state.cpl == 0 or self.later.frames[frame]):
            self.follow()
            freed = self.released(frame)
            sealed, text = bool(self.later.frames[frame]), bool(self.later.code[frame])
        facts = find_facts(
            self.state,
            self.memory,
            self.grants,
            self.rights,
            frame,
            write=write,
            fetch=fetch,
            sealed=sealed,
        )
        facts = replace(facts, freed=freed)
        kept = bool(self.grants.kept[frame])
        cause = decide(facts, sealed=sealed, text=text, kept=kept, later=later)
        self.causes[cause] += 1
        if cause in {Cause.USER_CODE, Cause.PROCESS_CODE}:
            self.user_code[frame] = True
            self.nested.allow(frame, self._for_users)
            self.flush()
        elif cause is Cause.LOADED_CODE:
            self.loaded_code[frame], self.unloaded[frame] = True, False
            self.nested.allow(frame, self._for_kernel)
            self.flush()
        elif cause in {Cause.FOLLOWED, Cause.FREED}:
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
        if self._missed:
            self._missed = False
            self.flushed()

    def released(self, frame: int) -> bool:
        """Release a frame that was sealed outside the image, if the kernel has freed it.

        Where execution can be withheld from any frame, it is withdrawn with that: what is executed
        there next has to be sealed again.
        """
        later = self.later
        if not later.frames[frame] or not later.freed(frame, self.rights.context):
            later.note_code(self.rights)
            return False
        later.release(frame)
        if self.kind is not TableKind.NPT:
            self.loaded_code[frame], self.unloaded[frame] = False, True
            self.nested.withhold(frame, executes(self.kind))
        return True

    @property
    def _for_users(self) -> Permission | Use:
        """The right to execute that a user's code is granted."""
        if self.kind is TableKind.EPT_MBEC:
            return Use.USER_EXECUTE
        return Permission.EXECUTE

    @property
    def _for_kernel(self) -> Permission | Use:
        """The right to execute that code which the kernel loads is granted."""
        if self.kind is TableKind.EPT_MBEC:
            return Use.SUPERVISOR_EXECUTE
        return Permission.EXECUTE

    def _close(self) -> None:
        """Close the frames that were opened for patching."""
        for frame in self.open:
            self.nested.withhold(frame, Permission.WRITE)
        self.open = set()
        self.intercept()
        self.flush()
