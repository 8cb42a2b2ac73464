"""A campaign's folder: a case file for each finding, and the state to go on from."""

import base64
import os
from pathlib import Path

import msgspec

from emu.fuzz.campaign.plan import Plan
from walker.errors import BadInput

__all__ = ["Found", "State", "Store"]

_FORMAT = "crosswalk-fuzz/1"
_STATE = "state.json"


class Found(msgspec.Struct, forbid_unknown_fields=True):
    """A finding: its signature in words, how often it was met, and the layout that first did."""

    signature: str
    count: int
    layout: int


class State(msgspec.Struct, forbid_unknown_fields=True):
    """What the first `layouts` layouts came to.

    `seen` are the packed maps of what had been seen at the end of the last rounds, the last one
    last, in base64. `findings` are by the slug of their signature.
    """

    plan: dict[str, str | int | bool | None]
    layouts: int = 0
    probes: int = 0
    divergent: int = 0
    known: dict[str, int] = {}
    findings: dict[str, Found] = {}
    seen: list[str] = []
    seconds: float = 0.0
    parts: dict[str, float] = {}
    format: str = _FORMAT


class Store:
    """The folder at `path`; without one, nothing is kept."""

    def __init__(self, path: Path | None, plan: Plan) -> None:
        self._path = path
        self._plan: dict[str, str | int | bool | None] = {
            "seed": plan.seed,
            "accesses": plan.accesses,
            "guided": plan.guided,
            "walker": plan.walker,
            "claims": plan.claims,
        }
        if plan.source is not None:
            self._plan["tables"] = plan.tables

    def load(self) -> State:
        """Return the state to go on from; `BadInput` for another campaign's, or none at all."""
        if self._path is None or not (self._path / _STATE).exists():
            return State(self._plan)
        path = self._path / _STATE
        try:
            state = msgspec.json.decode(path.read_bytes(), type=State)
        except (OSError, msgspec.MsgspecError) as error:
            raise BadInput(f"{path}: {error}") from error
        if (state.format, state.plan) != (_FORMAT, self._plan):
            raise BadInput(f"{path}: of another campaign ({_told(state.plan)})")
        return state

    def save(self, state: State) -> None:
        """Write the state, as a whole or not at all."""
        if self._path is not None:
            data = msgspec.json.format(msgspec.json.encode(state, order="sorted"))
            self._write(self._path / _STATE, data + b"\n")

    def case_path(self, slug: str) -> Path | None:
        """Return where a finding's case is, or would be."""
        return None if self._path is None else self._path / "findings" / f"{slug}.json"

    def keep(self, slug: str, case: bytes) -> None:
        """Write a finding's case, as a whole or not at all."""
        path = self.case_path(slug)
        if path is not None:
            self._write(path, case)

    def _write(self, path: Path, data: bytes) -> None:
        partial = path.with_name(path.name + ".partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:
            raise BadInput(f"{path}: {error.strerror}") from error


def pack(seen: bytes) -> str:
    """Return a packed map as text."""
    return base64.b64encode(seen).decode()


def unpack(text: str) -> bytes:
    """Return the packed map that `pack` made text of."""
    return base64.b64decode(text)


def _told(plan: dict[str, str | int | bool | None]) -> str:
    return ", ".join(f"{name} {value}" for name, value in plan.items() if value is not None)
