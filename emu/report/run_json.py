"""What `run --json` prints, as types: of a kernel as the guest, and of the built-in guest."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from crosswalk.emu.report.expectations import ExpectationsJson
from crosswalk.emu.report.failure_json import EndedJson, FailureJson, Level
from crosswalk.walker.formats.documents import Count, Document, Hex64

__all__ = [
    "BlamedJson",
    "NestedPointJson",
    "PointJson",
    "RunBuiltInJson",
    "RunEndedJson",
    "RunJson",
    "SummaryJson",
    "UnansweredJson",
    "UnfollowedJson",
]

Counts = dict[str, Count]
"""How often, by name."""

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


_CHECKED = [
    *("pages", "addresses", "probes", "agreements", "divergences", "known_divergences"),
    *("known", "outcomes", "not_asked", "unreached"),
]
NestedPoint = Annotated[
    NestedPointJson,
    Meta(extra_json_schema={"oneOf": [{"required": ["unread"]}, {"required": _CHECKED}]}),
]
"""Either it couldn't be looked at, or all of what was found is there."""


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
    nested: NestedPoint | UnsetType = UNSET
    expectations: ExpectationsJson | UnsetType = UNSET


_TABLES = ("cr3", "tables", "levels")
Point = Annotated[
    PointJson,
    Meta(
        extra_json_schema={
            "oneOf": [
                {"properties": {each: {"not": {"type": "null"}} for each in _TABLES}},
                {
                    "properties": {each: {"type": "null"} for each in _TABLES},
                    "required": ["unread"],
                },
            ]
        }
    ),
]
"""One with tables, or without any."""


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


_STORED = ("loader", "last", "count", "stores")
BlamedEntry = Annotated[
    BlamedEntryJson,
    Meta(
        extra_json_schema={
            "dependentRequired": {
                each: [other for other in _STORED if other != each] for each in _STORED
            }
        }
    ),
]
"""One outside RAM, or with all that is known of its stores."""


class BlamedWalkJson(Document, frozen=True, kw_only=True):
    """The entries that an address is walked by."""

    va: Hex64
    entries: list[BlamedEntry]


class BlamedJson(Document, frozen=True, kw_only=True):
    """Who wrote the entries of a target of --blame, in the address space of `cr3`."""

    target: str
    cr3: Hex64
    more_mappings: Count
    walks: list[BlamedWalkJson]


class _BootJson(SummaryJson, frozen=True, kw_only=True):
    format: Literal["crosswalk-run/1"]
    guest: GuestJson
    points: list[Point]
    guest_exit: Count | UnsetType = UNSET
    blame: list[BlamedJson] | UnsetType = UNSET
    unanswered: list[UnansweredJson]
    verdict: str
    reproduce: str


class RunJson(_BootJson, frozen=True, kw_only=True):
    """What `run --guest` and `run --kernel` print: all points of a boot, and their sums.

    `guest_exit` is what the guest exited with. With `failure` it failed: the points are those that
    it got to.
    """

    failure: FailureJson | UnsetType = UNSET


class RunEndedJson(_BootJson, frozen=True, kw_only=True):
    """The same of a run that was ended, and of which nothing is kept: no points, no state."""

    failure: EndedJson


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
