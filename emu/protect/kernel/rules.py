"""What is granted, and what is made of a nested fault: the policy, as functions of facts.

Frames are counted from physical address 0. The kernel's own mappings decide at one moment, when
it has write-protected its text and its read-only data; what is sealed then stays as it is.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.frames import Frames
from crosswalk.walker.memory import FRAME
from crosswalk.walker.rights import Rights

__all__ = ["Cause", "Fault", "Grants", "Wanted", "decide", "granted", "wanted"]

Bools = NDArray[np.bool_]
_WRITE = Rights.SUPERVISOR_WRITE | Rights.USER_WRITE
_EXECUTE = Rights.SUPERVISOR_EXECUTE | Rights.USER_EXECUTE


@dataclass(frozen=True, slots=True)
class Wanted:
    """What all mappings of each frame together allow: `mapped`, `writable`, `executable` bool[n].

    Frames that nothing maps have no rights.
    """

    mapped: Bools
    writable: Bools
    executable: Bools


@dataclass(frozen=True, slots=True)
class Grants:
    """What nested tables grant each frame, and what is sealed: bool[n] each.

    Sealed frames lie in the kernel's image and weren't writable; `text` are those of them that
    are executable. `tables` served as paging structures at that moment, `image` are all frames of
    the image.
    """

    writable: Bools
    executable: Bools
    sealed: Bools
    text: Bools
    tables: Bools
    image: Bools


class Cause(StrEnum):
    """What a nested fault was, and what follows."""

    PATCHED = "text patching: open until CR3 is next written"
    LOADED = "patching of code loaded outside the image: open until CR3 is next written"
    FOLLOWED = "not sealed, and writable by the kernel's present tables: granted"
    USER_CODE = "user code in a sealed frame that isn't writable: granted"
    REFUSED = "beyond what the mappings allow: refused"


@dataclass(frozen=True, slots=True)
class Fault:
    """The facts of a nested fault; an access that is neither `write` nor `fetch` is a read.

    `in_text` says whether the instruction is in sealed text, `window` whether the address written
    to is one of at most two 4-KiB pages that alone are mapped in the lower half, none of them for
    the user. `writable`, `loaded` and `user_code` are what tables have of the frame: that it is
    writable somewhere, in the kernel's own or the present ones; that it is executable in the
    kernel's own, and not writable there; that the address is one where a user may execute it.
    """

    write: bool
    fetch: bool
    cpl: int
    write_protect: bool
    interrupts: bool
    in_text: bool
    window: bool
    writable: bool
    loaded: bool
    user_code: bool


def wanted(frames: Frames, count: int) -> Wanted:
    """Return the collective rights frame by frame, of `count` frames."""
    result = Wanted(*(np.zeros(count, np.bool_) for _ in range(3)))
    for start, size, rights in frames:
        span = slice(start // FRAME, (start + size) // FRAME)
        result.mapped[span] = True
        result.writable[span] = bool(rights & _WRITE)
        result.executable[span] = bool(rights & _EXECUTE)
    return result


def granted(want: Wanted, image: Bools, kept: Bools, tables: Bools) -> Grants:
    """Return what to grant. `image` are the frames of the kernel's image.

    `kept` are those of its data that are never freed, `tables` those in use as tables. Writing is
    withheld wherever no mapping has it. Execution is withheld only from frames that can't come to
    serve as tables: what isn't writable in the image, and data that is kept and is no table.
    """
    sealed = image & ~want.writable
    no_execution = ~want.executable & ~tables & (sealed | (kept & image))
    return Grants(
        writable=want.writable.copy(),
        executable=~no_execution,
        sealed=sealed,
        text=sealed & want.executable,
        tables=tables,
        image=image,
    )


def decide(fault: Fault, *, sealed: bool, text: bool) -> Cause:
    """Return what to make of a nested fault at a frame that is `sealed`, or not, and `text`."""
    if fault.write and (text or (fault.loaded and not sealed)):
        patching = fault.cpl == 0 and fault.write_protect and not fault.interrupts
        if not (patching and fault.in_text and fault.window):
            return Cause.REFUSED
        return Cause.PATCHED if sealed else Cause.LOADED
    if fault.write and not sealed:
        return Cause.FOLLOWED if fault.writable else Cause.REFUSED
    if fault.fetch and sealed and fault.cpl == 3 and fault.user_code and not fault.writable:
        return Cause.USER_CODE
    return Cause.REFUSED
