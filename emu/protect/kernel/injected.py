"""Attacks on a Linux kernel: the frames that they act on, and their code as it is injected.

The code of an attack replaces the text at `AttackFrames.site`.
"""

from collections.abc import Iterator

import capstone
import numpy as np
from capstone import x86_const as operands

from crosswalk.emu.protect.attack import Attack
from crosswalk.emu.protect.kernel.attacks import DIRECT, IMAGE, MARK, AttackFrames, Code
from crosswalk.emu.protect.kernel.enforcement import Enforcement
from crosswalk.emu.protect.kernel.guestwalk import find_leaf, lower_leaves
from crosswalk.emu.protect.kernel.rules import may
from crosswalk.emu.protect.permissions import Bools, executes
from crosswalk.guest.assembler import assemble
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.memory import FRAME, PhysicalMemory
from crosswalk.walker.protection.pagelist import Permission

__all__ = ["find_frames", "free_frames", "injected_code", "planted"]

_NX = 1 << 63
_SITE_PAGES = 2
_FREE, _LOOKED_AT = 6, 64
_COPIES = (b"\xf3\xa4\xc3", b"\xf3\xa4\xe9")  # rep movsb, and a return or a jump to one
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
_DECODER = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
_DECODER.detail = True
_HARMLESS = (operands.X86_INS_NOP, operands.X86_INS_TEST, operands.X86_INS_LFENCE)
"""What may stand before the RET of a return thunk."""

_DROPS = {("lea", "rsp, [rsp + 8]"), ("add", "rsp, 8")}

_USER_CODE = bytes.fromhex("488903 c3 0f01c1")  # mov [rbx], rax; ret; vmcall
_LEAVES = 4  # Where VMCALL is in it.
_KERNEL_CODE = 0x10
_INTERRUPT_GATE = 0x8E00


def injected_code(
    attack: Attack[Code], memory: PhysicalMemory, context: PagingContext, frames: AttackFrames
) -> bytes:
    """Return the code of an attack; it ends with interrupts off, in HLT.

    `context` is the paging under which the frames were found.
    """
    site = IMAGE + frames.site
    source = f"cli\n{attack.program.source}\nmov r15, MARK\nhlt"
    symbols = _symbols(memory, context, frames)
    code = assemble(attack.name, source, bits=64, address=site, symbols=symbols)
    if len(code) > FRAME:
        raise CrosswalkError(f"{attack.name}: {len(code)} bytes of code")
    return code


def planted(frames: AttackFrames, code: bytes) -> tuple[tuple[int, bytes], ...]:
    """Return what has to be in memory for an attack: physical addresses and bytes."""
    return (
        (frames.site, code),
        (frames.site + FRAME - 1, b"\xf4"),
        (frames.user_frame, _USER_CODE),
    )


def _symbols(
    memory: PhysicalMemory, context: PagingContext, frames: AttackFrames
) -> dict[str, int]:
    named = {"text": frames.text, "rodata": frames.rodata, "data": frames.data}
    named["loaded"] = frames.loaded
    named |= {"result": frames.result, "root": frames.root}
    named |= {f"free{number}": pa for number, pa in enumerate(frames.free[:-1])}
    named |= {"user_frame": frames.user_frame, "copier_frame": frames.copier_frame}
    symbols = {"MARK": MARK, "USER": frames.user, "COPIER": frames.copier, "LEAVES": _LEAVES}
    symbols["LOADED_PLACE"] = frames.loaded_place
    symbols["COPIER_OFFSET"] = frames.copier % FRAME
    for name, pa in named.items():
        symbols[name.upper()] = pa
        symbols[f"{name.upper()}_DIRECT"] = DIRECT + pa
        symbols[f"{name.upper()}_IMAGE"] = IMAGE + pa
    image = {"RODATA": frames.rodata, "DATA": frames.data}
    direct = {"TEXT": frames.text, "FREE0": frames.free[0], "USER_FRAME": frames.user_frame}
    direct["LOADED"] = frames.loaded
    for base, mapped in ((IMAGE, image), (DIRECT, direct)):
        for name, pa in mapped.items():
            # What isn't mapped is lacking, and no attack that is built names it.
            if leaf := find_leaf(memory, context, base + pa):
                symbols[f"{name}_ENTRY"] = DIRECT + leaf.entry
    if leaf := find_leaf(memory, context, frames.loaded_place):
        symbols["LOADED_PLACE_ENTRY"] = DIRECT + leaf.entry
    # Other code than the image's isn't mapped with it.
    if leaf := find_leaf(memory, context, IMAGE + frames.text):
        symbols["TEXT_IMAGE_ENTRY"] = DIRECT + leaf.entry
    symbols["USER_ENTRY"] = DIRECT + frames.root + 8 * (frames.user >> 39)  # of the root
    handler = IMAGE + frames.site + FRAME - 1
    low = handler & 0xFFFF | _KERNEL_CODE << 16 | _INTERRUPT_GATE << 32
    symbols["GATE_LOW"] = low | (handler >> 16 & 0xFFFF) << 48
    symbols["GATE_HIGH"] = handler >> 32
    return symbols


def find_frames(host: Enforcement) -> AttackFrames:
    """Return what to attack in the kernel, while it has a process's memory mapped.

    What it doesn't have is in `lacks`.
    """
    grants, memory, context = host.grants, host.memory, host.context
    text = _numbers(grants.text)
    writable = may(grants.permissions, Permission.WRITE)
    executable = may(grants.permissions, Permission.EXECUTE)
    rodata = (
        frame
        for frame in _numbers(grants.sealed & ~grants.text & ~executable)
        if (leaf := find_leaf(memory, context, IMAGE + frame * FRAME)) and leaf.size == FRAME
    )
    data = _numbers(grants.kept & writable & ~executable & ~grants.tables)
    free = [each * FRAME for each in free_frames(memory, writable & ~grants.image & ~grants.tables)]
    users = (
        (va, pa)
        for va, pa in _user_code(memory, context)
        # It is attacked where it has run: where its own right to execute is granted.
        if executes(host.kind) & int(host.due[pa // FRAME])
    )
    loaded, place = _loaded(host)
    site, other = (text[0], text[_SITE_PAGES]) if len(text) > _SITE_PAGES else (0, 0)
    found = {
        "site": site * FRAME,
        "text": other * FRAME,
        "rodata": next(rodata, 0) * FRAME,
        "data": data[-1] * FRAME if data else 0,
        "copier": _copier(host, text),
        "loaded": loaded,
    }
    user, user_frame = next(users, (0, 0))
    frames = {**found, "user": user, "free": len(free) == _FREE}
    lacks = {name: f"the kernel has no {_LACKING[name]}" for name in frames if not frames[name]}
    return AttackFrames(
        **found,
        user=user,
        user_frame=user_frame,
        loaded_place=place,
        free=tuple(free) if len(free) == _FREE else (0,) * _FREE,
        root=context.root,
        lacks=lacks | _moved(memory, context, {name: found[name] for name in _MAPPED - set(lacks)}),
    )


def _loaded(host: Enforcement) -> tuple[int, int]:
    """Return a frame of code outside the image, and where it is mapped besides the direct map.

    By the kernel's own tables, whatever the host has sealed; zeros if there is none.
    """
    own = host.rights.own
    code = may(own, Permission.EXECUTE) & ~may(own, Permission.WRITE) & ~host.grants.sealed
    for frame, places in host.rights.places(code).items():
        direct = DIRECT + frame * FRAME
        other = next((va for va in places if va != direct), 0)
        if other and direct in places:
            return frame * FRAME, other
    return 0, 0


def _moved(
    memory: PhysicalMemory, context: PagingContext, frames: dict[str, int]
) -> dict[str, str]:
    """Return which of these frames aren't mapped where attacks expect them to be, and why not."""
    found = {}
    for name, pa in sorted(frames.items()):
        for base in (DIRECT, IMAGE):
            leaf = find_leaf(memory, context, base + pa)
            if leaf is None or leaf.pa + (base + pa) % leaf.size != pa:
                found[name] = f"{pa:#x} isn't mapped at {base + pa:#x}: KASLR?"
    return found


def free_frames(memory: PhysicalMemory, among: Bools) -> Iterator[int]:
    """Yield the numbers of the last zeroed frames, the last one first."""
    numbers = np.flatnonzero(among)[::-1]
    found = 0
    for first in range(0, len(numbers), _LOOKED_AT):
        some = numbers[first : first + _LOOKED_AT]
        used = memory.tables(some.astype(np.uint64) * np.uint64(FRAME)).any(axis=1)
        for number in some[~used].tolist():
            yield number
            found += 1
            if found == _FREE:
                return


def _user_code(memory: PhysicalMemory, context: PagingContext) -> Iterator[tuple[int, int]]:
    """Yield the addresses of pages that the process may execute, and their frames.

    With page-table isolation this root itself forbids execution, and the user's own one allows it.
    """
    for va in lower_leaves(memory, context):
        leaf = find_leaf(memory, context, va)
        if leaf is not None and leaf.user and not (memory.word(leaf.entry) or 0) & _NX:
            yield va, leaf.pa + va % leaf.size


def _copier(host: Enforcement, text: list[int]) -> int:
    """Return the address of code that copies a string and returns, 0 if there is none."""
    if not text:
        return 0
    first = text[0] * FRAME
    content = host.memory.read(first, (text[-1] + 1) * FRAME - first)
    for code in _COPIES:
        at = content.find(code)
        while at >= 0:
            if host.grants.text[(first + at) // FRAME] and _returns(content, at + len(code) - 1):
                return IMAGE + first + at
            at = content.find(code, at + 1)
    return 0


def _returns(content: bytes, at: int) -> bool:
    """Return whether code, from a RET or JMP on, returns at once.

    A RET may be a jump to a thunk, and that a call whose own return address is dropped.
    """
    called = False
    for _ in range(_JUMPS):
        for each in _DECODER.disasm(content[at : at + _READ_AHEAD], at):
            if each.id == operands.X86_INS_RET:
                return not called
            direct = each.operands[:1] and each.operands[0].type == operands.X86_OP_IMM
            if direct and each.id in {operands.X86_INS_JMP, operands.X86_INS_CALL}:
                called = called or each.id == operands.X86_INS_CALL
                at = each.operands[0].imm
                break
            if (each.mnemonic, each.op_str) in _DROPS:
                called = False
            elif each.id not in _HARMLESS:
                return False
        else:
            return False
        if not 0 <= at < len(content):
            return False
    return False


def _numbers(frames: Bools) -> list[int]:
    found: list[int] = np.flatnonzero(frames).tolist()
    return found
