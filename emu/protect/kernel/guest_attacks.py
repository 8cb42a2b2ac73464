"""The attack table of any guest in 64-bit mode: what needs no knowledge of the guest.

The host puts the code of an attack into a page of the guest's that the supervisor executes, and has
forged tables lie in frames that may be written: they are the guest's own, and map all memory once
more, writable and executable, by a slot of the root that is free. What an attacker would have to do
to get so far isn't shown.

The expectations are stated by hand, from the policy and AMD APM vol. 2, "Nested versus Guest Page
Faults, Fault Ordering".
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from crosswalk.emu.cpu.svm.exits import ExitCode
from crosswalk.emu.protect.attack import (
    Attack,
    Attacked,
    Intercepted,
    NestedFault,
    NotStopped,
    run_attacks,
)
from crosswalk.emu.protect.kernel.attacks import MARK, AttackFrames, Code, attack_table
from crosswalk.emu.protect.kernel.guestwalk import entries_of, find_leaf
from crosswalk.emu.protect.kernel.injected import free_frames
from crosswalk.emu.protect.kernel.protection import Protection
from crosswalk.emu.protect.kernel.rules import may
from crosswalk.emu.protect.kernel.subject import KernelSubject
from crosswalk.guest.assembler import assemble
from crosswalk.walker.architecture import GIB
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.memory import FRAME
from crosswalk.walker.protection.pagelist import Permission

__all__ = ["GuestFrames", "attack_guest", "find_guest_frames", "guest_attacks"]

_WRITE, _FETCH = 0x7, 0x15
"""Error codes of nested page faults: P, W and U; P, U and I/D."""

_STORE = "mov rax, MARK\nmov [rbx], rax"
_NO_WP = "mov rax, cr0\nand rax, -0x10001\nmov cr0, rax"
_FORGED = "mov rax, FREE0\nmov cr3, rax"
_OWN = "mov rax, CR3\nmov cr3, rax"
# Code that stores RAX to RBX and halts.
_PLANTED = bytes.fromhex("488903 f4")
_RUN = f"{_FORGED}\nmov rbx, FORGED + RESULT\nmov rax, MARK"
_HUGE, _TABLE = 0x83, 0x3
_GIBS = 4
_ROOT_SLOTS, _HALF = 512, 256
_HIGH = (1 << 64) - (1 << 48)
_LINUX_ALONE = "it takes what is known of Linux alone"
_OF_LINUX = {
    "execute user code",
    "exception frame",
    "forge the patching window",
    "loaded code",
    "free loaded code",
    "swap rodata",
}
"""The attacks on Linux that none here corresponds to."""


@dataclass(frozen=True, slots=True)
class GuestFrames:
    """What attacks act on. A name with `_at` is a linear address, the others are physical.

    The code lies at `site`; `readonly` is a frame that may not be written, `data` one that may,
    `unexecuted` one that may not be executed; `free` are frames that may be written and are no
    tables. The tables that map `readonly` have the entries at `entries`; `slot` is free in the root
    that `cr3` names. What there is none of is 0, and `lacks` has why, by its name.
    """

    site: int
    site_at: int
    readonly: int
    readonly_at: int
    data: int
    data_at: int
    unexecuted: int
    free: tuple[int, ...]
    entries: tuple[int, ...]
    slot: int
    cr3: int
    lacks: Mapping[str, str]

    @property
    def result(self) -> int:
        """The frame that an attack stores its mark in."""
        return self.free[-1]

    @property
    def forged(self) -> int:
        """Where forged tables map physical address 0."""
        return self.slot << 39 | (_HIGH if self.slot >= _HALF else 0)


_FREE = 4


def guest_attacks(frames: GuestFrames) -> tuple[Attack[Code], ...]:
    """Return the attacks on these frames: those expected to be stopped first."""
    opened = "\n".join(
        f"mov rbx, FORGED + {entry:#x}\nor qword ptr [rbx], 2" for entry in frames.entries
    )
    written = NestedFault(frames.readonly, _WRITE)
    stored = f"mov rbx, READONLY_AT\n{_STORE}"
    return (
        Attack(
            "clear WP",
            Code(
                "CR0.WP cleared, a read-only page written", f"{_NO_WP}\n{stored}", frames.readonly
            ),
            Intercepted(ExitCode.CR0_WRITE),
        ),
        Attack(
            "write past WP",
            Code("the same where WP isn't pinned", f"{_NO_WP}\n{stored}", frames.readonly),
            written,
            pinned=False,
        ),
        Attack(
            "own entry",
            Code(
                "a read-only page made writable in its own entries, then written",
                f"{_FORGED}\n{opened}\n{_OWN}\nmov rbx, READONLY_AT\ninvlpg [rbx]\n{_STORE}",
                frames.readonly,
            ),
            written,
        ),
        Attack(
            "forge tables",
            Code(
                "CR3 set to forged tables that map all memory writable, then a read-only frame "
                "written",
                f"{_FORGED}\nmov rbx, FORGED + READONLY\n{_STORE}",
                frames.readonly,
            ),
            written,
        ),
        Attack(
            "execute data",
            Code(
                "read-only data executed through forged tables",
                f"{_RUN}\nmov rdi, FORGED + UNEXECUTED\njmp rdi",
                frames.result,
            ),
            NestedFault(frames.unexecuted, _FETCH),
        ),
        Attack(
            "clear NXE",
            Code(
                "EFER.NXE cleared",
                "mov ecx, 0xc0000080\nrdmsr\nand eax, -0x801\nwrmsr",
                None,
            ),
            Intercepted(ExitCode.MSR),
        ),
        Attack(
            "clear SMEP",
            Code("CR4.SMEP cleared", "mov rax, cr4\nand rax, -0x100001\nmov cr4, rax", None),
            Intercepted(ExitCode.CR4_WRITE),
        ),
        Attack(
            "execute free memory",
            Code(
                "code in memory that isn't executable, run through forged tables",
                f"{_RUN}\nmov rdi, FORGED + FREE2\njmp rdi",
                frames.result,
            ),
            NotStopped(),
            why="any such frame may become a table, and a table without execution takes the "
            "emulator down",
        ),
        Attack(
            "write data",
            Code("data written", f"mov rbx, DATA_AT\n{_STORE}", frames.data),
            NotStopped(),
            why="the guest's own mappings let it be written",
        ),
    )


_USES = {
    "clear WP": ("readonly", "wp"),
    "write past WP": ("readonly", "wp"),
    "own entry": ("readonly", "entries", "free"),
    "forge tables": ("readonly", "free"),
    "execute data": ("unexecuted", "free"),
    "clear NXE": ("nxe",),
    "clear SMEP": ("smep",),
    "execute free memory": ("free",),
    "write data": ("data",),
}
"""What each attack can't do without, by the names of `GuestFrames.lacks`; all need the site."""


def attack_guest(protection: Protection) -> Iterator[Attacked[Code]]:
    """Run each attack from the state that the guest is in now, in which it is left.

    One that the guest has nothing for isn't built, nor are those of Linux.
    """
    frames = find_guest_frames(protection)
    attacks = guest_attacks(frames)
    known = {attack.name for attack in attacks}
    nothing = AttackFrames(*(0, 0, 0, 0), free=(0,), user=0, user_frame=0, copier=0, root=0)
    linux = [attack for attack in attack_table(nothing) if attack.name in _OF_LINUX]

    def lacking(attack: Attack[Code]) -> str:
        if attack.name not in known:
            return _LINUX_ALONE
        uses = ("site", *_USES[attack.name])
        return next((why for name, why in frames.lacks.items() if name in uses), "")

    def plant(attack: Attack[Code]) -> Iterator[tuple[int, bytes]]:
        yield frames.site, _assembled(attack, frames)
        yield from _forged_tables(protection, frames)
        if attack.name == "execute data":
            yield frames.unexecuted, _PLANTED
        elif attack.name == "execute free memory":
            yield frames.free[2], _PLANTED

    subject = KernelSubject(protection, frames.site_at, plant)
    yield from run_attacks(subject, (*attacks, *linux), lacking=lacking)


def find_guest_frames(protection: Protection) -> GuestFrames:
    """Return what to attack in the guest, by its own tables and what is granted."""
    grants, memory, rights = protection.grants, protection.memory, protection.rights
    context = protection.context
    writable = may(grants.permissions, Permission.WRITE)
    unexecuted = np.flatnonzero(~may(grants.permissions, Permission.EXECUTE)).tolist()
    places = rights.places(grants.image)
    mapped = [
        (frame * FRAME, va, leaf)
        for frame, addresses in places.items()
        for va in addresses
        if (leaf := find_leaf(memory, context, va)) is not None
    ]
    code = [(pa, va) for pa, va, leaf in mapped if leaf.executable and not leaf.user]
    site = code[-1] if code else (0, 0)
    readonly = [(pa, va) for pa, va, leaf in mapped if not writable[pa // FRAME] and pa != site[0]]
    data = [
        (pa, va)
        for pa, va, leaf in mapped
        if leaf.writable and not grants.tables[pa // FRAME] and pa != site[0]
    ]
    free = _spare(protection, {site[0], *(pa for pa, _ in data[:1])})
    target = readonly[0] if readonly else (0, 0)
    entries = tuple(entries_of(memory, context, target[1])) if readonly else ()
    words = memory.tables(np.array([context.root & -FRAME], np.uint64))[0]
    slots = np.flatnonzero(words == 0).tolist()
    cr0, cr4, efer = (protection.pinned[name] for name in ("cr0", "cr4", "efer"))
    sealed = any(not writable[entry // FRAME] for entry in entries)
    why = {
        "site": "" if code else "the guest's image has no page that the supervisor executes",
        "readonly": "" if readonly else "writing is withheld from no page of its image",
        "entries": "a table on the way to the page is read-only itself" if sealed else "",
        "data": "" if data else "no page of its image may be written",
        "unexecuted": "" if unexecuted else "execution is withheld from no frame",
        "free": "" if len(free) == _FREE and slots else "it has no frames to forge tables in",
        "wp": "" if "WP" in cr0 else "CR0.WP is clear",
        "nxe": "" if "NXE" in efer else "EFER.NXE is clear",
        "smep": "" if "SMEP" in cr4 else "CR4.SMEP is clear",
    }
    return GuestFrames(
        site=site[0],
        site_at=site[1],
        readonly=target[0],
        readonly_at=target[1],
        data=data[0][0] if data else 0,
        data_at=data[0][1] if data else 0,
        unexecuted=unexecuted[0] * FRAME if unexecuted else 0,
        free=tuple(free) if len(free) == _FREE else (0,) * _FREE,
        entries=entries,
        slot=slots[-1] if slots else 0,
        cr3=context.cr3,
        lacks={name: each for name, each in why.items() if each},
    )


def _spare(protection: Protection, taken: set[int]) -> list[int]:
    """Return frames that may be written and are no tables: zeroed ones outside the image first."""
    grants = protection.grants
    usable = may(grants.permissions, Permission.WRITE) & ~grants.tables
    usable[[pa // FRAME for pa in taken]] = False
    found = list(free_frames(protection.memory, usable & ~grants.image))
    others = np.flatnonzero(usable & grants.image)[::-1].tolist()
    return [frame * FRAME for frame in [*found, *others][:_FREE]]


def _forged_tables(protection: Protection, frames: GuestFrames) -> Iterator[tuple[int, bytes]]:
    root = protection.root & -FRAME
    words = protection.memory.tables(np.array([root], np.uint64))[0].copy()
    words[frames.slot] = frames.free[1] | _TABLE
    yield frames.free[0], words.astype("<u8").tobytes()
    huge = [gib * GIB | _HUGE for gib in range(_GIBS)]
    yield frames.free[1], struct.pack(f"<{_GIBS}Q", *huge).ljust(FRAME, b"\0")


def _assembled(attack: Attack[Code], frames: GuestFrames) -> bytes:
    symbols = {f"FREE{number}": pa for number, pa in enumerate(frames.free)}
    symbols |= {"MARK": MARK, "CR3": frames.cr3, "FORGED": frames.forged, "RESULT": frames.result}
    symbols |= {"READONLY": frames.readonly, "READONLY_AT": frames.readonly_at}
    symbols |= {"UNEXECUTED": frames.unexecuted, "DATA_AT": frames.data_at}
    source = f"cli\n{attack.program.source}\nmov r15, MARK\nhlt"
    code = assemble(attack.name, source, bits=64, address=frames.site_at, symbols=symbols)
    if len(code) > FRAME:
        raise CrosswalkError(f"{attack.name}: {len(code)} bytes of code")
    return code
