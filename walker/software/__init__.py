"""Entries that aren't present, and what they mean to an operating system.

`entries` finds them, `states` decodes them by the table of a system, `linux` and `windows` are such
tables. A processor reads nothing of such an entry but P, so that no machine can be asked.
"""

from crosswalk.walker.software.entries import absent_entries
from crosswalk.walker.software.linux import LINUX
from crosswalk.walker.software.states import Field, State, StateKind, States, System
from crosswalk.walker.software.windows import WINDOWS

__all__ = [
    "SYSTEMS",
    "Field",
    "State",
    "StateKind",
    "States",
    "System",
    "absent_entries",
]

SYSTEMS = {system.name: system for system in (LINUX, WINDOWS)}
"""The systems whose entries are known, by name."""
