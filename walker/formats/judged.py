"""What judges said, as JSON: of a probe, of a composite, of a sequence, and who they are.

Judges are the machines that `crosswalk judge` asks, by what its `--with` calls them.
"""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from crosswalk.walker.context import Vendor
from crosswalk.walker.formats.documents import Document, Hex32, Hex64, OutcomeJson, Words

__all__ = [
    "AnswerJson",
    "JudgeJson",
    "JudgedCompositeJson",
    "JudgedCpuJson",
    "JudgedJson",
    "JudgedSequenceJson",
    "JudgesJson",
    "NoAnswerJson",
    "VerdictName",
]

VerdictName = Literal["agreed", "diverged", "known", "not_shown", "not_exportable", "ended", "lost"]
"""What came of a probe: the first three have an outcome."""


class JudgedCpuJson(Document, frozen=True):
    """The CPU that a judge says it has, for which the outcomes are predicted."""

    vendor: Vendor
    maxphyaddr: Annotated[int, Meta(ge=32, le=52)]
    page1gb: bool


class JudgeJson(Document, frozen=True):
    """A judge: what it says of itself, and the CPU that it had for this document."""

    version: str
    cpu: JudgedCpuJson


JudgesJson = dict[str, JudgeJson]
"""The judges of a document, by name."""


class AnswerJson(Document, frozen=True, tag_field="outcome", kw_only=True):
    """An outcome, and whether it agrees with what is predicted for the judge's CPU.

    `known` are the registered departures of the judge that explain it. `predicted` is there where
    it isn't the document's own prediction, which is for the CPU that the document names.
    """

    verdict: Literal["agreed", "diverged", "known"]
    known: str | UnsetType = UNSET
    predicted: OutcomeJson | UnsetType = UNSET
    entries: Words | UnsetType = UNSET


class JudgedOkJson(AnswerJson, frozen=True, tag="ok"):
    """An access that reached `pa`, or that succeeded and nobody could show where."""

    pa: Hex64 | UnsetType = UNSET


class JudgedFaultJson(AnswerJson, frozen=True, tag="page_fault"):
    """A page fault."""

    error_code: Hex32
    cr2: Hex64


class JudgedProtectionJson(AnswerJson, frozen=True, tag="general_protection"):
    """A general-protection fault."""


class NoAnswerJson(Document, frozen=True, tag_field="outcome"):
    """That there is no outcome, and why."""

    why: str


class NotShownJson(NoAnswerJson, frozen=True, tag="not_shown"):
    """This judge can't show it: no such feature, no RAM there."""


class NotExportableJson(NoAnswerJson, frozen=True, tag="not_exportable"):
    """No machine can be asked."""


class EndedJson(NoAnswerJson, frozen=True, tag="ended"):
    """The judge died, hung or flooded at it."""


class LostJson(NoAnswerJson, frozen=True, tag="lost"):
    """Somebody else ended the judge, or it never came so far."""


JudgedJson = (
    JudgedOkJson
    | JudgedFaultJson
    | JudgedProtectionJson
    | NotShownJson
    | NotExportableJson
    | EndedJson
    | LostJson
)
"""What a judge said of a probe."""


class _SeveralJson(Document, frozen=True, kw_only=True):
    """What a judge said of several accesses: their `outcomes`, or `why` there are none."""

    verdict: VerdictName
    known: str | UnsetType = UNSET
    why: str | UnsetType = UNSET
    outcomes: list[OutcomeJson] | UnsetType = UNSET


class JudgedCompositeJson(_SeveralJson, frozen=True, kw_only=True):
    """What a judge said of a composite; `entries` are the words changed in the end."""

    entries: Words | UnsetType = UNSET


class JudgedSequenceJson(_SeveralJson, frozen=True, kw_only=True):
    """What a judge said of a sequence's accesses, in order.

    `halted` is what a step raised that is no access; `causes` are the rules of caching that the
    first outcome breaks that isn't allowed.
    """

    halted: str | UnsetType = UNSET
    causes: list[str] | UnsetType = UNSET
