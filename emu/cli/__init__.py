"""The command line: `crosswalk`."""

from emu.cli.main import main

__all__ = ["main"]
