"""Attacks: what is to become of each, and running them without protection and with it.

A `Subject` is a guest that can be put back to one state, and run an attack from there: the
built-in guest, whose agent carries out `Action`s, or a Linux kernel, which runs injected code.
"""

import faulthandler
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial
from typing import Generic, Protocol, TypeVar

from crosswalk.emu.cpu.svm.exits import ExitCode, exit_name
from crosswalk.emu.cpu.svm.host import Exit
from crosswalk.emu.workers.contained import EmulatorCrash, contained
from crosswalk.walker.access import AccessType
from crosswalk.walker.nested.outcome import EptViolation, NestedError, Qualification

__all__ = [
    "Attack",
    "Attacked",
    "Crash",
    "Crashes",
    "DeliveryRefused",
    "Granted",
    "GuestFault",
    "Intercepted",
    "NestedFault",
    "NotBuilt",
    "NotStopped",
    "Other",
    "Refused",
    "Result",
    "Subject",
    "Violation",
    "VmExited",
    "emulator_crashes",
    "exit_result",
    "run_attack",
    "run_attacks",
    "violation_result",
]

Program = TypeVar("Program")
"""What a kind of subject runs as an attack."""

_ACCESSES = {AccessType.READ: "read", AccessType.WRITE: "write", AccessType.EXECUTE: "fetch"}

_EPT_RIGHTS = Qualification.READABLE | Qualification.WRITABLE | Qualification.EXECUTABLE

Crashes = Callable[[Callable[[], object]], str | None]
"""Does work in a child process; what the child died of, None if it lived."""


@dataclass(frozen=True, slots=True)
class NestedFault:
    """A nested page fault: P 1, write 2, user 4 (always), fetch 16. `detail` says more."""

    gpa: int
    error_code: int
    detail: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"nested fault at {self.gpa:#x}, error code {self.error_code:#x}"

    @property
    def access(self) -> AccessType:
        """The kind of access that it stopped."""
        if self.error_code & NestedError.ID:
            return AccessType.EXECUTE
        return AccessType.WRITE if self.error_code & NestedError.WR else AccessType.READ

    @property
    def withheld(self) -> bool:
        """Whether a right was withheld, where others are granted."""
        return bool(self.error_code & NestedError.P)


@dataclass(frozen=True, slots=True)
class Violation:
    """An EPT violation by an access, where no right is granted at all unless `present`.

    With `table` it was the walk's own, to a guest entry. `qualification` is the exit's.
    """

    gpa: int
    access: AccessType
    present: bool = True
    table: bool = False
    qualification: int | None = field(default=None, compare=False)

    def __str__(self) -> str:
        access = "walk" if self.table else _ACCESSES[self.access]
        nothing = "" if self.present else ", nothing granted"
        known = self.qualification
        more = "" if known is None else f", qualification {known:#x}"
        return f"EPT violation at {self.gpa:#x}, {access}{nothing}{more}"

    @property
    def withheld(self) -> bool:
        """Whether a right was withheld, where others are granted."""
        return self.present


@dataclass(frozen=True, slots=True)
class VmExited:
    """A VM exit of another kind, by `what` did it, without the instruction's effect."""

    what: str

    def __str__(self) -> str:
        return f"VM exit: {self.what}"


@dataclass(frozen=True, slots=True)
class Intercepted:
    """An exit by an intercept, without the instruction's effect. `detail` says more."""

    code: int
    error_code: int = field(default=0, compare=False)
    detail: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"intercept {exit_name(self.code)}"


@dataclass(frozen=True, slots=True)
class DeliveryRefused:
    """The host, delivering an exception, refused to write its frame. `detail` says why."""

    detail: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"delivery refused: {self.detail}"


@dataclass(frozen=True, slots=True)
class Refused:
    """A hypercall that the host refuses; no nested entry changes."""

    answer: IntEnum

    def __str__(self) -> str:
        return f"hypercall refused: {self.answer.name}"


@dataclass(frozen=True, slots=True)
class Granted:
    """A request for protection that is granted, and `more` frames get more than they asked for."""

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
    """The attack works; `value` is what its last action gives, None where that doesn't matter."""

    value: int | None = None

    def __str__(self) -> str:
        return "NOT STOPPED" if self.value is None else f"NOT STOPPED, gave {self.value:#x}"


@dataclass(frozen=True, slots=True)
class NotBuilt:
    """The guest has nothing to build the attack of: it was never run. `why` says what it lacks."""

    why: str

    def __str__(self) -> str:
        return f"not built: {self.why}"


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


Result = (
    NestedFault
    | Violation
    | VmExited
    | Intercepted
    | DeliveryRefused
    | Refused
    | Granted
    | GuestFault
    | NotStopped
    | NotBuilt
    | Crash
    | Other
)


@dataclass(frozen=True, slots=True)
class Attack(Generic[Program]):
    """One row of an attack table: the program, and the result expected under protection.

    `why`: the reason why an attack isn't stopped. Without `pinned` it runs under a host that pins
    no control register. `keeps_grants`: no frame's permission is changed by it. `reason`: words
    that a refused hypercall's reason has to contain.
    """

    name: str
    program: Program
    expected: Result
    why: str = ""
    pinned: bool = True
    keeps_grants: bool = True
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Attacked(Generic[Program]):
    """An attack's results: under protection, and without, None where that wasn't tried."""

    attack: Attack[Program]
    result: Result
    unprotected: Result | None = None

    @property
    def works_unprotected(self) -> bool:
        """Whether the attack works where nothing is protected; else stopping it proves nothing."""
        return self.unprotected is None or isinstance(self.unprotected, NotStopped)

    @property
    def as_expected(self) -> bool:
        """Whether the result under protection is the expected one."""
        return self.result == self.attack.expected

    @property
    def built(self) -> bool:
        """Whether the attack was run at all; else it shows nothing."""
        return not isinstance(self.result, NotBuilt)

    @property
    def wrong(self) -> list[str]:
        """What isn't as it should be, in words; nothing of an attack that wasn't built."""
        if not self.built:
            return []
        found = [] if self.as_expected else [f"{self.result}, not {self.attack.expected}"]
        if not self.works_unprotected:
            found.append(f"where nothing is protected: {self.unprotected}")
        return [f"{self.attack.name}: {each}" for each in found]


class Subject(Protocol[Program]):
    """A protected guest that attacks run in, each from the same state."""

    def restore(self, *, protected: bool = True, pinned: bool = True) -> None:
        """Put guest and host back to where attacks begin.

        Without `protected` nothing is withheld, without `pinned` no control register is pinned.
        """
        ...

    def run(self, attack: Attack[Program]) -> Result:
        """Run an attack in the guest, just restored."""
        ...


def run_attack(
    subject: Subject[Program], attack: Attack[Program], *, protected: bool = True
) -> Result:
    """Run an attack from the state where attacks begin."""
    subject.restore(protected=protected, pinned=protected and attack.pinned)
    return subject.run(attack)


def run_attacks(
    subject: Subject[Program],
    attacks: Iterable[Attack[Program]],
    *,
    unprotected: Callable[[Attack[Program]], bool] = lambda _: True,
    lacking: Callable[[Attack[Program]], str] = lambda _: "",
    crashes: Crashes | None = None,
) -> Iterator[Attacked[Program]]:
    """Run each attack without protection, where `unprotected` says so, and then with it.

    `lacking` says what the guest lacks for an attack, which isn't built then, or nothing. One that
    is expected to crash the emulator runs in a child process, by `crashes`. The subject is restored
    at the end.
    """
    crashes = emulator_crashes if crashes is None else crashes
    for attack in attacks:
        if why := lacking(attack):
            yield Attacked(attack, NotBuilt(why))
            continue
        bare = run_attack(subject, attack, protected=False) if unprotected(attack) else None
        if isinstance(attack.expected, Crash):
            died_of = crashes(partial(run_attack, subject, attack))
            result: Result = Crash() if died_of else Other("the emulator lives")
        else:
            result = run_attack(subject, attack)
        yield Attacked(attack, result, bare)
    subject.restore()


def emulator_crashes(work: Callable[[], object]) -> str | None:
    """Do work in a child process; return what the child died of, None if it lived."""

    def quiet() -> None:
        faulthandler.disable()  # An expected crash is no news.
        work()

    try:
        contained(quiet)
    except EmulatorCrash as error:
        return str(error)
    return None


def exit_result(left: Exit, detail: str = "") -> NestedFault | Intercepted:
    """Return the result of an attack that an exit stopped."""
    if left.code == ExitCode.NPF and left.gpa is not None:
        return NestedFault(left.gpa, left.error_code, detail)
    return Intercepted(left.code, left.error_code, detail)


def violation_result(left: EptViolation) -> Violation:
    """Return the result of an attack that an EPT violation stopped."""
    made = left.qualification
    access = AccessType.EXECUTE if made & Qualification.FETCH else AccessType.READ
    if made & Qualification.WRITE:
        access = AccessType.WRITE
    return Violation(
        left.gpa,
        access,
        present=bool(made & _EPT_RIGHTS),
        table=not made & Qualification.PAGE,
        qualification=made,
    )
