"""What stops an attack, or doesn't: as it is expected, and as it was met."""

from dataclasses import dataclass

from crosswalk.emu.cpu.svm.exits import ExitCode, exit_name
from crosswalk.emu.cpu.svm.host import Exit
from crosswalk.emu.protect.agent import Result
from crosswalk.emu.protect.events import Fault, described
from crosswalk.emu.protect.hypervisor import Answer

__all__ = [
    "Crash",
    "Granted",
    "GuestFault",
    "Intercepted",
    "NestedFault",
    "NotStopped",
    "Other",
    "Refused",
    "Stop",
    "stop_of",
]


@dataclass(frozen=True, slots=True)
class NestedFault:
    """A nested page fault: P 1, write 2, user 4 (always), fetch 16."""

    gpa: int
    error_code: int

    def __str__(self) -> str:
        return f"nested fault at {self.gpa:#x}, error code {self.error_code:#x}"


@dataclass(frozen=True, slots=True)
class Intercepted:
    """An exit by an intercept, without the instruction's effect."""

    code: ExitCode

    def __str__(self) -> str:
        return f"intercept {exit_name(self.code)}"


@dataclass(frozen=True, slots=True)
class Refused:
    """A hypercall that the host refuses; no nested entry changes."""

    answer: Answer

    def __str__(self) -> str:
        return f"hypercall refused: {self.answer.name}"


@dataclass(frozen=True, slots=True)
class Granted:
    """A request for protection that is granted, with `more` frames asked for with too little."""

    more: int

    def __str__(self) -> str:
        return f"granted, {self.more:,} frames more than asked for"


@dataclass(frozen=True, slots=True)
class GuestFault:
    """A page fault by the guest's own tables; no exit."""

    error_code: int

    def __str__(self) -> str:
        return f"the guest's own #PF, error code {self.error_code:#x}"


@dataclass(frozen=True, slots=True)
class NotStopped:
    """It works, and the last step gives this value, if one counts."""

    value: int | None = None

    def __str__(self) -> str:
        return "NOT STOPPED" if self.value is None else f"NOT STOPPED, gave {self.value:#x}"


@dataclass(frozen=True, slots=True)
class Crash:
    """The emulator's process dies."""

    def __str__(self) -> str:
        return "the emulator crashes"


@dataclass(frozen=True, slots=True)
class Other:
    """Anything else, in words."""

    what: str

    def __str__(self) -> str:
        return self.what


Stop = NestedFault | Intercepted | Refused | Granted | GuestFault | NotStopped | Crash | Other


def stop_of(result: Result, expected: Stop, *, asked: bool) -> Stop:
    """Return what became of steps, told the last one's result, and what is expected.

    `asked`: it was a hypercall, and its value is the answer. Any other value counts only where
    one is expected.
    """
    met = result.met
    if isinstance(met, Exit):
        if met.code == ExitCode.NPF and met.gpa is not None:
            return NestedFault(met.gpa, met.error_code)
        return Intercepted(ExitCode(met.code))
    if isinstance(met, Fault):
        return GuestFault(met.error_code) if met.vector == 14 else Other(described(met))
    if asked and result.value:
        answer = _signed(result.value)
        return Granted(answer) if answer > 0 else Refused(Answer(answer))
    counts = isinstance(expected, NotStopped) and expected.value is not None
    return NotStopped(result.value if counts else None)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
