"""How far a campaign is, as its folder keeps it."""

import base64
import binascii
import re
from dataclasses import asdict
from typing import Any, Literal

import msgspec

from crosswalk.emu.fuzz.campaign.plan import LAG, ROUND, Plan
from crosswalk.emu.fuzz.campaign.version import release
from crosswalk.emu.fuzz.coverage import CoverageMap
from crosswalk.walker.errors import BadInput

__all__ = [
    "FORMAT",
    "Found",
    "State",
    "decode_state",
    "encode_state",
    "identity",
    "new_cells",
    "pack",
    "unpack",
]

FORMAT = "crosswalk-fuzz/1"

_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class Found(msgspec.Struct, forbid_unknown_fields=True):
    """A finding: its signature in words, how often it was met, and the layout that first did.

    `witness` is who disagrees, as in the signature. `case`: whether there is a case file of it.
    `again` is the command that shows it again: `replay`, `reduce`, or `fuzz` with the layouts.
    `reduced` is the SHA-256 of its case file once that has been made small, or can't be; it is
    noted before the file is written.
    """

    signature: str
    witness: str
    count: int
    layout: int
    reduced: str | None = None
    case: bool = True
    again: Literal["replay", "reduce", "fuzz"] = "replay"


class State(msgspec.Struct, forbid_unknown_fields=True):
    """What the first `layouts` layouts came to; `lost` of them gave no result.

    The counts are those of `crosswalk.emu.fuzz.executor.LayoutResult`.

    `seen` is the packed map of what has been seen, in base64; `growth` has (layout, cells) for each
    layout that showed cells which none before it had. `rounds` are those at the end of
    the last `LAG` complete rounds, the last one last. `findings` are by the slug of their
    signature. Only `seconds` and `parts` are from a clock.
    """

    plan: dict[str, str | int | bool | None]
    layouts: int = 0
    lost: int = 0
    probes: int = 0
    divergent: int = 0
    known: dict[str, int] = {}
    predicted_only: dict[str, int] = {}
    not_asked: dict[str, int] = {}
    masked: int = 0
    copied: int = 0
    answered: int = 0
    declined: int = 0
    findings: dict[str, Found] = {}
    seen: str | None = None
    growth: list[tuple[int, int]] = []
    rounds: list[str] = []
    seconds: float = 0.0
    parts: dict[str, float] = {}
    format: str = FORMAT


def new_cells(state: State) -> tuple[int, int | None]:
    """Return how many cells the last tenth of the layouts added, and which layout the last one."""
    start = state.layouts - max(1, state.layouts // 10)
    late = sum(count for layout, count in state.growth if layout >= start)
    return late, state.growth[-1][0] if state.growth else None


def identity(plan: Plan) -> dict[str, Any]:
    """Return what two runs have to share to be one campaign: the plan, and the project's version.

    Another version makes other layouts of the same seed.
    """
    apart = ("limits", "source")
    shared = {name: value for name, value in asdict(plan).items() if name not in apart}
    # Not where the tables come from, but which they are.
    return {**shared, "tables": plan.tables, "version": release()}


def encode_state(state: State) -> bytes:
    """Return a state as JSON, equal for equal states."""
    return msgspec.json.format(msgspec.json.encode(state, order="sorted")) + b"\n"


def decode_state(data: bytes) -> State:
    """Return the state that `data` holds; `BadInput` for what no campaign has written."""
    try:
        state = msgspec.json.decode(data, type=State)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadInput(f"not the state of a campaign: {error}") from error
    if state.format != FORMAT:
        raise BadInput(f"format {state.format!r} is not {FORMAT!r}")
    numbers = [state.layouts, state.lost, state.probes, state.divergent]
    numbers += [state.masked, state.copied, state.answered, state.declined]
    for counts in (state.known, state.predicted_only, state.not_asked):
        numbers += counts.values()
    if min(numbers) < 0 or len(state.rounds) != min(LAG, state.layouts // ROUND):
        raise BadInput("not the state of a campaign: its numbers don't fit one another")
    for text in (state.seen, *state.rounds):
        if text is not None:
            CoverageMap.unpack(unpack(text))
    for slug, found in state.findings.items():
        if not _SLUG.fullmatch(slug) or not 0 <= found.layout < state.layouts:
            raise BadInput(f"not the state of a campaign: finding {slug!r}")
    return state


def pack(seen: bytes) -> str:
    """Return a packed map as text."""
    return base64.b64encode(seen).decode()


def unpack(text: str) -> bytes:
    """Return the packed map that `pack` made text of; `BadInput` for other text."""
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise BadInput(f"coverage: {error}") from error
