"""The rules: what is granted, and how a nested fault is handled; functions of facts.

Frames are counted from physical address 0. The kernel's own mappings decide once, when it has
write-protected its text and its read-only data; what is sealed then stays sealed.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from crosswalk.emu.protect.permissions import ALL, Bools, Permissions
from crosswalk.walker.protection.pagelist import Permission

__all__ = ["Cause", "FaultFacts", "Grants", "decide", "grant", "grant_each", "may"]


@dataclass(frozen=True, slots=True)
class Grants:
    """What nested tables grant each frame when protection begins, and which frames are sealed.

    Sealed frames lie in the kernel's image, were mapped and weren't writable; `text` are those of
    them that are executable (where all mapped frames are: that are in sections of code, if the
    image's are named). `tables` served as paging structures at that moment, `image` are all
    frames of the image, `kept` those of its data that are never freed.
    """

    permissions: Permissions
    sealed: Bools
    text: Bools
    tables: Bools
    image: Bools
    kept: Bools


class Cause(StrEnum):
    """The rule that decides a nested fault."""

    PATCHED = "text patching: open until CR3 is next written"
    LOADED = "patching of code loaded outside the image: open until CR3 is next written"
    FREED = "sealed outside the image, and freed since by the kernel: granted"
    FOLLOWED = "not sealed, and writable by the kernel's present tables: granted"
    USER_CODE = "user code in a sealed frame that isn't writable: granted"
    LOADED_CODE = "code that the kernel loaded and sealed, executed by the kernel: granted"
    PROCESS_CODE = "a process's code, in a frame that is neither sealed nor kept data: granted"
    REFUSED = "beyond what the mappings allow: refused"


@dataclass(frozen=True, slots=True)
class FaultFacts:
    """The facts of a nested fault; an access that is neither `write` nor `fetch` is a read.

    `in_text` says whether the instruction is in sealed text, `window` whether the address written
    to is one of at most two 4-KiB pages that alone are mapped in the lower half, none of them for
    the user. `writable`, `loaded` and `user_code` are what tables have of the frame: that it is
    writable somewhere, in the kernel's own or the present ones; that it is executable in the
    kernel's own, and not writable there; that the address is one where a user may execute it.
    `freed`: it was sealed outside the image until now.
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
    freed: bool = False


def may(permissions: Permissions, permission: Permission) -> Bools:
    """Return which frames have this permission."""
    found: Bools = permissions & np.uint8(permission) != 0
    return found


def grant(collective: Permissions, image: Bools, kept: Bools, tables: Bools) -> Grants:
    """Return what to grant, by the permissions that each frame's mappings allow together.

    `image` are the frames of the kernel's image, `kept` those of its data that are never freed,
    `tables` those in use as tables. Writing is withheld wherever no mapping has it. Execution is
    withheld only from frames that can't become tables: those of the image that aren't writable, and
    kept data that is no table.
    """
    writable, executable = may(collective, Permission.WRITE), may(collective, Permission.EXECUTE)
    sealed = image & ~writable & (collective != 0)
    no_execution = ~executable & ~tables & (sealed | (kept & image))
    permissions = np.full_like(collective, ALL)
    permissions[~writable] &= ~np.uint8(Permission.WRITE)
    permissions[no_execution] &= ~np.uint8(Permission.EXECUTE)
    return Grants(permissions, sealed, sealed & executable, tables, image, kept & image)


def grant_each(
    collective: Permissions, image: Bools, kept: Bools, tables: Bools, *, executes: int
) -> Grants:
    """Return what to grant where any frame can lose execution, tables too: as EPT can.

    `executes` are the bits of a permission that are rights to execute. Every frame can be read;
    writing and execution are withheld wherever no mapping has them. The rest as for `grant`.
    """
    writable = may(collective, Permission.WRITE)
    permissions = collective & np.uint8(Permission.WRITE | executes) | np.uint8(Permission.READ)
    sealed = image & ~writable & (collective != 0)
    text = sealed & may(collective, Permission.EXECUTE)
    return Grants(permissions, sealed, text, tables, image, kept & image)


def decide(
    fault: FaultFacts, *, sealed: bool, text: bool, kept: bool, later: bool = False
) -> Cause:
    """Return the rule for a nested fault at a frame; `kept` as in Grants.

    So are `sealed` and `text`, but of a frame that wasn't sealed when protection began (`later`)
    they say that it was when it turned read-only, and that it is code.
    """
    if fault.write:
        return _store(fault, sealed=sealed, text=text, later=later)
    if not fault.fetch:
        return Cause.REFUSED
    if fault.cpl == 0:
        return Cause.LOADED_CODE if sealed and text and later else Cause.REFUSED
    if fault.cpl == 3 and fault.user_code:
        if sealed and not later and not text and not fault.writable:
            return Cause.USER_CODE
        if not sealed and not kept:
            return Cause.PROCESS_CODE
    return Cause.REFUSED


def _store(fault: FaultFacts, *, sealed: bool, text: bool, later: bool) -> Cause:
    if text or (fault.loaded and not sealed):
        patching = fault.cpl == 0 and fault.write_protect and not fault.interrupts
        if not (patching and fault.in_text and fault.window):
            return Cause.REFUSED
        return Cause.PATCHED if sealed and not later else Cause.LOADED
    if sealed or not fault.writable:
        return Cause.REFUSED
    return Cause.FREED if fault.freed else Cause.FOLLOWED
