"""A campaign's folder: a case file for each finding, and the state to go on from.

Whatever is written is there as a whole or not at all, and survives a loss of power
(`crosswalk.walker.formats.files`).
"""

import fcntl
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from crosswalk.emu.fuzz.campaign.plan import Plan
from crosswalk.emu.fuzz.campaign.state import (
    State,
    check_names,
    decode_state,
    encode_state,
    identity,
)
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.files import PARTIAL, read_file, synchronise, write_file

__all__ = ["Store", "digest"]

_STATE, _LOCK, _FINDINGS = "state.json", "lock", "findings"
_ELSEWHERE = "choose another folder with --corpus, or remove this one"


class Store:
    """The folder at `path`; without one, nothing is kept beyond the object."""

    def __init__(self, path: Path | None, plan: Plan) -> None:
        self._path = path
        self._identity = identity(plan)
        self._lock: IO[bytes] | None = None
        self._cases: dict[str, bytes] = {}

    def load(self) -> State:
        """Take the folder, and return the state to go on from.

        `BadInput` for a folder that can't be written, that a running campaign has, or that holds
        another campaign's state, or none at all.
        """
        if self._path is None:
            return State(self._identity)
        self._take(self._path)
        path = self._path / _STATE
        if not path.exists():
            return State(self._identity)
        data = read_file(path)
        try:
            state = decode_state(data)
            self._check(state)
        except BadInput as error:
            raise BadInput(f"{path}: {error}; {_ELSEWHERE}") from error
        return state

    def _check(self, state: State) -> None:
        if state.plan != self._identity:
            raise BadInput(f"of another campaign ({_differences(state.plan, self._identity)})")
        check_names(state)

    def save(self, state: State) -> None:
        """Write the state."""
        if self._path is not None:
            self._write(self._path / _STATE, encode_state(state))

    def case_path(self, slug: str) -> Path | None:
        """Return where a finding's case is, or would be."""
        return None if self._path is None else self._path / _FINDINGS / f"{slug}.json"

    def keep(self, slug: str, case: bytes) -> None:
        """Write a finding's case."""
        path = self.case_path(slug)
        if path is None:
            self._cases[slug] = case
        else:
            self._write(path, case)

    def case(self, slug: str) -> bytes:
        """Return a finding's case file; `BadInput` where there is none any more."""
        path = self.case_path(slug)
        if path is None:
            return self._cases[slug]
        try:
            return read_file(path)
        except BadInput as error:
            raise BadInput(f"{error}; {_ELSEWHERE}") from error

    def close(self) -> None:
        """Leave the folder to others."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _take(self, folder: Path) -> None:
        """Make the folder, lock it, and clear away what a killed campaign left half written."""
        try:
            (folder / _FINDINGS).mkdir(parents=True, exist_ok=True)
            synchronise(folder.absolute().parent)
            synchronise(folder)
            self._lock = (folder / _LOCK).open("ab")
            try:
                # A lock of this process, not of its children: one that outlives it holds nothing.
                fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                self.close()
                raise BadInput(
                    f"{folder}: another campaign is running in it; wait, or choose another "
                    "folder with --corpus"
                ) from error
            for partial in (*folder.glob(f"*{PARTIAL}"), *folder.glob(f"{_FINDINGS}/*{PARTIAL}")):
                partial.unlink()
        except OSError as error:
            self.close()
            raise BadInput(f"{error.filename or folder}: {error.strerror}") from error

    def _write(self, path: Path, data: bytes) -> None:
        try:
            write_file(path, data)
        except BadInput as error:
            raise BadInput(f"{error}; the same command goes on when it can be written") from error


def digest(case: bytes) -> str:
    """Return what tells one case file from another."""
    return hashlib.sha256(case).hexdigest()


def _differences(theirs: Mapping[str, object], ours: Mapping[str, object]) -> str:
    return ", ".join(
        f"{name} {theirs.get(name)} there, {ours.get(name)} here"
        for name in sorted({*theirs, *ours})
        if theirs.get(name) != ours.get(name)
    )
