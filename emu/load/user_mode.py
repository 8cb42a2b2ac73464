"""When a guest first runs code at privilege level 3.

There is no hook for a change of privilege, by IRET, SYSRET, SYSEXIT or a far return. But the
emulator translates a block of code for one privilege level: the first block that runs at level 3 is
always a new one, and new blocks are reported before they run. Blocks that have been translated
cost nothing more.
"""

from collections.abc import Callable

import unicorn

from crosswalk.emu.pc.pc import Machine

__all__ = ["UserMode"]

_USER = 3


class UserMode:
    """Whether a machine has been at privilege level 3 since this was made.

    `begun` is called once, with the first instruction there being next. In virtual-8086 mode the
    level is 3, too; in real mode it is 0.
    """

    def __init__(self, machine: Machine, begun: Callable[[], None]) -> None:
        self.seen = False
        self._machine = machine
        self._begun = begun
        self._hook = machine.engine.hook_add(unicorn.UC_HOOK_EDGE_GENERATED, self._on_block)

    def _on_block(self, _uc: unicorn.Uc, _block: object, _before: object, _data: object) -> None:
        if self.seen:
            return
        cpu = self._machine.cpu
        cpu.load()
        if cpu.cpl == _USER:
            self.seen = True
            self._machine.engine.hook_del(self._hook)
            self._begun()
