"""Nested paging (AMD APM vol. 2): guest-physical addresses that are translated once more.

- `NestedContext`: the guest's registers and the host's; `NestedPageFault`: what its own tables
  don't answer for; `NestedError`, `nested_error_names`: what EXITINFO1 says of it.
- `translate_nested`: one translation in two dimensions; `walk_nested`: the entries it uses, as
  a `NestedWalk` of `Passage`s.
- `NestedTables`: nested tables that grant each range what they are asked for, and follow changes.
"""

from crosswalk.walker.nested.context import NestedContext
from crosswalk.walker.nested.outcome import (
    NestedError,
    NestedOutcome,
    NestedPageFault,
    nested_error_names,
)
from crosswalk.walker.nested.tables import MemoryFull, NestedTables
from crosswalk.walker.nested.translate import NestedWalk, Passage, translate_nested, walk_nested

__all__ = [
    "MemoryFull",
    "NestedContext",
    "NestedError",
    "NestedOutcome",
    "NestedPageFault",
    "NestedTables",
    "NestedWalk",
    "Passage",
    "nested_error_names",
    "translate_nested",
    "walk_nested",
]
