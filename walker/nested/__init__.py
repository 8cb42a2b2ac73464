"""Nested paging: guest-physical addresses that are translated once more (AMD APM vol. 2 15.25).

- `NestedContext`: the guest's registers and the host's; `NestedPageFault`: what its own tables
  don't answer for; `NestedError`, `nested_error_names`: what EXITINFO1 says of it.
- `NestedTables`: nested tables that grant each range what they are asked for, and follow changes.
"""

from walker.nested.context import NestedContext
from walker.nested.outcome import (
    NestedError,
    NestedOutcome,
    NestedPageFault,
    nested_error_names,
)
from walker.nested.tables import MemoryFull, NestedTables

__all__ = [
    "MemoryFull",
    "NestedContext",
    "NestedError",
    "NestedOutcome",
    "NestedPageFault",
    "NestedTables",
    "nested_error_names",
]
