"""Where protection of a monitor's guest begins, and a system call that came before.

The monitor sees exits alone. A symbol's address is a breakpoint: a HLT in the place of the
function's first instruction, behind those of tracing, which the kernel replaces itself. So is the
handler of SYSCALL, from when the kernel writes its address to IA32_LSTAR. The first fetch at
privilege level 3 is an EPT violation where execution is withheld from user addresses, as MBEC can.

Source: Intel SDM vol. 3C, "Instructions That Cause VM Exits Conditionally", "EPT Violations"; vol.
2B, "SYSCALL—Fast System Call".
"""

from enum import Enum

import numpy as np

from crosswalk.emu.load.linux.image import KernelImage
from crosswalk.emu.load.points import Point, PointKind
from crosswalk.emu.monitor.guest import Exit
from crosswalk.emu.monitor.vmx import ExitReason
from crosswalk.emu.protect.kernel.attacks import IMAGE
from crosswalk.emu.protect.kernel.ept import EptProtection
from crosswalk.emu.protect.kernel.guestwalk import find_leaf
from crosswalk.emu.protect.permissions import everything
from crosswalk.guest.monitor import commands
from crosswalk.walker.architecture import MSR
from crosswalk.walker.errors import BadInput, CrosswalkError
from crosswalk.walker.protection.policy import TableKind, Use

__all__ = ["EptMoment", "Noticed", "require_point"]

_HLT = b"\xf4"
_ENDBR, _CALL, _NOP = b"\xf3\x0f\x1e\xfa", b"\xe8", b"\x0f\x1f\x44\x00\x00"
_CALL_SIZE = 5
_USER = 3
_LOW = 0xFFFF_FFFF


class Noticed(Enum):
    """What an exit before protection was."""

    REACHED = "the point"
    HANDLED = "something else that is noticed here"
    OTHER = "nothing of the kind"


def require_point(point: Point, kind: TableKind, kernel: KernelImage) -> None:
    """Raise `BadInput` unless it is a point that a monitor's guest can be stopped at."""
    match point.kind:
        case PointKind.CONSOLE:
            return
        case PointKind.USER:
            if kind is not TableKind.EPT_MBEC:
                raise BadInput(f"--protect-at {point}: it needs --tables ept-mbec")
        case PointKind.SYMBOL:
            if not any(
                start <= point.number - IMAGE < start + len(content)
                for start, content, _ in kernel.segments
            ):
                raise BadInput(f"--protect-at {point}: {point.number:#x} isn't in the image")
        case _:
            raise BadInput(
                f"--protect-at {point}: under EPT it is console:TEXT, symbol:NAME or user"
            )


class EptMoment:
    """Waits for a point in the guest of `host`, which hasn't begun to run.

    `system_calls` is how many SYSCALLs have been seen before: 0 or 1, as the first one is enough.
    Those of 32-bit processes, by INT 80H and SYSENTER, aren't seen.
    """

    def __init__(self, host: EptProtection, point: Point) -> None:
        self._host, self._guest, self._point = host, host.guest, point
        self._replaced: dict[int, bytes] = {}
        self._breakpoint: int | None = None
        self.system_calls = 0
        self._text = point.text.encode("utf-8") if point.kind is PointKind.CONSOLE else None
        if point.kind is PointKind.SYMBOL:
            self._breakpoint = self._first_instruction(point.number - IMAGE)
            self._plant(self._breakpoint)
        elif point.kind is PointKind.USER:
            rights = np.uint8(everything(host.kind) & ~Use.USER_EXECUTE)
            host.nested.grant(np.full_like(host.nested.granted, rights))
            host.flush()
        self._guest.intercept(MSR.LSTAR, write=True, on=True)

    def on_console(self) -> bool:
        """Return whether what the console has just got reaches the point."""
        return self._text is not None and self._guest.console.endswith(self._text)

    def handle(self, left: Exit) -> Noticed:
        """Say what an exit was, and have the guest go on where it isn't the point."""
        if left.reason == ExitReason.WRMSR and left.register("rcx") & _LOW == MSR.LSTAR:
            self._on_handler(left)
            return Noticed.HANDLED
        if left.reason == ExitReason.HLT and (pa := self._address(left)) in self._replaced:
            self._put_back(pa)
            if pa == self._breakpoint:
                return Noticed.REACHED
            self.system_calls += 1
            return Noticed.HANDLED
        fetched = self._point.kind is PointKind.USER and left.reason == ExitReason.EPT_VIOLATION
        return Noticed.REACHED if fetched and left.cpl == _USER else Noticed.OTHER

    def end(self) -> None:
        """Leave the guest as it is without what waits for the point.

        Raises `CrosswalkError` where the kernel has replaced a breakpoint: what it would have told
        isn't known.
        """
        for pa in tuple(self._replaced):
            if self._guest.memory.read(pa, 1) != _HLT:
                raise CrosswalkError(f"the kernel has replaced the breakpoint at {pa:#x}")
            self._put_back(pa)
        self._guest.intercept(MSR.LSTAR, write=True, on=False)

    def _on_handler(self, left: Exit) -> None:
        """Carry out the write to IA32_LSTAR, and wait for what is at the address."""
        guest = self._guest
        value = (left.register("rdx") & _LOW) << 32 | left.register("rax") & _LOW
        guest.vmx.ask(commands.write_msr([(MSR.LSTAR, value)]))
        guest.skip(left)
        leaf = find_leaf(guest.memory, self._host.context, value)
        if leaf is not None and not self.system_calls:
            self._plant(leaf.pa + value % leaf.size)

    def _first_instruction(self, pa: int) -> int:
        code = self._guest.memory.read(pa, len(_ENDBR) + _CALL_SIZE)
        if code.startswith(_ENDBR):
            pa, code = pa + len(_ENDBR), code[len(_ENDBR) :]
        return pa + _CALL_SIZE if code.startswith((_CALL, _NOP)) else pa

    def _plant(self, pa: int) -> None:
        if pa not in self._replaced:
            self._replaced[pa] = self._guest.memory.read(pa, 1)
            self._guest.write(pa, _HLT)

    def _put_back(self, pa: int) -> None:
        self._guest.write(pa, self._replaced.pop(pa))

    def _address(self, left: Exit) -> int:
        """Return the physical address of the instruction that exited, -1 where it isn't mapped."""
        leaf = find_leaf(self._guest.memory, self._host.context, left.rip)
        return -1 if leaf is None else leaf.pa + left.rip % leaf.size
