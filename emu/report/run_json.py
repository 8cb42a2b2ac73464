"""What `run --json` prints, as types: of a kernel as the guest, and of the built-in guest."""

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from crosswalk.emu.cpu.delivery import mnemonic
from crosswalk.emu.cpu.events import Kind
from crosswalk.emu.load.failure import LastState
from crosswalk.emu.pc.results import Delivered, Stop
from crosswalk.emu.report.expectations import ExpectationsJson
from crosswalk.walker.formats.documents import Count, Document, Hex32, Hex64

__all__ = [
    "BlamedJson",
    "FailureJson",
    "NestedPointJson",
    "PointJson",
    "RunBuiltInJson",
    "RunJson",
    "SummaryJson",
    "UnansweredJson",
    "UnfollowedJson",
    "failure_document",
]

Counts = dict[str, Count]
"""How often, by name."""

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

Level = Annotated[int, Meta(ge=0, le=3)]
"""A privilege level."""

Seconds = Annotated[float, Meta(ge=0)]


class UnfollowedJson(Document, frozen=True):
    """Entries that can't be followed: their table isn't in memory, or a reserved bit is set."""

    outside: Count
    reserved: Count


class SummaryJson(Document, frozen=True, kw_only=True):
    """What was probed, and what that came to; `probes` is the sum of the next three."""

    probes: Count
    agreements: Count
    divergences: Count
    known_divergences: Count
    predicted_only: Counts
    not_asked: Counts
    mappings: Count
    unfollowed: UnfollowedJson
    assumed: list[str]
    seconds: Seconds


class NestedPointJson(Document, frozen=True, kw_only=True):
    """The nested tables of a guest's own hypervisor; with `unread` they couldn't be looked at."""

    vmcb: Hex64
    ncr3: Hex64
    cr3: Hex64
    running: bool
    unread: str | UnsetType = UNSET
    pages: Count | UnsetType = UNSET
    addresses: Count | UnsetType = UNSET
    probes: Count | UnsetType = UNSET
    agreements: Count | UnsetType = UNSET
    divergences: Count | UnsetType = UNSET
    known_divergences: Count | UnsetType = UNSET
    known: Counts | UnsetType = UNSET
    outcomes: Counts | UnsetType = UNSET
    not_asked: Counts | UnsetType = UNSET
    unreached: Count | UnsetType = UNSET


class PointJson(SummaryJson, frozen=True, kw_only=True):
    """What was found at a point of a boot.

    `tables` says who made those in use; `levels` are those of paging: 2 in 32-bit paging, 3 in PAE;
    with `unread` there were no tables to look at. `kernel_root` is the kernel's, where `cr3` is
    user mode's own. `known` and `under` count the probes that a known divergence explains, and
    those under each root.
    """

    point: str
    boot_seconds: Seconds
    events: Count
    system_calls: Count
    user_space: bool
    cr3: Hex64 | None
    tables: Literal["loader", "loader-changed", "guest"] | None
    levels: Annotated[int, Meta(ge=2, le=5)] | None
    kernel_root: Hex64 | UnsetType = UNSET
    writable_executable: Count
    peak_mib: Count
    known: Counts
    under: Counts
    unread: str | UnsetType = UNSET
    nested: NestedPointJson | UnsetType = UNSET
    expectations: ExpectationsJson | UnsetType = UNSET


class GuestJson(Document, frozen=True, kw_only=True):
    """What a guest is: its format, the physical address of its entry, its own version."""

    format: str
    entry: Hex64
    release: str | UnsetType = UNSET


class UnansweredJson(Document, frozen=True, kw_only=True):
    """Accesses to hardware that isn't there, `size` in bytes, and the code that asked first."""

    target: Literal["port", "MSR", "physical address"]
    address: Hex64
    access: Literal["read", "write"]
    size: Count
    count: Count
    rip: Hex64
    symbol: str | None


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


class StoreJson(Document, frozen=True, kw_only=True):
    """A store to a word, in `times` parts: the instruction, and when it was."""

    before: Hex64
    after: Hex64
    rip: Hex64
    symbol: str | None
    return_addresses: list[str]
    cpl: Level
    cr3: Hex64
    times: Count
    seconds: Seconds
    events: Count
    system_calls: Count
    lines: Count
    line: str


class CopiedJson(Document, frozen=True, kw_only=True):
    """A word that a store's value was copied from, and the store to it; null where none is kept."""

    pa: Hex64
    store: StoreJson | None


class EntryStoreJson(StoreJson, frozen=True, kw_only=True):
    """A store to an entry, maybe from before it was one; and what it was copied from, in turn."""

    before_table: bool
    copied: list[CopiedJson]


class BlamedEntryJson(Document, frozen=True, kw_only=True):
    """An entry of a walk, and the last of the stores to it; none of it outside RAM."""

    level: Annotated[int, Meta(ge=1, le=5)]
    name: str
    pa: Hex64
    entry: Hex64
    kind: str
    loader: Hex64 | UnsetType = UNSET
    last: Hex64 | UnsetType = UNSET
    count: Count | UnsetType = UNSET
    stores: list[EntryStoreJson] | UnsetType = UNSET


class BlamedWalkJson(Document, frozen=True, kw_only=True):
    """The entries that an address is walked by."""

    va: Hex64
    entries: list[BlamedEntryJson]


class BlamedJson(Document, frozen=True, kw_only=True):
    """Who wrote the entries of a target of --blame, in the address space of `cr3`."""

    target: str
    cr3: Hex64
    more_mappings: Count
    walks: list[BlamedWalkJson]


class RunJson(SummaryJson, frozen=True, kw_only=True):
    """What `run --guest` and `run --kernel` print: all points of a boot, and their sums.

    `guest_exit` is what the guest exited with. With `failure` it failed: the points are those that
    it got to.
    """

    format: Literal["crosswalk-run/1"]
    guest: GuestJson
    points: list[PointJson]
    guest_exit: Count | UnsetType = UNSET
    failure: FailureJson | UnsetType = UNSET
    blame: list[BlamedJson] | UnsetType = UNSET
    unanswered: list[UnansweredJson]
    verdict: str
    reproduce: str


class RunBuiltInJson(SummaryJson, frozen=True, kw_only=True):
    """What `run` prints of the built-in guest: what it intended, too, and its exceptions."""

    format: Literal["crosswalk-run/1"]
    known: Counts
    under: Counts
    intended_pages: Count
    broken_intentions: Count
    guest_exceptions: Counts
    expectations: ExpectationsJson | UnsetType = UNSET
    verdict: str
    reproduce: str


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


def failure_document(message: str, state: LastState, not_reached: Sequence[str]) -> FailureJson:
    """Return a failure as a document: its one line, the state, and the points not reached."""
    return FailureJson(
        kind=_KINDS[state.ended.stop],
        message=message,
        not_reached=list(not_reached),
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
