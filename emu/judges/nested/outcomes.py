"""What became of an access, from how the guest was left and what has changed in memory."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.judges.judge import ELSEWHERE, Reason, Unjudged
from crosswalk.emu.judges.nested.code import access_at, done_at
from crosswalk.emu.judges.nested.workspace import SIGN, Workspace
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.architecture import Vector
from crosswalk.walker.memory import FRAME
from crosswalk.walker.nested.outcome import EptViolation, HostFault, NestedOutcome
from crosswalk.walker.outcome import Entries, GeneralProtection, PageFault, Translation

__all__ = ["Left", "Made", "canonical", "outcome_of", "sign_of", "stored_byte", "word_of"]


@dataclass(frozen=True, slots=True)
class Left:
    """How the guest was left: an exception, what the host's tables say, or `what` it was else.

    `error_code` and `address` are those of the exception `vector`; the address is CR2 of a page
    fault. RIP is that of the instruction that was left, RAX and RSI what it left. `other` is given,
    in words, where the guest wasn't entered, or has ended.
    """

    rip: int
    rax: int = 0
    rsi: int = 0
    vector: int | None = None
    error_code: int = 0
    address: int = 0
    fault: HostFault | None = None
    what: str = ""
    other: str = ""


@dataclass(frozen=True, slots=True)
class Made:
    """An access as it was made: how the guest was left, and the words changed then.

    `changed` are (address, value), by address. `again` says more, where it is needed: for a fetch
    how the guest was left by the page's sign; for a write to a byte that may have A or D, `changed`
    after a write to a later byte of the same word.
    """

    left: Left
    changed: Entries
    again: "Made | None" = None


def word_of(va: int) -> int:
    """Return the address of the word that holds an address."""
    return va & -8


def sign_of(va: int) -> int:
    """Return the address of the word that tells which frame a page is."""
    return va & -FRAME | 8 * SIGN


def canonical(va: int) -> bool:
    """Return whether an address is canonical where it has 48 bits: those above are as bit 47."""
    return va >> 47 in {0, (1 << 17) - 1}


def stored_byte(space: Workspace, va: int) -> int:
    """Return a byte for a write to `va` that no frame has there, nor, if any is left, by a walk."""
    word, place = va % FRAME // 8, va % 8
    present = {value >> 8 * place & 0xFF for value in space.words[:, word].tolist()}
    marks = _MARKS.get(place, ())
    changed = {byte | more for byte in present for more in marks}
    free = [each for each in range(0x100) if each not in present]
    return next((each for each in free if each not in changed), free[0])


_MARKS = {0: (0x20, 0x40, 0x60), 1: (1, 2, 3)}
"""A and D by the byte of an entry that has them: the guest's and those of NPT, those of EPT."""


def outcome_of(
    space: Workspace, access: Access, made: Made, stored: int, *, jumped: bool, baseline: Entries
) -> NestedOutcome | Reason:
    """Return the outcome of an access, or why it tells none.

    `stored` is what a write stored; `jumped`: a fetch was made by the jump. `baseline` are the
    words that are changed before any access is made. An access that went where nothing tells of it
    has `ELSEWHERE` for its `pa`.
    """
    left = made.left
    if left.other:
        return Reason(Unjudged.ENDED, left.other)
    fetched = access.type is AccessType.EXECUTE and not jumped
    at = access.va if fetched else access_at(access)
    found: NestedOutcome | None = None
    if left.rip == at:
        found = _fault(access, made, baseline, fetched=fetched)
    if found is None and fetched:
        return _fetched(space, access, made)
    if found is None and left.vector == Vector.UD and not jumped and left.rip == done_at(access):
        if access.type is AccessType.READ:
            return _read(space, access, made)
        return _written(space, access, made, stored)
    if found is None:
        how = f"the access ends otherwise: {_how(left)}"
        return Reason(Unjudged.ENDED, how, f"{how} at {left.rip:#x}")
    return found


def _fault(access: Access, made: Made, baseline: Entries, *, fetched: bool) -> NestedOutcome | None:
    """Return the fault that the instruction has left the guest with, None for another event.

    An instruction that was fetched may fault on its own account: at an address that isn't that of
    the fetch, or with #GP where that has a canonical one.
    """
    left = made.left
    if left.fault is not None:
        gla = left.fault.gla if isinstance(left.fault, EptViolation) else access.va
        return None if fetched and gla != access.va else replace(left.fault, entries=made.changed)
    if left.vector == Vector.PF and not (fetched and left.address != access.va):
        return PageFault(left.error_code, left.address, made.changed)
    if left.vector == Vector.GP and not left.error_code and not (fetched and canonical(access.va)):
        return GeneralProtection(_without(made.changed, baseline))
    return None


def _without(changed: Entries, baseline: Entries) -> Entries:
    known = set(baseline)
    return tuple(each for each in changed if each not in known)


def _fetched(space: Workspace, access: Access, made: Made) -> NestedOutcome:
    """Return where a fetch went: to the frame whose sign has left its code in EAX."""
    again = None if made.again is None else made.again.left
    frame = None
    if again is not None and again.vector == Vector.DB:
        codes = space.words[:, SIGN] >> np.uint64(8) & np.uint64(0xFFFF_FFFF)
        found = space.marks[:, SIGN] & (codes == np.uint64(again.rax & 0xFFFF_FFFF))
        frame = _only(space, found)
    return Translation(_within(frame, access.va), entries=made.changed)


def _read(space: Workspace, access: Access, made: Made) -> NestedOutcome:
    """Return where a read went: to the frame that has the sign that was read behind it."""
    left, now = made.left, dict(made.changed)
    signs = space.words[:, SIGN].copy()
    for at in now.keys() & set((space.starts + np.uint64(8 * SIGN)).tolist()):
        signs[space.frame(at)] = now[at]
    pa = _within(_only(space, signs == np.uint64(left.rsi)), access.va)
    word = now.get(word_of(pa), space.memory.word(word_of(pa)) if pa != ELSEWHERE else None)
    if word is None or word >> access.va % 8 * 8 & 0xFF != left.rax & 0xFF:
        pa = ELSEWHERE
    return Translation(pa, entries=made.changed)


def _only(space: Workspace, found: NDArray[np.bool_]) -> int | None:
    """Return the address of the one frame that was found, None for none and for several."""
    frames = np.flatnonzero(found).tolist()
    return int(space.starts[frames[0]]) if len(frames) == 1 else None


def _within(frame: int | None, va: int) -> int:
    return ELSEWHERE if frame is None else frame | va % FRAME


def _written(space: Workspace, access: Access, made: Made, stored: int) -> NestedOutcome:
    """Return where a write went: to the one word that has what was stored where it was to go."""
    found = _holding(made.changed, access.va, stored)
    if len(found) != 1:
        return Translation(ELSEWHERE, entries=made.changed)
    at = found[0]
    before = space.memory.word(at) or 0
    mask, now = 0xFF << access.va % 8 * 8, dict(made.changed)
    # What the walk changed in the byte that was stored is seen after a write to another one.
    again = before if made.again is None else dict(made.again.changed).get(at, before)
    now[at] = now[at] & ~mask | again & mask
    entries = tuple((pa, value) for pa, value in now.items() if pa != at or value != before)
    return Translation(at | access.va % 8, entries=entries)


def _holding(changed: Entries, va: int, stored: int) -> list[int]:
    """Return the addresses of the words that have a byte at the place of `va`."""
    return [
        at
        for at, value in changed
        if at % FRAME == word_of(va) % FRAME and value >> va % 8 * 8 & 0xFF == stored
    ]


def _how(left: Left) -> str:
    if left.fault is not None:
        return type(left.fault).__name__
    return left.what if left.vector is None else f"vector {left.vector}"
