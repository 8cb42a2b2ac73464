"""Running a guest from its entry to one point after another."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import unicorn

from crosswalk.emu.cpu.cpu import core_state, paging_context
from crosswalk.emu.cpu.engine import MODEL
from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.cpu.svm.hypervisor import NestedRoot
from crosswalk.emu.load.code_names import CodeNames
from crosswalk.emu.load.entry import Guest
from crosswalk.emu.load.failure import (
    GuestFailure,
    LastState,
    console_lines,
    last_state,
    state_lines,
)
from crosswalk.emu.load.loader_tables import LoaderTables, TablesOf
from crosswalk.emu.load.nested import NestedPaging, host_paging, nested_paging
from crosswalk.emu.load.points import Point, PointKind
from crosswalk.emu.load.user_mode import UserMode
from crosswalk.emu.pc.pc import Machine
from crosswalk.emu.pc.results import Ended, Stop
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.corewriter import CoreState
from crosswalk.walker.memory import Segments
from crosswalk.walker.symbols.spans import Spans

__all__ = ["IDLE_SECONDS", "Boot", "Reached"]

IDLE_SECONDS = 2.0
"""How long a guest has to do nothing but take interrupts and halt, in its own time, to be idle."""


@dataclass(frozen=True, slots=True)
class Reached:
    """A point of a boot, and the machine's state there.

    `seconds` are the host's seconds since the entry, without those between points; `events` counts
    exceptions and interrupts since then; `instructions` are counted only where a point needs them.
    `user_space` says whether privilege level 3 has been entered, or is with the next instruction.
    `state` is the whole CPU. `paging` is None where there are no tables to look at, and `unread`
    says why: paging is off, or has features that aren't modelled. `nested` are the tables of the
    guest that the guest's own hypervisor ran last, if it has one, whose own `paging` is then.
    `tables` says who made the tables that are in use; None where there are none to look at.
    """

    point: Point
    paging: PagingContext | None
    seconds: float
    events: int
    system_calls: int
    instructions: int
    user_space: bool
    state: CoreState
    unread: str = ""
    nested: NestedPaging | None = None
    tables: TablesOf | None = None

    @property
    def context(self) -> PagingContext:
        """The paging; `BadInput`, with the reason, where there are no tables to look at."""
        if self.paging is None:
            raise BadInput(f"{self.point}: {self.unread}")
        return self.paging

    @property
    def lag(self) -> str:
        """How far the point may be behind what its text tells of; "" where that can't be.

        A guest may send a text long after it has made it: its terminal may be emptied only while
        the CPU halts, or by a thread.
        """
        if self.point.kind is not PointKind.CONSOLE or not self.user_space:
            return ""
        calls = f"{self.system_calls:,} system call{'s' * (self.system_calls != 1)}"
        return (
            f"reached when the console showed it: user space had begun, and made {calls}, by then"
        )


class Boot:
    """A guest booting in its own machine.

    `model` is the CPU's; `exit_port` and `tick_every` as `Machine` has them. `idle_seconds`
    are those of the guest's own time after which it is idle. `on_line` is called with each line
    that the console shows. `memory` is a view of RAM, not a copy: it changes when
    the boot goes on. `exit_status` is that of a guest that has exited by itself. `code` has the
    names of the guest's code: those of `symbols`, or of its own file without them.

    Raises `BadInput` where the guest doesn't fit into RAM, or a device has the exit port.
    """

    def __init__(
        self,
        ram: Ram,
        guest: Guest,
        *,
        model: int = MODEL,
        exit_port: int | None = None,
        tick_every: int | None = None,
        idle_seconds: float = IDLE_SECONDS,
        on_line: Callable[[str], None] | None = None,
        symbols: Spans | None = None,
    ) -> None:
        self.code = CodeNames(guest.image, symbols)
        guest.place(ram)
        self.machine = Machine(ram, model=model, exit_port=exit_port, tick_every=tick_every)
        self.machine.on_console = self._on_console
        guest.enter(self.machine)
        self.memory = Segments([(ram.start, ram.bytes)])
        self._loader = LoaderTables(self.memory, _paging(self.machine)[0])
        self._on_line = on_line
        self._idle_seconds = idle_seconds
        self._shown = 0
        self._pending: list[Point] = []
        self._found: list[Point] = []
        self.exit_status: int | None = None
        self._user = UserMode(self.machine, self._on_user)
        self.machine.on_system_call = self._on_system_call

    @property
    def exit_failure(self) -> GuestFailure | None:
        """The failure that an exit with another code than 0 is; None where there was none."""
        left = self.machine.left
        if left is None or not (self.exit_status or 0) >> 1:
            return None
        state = self._last_state(left)
        message = f"{left.stop.value} {left.detail}"
        return GuestFailure(message, tuple(state_lines(state)), (), state)

    def run(self, points: Iterable[Point], until: Point, seconds: float) -> Iterator[Reached]:
        """Yield each point when the boot reaches it, up to `until`, the last one.

        Points reached at the same time come in the given order.

        Raises `GuestFailure` where the kernel ends, or has run for `seconds` of the host's time,
        before `until`, and where it reaches that without having passed all other points.
        """
        self._pending = list(dict.fromkeys((*points, until)))
        counted = self._arm()
        spent = 0.0
        while until in self._pending:
            began = time.monotonic()
            ended = self._next(seconds=seconds - spent, counted=counted)
            spent += time.monotonic() - began
            if not self._found:
                raise self._failure(ended, until)
            for point in self._found:
                self._pending.remove(point)
                yield self._reached(point, spent)
            self._found = []
        if self._pending:
            missed = tuple(map(str, self._pending))
            state = self._last_state(Ended(Stop.ASKED))
            why = f"{until} came before {', '.join(missed)}"
            raise GuestFailure(why, tuple(state_lines(state)), missed, state)

    def _arm(self) -> bool:
        """Set the hooks that end a run at each point; return whether instructions are counted."""
        kinds = {point.kind for point in self._pending}
        if PointKind.CR3 in kinds:
            self._loads = self.machine.count_loads(self._on_load)
            self._next_load()
        for point in self._pending:
            if point.kind is PointKind.SYMBOL:
                self.machine.engine.hook_add(
                    unicorn.UC_HOOK_CODE,
                    self._on_symbol,
                    point,
                    begin=point.number,
                    end=point.number,
                )
        return PointKind.INSTRUCTIONS in kinds

    def _next(self, *, seconds: float, counted: bool) -> Ended:
        """Run until a point is reached, or something else ends the run."""
        idle = any(point.kind is PointKind.IDLE for point in self._pending)
        bounds = [p.number for p in self._pending if p.kind is PointKind.INSTRUCTIONS]
        # Once counted, always counted: a run without a bound would need other code.
        bound = min(bounds, default=1 << 62) - self.machine.instructions if counted else None
        # A guest may leave in the block of code in which it reached the point before.
        ended = self.machine.left or self.machine.run(
            seconds=seconds, idle_seconds=self._idle_seconds if idle else None, instructions=bound
        )
        if ended.stop is Stop.IDLE:
            self._find(PointKind.IDLE, lambda _: True)
        if ended.stop is Stop.EXITED:
            self.exit_status = ended.status
            self._find(PointKind.EXIT, lambda _: True)
        # The last instruction counted may also reach another point.
        self._find(PointKind.INSTRUCTIONS, lambda point: point.number <= self.machine.instructions)
        return ended

    def _find(self, kind: PointKind, holds: Callable[[Point], bool]) -> bool:
        found = [
            point
            for point in self._pending
            if point.kind is kind and point not in self._found and holds(point)
        ]
        self._found += found
        return bool(found)

    def _on_console(self) -> None:
        text = self.machine.console
        if self._find(PointKind.CONSOLE, lambda point: text.endswith(point.text.encode("utf-8"))):
            self.machine.stop()
        if self._on_line is not None and text.endswith(b"\n"):
            for line in console_lines(text[self._shown :]):
                self._on_line(line)
            self._shown = len(text)

    def _on_symbol(self, _uc: unicorn.Uc, _address: int, _size: int, point: object) -> None:
        if self._find(PointKind.SYMBOL, lambda each: each is point):
            self.machine.stop()

    def _on_user(self) -> None:
        if self._find(PointKind.USER, lambda _: True):
            self.machine.stop()

    def _on_system_call(self) -> None:
        calls = self.machine.system_calls
        if self._find(PointKind.SYSCALL, lambda point: point.number == calls):
            self.machine.stop()

    def _on_load(self) -> None:
        self._find(PointKind.CR3, lambda point: point.number == self._loads.count)
        self._next_load()
        self.machine.stop()

    def _next_load(self) -> None:
        left = [p.number for p in self._pending if p.kind is PointKind.CR3]
        self._loads.wanted = min((n for n in left if n > self._loads.count), default=None)

    def _reached(self, point: Point, seconds: float) -> Reached:
        machine = self.machine
        # Of a guest under nested paging of the testbed's own, the VMCB is no memory of the guest's.
        own = machine.hypervisor if machine.on_exit is None else None
        root = None if own is None else own.nested_root
        # The tables of a guest's guest lie at guest-physical addresses.
        context, unread = _paging(machine, root if root is not None and root.running else None)
        return Reached(
            point=point,
            paging=context,
            seconds=seconds,
            events=sum(machine.counts.values()),
            system_calls=machine.system_calls,
            instructions=machine.instructions,
            user_space=self._user.seen,
            state=replace(core_state(machine.cpu), paging=context),
            unread=unread,
            nested=None if root is None else nested_paging(root),
            tables=None if context is None else self._loader.owner(context),
        )

    def _failure(self, ended: Ended, point: Point) -> GuestFailure:
        detail = f" ({ended.detail})" if ended.detail else ""
        message = f"the guest didn't reach {point}: {ended.stop.value}{detail}"
        state = self._last_state(ended)
        return GuestFailure(message, tuple(state_lines(state)), (), state)

    def _last_state(self, ended: Ended) -> LastState:
        return last_state(self.machine, ended, self.code, map(str, self._pending))


def _paging(
    machine: Machine, running: NestedRoot | None = None
) -> tuple[PagingContext | None, str]:
    """Return the paging in use, or None and why there is none to look at.

    Where a guest of the guest's own hypervisor is `running`, that of the hypervisor.
    """
    try:
        return (host_paging(running) if running else paging_context(machine.cpu)), ""
    except BadInput as error:
        return None, str(error)
