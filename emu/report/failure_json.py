"""Why a guest didn't get to its end, as types: in the documents of `run` and `protect`."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from crosswalk.emu.cpu.delivery import mnemonic
from crosswalk.emu.cpu.events import Kind
from crosswalk.emu.load.failure import GuestFailure, LastState
from crosswalk.emu.pc.results import Delivered, Stop
from crosswalk.emu.workers.contained import EmulatorCrash
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.documents import Count, Document, Hex32, Hex64

__all__ = ["EndedJson", "FailureJson", "Level", "ended_document", "failure_document"]

FailureKind = Literal[
    "missed",
    "exited",
    "halted",
    "reset",
    "off",
    "shutdown",
    "stuck",
    "not_emulated",
    "refused",
    "timeout",
]

EndedKind = Literal["interrupted", "crashed", "unusable", "ended"]

Level = Annotated[int, Meta(ge=0, le=3)]
"""A privilege level."""


class EventJson(Document, frozen=True, kw_only=True):
    """An exception, interrupt or INT that was delivered: where it occurred, and with what.

    `error_code` is that of exceptions that push one; `cr2` the address of a page fault.
    """

    kind: str
    vector: Annotated[int, Meta(ge=0, le=255)]
    name: str | UnsetType = UNSET
    rip: Hex64
    symbol: str | None
    cpl: Level
    error_code: Hex32 | UnsetType = UNSET
    cr2: Hex64 | UnsetType = UNSET


class EventsJson(Document, frozen=True, kw_only=True):
    """How many there were, and the last of them."""

    count: Count
    last: list[EventJson]


class ConsoleJson(Document, frozen=True, kw_only=True):
    """How many lines the console had shown, and the last of them."""

    lines: Count
    last: list[str]


class CodeAddressJson(Document, frozen=True, kw_only=True):
    """A linear address of code, and what it is called."""

    address: Hex64
    symbol: str | None


class FailureJson(Document, frozen=True, kw_only=True):
    """Why a guest didn't get to its end, or failed by its own word, and the state it was in.

    `kind` is "missed" where the end came before other points, "exited" where the guest itself ended
    the run; `not_reached` are the points that weren't. `rip` is linear, and `code` are the
    instructions there, of `bits` bits. `return_addresses` are words of the stack that lie behind a
    CALL, the last one first. `screen` is the text display, line by line.
    """

    kind: FailureKind
    message: str
    not_reached: list[str]
    rip: Hex64
    symbol: str | None
    bits: Annotated[int, Meta(ge=16, le=64, multiple_of=16)]
    code: list[str]
    return_addresses: list[CodeAddressJson]
    registers: dict[str, Hex64]
    exceptions: EventsJson
    console: ConsoleJson
    screen: list[str]


class EndedJson(Document, frozen=True, kw_only=True):
    """Why a run ended of which no last state is kept.

    `kind` is "interrupted" where someone ended it, "crashed" where the emulator's process did,
    "unusable" where what it needs can't be used or isn't there, as a machine for EPT, and else
    "ended". `lines` are what the guest is known to have left behind, for people.
    """

    kind: EndedKind
    message: str
    lines: list[str]


_KINDS: dict[Stop, FailureKind] = {
    Stop.ASKED: "missed",
    Stop.EXITED: "exited",
    Stop.HALTED: "halted",
    Stop.RESET: "reset",
    Stop.OFF: "off",
    Stop.SHUTDOWN: "shutdown",
    Stop.STUCK: "stuck",
    Stop.NOT_EMULATED: "not_emulated",
    Stop.REFUSED: "refused",
    Stop.TIMEOUT: "timeout",
}
"""All ends of a run but those that are points of a boot: idle, a number of instructions."""


def failure_document(message: str, state: LastState) -> FailureJson:
    """Return a failure as a document: its one line, and the state with the points not reached."""
    return FailureJson(
        kind=_KINDS[state.ended.stop],
        message=message,
        not_reached=list(state.pending),
        rip=hex(state.rip),
        symbol=state.symbol,
        bits=state.bits,
        code=list(state.code),
        return_addresses=[
            CodeAddressJson(address=hex(address), symbol=name) for address, name in state.callers
        ],
        registers={name: hex(value) for name, value in state.registers.items()},
        exceptions=EventsJson(
            count=state.delivered,
            last=[_event(each, state.names.get(each.rip)) for each in state.events],
        ),
        console=ConsoleJson(lines=state.lines, last=list(state.console)),
        screen=list(state.screen),
    )


def _event(delivered: Delivered, symbol: str | None) -> EventJson:
    event, code = delivered.event, delivered.error_code
    return EventJson(
        kind=event.kind.value,
        vector=event.vector,
        name=mnemonic(event.vector) if event.kind is Kind.EXCEPTION else UNSET,
        rip=hex(delivered.rip),
        symbol=symbol,
        cpl=delivered.cpl,
        error_code=UNSET if code is None else hex(code),
        cr2=UNSET if delivered.cr2 is None else hex(delivered.cr2),
    )


def ended_document(error: BaseException) -> FailureJson | EndedJson:
    """Return what ended a run early: with the guest's last state, where the error has it."""
    if isinstance(error, GuestFailure) and error.state is not None:
        return failure_document(str(error), error.state)
    kind: EndedKind = "ended"
    for of, name in _ENDS.items():
        if isinstance(error, of):
            kind = name
    lines = error.lines if isinstance(error, GuestFailure) else ()
    return EndedJson(kind=kind, message=str(error) or kind, lines=list(lines))


_ENDS: dict[type[BaseException], EndedKind] = {
    KeyboardInterrupt: "interrupted",
    EmulatorCrash: "crashed",
    BadInput: "unusable",
}
