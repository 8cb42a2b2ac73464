"""The command line: `crosswalk`."""

from crosswalk.emu.cli.main import main

__all__ = ["main"]
