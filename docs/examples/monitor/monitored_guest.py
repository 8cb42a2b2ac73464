"""Run a guest of 23 bytes under EPT in Bochs, and show why it leaves: see docs/monitor.md.

python docs/examples/monitor/monitored_guest.py .judges/bochs-trixie/bochs
"""

import sys

from crosswalk.emu.monitor.guest import VmxGuest, enter_vmx, long_mode
from crosswalk.emu.monitor.machines import BochsHost
from crosswalk.emu.monitor.monitor import Monitor
from crosswalk.emu.monitor.vmx import Controls, ExitReason, Field
from crosswalk.guest.monitor import commands
from crosswalk.guest.monitor.commands import RunFlag
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import CrosswalkError

EPT, RAM = 0x1000_0000, 0x1010_0000
READ, WRITE, EXECUTE, WRITE_BACK = 1, 2, 4, 6 << 3

CODE = bytes.fromhex(
    "48a10090000000000000"  # mov rax, [0x9000]
    "48a30090000000000000"  # mov [0x9000], rax
    "0f01c1"  # vmcall
)


def tables():
    """The commands that write an EPT for 2 MiB, and in these the guest's own tables and code."""
    entry = READ | WRITE | EXECUTE
    pages = [RAM + 0x1000 * at | entry | WRITE_BACK for at in range(512)]
    pages[9] &= ~WRITE
    return [
        commands.fill(EPT, 4 * 512),
        commands.write(EPT, [EPT + 0x1000 | entry]),
        commands.write(EPT + 0x1000, [EPT + 0x2000 | entry]),
        commands.write(EPT + 0x2000, [EPT + 0x3000 | entry]),
        commands.write(EPT + 0x3000, pages),
        commands.fill(RAM, 16 * 512),
        commands.write(RAM + 0x1000, [0x2000 | 3]),
        commands.write(RAM + 0x2000, [0x3000 | 3]),
        commands.write(RAM + 0x3000, [0x83]),  # A page of 2 MiB.
    ]


def main(bochs="bochs"):
    """Run the guest, and grant it what it lacks."""
    with Monitor(BochsHost(bochs), seconds=60) as monitor:
        monitor.perform(*tables())
        state = long_mode(PagingContext(cr3=0x1000), enter_vmx(monitor), rip=0x8000)
        state[Field.EPTP] = EPT | 3 << 3 | 6  # Four levels, write-back.
        guest = VmxGuest(monitor, Controls(), state)
        guest.memory(RAM, 0x20_0000).write(0x8000, CODE)
        left = guest.run()
        print(left)
        while left.reason == ExitReason.EPT_VIOLATION:
            granted = RAM + left.gpa | READ | WRITE | WRITE_BACK
            guest.ask(commands.store([(EPT + 0x3000 + 8 * (left.gpa >> 12), granted)]))
            left = guest.run(RunFlag.INVEPT)
            print(left)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:2])
    except CrosswalkError as error:
        sys.exit(f"{error} (scripts/judges fetches Bochs 3)")
