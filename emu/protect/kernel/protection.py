"""The host of a Linux kernel: it enters guest mode, enforces protection and handles the exits."""

import time
from collections import Counter
from dataclasses import dataclass

import numpy as np

from crosswalk.emu.cpu.cpu import Guarded, paging_context
from crosswalk.emu.cpu.engine import attach
from crosswalk.emu.cpu.svm.exits import ExitCode, exit_name
from crosswalk.emu.cpu.svm.host import Exit, Host
from crosswalk.emu.load.linux.boot import Boot
from crosswalk.emu.load.linux.image import KernelImage
from crosswalk.emu.protect.kernel.facts import find_facts, present_root, read_code
from crosswalk.emu.protect.kernel.guestwalk import find_leaf
from crosswalk.emu.protect.kernel.rights import RightsFollower, image_frames, kept_frames
from crosswalk.emu.protect.kernel.rules import Cause, Grants, decide, grant, may
from crosswalk.emu.protect.permissions import READ_WRITE, Bools, FrameTables, Permissions
from crosswalk.emu.protect.pins import INTERCEPTED, LONGEST, Pins
from crosswalk.walker.architecture import GIB, MIB
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.memory import FRAME
from crosswalk.walker.nested.outcome import NestedError
from crosswalk.walker.protection.pagelist import Permission

__all__ = ["Protection", "Refusal"]

_CONTROL = {ExitCode.CR0_WRITE, ExitCode.CR3_WRITE, ExitCode.CR4_WRITE, ExitCode.MSR}
_FOLLOWED_EACH = 50
_TABLES_ABOVE = 6
"""Nested tables above the last level: the root, the one below it, and one for each of 4 GiB."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the host refused: the exit, where the guest was, and why it was refused."""

    left: Exit
    rip: int
    cpl: int
    detail: str

    def __str__(self) -> str:
        place = "" if self.left.gpa is None else f" at {self.left.gpa:#x}"
        return (
            f"{exit_name(self.left.code)}{place}, RIP {self.rip:#x}, CPL {self.cpl}: {self.detail}"
        )


class Protection:
    """The host of a booting kernel, from its first instruction on.

    `kernel` is what `boot`, on the host's model, boots. Before `enforce` nothing is withheld.
    `exits` counts all exits by name, `causes` the nested faults by the rule that decided them.
    A refused exit ends the run: `refusal` says which. Rights are followed where a rule needs them,
    and after each so many patches, when frames that no mapping may write any more lose writing.
    With `pins` off, control registers are the guest's.

    `followed` are the frames that were granted writing since, `withdrawn` those that lost it since,
    each as it is now; `lost` counts all losses. `patched` are the numbers of sealed frames that
    were opened, `loaded` those of others.

    Raises `BadInput` where the CPU can't be taken into guest mode.
    """

    def __init__(self, boot: Boot, kernel: KernelImage) -> None:
        machine = boot.machine
        self.boot, self.machine, self._kernel = boot, machine, kernel
        size = machine.ram.size
        needed = _TABLES_ABOVE + -(-size // (2 * MIB))
        self.memory = Host.memory(needed)  # The engine doesn't keep it alive.
        attach(machine.engine, self.memory)
        self.host = Host(machine.cpu, self.memory)
        words = self.host.pool[: needed * (FRAME // 8)]
        self.nested = FrameTables(words, self.host.pool_start, size // FRAME)
        if size < 4 * GIB:  # Devices.
            self.nested.set(size, 4 * GIB - size, READ_WRITE)
        self.causes: Counter[Cause] = Counter()
        self.exits: Counter[str] = Counter()
        self.refusal: Refusal | None = None
        self.pins = True
        self.open: set[int] = set()
        self.patched: set[int] = set()
        self.loaded: set[int] = set()
        self.lost = 0
        self.policy_seconds = 0.0
        self._pins = Pins(machine.cpu, self.host)
        self.host.enter(self.nested.root, efer=True)
        self.host.intercept(frozenset(), efer=False)
        machine.on_exit = self._on_exit

    def enforce(self) -> Grants:
        """Grant what the kernel's mappings allow now, and no more, from here on."""
        context = paging_context(self.machine.cpu)
        self.rights = RightsFollower(self.machine.ram, self.boot.memory, context)
        image = image_frames(self._kernel, self.rights.count)
        kept = kept_frames(self._kernel, self.rights.count)
        self.grants = grant(self.rights.initial, image, kept, self.rights.tables())
        self.followed = np.zeros(self.rights.count, np.bool_)
        self.withdrawn, self.user_code = self.followed.copy(), self.followed.copy()
        self._pins.begin()
        self.resume(self.grants.permissions)
        return self.grants

    def resume(self, permissions: Permissions) -> None:
        """Enforce these permissions of frames, and pin control registers if `pins` are on."""
        self.nested.grant(permissions)
        self.open = set()
        self._intercept()
        self.machine.cpu.guard = self._guard
        self.host.flush()

    def suspend(self) -> None:
        """Stop enforcing: grant everything, and pin nothing."""
        self.machine.cpu.guard = None
        self.nested.grant_all()
        self.host.intercept(frozenset(), efer=False)
        self.host.flush()

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
        self.host.flush()

    @property
    def writable(self) -> Bools:
        """Which frames the rules let be written now, but for those that are open."""
        granted = may(self.grants.permissions, Permission.WRITE)
        found: Bools = (granted & ~self.withdrawn) | self.followed
        return found

    @property
    def pinned(self) -> dict[str, list[str]]:
        """The names of the bits that are pinned, by register."""
        return self._pins.names

    @property
    def root(self) -> int:
        """The physical address of the guest's present root table."""
        return present_root(self.machine)

    def _intercept(self) -> None:
        writes = (INTERCEPTED if self.pins else frozenset()) | ({3} if self.open else frozenset())
        self.host.intercept(writes, efer=self.pins)

    def _on_exit(self, number: int) -> None:
        found = self.host.left(number)
        if found is None:
            raise CrosswalkError(f"{number:#x} is no exit")
        self.exits[exit_name(found.code)] += 1
        if not self._pins.kept:
            self._refuse(found, "an exit before protection began")
        elif found.code == ExitCode.NPF and found.gpa is not None:
            self._on_fault(found, found.gpa)
        elif found.code in _CONTROL:
            self._on_control(found)
        else:
            self._refuse(found, "an instruction that reaches past nested paging")

    def _on_fault(self, found: Exit, gpa: int) -> None:
        frame = gpa // FRAME
        if frame >= self.rights.count or not found.error_code & (NestedError.WR | NestedError.ID):
            self._refuse(found, Cause.REFUSED.value)
            return
        sealed, text = bool(self.grants.sealed[frame]), bool(self.grants.text[frame])
        if found.error_code & NestedError.WR and not sealed:
            self.follow()
        facts = find_facts(self.machine, self.grants, self.rights, frame, found.error_code)
        cause = decide(facts, sealed=sealed, text=text)
        self.causes[cause] += 1
        if cause is Cause.REFUSED:
            self._refuse(found, cause.value)
            return
        if cause is Cause.USER_CODE:
            self.user_code[frame] = True
            self.nested.allow(frame, Permission.EXECUTE)
            self.host.flush()
        elif cause is Cause.FOLLOWED:
            self._grant(frame)
        else:
            self.open.add(frame)
            (self.patched if cause is Cause.PATCHED else self.loaded).add(frame)
            self.nested.allow(frame, Permission.WRITE)
            self._intercept()
            self.host.flush()

    def _grant(self, frame: int) -> None:
        self.followed[frame], self.withdrawn[frame] = True, False
        self.nested.allow(frame, Permission.WRITE)
        self.host.flush()

    def _on_control(self, found: Exit) -> None:
        if refusal := self._pins.handle(found.code, read_code(self.machine, LONGEST)):
            self._refuse(found, refusal)
        elif found.code == ExitCode.CR3_WRITE:
            self._close()
            if self.exits[ExitCode.CR3_WRITE.name] % _FOLLOWED_EACH == 0:
                self.withdraw()

    def _close(self) -> None:
        """Close the frames that were opened for patching."""
        for frame in self.open:
            self.nested.withhold(frame, Permission.WRITE)
        self.open = set()
        self._intercept()
        self.host.flush()

    def _refuse(self, found: Exit, detail: str) -> None:
        cpu = self.machine.cpu
        self.refusal = Refusal(found, cpu.rip, cpu.cpl, detail)
        self.machine.stop()

    def _guard(self, va: int, write: bool) -> None:  # noqa: FBT001  # as `Cpu.guard` is called
        if not write:
            return  # All of RAM can be read.
        leaf = find_leaf(self.machine.ram.words, self.root, va)
        if leaf is None:
            return
        frame = (leaf.pa + va % leaf.size) // FRAME
        if frame >= self.rights.count or self.nested.granted[frame] & Permission.WRITE:
            return
        if not self.grants.sealed[frame]:
            # The kernel's own tables decide what may be a stack: others may be forged.
            self.follow()
            if self.rights.own[frame] & Permission.WRITE:
                self._grant(frame)
                return
        raise Guarded(f"{va:#x} of frame {frame * FRAME:#x} isn't granted for an event's frame")
