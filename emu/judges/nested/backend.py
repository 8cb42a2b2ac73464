"""What a judge has to know of the virtualisation that it uses."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from crosswalk.emu.judges.judge import Reason
from crosswalk.emu.judges.nested.outcomes import Left
from crosswalk.emu.judges.nested.workspace import HostFormat
from crosswalk.emu.monitor.monitor import Greeting
from crosswalk.guest.monitor.commands import Answer, Command
from crosswalk.walker.nested.context import NestedContext

__all__ = ["Backend"]


class Backend(Protocol):
    """One kind of virtualisation: how the guest is entered, and what its exits say.

    With `keeps_code` the TLB keeps the code that makes accesses across MOV to CR3; else the guest's
    tables under test have to lead to it. With `enters_anywhere` a guest can begin at an address
    that isn't canonical.
    """

    keeps_code: bool
    enters_anywhere: bool

    @property
    def form(self) -> HostFormat:
        """What writes entries of the host's tables."""
        ...

    @property
    def version(self) -> str:
        """What CPU it is, once `learn` was called."""
        ...

    def began(self, greeting: Greeting) -> list[Command]:
        """Return what is done once in a machine that has just begun; the answers tell the CPU."""
        ...

    def learn(self, answers: Sequence[Answer]) -> None:
        """Take the answers to that."""
        ...

    def refuses(self, context: NestedContext) -> Reason | None:
        """Return why a context can't be had, or None."""
        ...

    def met(self, context: NestedContext) -> NestedContext:
        """Return a context as this CPU has it: the widths and features of its own."""
        ...

    def host_root(self, context: NestedContext) -> int:
        """Return where the host's tables begin."""
        ...

    def enter(self, context: NestedContext) -> list[Command]:
        """Return what makes the guest's and the host's registers those of a context."""
        ...

    def run(
        self, rip: int, cpl: int, *, quiet: bool, rflags: int, registers: Mapping[str, int]
    ) -> list[Command]:
        """Return what runs the guest from RIP on, with nothing cached, until it is left.

        With `quiet` it begins under tables of the machine's own, else under those of the context
        that was entered. `registers` are by name, those that aren't there 0. The last answer is for
        `left`.
        """
        ...

    def left(self, answer: Answer) -> Left:
        """Return how the guest was left."""
        ...
