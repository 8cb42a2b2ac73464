"""How a run of a machine ended, and what was delivered in it."""

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from crosswalk.emu.cpu.delivery import Event, Kind
from crosswalk.emu.cpu.events import WITH_ERROR_CODE

__all__ = ["Delivered", "Ended", "Stop"]


class Stop(Enum):
    """The reason why a run ended."""

    ASKED = "stopped on request"
    IDLE = "idle"
    HALTED = "halted for good: no interrupt can wake the CPU"
    RESET = "the guest asked for a reset"
    SHUTDOWN = "the CPU shut down"
    STUCK = "the emulator can't go on"
    TIMEOUT = "the time is up"
    REFUSED = "the host refused to go on"
    NOT_EMULATED = "the guest asked for what isn't emulated"
    COUNTED = "as many instructions as asked for"
    EXITED = "the guest exited"
    OFF = "the guest switched the machine off"


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a run: its reason, and a line of detail, or nothing.

    `status` is that of a guest that exited by itself.
    """

    stop: Stop
    detail: str = ""
    status: int | None = None


class Delivered(NamedTuple):
    """A delivered event, and the RIP and privilege level at which it occurred.

    `cr2` is the address of a page fault. `protected` says whether it was in protected mode, where
    some exceptions push an error code: `error_code`, None for all others.
    """

    event: Event
    rip: int
    cpl: int
    cr2: int | None
    protected: bool

    @property
    def error_code(self) -> int | None:
        """The error code that was pushed."""
        event = self.event
        pushed = self.protected and event.kind is Kind.EXCEPTION and event.vector in WITH_ERROR_CODE
        return event.error_code if pushed else None
