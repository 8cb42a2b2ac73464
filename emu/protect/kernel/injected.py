"""Attacks on a Linux kernel: the frames that they act on, and their code as it is injected.

The code of an attack replaces the text at `AttackFrames.site`.
"""

from collections.abc import Callable, Iterator, Mapping

import capstone
import numpy as np
from capstone import x86_const as operands

from crosswalk.emu.cpu.cpu import GENERAL
from crosswalk.emu.cpu.decoding import decoder, register_number
from crosswalk.emu.protect.attack import Attack
from crosswalk.emu.protect.kernel.attacks import AttackFrames, Code
from crosswalk.emu.protect.kernel.enforcement import Enforcement
from crosswalk.emu.protect.kernel.guest_code import (
    MARKED,
    GuestWords,
    in_words,
    words_of,
)
from crosswalk.emu.protect.kernel.guestwalk import Leaf, find_leaf, lower_leaves
from crosswalk.emu.protect.kernel.rules import may
from crosswalk.emu.protect.permissions import Bools, executes
from crosswalk.guest.assembler import assemble
from crosswalk.walker.context import PagingContext, PagingMode
from crosswalk.walker.entry import Entry, level_of
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.memory import FRAME, PhysicalMemory
from crosswalk.walker.protection.pagelist import Permission

__all__ = [
    "assembled",
    "features_lacking",
    "find_frames",
    "free_frames",
    "injected_code",
    "planted",
]

_SITE_PAGES = 2
_FREE, _LOOKED_AT = 6, 64
_COPIES = ((b"\xf3\xa4", 1), (b"\xf3\xa5", 4))
"""REP MOVSB and REP MOVSD, and the bytes that are copied for each that RCX counts."""
_LACKING = {
    "site": "sealed text for the attacker's code",
    "text": "sealed text beside that",
    "rodata": "sealed data in pages of 4 KiB",
    "data": "sections named as data that is never freed",
    "free": "zeroed memory",
    "user": "process's code mapped that has run",
    "copier": "code that copies a string and returns",
    "loaded": "code outside its image, mapped at two addresses",
}
"""What the kernel has none of, by the fields of `AttackFrames`."""
_MAPPED = {"site", "text", "rodata", "data"}
"""What has to be mapped at its address in the direct map and in the image."""

_JUMPS, _READ_AHEAD = 4, 48
_HARMLESS = (operands.X86_INS_NOP, operands.X86_INS_TEST, operands.X86_INS_LFENCE)
"""What may stand before the RET of a return thunk."""

_DROPS = {("lea", "rsp, [rsp + 8]"), ("add", "rsp, 8")}

_FOLLOWED = (operands.X86_INS_JMP, operands.X86_INS_CALL)
_RSP, _WORD = GENERAL.index("rsp"), 2
_RETURN_AND_LEAVE = bytes.fromhex("c3 0f01c1")  # ret; vmcall


def assembled(
    attack: Attack[Code], words: GuestWords, address: int, symbols: Mapping[str, int]
) -> bytes:
    """Return the code of an attack at a linear address; it ends with interrupts off, in HLT."""
    source = in_words(f"cli\n{attack.program.source}\nmov {MARKED}, MARK\nhlt", words.bits)
    symbols = {"MARK": words.mark, **symbols}
    code = assemble(attack.name, source, bits=words.bits, address=address, symbols=symbols)
    if len(code) > FRAME:
        raise CrosswalkError(f"{attack.name}: {len(code)} bytes of code")
    return code


def injected_code(attack: Attack[Code], memory: PhysicalMemory, frames: AttackFrames) -> bytes:
    """Return the code of an attack on these frames, as it replaces the text at their site."""
    site = frames.words.image + frames.site
    return assembled(attack, frames.words, site, _symbols(memory, frames))


def planted(frames: AttackFrames, code: bytes) -> tuple[tuple[int, bytes], ...]:
    """Return what has to be in memory for an attack: physical addresses and bytes."""
    return (
        (frames.site, code),
        (frames.site + FRAME - 1, b"\xf4"),
        (frames.user_frame, frames.words.stores + _RETURN_AND_LEAVE),
    )


def _symbols(memory: PhysicalMemory, frames: AttackFrames) -> dict[str, int]:
    words, context = frames.words, frames.context
    direct, image = words.direct, words.image
    named = {"text": frames.text, "rodata": frames.rodata, "data": frames.data}
    named["loaded"] = frames.loaded
    named |= {"result": frames.result, "root": context.root}
    named |= {f"free{number}": pa for number, pa in enumerate(frames.free[:-1])}
    named |= {"user_frame": frames.user_frame, "copier_frame": frames.copier_frame}
    symbols = {"USER": frames.user, "COPIER": frames.copier}
    symbols["PLANTED"] = int.from_bytes(words.store_and_halt, "little")
    symbols["LEAVES"] = len(words.stores) + 1
    symbols["COPIER_COUNT"] = words.size // frames.copier_unit
    symbols["COPIER_POPS"] = frames.copier_pops
    symbols["COPIER_OFFSET"] = frames.copier % FRAME
    symbols["LOADED_PLACE"] = frames.loaded_place
    for name, pa in named.items():
        symbols[name.upper()] = pa
        symbols[f"{name.upper()}_DIRECT"] = direct + pa
        symbols[f"{name.upper()}_IMAGE"] = image + pa
    places = {name: image + pa for name, pa in named.items() if name in {"rodata", "data"}}
    places |= {name: direct + named[name] for name in ("text", "free0", "user_frame", "loaded")}
    # Other code than the image's isn't mapped with it.
    places |= {"text_image": image + frames.text, "loaded_place": frames.loaded_place}
    for name, va in places.items():
        # What isn't mapped is lacking, and no attack that is built names it.
        if leaf := find_leaf(memory, context, va):
            symbols[f"{name.upper()}_ENTRY"] = direct + leaf.entry
    root = level_of(context, context.levels)
    symbols["USER_ENTRY"] = direct + context.root + root.entry_size * root.index(frames.user)
    symbols["GATE_LOW"], symbols["GATE_HIGH"] = words.gate_words(image + frames.site + FRAME - 1)
    return symbols


def find_frames(host: Enforcement) -> AttackFrames:
    """Return what to attack in the kernel, while it has a process's memory mapped.

    What it doesn't have is in `lacks`.
    """
    memory, context = host.memory, host.context
    direct = words_of(context).direct
    writable = may(host.grants.permissions, Permission.WRITE)
    text, sealed_data, kept_data = _parts(host)
    rodata = (
        frame
        for frame in sealed_data
        if (leaf := _mapped(memory, context, words_of(context).image, frame * FRAME))
        and leaf.size == FRAME
    )
    idle = writable & may(host.rights.own, Permission.WRITE) & ~host.grants.image
    free = [
        each * FRAME
        for each in free_frames(
            memory,
            idle & ~host.grants.tables,
            # High memory isn't in the direct map.
            lambda each: _mapped(memory, context, direct, each * FRAME) is not None,
        )
    ]
    users = (
        (va, pa)
        for va, pa in _user_code(memory, context)
        # It is attacked where it has run: where its own right to execute is granted.
        if executes(host.kind) & int(host.due[pa // FRAME])
    )
    loaded, place = _loaded(host)
    site, other = (text[0], text[_SITE_PAGES]) if len(text) > _SITE_PAGES else (0, 0)
    copier, unit, pops = _copier(host, text)
    found = {
        "site": site * FRAME,
        "text": other * FRAME,
        "rodata": next(rodata, 0) * FRAME,
        "data": kept_data[-1] * FRAME if kept_data else 0,
        "copier": copier,
        "loaded": loaded,
    }
    user, user_frame = next(users, (0, 0))
    frames = {**found, "user": user, "free": len(free) == _FREE}
    lacks = {name: f"the kernel has no {_LACKING[name]}" for name in frames if not frames[name]}
    lacks |= _moved(memory, context, {name: found[name] for name in _MAPPED - set(lacks)})
    return AttackFrames(
        context=context,
        **found,
        user=user,
        user_frame=user_frame,
        copier_unit=unit,
        copier_pops=pops,
        loaded_place=place,
        free=tuple(free) if len(free) == _FREE else (0,) * _FREE,
        lacks=lacks | features_lacking(host.pinned, context),
    )


def features_lacking(pinned: Mapping[str, list[str]], context: PagingContext) -> dict[str, str]:
    """Return why attacks on a feature can't be built, by the features' names in `AttackFrames`.

    `pinned` are the pinned bits by register.
    """
    words = words_of(context)
    nx = "" if "NXE" in pinned["efer"] else "EFER.NXE is clear"
    why = {
        "wp": "" if "WP" in pinned["cr0"] else "CR0.WP is clear",
        "smep": "" if "SMEP" in pinned["cr4"] else "CR4.SMEP is clear",
        "nx": "32-bit paging has no NX" if context.mode is PagingMode.BIT32 else nx,
        "image": "" if words.image != words.direct else "the image has no mapping of its own",
    }
    return {name: each for name, each in why.items() if each}


def _parts(host: Enforcement) -> tuple[list[int], list[int], list[int]]:
    """Return the frames of the image's text, of its read-only data, and of data that it keeps.

    The latter two are those that may not be executed, where the mappings can say that.
    """
    grants = host.grants
    sealed = grants.sealed & ~grants.text
    data = grants.kept & may(grants.permissions, Permission.WRITE) & ~grants.tables
    if host.context.nxe:
        withheld = ~may(grants.permissions, Permission.EXECUTE)
        sealed, data = sealed & withheld, data & withheld
    return _numbers(grants.text), _numbers(sealed), _numbers(data)


def _mapped(memory: PhysicalMemory, context: PagingContext, base: int, pa: int) -> Leaf | None:
    """Return the page at `base` + `pa`, if it leads to `pa`."""
    leaf = find_leaf(memory, context, base + pa)
    return leaf if leaf is not None and leaf.pa + (base + pa) % leaf.size == pa else None


def _loaded(host: Enforcement) -> tuple[int, int]:
    """Return a frame of code outside the image, and where it is mapped besides the direct map.

    By the kernel's own tables, whatever the host has sealed; zeros if there is none.
    """
    own, base = host.rights.own, words_of(host.context).direct
    code = may(own, Permission.EXECUTE) & ~may(own, Permission.WRITE) & ~host.grants.sealed
    for frame, places in host.rights.places(code).items():
        direct = base + frame * FRAME
        other = next((va for va in places if va != direct), 0)
        if other and direct in places:
            return frame * FRAME, other
    return 0, 0


def _moved(
    memory: PhysicalMemory, context: PagingContext, frames: dict[str, int]
) -> dict[str, str]:
    """Return which of these frames aren't mapped where attacks expect them to be, and why not."""
    words = words_of(context)
    return {
        name: f"{pa:#x} isn't mapped at {base + pa:#x}: KASLR?"
        for name, pa in sorted(frames.items())
        for base in (words.direct, words.image)
        if _mapped(memory, context, base, pa) is None
    }


def free_frames(
    memory: PhysicalMemory, among: Bools, usable: Callable[[int], bool] = lambda _: True
) -> Iterator[int]:
    """Yield the numbers of the last zeroed frames that are usable, the last one first."""
    numbers = np.flatnonzero(among)[::-1]
    found = 0
    for first in range(0, len(numbers), _LOOKED_AT):
        some = numbers[first : first + _LOOKED_AT]
        used = memory.tables(some.astype(np.uint64) * np.uint64(FRAME)).any(axis=1)
        for number in filter(usable, some[~used].tolist()):
            yield number
            found += 1
            if found == _FREE:
                return


def _user_code(memory: PhysicalMemory, context: PagingContext) -> Iterator[tuple[int, int]]:
    """Yield the addresses of pages that the process may execute, and their frames.

    With page-table isolation this root itself forbids execution, and the user's own one allows it.
    """
    withheld = int(Entry.XD) if context.nxe else 0
    for va in lower_leaves(memory, context):
        leaf = find_leaf(memory, context, va)
        if leaf is not None and leaf.user and not (memory.word(leaf.entry) or 0) & withheld:
            yield va, leaf.pa + va % leaf.size


def _copier(host: Enforcement, text: list[int]) -> tuple[int, int, int]:
    """Return the address of code that copies a string and returns, 0 if there is none.

    Also the bytes that it copies at once, and those that it takes off the stack before it returns.
    """
    if not text:
        return 0, 1, 0
    words = words_of(host.context)
    first = text[0] * FRAME
    content = host.memory.read(first, (text[-1] + 1) * FRAME - first)
    for code, unit in _COPIES:
        at = content.find(code)
        while at >= 0:
            pops = _popped(content, at + len(code), words.bits)
            if pops is not None and (first + at) // FRAME in text:
                return words.image + first + at, unit, pops
            at = content.find(code, at + 1)
    return 0, 1, 0


def _popped(content: bytes, at: int, bits: int) -> int | None:
    """Return what code takes off the stack before it returns at once, in bytes; None if it doesn't.

    It may pop registers. A RET may be a jump to a thunk, and that a call whose own return address
    is dropped.
    """
    decoded, called, pops = decoder(bits), False, 0
    for _ in range(_JUMPS):
        for each in decoded.disasm(content[at : at + _READ_AHEAD], at):
            if each.id == operands.X86_INS_RET:
                return None if called or each.operands else pops
            kind = each.operands[0].type if each.operands else operands.X86_OP_INVALID
            if kind == operands.X86_OP_IMM and each.id in _FOLLOWED:
                called = called or each.id == operands.X86_INS_CALL
                at = each.operands[0].imm
                break
            if (each.mnemonic, each.op_str) in _DROPS:
                called = False
            elif each.id == operands.X86_INS_POP and not called and _general(each):
                pops += bits // 8
            elif each.id not in _HARMLESS:
                return None
        else:
            return None
        if not 0 <= at < len(content):
            return None
    return None


def _general(popped: capstone.CsInsn) -> bool:
    """Return whether a POP loads a whole general register other than the stack pointer."""
    operand = popped.operands[0]
    return (
        operand.type == operands.X86_OP_REG
        and operand.size > _WORD
        and register_number(popped.op_str) not in {None, _RSP}
    )


def _numbers(frames: Bools) -> list[int]:
    found: list[int] = np.flatnonzero(frames).tolist()
    return found
