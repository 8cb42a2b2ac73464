"""`crosswalk`, planted, as a process of its own: python -m … PLANT fuzz --cases 40 …"""

import signal
import sys

import pytest

from crosswalk.emu.cli import main
from tests.emu.fuzz.planting import bug_named, crash, hang, plant_emulator, plant_walker, sick

BUG = "XD not inherited"


def plant(name, monkeypatch):
    """Plant the walker's bug, and what `name` says of the emulator."""
    plant_walker(monkeypatch, bug_named(BUG).predict)
    if name == "crash":
        plant_emulator(monkeypatch, sick, crash)
    elif name == "hang":
        plant_emulator(monkeypatch, sick, hang)


if __name__ == "__main__":
    # A shell starts what runs in the background with interrupts ignored, and its children inherit
    # that: as by hand, interrupts count.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    plant(sys.argv[1], pytest.MonkeyPatch())
    sys.exit(main(sys.argv[2:]))
