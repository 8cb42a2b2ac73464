"""How far a campaign is, as its folder keeps it."""

import base64
import binascii
import re
from typing import Annotated, Any, Literal

import msgspec

from crosswalk.emu.check.departures import is_name
from crosswalk.emu.fuzz.campaign.plan import LAG, ROUND, Plan
from crosswalk.emu.fuzz.campaign.version import release, source_digest
from crosswalk.emu.fuzz.coverage import CoverageMap
from crosswalk.emu.fuzz.judged import judge_version
from crosswalk.emu.probe import LACKS
from crosswalk.emu.targets import Capability
from crosswalk.emu.targets.origin import origin_digest
from crosswalk.emu.targets.tally import Tally
from crosswalk.walker.context import PagingMode
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.documents import Count
from crosswalk.walker.formats.located_errors import one_line

__all__ = [
    "Found",
    "State",
    "check_names",
    "decode_state",
    "encode_state",
    "identity",
    "is_slug",
    "made_of",
    "new_cells",
    "note_tally",
    "pack",
    "tally_of",
    "unpack",
]

_ALL = "all"
_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class Found(msgspec.Struct, forbid_unknown_fields=True):
    """A finding: its signature in words, how often it occurred, and the first layout with it.

    `layout` is None for one that was kept when the walker changed, and was asked again, but isn't
    met yet in the layouts that begin anew. `witness` is who disagrees, as in the signature.
    `case`: whether there is a case file of it.
    `again` is the command that shows it again: `replay`, `judge`, `reduce`, or `fuzz` with the
    layouts.
    `reduced` is the SHA-256 of its case file once that has been made small, or can't be; it is
    noted before the file is written. `alone`: whether that shows it, as far as it was tried.
    """

    signature: str
    witness: str
    count: Count
    layout: Count | None
    reduced: str | None = None
    case: bool = True
    again: Literal["replay", "reduce", "fuzz", "judge"] = "replay"
    alone: bool = True


class State(msgspec.Struct, forbid_unknown_fields=True):
    """The sums of the first `layouts` layouts, `lost` of which gave no result.

    The counts are those of `crosswalk.emu.fuzz.executor.LayoutResult`.

    `questions` has, by paging mode and claim (`all` for the walker as a whole), how many a walker
    under test was asked, answered and declined.

    `seen` is the packed coverage map, in base64; `growth` has (layout, cells) for each
    layout that showed cells which none before it had. `rounds` are those at the end of
    the last `LAG` complete rounds, the last one last. `findings` are by the slug of their
    signature; so are the signatures in `gone`, of findings that the walker doesn't show any more.
    `made_of` are digests of what decides besides the plan: Crosswalk's sources, and the files of
    the walker under test, and what a judge says of itself. Only `seconds` and `parts` are from a
    clock.
    """

    plan: dict[str, str | int | bool | None]
    layouts: Count = 0
    lost: Count = 0
    probes: Count = 0
    divergent: Count = 0
    known: dict[str, Count] = {}
    predicted_only: dict[str, Count] = {}
    not_asked: dict[str, Count] = {}
    masked: Count = 0
    copied: Count = 0
    not_shown: dict[str, Count] = {}
    not_exportable: dict[str, Count] = {}
    unproved: Count = 0
    questions: dict[str, dict[str, tuple[Count, Count, Count]]] = {}
    findings: dict[str, Found] = {}
    gone: dict[str, str] = {}
    made_of: dict[str, str] = {}
    seen: str | None = None
    growth: list[tuple[Count, Count]] = []
    rounds: list[str] = []
    seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    parts: dict[str, float] = {}
    format: Literal["crosswalk-fuzz/1"] = "crosswalk-fuzz/1"


def new_cells(state: State) -> tuple[int, int | None]:
    """Return how many cells the last tenth of the layouts added, and which layout the last one."""
    start = state.layouts - max(1, state.layouts // 10)
    late = sum(count for layout, count in state.growth if layout >= start)
    return late, state.growth[-1][0] if state.growth else None


def tally_of(state: State) -> Tally:
    """Return the questions to the walker under test; `BadInput` for modes and claims unknown."""
    modes = {mode.slug: mode for mode in PagingMode}
    claims: dict[str, Capability | None] = {each.value: each for each in Capability} | {_ALL: None}
    tally = Tally()
    for mode, rows in state.questions.items():
        for claim, counts in rows.items():
            if mode not in modes or claim not in claims:
                raise BadInput(f"not the state of a campaign: it counts {one_line(claim)!r}")
            key = modes[mode], claims[claim]
            tally.asked[key], tally.answered[key], tally.declined[key] = counts
    return tally


def note_tally(state: State, tally: Tally) -> None:
    """Have a state count these questions."""
    state.questions = {}
    for key in sorted(tally.asked, key=lambda each: (each[0].value, str(each[1]))):
        mode, claim = key
        counts = tally.asked[key], tally.answered[key], tally.declined[key]
        state.questions.setdefault(mode.slug, {})[_ALL if claim is None else claim.value] = counts


def identity(plan: Plan) -> dict[str, Any]:
    """Return what two runs have to share to be one campaign: the plan, and the project's version.

    Another version makes other layouts of the same seed.
    """
    return {
        "seed": plan.seed,
        "accesses": plan.accesses,
        "guided": plan.guided,
        "walker": plan.walker,
        "claims": plan.claims,
        **plan.choice.named(),
        # As before there were such, where there are none.
        **({"portable": True} if plan.choice.portable else {}),
        **({} if plan.judge is None else {"judge": plan.judge}),
        # Not where the tables come from, but which they are.
        "tables": plan.tables,
        "version": release(),
    }


def made_of(plan: Plan) -> dict[str, str]:
    """Return digests of what may change within a campaign: then its layouts begin anew."""
    digests = {"crosswalk": source_digest()}
    if plan.walker is not None:
        digests["walker"] = origin_digest(plan.walker)
    if plan.judge is not None:
        digests["judge"] = judge_version(plan.judge)
    return digests


def encode_state(state: State) -> bytes:
    """Return a state as JSON, equal for equal states."""
    return msgspec.json.format(msgspec.json.encode(state, order="sorted")) + b"\n"


def decode_state(data: bytes) -> State:
    """Return the state that `data` holds; `BadInput` for what no campaign has written."""
    try:
        state = msgspec.json.decode(data, type=State)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadInput(f"not the state of a campaign: {one_line(str(error))}") from error
    late = any(layout >= state.layouts for layout, _ in state.growth)
    if late or len(state.rounds) != min(LAG, state.layouts // ROUND):
        raise BadInput("not the state of a campaign: its numbers don't fit one another")
    for text in (state.seen, *state.rounds):
        if text is not None:
            CoverageMap.unpack(unpack(text))
    for slug, found in state.findings.items():
        late = found.layout is not None and found.layout >= state.layouts
        if not is_slug(slug) or late:
            raise BadInput(f"not the state of a campaign: finding {one_line(slug)!r}")
    for slug in state.gone:
        if not is_slug(slug):
            raise BadInput(f"not the state of a campaign: finding {one_line(slug)!r}")
    return state


def check_names(state: State) -> None:
    """Raise `BadInput` where a state of this version counts something by an unknown name."""
    unknown = [name for name in state.known if not is_name(name)]
    unknown += [name for name in state.predicted_only if name not in LACKS]
    if unknown:
        raise BadInput(f"not the state of a campaign: it counts {one_line(unknown[0])!r}")
    tally_of(state)


def is_slug(text: str) -> bool:
    """Return whether a text can be the slug of a signature, and so a file's name."""
    return _SLUG.fullmatch(text) is not None


def pack(seen: bytes) -> str:
    """Return a packed map as text."""
    return base64.b64encode(seen).decode()


def unpack(text: str) -> bytes:
    """Return the packed map that `pack` made text of; `BadInput` for other text."""
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise BadInput(f"coverage: {error}") from error
