"""What `protect --json` prints, as types: crosswalk-protect/1, for each kind of what is protected.

A document of a guest names no format of its own: `format` is that of the guest's file.
"""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from crosswalk.emu.report.expectations import ExpectationsJson, Rwx
from crosswalk.emu.report.failure_json import EndedJson, FailureJson
from crosswalk.emu.report.run_json import BlamedJson, SummaryJson
from crosswalk.walker.formats.documents import Count, Document, Hex64

__all__ = [
    "ProtectBeyondJson",
    "ProtectBuiltInJson",
    "ProtectEndedJson",
    "ProtectFailedJson",
    "ProtectGuestJson",
    "ProtectKernelEptJson",
    "ProtectKernelJson",
    "ProtectSourceJson",
]

Counts = dict[str, Count]
"""How often, or how many bytes, by name."""

Seconds = Annotated[float, Meta(ge=0)]
TableKindName = Literal["npt", "ept", "ept-mbec"]


class _ExpectedJson(SummaryJson, frozen=True, kw_only=True):
    expectations: ExpectationsJson | UnsetType = UNSET
    reproduce: str


class FramesJson(Document, frozen=True, kw_only=True):
    """Numbers of frames when protection began: all; by collective rights; withheld; of a kind."""

    frames: Count
    read_only: Count
    read_write: Count
    read_execute: Count
    all_three: Count
    no_write: Count
    no_execute: Count
    sealed: Count
    text: Count
    tables: Count
    image: Count


class SinceJson(Document, frozen=True, kw_only=True):
    """What became of frames outside the image since protection began."""

    loaded_frames_patched: Count
    granted: Count
    withdrawn: Count
    withdrawals: Count
    stale: Count
    sealed: Count
    freed: Count
    late: Count
    unsealed: Count
    process_code: Count | UnsetType = UNSET


class CheckJson(Document, frozen=True, kw_only=True):
    """Something that has to hold, and whether it did."""

    text: str
    holds: bool


_NULL, _TRUTH, _EMPTY = {"type": "null"}, {"type": "boolean"}, {"const": ""}
_BUILT = {"not_built": _EMPTY, "unprotected": _TRUTH, "as_meant": _TRUTH}
_BY_NOTHING = {"stopped_by": _NULL, "error_code": _NULL, "gpa": _NULL}
_STOPPED = {"protected": {"const": False}, "why_not": _EMPTY}
_FAULTS = ["NPF", "EPT_VIOLATION"]
_SHAPES = [
    {
        **_BUILT,
        **_STOPPED,
        "stopped_by": {"enum": _FAULTS},
        "error_code": {"type": "integer"},
        "gpa": {"type": "string"},
    },
    {
        **_BUILT,
        **_STOPPED,
        "stopped_by": {"type": "string", "not": {"enum": _FAULTS}},
        "gpa": _NULL,
    },
    # It ends in another way: by the guest's own fault, or the emulator's.
    {**_BUILT, **_STOPPED, **_BY_NOTHING},
    {**_BUILT, **_BY_NOTHING, "protected": {"const": True}},
    {
        **_BY_NOTHING,
        "not_built": {"minLength": 1},
        "why_not": _EMPTY,
        "unprotected": _NULL,
        "protected": _NULL,
        "as_meant": _NULL,
    },
]
"""The rows of attacks that there are: each is of one of these shapes."""


class AttackJson(Document, frozen=True, kw_only=True):
    """An attack: whether it succeeds without protection and with it, and what stops it.

    `error_code` is that of the exit, or its qualification under EPT; `why_not` says why one that
    succeeds isn't stopped. One that couldn't be built, for the reason of `not_built`, has null for
    the rest.
    """

    name: str
    does: str
    unprotected: bool | None
    protected: bool | None
    stopped_by: str | None
    error_code: Count | None
    gpa: Hex64 | None
    detail: str
    why_not: str
    as_meant: bool | None
    not_built: str


Attack = Annotated[
    AttackJson,
    Meta(extra_json_schema={"oneOf": [{"properties": each} for each in _SHAPES]}),
]
"""An attack of a shape that there is."""


class AttackCountsJson(Document, frozen=True, kw_only=True):
    """How many attacks were stopped, weren't, and couldn't be built."""

    stopped: Count
    not_stopped: Count
    not_built: Count


class RefusedJson(Document, frozen=True, kw_only=True):
    """An exit that the host refused, which ended the run: `error_code`, or EPT's qualification."""

    exit: str
    error_code: Count | UnsetType = UNSET
    qualification: Count | UnsetType = UNSET
    gpa: Count | None
    rip: Count
    cpl: Annotated[int, Meta(ge=0, le=3)]
    detail: str


_CAUSES = [
    {"type": "null"},
    {"type": "object", "required": ["error_code"]},
    {"type": "object", "required": ["qualification"]},
]
Refused = Annotated[RefusedJson | None, Meta(extra_json_schema={"oneOf": _CAUSES})]
"""One that has the one or the other, or none at all."""


class ProtectedJson(_ExpectedJson, frozen=True, kw_only=True):
    """A guest that was protected from a point on, run to its end, and attacked.

    `probes` are the checks; `exits_before` and `exits` count exits by name until protection began
    and since; `nested_faults` are those of `exits` by cause. `pinned` are the registers whose bits
    were kept. `refused` is the exit that ended the run, if one did.
    """

    protect_at: str
    frames: FramesJson
    nested_tables: Count
    pinned: dict[str, list[str]]
    exits_before: Counts
    exits: Counts
    nested_faults: Counts
    refused: Refused
    patched_frames: Count
    since: SinceJson
    isolated: bool
    rights_steps: Count
    sealed_outside_at_first: Count
    flushes: Count
    flush_seconds: Seconds
    policy_seconds: Seconds
    checks: list[CheckJson]
    attacks: list[Attack]
    attack_counts: AttackCountsJson
    blame: list[BlamedJson] | UnsetType = UNSET


class ProtectKernelJson(ProtectedJson, frozen=True, kw_only=True):
    """Of `protect --kernel`: under AMD's nested paging, beside a boot without it."""

    plain_seconds: Seconds
    nested_seconds: Seconds
    slowdown: Seconds
    slowdown_early: Seconds


class ProtectKernelEptJson(ProtectedJson, frozen=True, kw_only=True):
    """Of `protect --kernel --tables ept`: under Intel's EPT, in another machine."""

    known: Counts
    tables: TableKindName
    machine: str
    ticks: Count
    early_seconds: Seconds
    late_seconds: Seconds


class ProtectGuestJson(ProtectedJson, frozen=True, kw_only=True):
    """Of `protect --guest`: `guest` is the file's name, `format` what it is."""

    guest: str
    format: str
    until: str
    guest_exit: Count | None
    plain_seconds: Seconds
    nested_seconds: Seconds
    slowdown: Seconds


class ScenarioAttackJson(Document, frozen=True, kw_only=True):
    """An attack on the built-in guest: what is expected, and what came of it."""

    name: str
    expected: str
    outcome: str
    as_expected: bool
    why: str


class UnprotectedJson(Document, frozen=True, kw_only=True):
    """What came of an attack where nothing was withheld."""

    name: str
    outcome: str


class UpdateJson(Document, frozen=True, kw_only=True):
    """A step of the built-in guest's further life, and what its probes found wrong."""

    name: str
    answer: str
    frames_changed: Count
    probes: Count
    wrong: list[str]


class ProtectBuiltInJson(_ExpectedJson, frozen=True, kw_only=True):
    """Of `protect` without SOURCE: the built-in guest; `machine` is another one than Unicorn."""

    tables: TableKindName | UnsetType = UNSET
    machine: str | UnsetType = UNSET
    known_departures: Counts | UnsetType = UNSET
    entries_asked: Count
    frames_asked_for_with_less: Count
    frames: Counts
    frames_executable_for_the_emulator: Count
    nested_tables: Count
    pages_outside_ram_not_tried: Count
    attacks: list[ScenarioAttackJson]
    unprotected: list[UnprotectedJson]
    lifecycle: list[UpdateJson]


class ProtectFailedJson(SummaryJson, frozen=True, kw_only=True):
    """Of a guest that didn't get to its end: nothing is counted, and its last state is there."""

    failure: FailureJson
    verdict: str
    reproduce: str


class ProtectEndedJson(SummaryJson, frozen=True, kw_only=True):
    """The same where no last state is kept."""

    failure: EndedJson
    verdict: str
    reproduce: str


class RightsJson(Document, frozen=True, kw_only=True):
    """What the supervisor and the user may do."""

    supervisor: Rwx
    user: Rwx


class RightsSizeJson(RightsJson, frozen=True, kw_only=True):
    """How many bytes of RAM have these collective rights."""

    size: Count


class TablesSizeJson(Document, frozen=True, kw_only=True):
    """Bytes of paging structures, and how many of them no mapping may write."""

    size: Count
    read_only: Count


class MappingJson(Document, frozen=True, kw_only=True):
    """A mapping, as `walk` has it; one of several address spaces with its root."""

    root: Hex64 | UnsetType = UNSET
    roots: Count | UnsetType = UNSET
    va: Hex64
    pa: Hex64
    size: Count
    level: Annotated[int, Meta(ge=1, le=5)]
    flags: Hex64
    rights: RightsJson


class ExposedRangeJson(RightsJson, frozen=True, kw_only=True):
    """A range that is written and executed, and the mappings that allow either."""

    pa: Hex64
    size: Count
    writers: list[MappingJson]
    executors: list[MappingJson]


class ExposedJson(Document, frozen=True, kw_only=True):
    """Ranges that may be both written and executed."""

    ranges: Count
    within_one_privilege: Count
    size: Count
    largest: list[ExposedRangeJson]


class RegionRangeJson(RightsJson, frozen=True, kw_only=True):
    """A range with other rights `without` a region's mappings."""

    pa: Hex64
    size: Count
    without: RightsJson


class RegionJson(Document, frozen=True, kw_only=True):
    """A linear region, all of whose mappings have one offset, and what it alone allows."""

    offset: Hex64
    va: Hex64
    end: Annotated[str, Meta(pattern=r"^0x[0-9a-f]{1,17}\Z")]
    mappings: Count
    ram: Count
    alone: Count
    non_writable_without: Count
    non_executable_without: Count
    w_xor_x_without: Count
    largest: list[RegionRangeJson]


class InexpressibleSizeJson(Document, frozen=True, kw_only=True):
    """How many bytes a kind of table grants more than is wanted."""

    wanted: list[str]
    beyond: list[str]
    size: Count


class RootJson(Document, frozen=True, kw_only=True):
    """An address space that was looked at."""

    cr3: Hex64
    mode: str
    mappings: Count


class AssumptionJson(Document, frozen=True, kw_only=True):
    """Bits of a register that is assumed, with which so many ranges fewer are found."""

    register: str
    bits: list[str]
    ranges: Count


class _SourceJson(_ExpectedJson, frozen=True, kw_only=True):
    ram: Count
    roots: list[RootJson]
    known_roots: Count | None
    strays: Count
    unsearched: str
    by_assumption: AssumptionJson | None


class ProtectSourceJson(_SourceJson, frozen=True, kw_only=True):
    """Of `protect SOURCE`: what a policy makes of a memory; nothing is probed. Sizes in bytes."""

    kind: TableKindName
    unmapped: Count
    outside: Count
    granted: dict[str, Count]
    read_only: Count
    no_execute: Count
    both: Count
    neither: Count
    rights: list[RightsSizeJson]
    paging_structures: TablesSizeJson
    writable_executable: ExposedJson
    regions: list[RegionJson]
    regions_unlisted: str
    inexpressible: dict[str, list[InexpressibleSizeJson]]


class ChangedJson(RightsJson, frozen=True, kw_only=True):
    """Bytes whose mappings allow the one, and which a way of enforcing grants the other."""

    granted: RightsJson
    size: Count


class EnforcerJson(Document, frozen=True, kw_only=True):
    """A way of enforcing rights, and how many bytes it grants each right beyond them."""

    name: str
    beyond: Counts
    changed: list[ChangedJson]


class ProtectBeyondJson(_SourceJson, frozen=True, kw_only=True):
    """Of `protect SOURCE --beyond`: what each way of enforcing rights grants beyond them."""

    mapped: Count
    enforcers: list[EnforcerJson]
