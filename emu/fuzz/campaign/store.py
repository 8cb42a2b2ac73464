"""A campaign's folder: a case file for each finding, and the state to go on from.

    state.json              the state
    findings/NAME.json      a case for each finding
    gone/NAME.json          cases of findings that the walker doesn't show any more
    lock                    held while a campaign runs

Whatever is written is there as a whole or not at all, and survives a loss of power
(`crosswalk.walker.formats.files`).
"""

import fcntl
import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec

from crosswalk.emu.fuzz.campaign.cases import FINDINGS, GONE, LOCK, STATE, is_own
from crosswalk.emu.fuzz.campaign.plan import Plan
from crosswalk.emu.fuzz.campaign.state import (
    State,
    check_names,
    decode_state,
    encode_state,
    identity,
    is_slug,
)
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.files import PARTIAL, read_file, synchronise, write_file

__all__ = ["Store", "digest", "require_own_folder", "slug_of"]

_ELSEWHERE = "choose another folder with --corpus, or remove this one"
_ANEW = "--fresh begins anew there, --corpus names another folder"
_LONGEST = 60
_FORMAT = "crosswalk-fuzz/"


class _Names(msgspec.Struct):
    """What is read of the state of any release: which files are a campaign's own."""

    format: str
    findings: dict[str, object] = {}
    gone: dict[str, object] = {}


def require_own_folder(folder: Path) -> None:
    """Raise `BadInput` for a folder that holds other files, and no campaign.

    One that a killed campaign left without a state is its own, and so is one with campaigns of
    several walkers below it.
    """
    try:
        others = [each for each in folder.iterdir() if not is_own(each)] if folder.is_dir() else []
        held = (folder / STATE).exists() or any(map(_holds_campaign, others))
    except OSError as error:
        raise BadInput(f"{error.filename or folder}: {error.strerror}") from error
    if others and not held:
        raise BadInput(
            f"{folder}: holds other files, and no campaign: choose another folder with --corpus"
        )


def _holds_campaign(folder: Path) -> bool:
    return (folder / LOCK).is_file() and (folder / FINDINGS).is_dir()


class Store:
    """The folder at `path`; without one, nothing is kept beyond the object.

    With `fresh`, what a campaign left there is removed first.
    """

    def __init__(self, path: Path | None, plan: Plan, *, fresh: bool = False) -> None:
        self._path, self._fresh = path, fresh
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
        path = self._path / STATE
        if not path.exists():
            return State(self._identity)
        data = read_file(path)
        if self._fresh:
            self._remove(path, data)
            return State(self._identity)
        try:
            state = decode_state(data)
            other = state.plan != self._identity
            if not other:
                check_names(state)
        except BadInput as error:
            what_then = _ELSEWHERE if _own_names(data) is None else _ANEW
            raise BadInput(f"{path}: {error}; {what_then}") from error
        if other:
            differ = _differences(state.plan, self._identity)
            raise BadInput(f"{path}: of another campaign ({differ}); {_ANEW}")
        for slug in state.gone:
            self.retire(slug)  # A killed campaign may have said so, and not done it.
        return state

    def _remove(self, path: Path, data: bytes) -> None:
        """Remove the files of the campaign whose state this is, of whichever release."""
        names = _own_names(data)
        if names is None:
            raise BadInput(f"{path}: not the state of a campaign; {_ELSEWHERE}")
        slugs = [each for each in (*names.findings, *names.gone) if is_slug(each)]
        with _named_errors(path):
            for folder in (FINDINGS, GONE):
                for slug in slugs:
                    (path.parent / folder / f"{slug}.json").unlink(missing_ok=True)
            path.unlink()  # Last: what is killed before that can be done again.

    def save(self, state: State) -> None:
        """Write the state."""
        if self._path is not None:
            self._write(self._path / STATE, encode_state(state))

    def case_path(self, slug: str) -> Path | None:
        """Return where a finding's case is, or would be."""
        return None if self._path is None else self._path / FINDINGS / f"{slug}.json"

    def gone_path(self, slug: str) -> Path | None:
        """Return where the case of a finding is that is gone."""
        return None if self._path is None else self._path / GONE / f"{slug}.json"

    def retire(self, slug: str) -> None:
        """Move the case of a finding to those that are gone, where that isn't done yet."""
        path, gone = self.case_path(slug), self.gone_path(slug)
        if path is None or gone is None:
            self._cases.pop(slug, None)
        elif path.exists():
            with _named_errors(path):
                gone.parent.mkdir(exist_ok=True)
                path.replace(gone)
                synchronise(path.parent)
                synchronise(gone.parent)

    def drop(self, slug: str) -> None:
        """Remove the case of a finding."""
        path = self.case_path(slug)
        if path is None:
            self._cases.pop(slug, None)
        else:
            with _named_errors(path):
                path.unlink(missing_ok=True)

    def keep(self, slug: str, case: bytes) -> None:
        """Write a finding's case."""
        path = self.case_path(slug)
        if path is None:
            self._cases[slug] = case
        else:
            self._write(path, case)
            with _named_errors(path):
                (path.parents[1] / GONE / path.name).unlink(missing_ok=True)

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
            (folder / FINDINGS).mkdir(parents=True, exist_ok=True)
            synchronise(folder.absolute().parent)
            synchronise(folder)
            self._lock = (folder / LOCK).open("ab")
            try:
                # A lock of this process, not of its children: one that outlives it holds nothing.
                fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                self.close()
                raise BadInput(
                    f"{folder}: another campaign is running in it; wait, or choose another "
                    "folder with --corpus"
                ) from error
            for partial in (*folder.glob(f"*{PARTIAL}"), *folder.glob(f"{FINDINGS}/*{PARTIAL}")):
                partial.unlink()
        except OSError as error:
            self.close()
            raise BadInput(f"{error.filename or folder}: {error.strerror}") from error

    def _write(self, path: Path, data: bytes) -> None:
        try:
            write_file(path, data)
        except BadInput as error:
            raise BadInput(f"{error}; the same command goes on when it can be written") from error


def _own_names(data: bytes) -> _Names | None:
    """Return the names in the state of a campaign of any release; None for any other file."""
    try:
        names = msgspec.json.decode(data, type=_Names)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return names if names.format.startswith(_FORMAT) else None


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Turn an error of the operating system into `BadInput` with the name of the file."""
    try:
        yield
    except OSError as error:
        raise BadInput(f"{error.filename or path}: {error.strerror}") from error


def slug_of(walker: str) -> str:
    """Return the name of a walker's own folder: its words, and of a long one a digest."""
    words = re.sub(r"[^a-z0-9]+", "-", walker.lower()).strip("-")
    if len(words) <= _LONGEST:
        return words or "walker"
    return f"{words[:_LONGEST].rstrip('-')}-{hashlib.sha256(walker.encode()).hexdigest()[:8]}"


def digest(case: bytes) -> str:
    """Return what tells one case file from another."""
    return hashlib.sha256(case).hexdigest()


def _differences(theirs: Mapping[str, object], ours: Mapping[str, object]) -> str:
    return ", ".join(
        f"{name} {_worded(theirs.get(name), ours.get(name))} there, "
        f"{_worded(ours.get(name), theirs.get(name))} here"
        for name in sorted({*theirs, *ours})
        if theirs.get(name) != ours.get(name)
    )


def _worded(value: object, other: object) -> str:
    """Return a value in words: what a plan doesn't name, but another one does, is off, or none."""
    if isinstance(value, bool) or (value is None and isinstance(other, bool)):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
