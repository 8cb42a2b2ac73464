"""Attacks on a Linux kernel: the frames they act on, and the kernel as a subject of attacks."""

from collections.abc import Iterator

import numpy as np

from crosswalk.emu.cpu.cpu import GENERAL
from crosswalk.emu.pc.pc import Ended, Stop
from crosswalk.emu.protect.attack import (
    Attack,
    Attacked,
    DeliveryRefused,
    NotStopped,
    Other,
    Result,
    exit_result,
    run_attacks,
)
from crosswalk.emu.protect.kernel.attacks import MARK, AttackFrames, Code, attack_table
from crosswalk.emu.protect.kernel.guestwalk import find_leaf, lower_leaves
from crosswalk.emu.protect.kernel.protection import Protection, Refusal
from crosswalk.emu.protect.kernel.rules import may
from crosswalk.emu.protect.permissions import Bools
from crosswalk.guest.assembler import assemble
from crosswalk.walker.architecture import RFlags
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.memory import FRAME
from crosswalk.walker.protection.pagelist import Permission

__all__ = ["DIRECT", "IMAGE", "KernelSubject", "attack_kernel", "find_frames"]

DIRECT, IMAGE = 0xFFFF_8880_0000_0000, 0xFFFF_FFFF_8000_0000
"""The linear addresses of physical address 0 without KASLR: in the direct map, in the image."""

_NX = 1 << 63
_SITE_PAGES = 2
_FREE = 6
_COPIES = (b"\xf3\xa4\xc3", b"\xf3\xa4\xe9")  # rep movsb, and a return or a jump to one

_SECONDS = 20
_R15 = GENERAL.index("r15")
_USER_CODE = bytes.fromhex("488903 c3")  # mov [rbx], rax; ret
_KERNEL_CODE = 0x10
_INTERRUPT_GATE = 0x8E00


def attack_kernel(protection: Protection) -> Iterator[Attacked[Code]]:
    """Run each attack from the state that the kernel is in now, in which it is left.

    A process's memory has to be mapped there; errors as `find_frames`.
    """
    frames = find_frames(protection)
    yield from run_attacks(KernelSubject(protection, frames), attack_table(frames))


class KernelSubject:
    """The kernel, attacked from the state that it is in now; a `Subject`.

    Injected code replaces the text at `frames.site`.
    """

    def __init__(self, protection: Protection, frames: AttackFrames) -> None:
        self._protection, self._frames = protection, frames
        machine = protection.machine
        machine.cpu.load()
        self._cpu = machine.cpu.snapshot()
        self._ram = machine.ram.bytes.copy()
        self._rflags = machine.cpu.rflags
        self._granted = protection.nested.granted.copy()

    def restore(self, *, protected: bool = True, pinned: bool = True) -> None:
        """Put the kernel back into that state."""
        protection, machine = self._protection, self._protection.machine
        machine.ram.bytes[:] = self._ram
        machine.cpu.revert(self._cpu)
        machine.cpu.rflags = self._rflags
        machine.engine.ctl_flush_tb()
        protection.refusal = None
        protection.pins = pinned
        if protected:
            protection.resume(self._granted)
        else:
            protection.suspend()

    def run(self, attack: Attack[Code]) -> Result:
        """Run the code of an attack with interrupts off, and return its result."""
        protection, machine, frames = self._protection, self._protection.machine, self._frames
        site, target = IMAGE + frames.site, attack.program.target
        source = f"cli\n{attack.program.source}\nmov r15, MARK\nhlt"
        code = assemble(attack.name, source, bits=64, address=site, symbols=self._symbols())
        if len(code) > FRAME:
            raise CrosswalkError(f"{attack.name}: {len(code)} bytes of code")
        machine.ram.write(frames.site, code)
        machine.ram.write(frames.site + FRAME - 1, b"\xf4")
        machine.ram.write(frames.user_frame, _USER_CODE)
        machine.engine.ctl_flush_tb()
        with machine.cpu.changed():
            machine.cpu.rip = site
        machine.cpu.rflags = self._rflags & ~RFlags.IF
        before = None if target is None else machine.ram.read(target, 8)
        ended = machine.run(seconds=_SECONDS)
        machine.cpu.load()
        stopped = _stopped(ended, protection.refusal)
        if target is None:
            works = machine.cpu.general(_R15) == MARK
        else:
            works = machine.ram.read(target, 8) != before
        if works:
            return NotStopped() if stopped is None else Other(f"works, then {stopped}")
        return stopped or Other(ended.stop.value)

    def _symbols(self) -> dict[str, int]:
        frames = self._frames
        named = {"text": frames.text, "rodata": frames.rodata, "data": frames.data}
        named |= {"result": frames.result, "root": frames.root}
        named |= {f"free{number}": pa for number, pa in enumerate(frames.free[:-1])}
        symbols = {"MARK": MARK, "USER": frames.user, "COPIER": frames.copier}
        for name, pa in named.items():
            symbols[name.upper()] = pa
            symbols[f"{name.upper()}_DIRECT"] = DIRECT + pa
            symbols[f"{name.upper()}_IMAGE"] = IMAGE + pa
        image = {"RODATA": frames.rodata, "DATA": frames.data}
        direct = {"TEXT": frames.text, "FREE0": frames.free[0]}
        for base, mapped in ((IMAGE, image), (DIRECT, direct)):
            for name, pa in mapped.items():
                symbols[f"{name}_ENTRY"] = DIRECT + self._entry(base + pa)
        symbols["USER_ENTRY"] = DIRECT + frames.root + 8 * (frames.user >> 39)  # of the root
        handler = IMAGE + frames.site + FRAME - 1
        low = handler & 0xFFFF | _KERNEL_CODE << 16 | _INTERRUPT_GATE << 32
        symbols["GATE_LOW"] = low | (handler >> 16 & 0xFFFF) << 48
        symbols["GATE_HIGH"] = handler >> 32
        return symbols

    def _entry(self, va: int) -> int:
        leaf = find_leaf(self._protection.machine.ram.words, self._frames.root, va)
        if leaf is None:
            raise CrosswalkError(f"{va:#x} isn't mapped")
        return leaf.entry


def _stopped(ended: Ended, refusal: Refusal | None) -> Result | None:
    """Return what stopped the run of an attack, None if the host didn't."""
    if ended.stop is Stop.REFUSED:
        return DeliveryRefused(ended.detail)
    return None if refusal is None else exit_result(refusal.left, refusal.detail)


def find_frames(protection: Protection) -> AttackFrames:
    """Return what to attack in the kernel, while it has a process's memory mapped.

    Raises `CrosswalkError` where the kernel has no such frames.
    """
    grants, words = protection.grants, protection.machine.ram.words
    root = protection.root
    text = _numbers(grants.text)
    writable = may(grants.permissions, Permission.WRITE)
    executable = may(grants.permissions, Permission.EXECUTE)
    sealed_data = grants.sealed & ~grants.text
    rodata = [
        frame
        for frame in _numbers(sealed_data & ~executable)
        if (leaf := find_leaf(words, root, IMAGE + frame * FRAME)) and leaf.size == FRAME
    ]
    data = _numbers(writable & ~executable)
    pages = words.reshape(-1, FRAME // 8)
    outside = np.flatnonzero(writable & executable & ~grants.tables)
    free = [frame for frame in outside[::-1].tolist() if not pages[frame].any()][:_FREE]
    user = next(_user_code(protection), None)
    if len(text) <= _SITE_PAGES or not rodata or not data or len(free) < _FREE or user is None:
        raise CrosswalkError("the kernel lacks frames that the attacks need")
    found = AttackFrames(
        site=text[0] * FRAME,
        text=text[_SITE_PAGES] * FRAME,
        rodata=rodata[0] * FRAME,
        data=data[-1] * FRAME,
        free=tuple(frame * FRAME for frame in free),
        user=user[0],
        user_frame=user[1],
        copier=IMAGE + _copier(protection, text),
        root=root,
    )
    for base in (DIRECT, IMAGE):
        for pa in (found.site, found.text, found.rodata, found.data):
            leaf = find_leaf(words, root, base + pa)
            if leaf is None or leaf.pa + (base + pa) % leaf.size != pa:
                raise CrosswalkError(f"{pa:#x} isn't mapped at {base + pa:#x}: KASLR?")
    return found


def _user_code(protection: Protection) -> Iterator[tuple[int, int]]:
    """Yield the addresses of pages that the process may execute, and their frames.

    With page-table isolation this root itself forbids execution, and the user's own one allows it.
    """
    words, root = protection.machine.ram.words, protection.root
    for va in lower_leaves(words, root):
        leaf = find_leaf(words, root, va)
        if leaf is not None and leaf.user and not int(words[leaf.entry // 8]) & _NX:
            yield va, leaf.pa + va % leaf.size


def _copier(protection: Protection, text: list[int]) -> int:
    content = protection.machine.ram.read(text[0] * FRAME, (text[-1] + 1 - text[0]) * FRAME)
    found = [at for at in (content.find(code) for code in _COPIES) if at >= 0]
    if not found or not protection.grants.text[text[0] + found[0] // FRAME]:
        raise CrosswalkError("the kernel has no code that copies a string and returns")
    return text[0] * FRAME + found[0]


def _numbers(frames: Bools) -> list[int]:
    found: list[int] = np.flatnonzero(frames).tolist()
    return found
