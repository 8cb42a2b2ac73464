"""The attack table of any guest with paging: what needs no knowledge of the guest.

The host puts the code of an attack into a page of the guest's that the supervisor executes, and has
forged tables lie in frames that may be written: they are the guest's own, and map all memory once
more, writable and executable, by entries that are free. What an attacker would have to do to get
so far isn't shown.

The expectations are stated by hand, from the policy and AMD APM vol. 2, "Nested versus Guest Page
Faults, Fault Ordering".
"""

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
from crosswalk.emu.protect.kernel.attacks import (
    USED_AS_TABLES,
    WITHOUT_NX,
    AttackFrames,
    Code,
    attack_table,
    lacking,
)
from crosswalk.emu.protect.kernel.forged import ForgedTables, find_room, forged_count
from crosswalk.emu.protect.kernel.guest_code import large_pages, words_of
from crosswalk.emu.protect.kernel.guestwalk import entries_of, find_leaf
from crosswalk.emu.protect.kernel.injected import assembled, features_lacking, free_frames
from crosswalk.emu.protect.kernel.protection import Protection
from crosswalk.emu.protect.kernel.rules import may
from crosswalk.emu.protect.kernel.subject import KernelSubject
from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import level_of
from crosswalk.walker.memory import FRAME, PhysicalMemory
from crosswalk.walker.protection.pagelist import Permission

__all__ = ["GuestFrames", "attack_guest", "find_guest_frames", "guest_attacks"]

_WRITE, _FETCH = 0x7, 0x15
"""Error codes of nested page faults: P, W and U; P, U and I/D."""

_STORE = "mov rax, MARK\nmov [rbx], rax"
_NO_WP = "mov rax, cr0\nand rax, -0x10001\nmov cr0, rax"
_OWN = "mov rax, CR3\nmov cr3, rax"
_LINUX = "it takes what is known of Linux alone"
_LIKE = {
    "write past WP": {"text, direct map", "text, image"},
    "own entry": {"remap rodata"},
}
"""The attacks on Linux that one here stands for by another name."""
_NAMED = {"result": "free", "forged": "free"}
"""The field of `GuestFrames` that a symbol is of, where the names differ."""


@dataclass(frozen=True, slots=True)
class GuestFrames:
    """What attacks act on. A name with `_at` is a linear address, the others are physical.

    `context` is the paging under which it was found. The code lies at `site`; `readonly` is a frame
    that may not be written, `data` one that may, `unexecuted` one that may not be executed; `free`
    are frames that may be written and are no tables, or zeros: those that `forged` tables are
    written to come first. The tables that map `readonly` have the entries at `entries`, those with
    rights. What there is none of is 0, and `lacks` has why, by its name, or that of a feature.
    """

    context: PagingContext
    site: int
    site_at: int
    readonly: int
    readonly_at: int
    data: int
    data_at: int
    unexecuted: int
    free: tuple[int, ...]
    entries: tuple[int, ...]
    forged: ForgedTables | None
    lacks: Mapping[str, str]

    @property
    def result(self) -> int:
        """The frame that an attack stores its mark in."""
        return self.free[-1]

    @property
    def code(self) -> int:
        """The free frame that code is put in."""
        return self.free[-2]


def guest_attacks(frames: GuestFrames) -> tuple[Attack[Code], ...]:
    """Return the attacks on these frames: those expected to be stopped first."""
    forged = f"{large_pages(frames.context)}\nmov rax, FREE0\nmov cr3, rax"
    run = f"{forged}\nmov rbx, FORGED + RESULT\nmov rax, MARK"
    opened = "\n".join(
        f"mov rbx, FORGED + {entry:#x}\nor qword ptr [rbx], 2" for entry in frames.entries
    )
    written, withheld = NestedFault(frames.readonly, _WRITE), frames.context.nxe
    stored = f"mov rbx, READONLY_AT\n{_STORE}"
    return (
        Attack(
            "clear WP",
            Code(
                "CR0.WP cleared, a read-only page written",
                f"{_NO_WP}\n{stored}",
                frames.readonly,
                ("wp",),
            ),
            Intercepted(ExitCode.CR0_WRITE),
        ),
        Attack(
            "write past WP",
            Code("the same where WP isn't pinned", f"{_NO_WP}\n{stored}", frames.readonly, ("wp",)),
            written,
            pinned=False,
        ),
        Attack(
            "own entry",
            Code(
                "a read-only page made writable in its own entries, then written",
                f"{forged}\n{opened}\n{_OWN}\nmov rbx, READONLY_AT\ninvlpg [rbx]\n{_STORE}",
                frames.readonly,
                ("entries",),
            ),
            written,
        ),
        Attack(
            "forge tables",
            Code(
                "CR3 set to forged tables that map all memory writable, then a read-only frame "
                "written",
                f"{forged}\nmov rbx, FORGED + READONLY\n{_STORE}",
                frames.readonly,
            ),
            written,
        ),
        Attack(
            "execute data",
            Code(
                "read-only data executed through forged tables",
                f"{run}\nmov rdi, FORGED + UNEXECUTED\njmp rdi",
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
                ("nx",),
            ),
            Intercepted(ExitCode.MSR),
        ),
        Attack(
            "clear SMEP",
            Code(
                "CR4.SMEP cleared",
                "mov rax, cr4\nand rax, -0x100001\nmov cr4, rax",
                None,
                ("smep",),
            ),
            Intercepted(ExitCode.CR4_WRITE),
        ),
        Attack(
            "execute free memory",
            Code(
                "code in memory that isn't executable, run through forged tables"
                if withheld
                else "code in other memory, run through forged tables",
                f"{run}\nmov rdi, FORGED + FREE_CODE\njmp rdi",
                frames.result,
            ),
            NotStopped(),
            why=USED_AS_TABLES if withheld else WITHOUT_NX,
        ),
        Attack(
            "write data",
            Code("data written", f"mov rbx, DATA_AT\n{_STORE}", frames.data),
            NotStopped(),
            why="the guest's own mappings let it be written",
        ),
    )


def attack_guest(protection: Protection) -> Iterator[Attacked[Code]]:
    """Run each attack from the state that the guest is in now, in which it is left.

    One that the guest has nothing for isn't built, nor are those of Linux that none here stands
    for.
    """
    frames = find_guest_frames(protection)
    words, attacks = words_of(frames.context), guest_attacks(frames)
    names = {attack.name for attack in attacks}
    alike = names.union(*_LIKE.values())
    linux = [
        attack
        for attack in attack_table(AttackFrames(context=frames.context))
        if attack.name not in alike
    ]

    def without(attack: Attack[Code]) -> str:
        return lacking(attack.program, frames.lacks, _NAMED) if attack.name in names else _LINUX

    def plant(attack: Attack[Code]) -> Iterator[tuple[int, bytes]]:
        yield frames.site, assembled(attack, words, frames.site_at, _symbols(frames))
        if frames.forged is not None:
            yield from frames.forged.written(frames.free)
        if attack.name == "execute data":
            yield frames.unexecuted, words.store_and_halt
        elif attack.name == "execute free memory":
            yield frames.code, words.store_and_halt

    subject = KernelSubject(protection, frames.site_at, plant)
    yield from run_attacks(subject, (*attacks, *linux), lacking=without)


def find_guest_frames(protection: Protection) -> GuestFrames:
    """Return what to attack in the guest, by its own tables and what is granted."""
    grants, memory, rights = protection.grants, protection.memory, protection.rights
    context = protection.context
    writable = may(grants.permissions, Permission.WRITE)
    unexecuted = np.flatnonzero(~may(grants.permissions, Permission.EXECUTE)).tolist()
    mapped = [
        (frame * FRAME, va, leaf)
        for frame, addresses in rights.places(grants.image & ~grants.tables).items()
        for va in addresses
        if (leaf := find_leaf(memory, context, va)) is not None
    ]
    code = [(pa, va) for pa, va, leaf in mapped if leaf.executable and not leaf.user]
    site = code[-1] if code else (0, 0)
    readonly = [(pa, va) for pa, va, leaf in mapped if not writable[pa // FRAME] and pa != site[0]]
    data = [(pa, va) for pa, va, leaf in mapped if leaf.writable and pa != site[0]]
    target = readonly[0] if readonly else (0, 0)
    entries = tuple(_with_rights(memory, context, target[1])) if readonly else ()
    room = find_room(memory, context, memory.ranges[0][1])
    needed = forged_count(context) + 2  # The result's, and one with code.
    free = _spare(protection, {site[0], *(pa for pa, _ in data[:1])}, needed)
    why = {
        "site": "" if code else "the guest's image has no page that the supervisor executes",
        "readonly": "" if readonly else "writing is withheld from no page of its image",
        "entries": ""
        if all(writable[entry // FRAME] for entry in entries)
        else "a table on the way to the page is read-only itself",
        "data": "" if data else "no page of its image may be written",
        "unexecuted": "" if unexecuted else "execution is withheld from no frame",
        "free": "" if free and room else "it has no frames to forge tables in",
    }
    return GuestFrames(
        context=context,
        site=site[0],
        site_at=site[1],
        readonly=target[0],
        readonly_at=target[1],
        data=data[0][0] if data else 0,
        data_at=data[0][1] if data else 0,
        unexecuted=unexecuted[0] * FRAME if unexecuted else 0,
        free=free or (0,) * needed,
        entries=entries,
        forged=room if free else None,
        lacks={name: each for name, each in why.items() if each}
        | features_lacking(protection.pinned, context),
    )


def _with_rights(memory: PhysicalMemory, context: PagingContext, va: int) -> Iterator[int]:
    """Yield the addresses of the entries that map a page, but for those without rights."""
    numbers = range(context.levels, 0, -1)
    for number, entry in zip(numbers, entries_of(memory, context, va), strict=False):
        if level_of(context, number).restricts:
            yield entry


def _spare(protection: Protection, taken: set[int], number: int) -> tuple[int, ...]:
    """Return so many frames that may be written and are no tables, or none.

    Zeroed ones outside the image come first.
    """
    grants = protection.grants
    usable = may(grants.permissions, Permission.WRITE) & ~grants.tables
    usable[[pa // FRAME for pa in taken]] = False
    found = list(free_frames(protection.memory, usable & ~grants.image))
    others = np.flatnonzero(usable & grants.image)[::-1].tolist()
    frames = tuple(frame * FRAME for frame in [*found, *others][:number])
    return frames if len(frames) == number else ()


def _symbols(frames: GuestFrames) -> dict[str, int]:
    forged = 0 if frames.forged is None else frames.forged.address
    return {
        "FREE0": frames.free[0],
        "FREE_CODE": frames.code,
        "CR3": frames.context.cr3,
        "FORGED": forged,
        "RESULT": frames.result,
        "READONLY": frames.readonly,
        "READONLY_AT": frames.readonly_at,
        "UNEXECUTED": frames.unexecuted,
        "DATA_AT": frames.data_at,
    }
